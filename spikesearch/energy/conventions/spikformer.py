"""The convention of the Spikformer family, as published."""

from __future__ import annotations

from collections.abc import Iterator

from spikesearch.energy.activity import Activity
from spikesearch.energy.conventions import Prices, register
from spikesearch.energy.conventions._operations import attention_lines, image_operations
from spikesearch.energy.report import LayerEnergy


@register("spikformer")
def spikformer(activity: Activity, prices: Prices) -> Iterator[LayerEnergy]:
    """As published (Zhou et al., ICLR 2023; Zhou et al., "Spikingformer", 2023).

    The first convolution is MACs in each of the T time steps, the head is MACs once, every other layer is ACs at the
    mean value ``f`` of its input, also where that input is a sum of spikes: ``ACs = f * dense operations``.
    """
    for name, layer in activity.layers.items():
        if layer.enters == "currents":  # additions to the stream are not counted, those of pooled currents included
            continue
        dense, macs = image_operations(activity, layer)
        if layer.averages:
            macs = dense
        acs = 0.0 if macs is not None else dense * layer.rate
        yield prices.line(name, layer.kind, dense=dense, rate=layer.rate, macs=macs or 0.0, acs=acs)
    yield from attention_lines(activity, prices)
