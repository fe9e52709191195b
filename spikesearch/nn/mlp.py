"""The channel branch of a block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spikesearch.nn.plan import BranchPlan, Layer

if TYPE_CHECKING:
    from torch import Tensor

    from spikesearch.nn.modules import Branch
    from spikesearch.space.architecture import Architecture, BlockSpec


class ChannelMLP(BranchPlan):
    """Two layers on every token by itself."""

    kind = "mlp"
    module = "mlp"
    layers = (
        Layer("fc1", 1, "mlp_ratio", reads_stream=True),
        Layer("fc2", "mlp_ratio", 1, ends_branch=True),
    )

    def forward(self, branch: Branch, x_seq: Tensor, arch: Architecture, spec: BlockSpec) -> Tensor:
        out: Tensor = branch.fc2(branch.fc1(x_seq, arch, spec), arch, spec)
        return out
