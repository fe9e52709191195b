"""The channel branch of a block."""

from __future__ import annotations

from spikesearch.nn.plan import BranchPlan, Layer


class ChannelMLP(BranchPlan):
    """Two layers on every token by itself."""

    kind = "mlp"
    module = "mlp"
    layers = (
        Layer("fc1", 1, "mlp_ratio", reads_stream=True),
        Layer("fc2", "mlp_ratio", 1, ends_branch=True),
    )
