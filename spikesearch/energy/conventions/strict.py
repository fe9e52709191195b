"""The convention in which the kind of an operation follows from the place in the graph."""

from __future__ import annotations

from collections.abc import Iterator

from spikesearch.energy.activity import Activity
from spikesearch.energy.conventions import Prices, register
from spikesearch.energy.conventions._operations import attention_lines, image_operations
from spikesearch.energy.report import LayerEnergy


@register("strict")
def strict(activity: Activity, prices: Prices) -> Iterator[LayerEnergy]:
    """The kind of operation follows from the place in the graph.

    Inputs that are sums of spikes (the residual stream: q, k, v and the first MLP layer) cost a dense MAC in every time
    step; layers whose input is binary cost ACs at its firing rate; every neuron costs one MAC per time step for its
    membrane. With residual connections by membrane currents every input but that of the first layer is binary. So is
    that of the head: it classifies an average of spikes, and as it is linear, that is the average of what it makes of
    each token's spikes, ACs in every time step. A shortcut into a stage of half the resolution adds up currents, an AC
    for each. A batch-norm in front of neurons is part of them: a threshold and a bias per channel.
    """
    for name, layer in activity.layers.items():
        dense, macs = image_operations(activity, layer)
        acs = 0.0
        if layer.enters == "sums":
            macs = dense
        elif layer.enters == "currents":
            acs = dense
        elif macs is None:
            rate = layer.rate
            if layer.averages and layer.fed_by is not None:
                spikes = activity.neurons[layer.fed_by]
                dense *= spikes.elements / layer.elements  # tokens and time steps
                rate = spikes.rate
            acs = dense * rate
        yield prices.line(name, layer.kind, dense=dense, rate=layer.rate, macs=macs or 0.0, acs=acs)
    yield from attention_lines(activity, prices)
    if activity.neurons:
        updates = sum(neurons.elements for neurons in activity.neurons.values())
        fired = sum(neurons.spikes for neurons in activity.neurons.values())
        count = updates / activity.n_images
        yield prices.line("membranes", "lif", dense=count, rate=fired / updates, updates=count)
