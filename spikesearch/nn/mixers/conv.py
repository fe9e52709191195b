"""A convolution as a mixer, as in spiking residual networks (Hu et al., "MS-ResNet", 2021), one per branch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spikesearch.nn.mixers import Mixer, register
from spikesearch.nn.plan import Layer

if TYPE_CHECKING:
    from torch import Tensor

    from spikesearch.nn.modules import Branch
    from spikesearch.space.architecture import Architecture, BlockSpec


class ConvMixer(Mixer):
    """One 3 x 3 convolution."""

    name = "conv"
    layers = (Layer("conv", 1, 1, "conv", reads_stream=True, ends_branch=True),)

    def forward(self, branch: Branch, x_seq: Tensor, arch: Architecture, spec: BlockSpec) -> Tensor:
        from spikesearch.nn.functional import to_maps, to_tokens

        return to_tokens(branch.conv(to_maps(x_seq), arch, spec))


register(ConvMixer())
