"""Q-K token attention, linear in the number of tokens (Zhou et al., "QKFormer", NeurIPS 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from spikesearch.nn.mixers import Mixer, register
from spikesearch.nn.plan import Layer

if TYPE_CHECKING:
    from torch import Tensor, nn

    from spikesearch.nn.layers import Layers
    from spikesearch.nn.modules import Branch
    from spikesearch.space.architecture import Architecture, BlockSpec

THRESHOLD = 0.5  # of the neurons that make the mask, as published; with tau 2 no genes
TAU = 2.0


class TokenAttention(Mixer):
    """A mask per token and head, the spikes of the sum of q over the head's channels; a projection of the masked k."""

    name = "qk"
    genes = ("num_heads",)
    layers = (Layer("qk", 1, 1, groups=2, reads_stream=True), Layer("proj", 1, 1, ends_branch=True))
    fixed_neurons = ("lif",)

    def extras(self, layers: Layers) -> Mapping[str, nn.Module]:
        from spikesearch.nn.functional import TokenSum

        return {"sum": TokenSum(), "lif": layers.fixed_neurons(THRESHOLD, TAU)}

    def forward(self, branch: Branch, x_seq: Tensor, arch: Architecture, spec: BlockSpec) -> Tensor:
        steps, batch, tokens, _ = x_seq.shape
        qk = branch.qk(x_seq, arch, spec).view(steps, batch, tokens, 2, spec.num_heads, -1)
        q, k = qk.permute(3, 0, 1, 4, 2, 5)
        mask: Tensor = branch.lif(branch.sum(q))
        out: Tensor = branch.proj((mask * k).transpose(2, 3).flatten(3), arch, spec)
        return out


register(TokenAttention())
