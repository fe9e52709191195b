"""A depthwise convolution as a mixer (Howard et al., "MobileNets", 2017), with neurons before the pointwise layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spikesearch.nn.mixers import Mixer, register
from spikesearch.nn.plan import Layer

if TYPE_CHECKING:
    from torch import Tensor

    from spikesearch.nn.modules import Branch
    from spikesearch.space.architecture import Architecture, BlockSpec


class DepthwiseMixer(Mixer):
    """A 3 x 3 convolution of every channel by itself, neurons, and a linear layer on every token."""

    name = "dwconv"
    layers = (
        Layer("dw", 1, 1, "conv", depthwise=True, reads_stream=True),
        Layer("pw", 1, 1, ends_branch=True),
    )

    def forward(self, branch: Branch, x_seq: Tensor, arch: Architecture, spec: BlockSpec) -> Tensor:
        from spikesearch.nn.functional import to_maps, to_tokens

        out: Tensor = branch.pw(to_tokens(branch.dw(to_maps(x_seq), arch, spec)), arch, spec)
        return out


register(DepthwiseMixer())
