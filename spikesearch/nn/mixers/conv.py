"""A convolution as a mixer, as in spiking residual networks (Hu et al., "MS-ResNet", 2021), one per branch."""

from __future__ import annotations

from spikesearch.nn.mixers import Mixer, register
from spikesearch.nn.plan import Layer


class ConvMixer(Mixer):
    """One 3 x 3 convolution."""

    name = "conv"
    layers = (Layer("conv", 1, 1, "conv", reads_stream=True, ends_branch=True),)


register(ConvMixer())
