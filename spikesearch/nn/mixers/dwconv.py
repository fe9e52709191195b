"""A depthwise convolution as a mixer (Howard et al., "MobileNets", 2017), with neurons before the pointwise layer."""

from __future__ import annotations

from spikesearch.nn.mixers import Mixer, register
from spikesearch.nn.plan import Layer


class DepthwiseMixer(Mixer):
    """A 3 x 3 convolution of every channel by itself, neurons, and a linear layer on every token."""

    name = "dwconv"
    layers = (
        Layer("dw", 1, 1, "conv", depthwise=True, reads_stream=True),
        Layer("pw", 1, 1, ends_branch=True),
    )


register(DepthwiseMixer())
