"""Conventions: how activity becomes operations, and operations energy. One function each, registered by name.

Published numbers of one network differ by an order of magnitude between conventions, so that every number that is
printed names its own. A convention depends on what a layer is and on what enters it, never on observed values.

Common to those here: multiply-accumulates (MAC) and accumulates (AC) of one sample at the measured activity are priced;
memory traffic is not part of it, batch-norms are folded into the layer in front of them and biases are ignored. Spiking
self-attention costs ``T * N * D * d_head * (min(f_k, f_v) + f_q)`` ACs for N tokens of width D, the number of the order
``q (k.T v)``, whatever order executes it; Q-K token attention costs an AC per spike of q, as masking is a choice and no
arithmetic; the first layer on event frames costs its dense MACs times the fraction of
non-zero inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from spikesearch.energy.activity import Activity, LayerActivity
from spikesearch.energy.report import LayerEnergy
from spikesearch.extensions import CONVENTIONS as _REGISTRY
from spikesearch.extensions import Registry


@dataclass(frozen=True)
class Prices:
    """Energy of one operation.

    Args:
        mac_pj: Of a multiply-accumulate, in picojoules.
        ac_pj: Of an accumulate, in picojoules.
    """

    mac_pj: float
    ac_pj: float

    def line(
        self, name: str, kind: str, *, dense: float, rate: float, macs: float = 0.0, acs: float = 0.0
    ) -> LayerEnergy:
        """Return a line of a report; operations are per sample."""
        energy = (macs * self.mac_pj + acs * self.ac_pj) * 1e-6  # picojoules to microjoules
        return LayerEnergy(name, kind, dense, rate, macs, acs, energy)


Convention = Callable[[Activity, Prices], Iterator[LayerEnergy]]
"""Prices what a network, or a part of one, did: yields a line per layer, in any order."""

CONVENTIONS: Registry[Convention] = _REGISTRY


def register(name: str) -> Callable[[Convention], Convention]:
    """Make a function available as the convention ``name``, as a decorator.

    Raises:
        ValueError: If the name is taken.
    """
    return lambda function: CONVENTIONS.register(name, function)


@register("spikformer")
def spikformer(activity: Activity, prices: Prices) -> Iterator[LayerEnergy]:
    """As published (Zhou et al., ICLR 2023; Zhou et al., "Spikingformer", 2023).

    The first convolution is MACs in each of the T time steps, the head is MACs once, every other layer is ACs at the
    mean value ``f`` of its input, also where that input is a sum of spikes: ``ACs = f * dense operations``.
    """
    for name, layer in activity.layers.items():
        if layer.enters == "currents":  # additions to the stream are not counted, those of pooled currents included
            continue
        dense, macs = _image_operations(activity, layer)
        if layer.averages:
            macs = dense
        acs = 0.0 if macs is not None else dense * layer.rate
        yield prices.line(name, layer.kind, dense=dense, rate=layer.rate, macs=macs or 0.0, acs=acs)
    yield from _attention(activity, prices)


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
        dense, macs = _image_operations(activity, layer)
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
    yield from _attention(activity, prices)
    if activity.neurons:
        updates = sum(neurons.elements for neurons in activity.neurons.values())
        fired = sum(neurons.spikes for neurons in activity.neurons.values())
        count = updates / activity.n_images
        yield prices.line("membranes", "lif", dense=count, rate=fired / updates, macs=count)


def _image_operations(activity: Activity, layer: LayerActivity) -> tuple[float, float | None]:
    """Return dense operations per sample, and the MACs of a layer that sees images or events; ``None`` for others."""
    dense = layer.dense_ops / activity.n_images
    if layer.enters == "pixels":  # computed once, counted in every time step
        dense *= activity.time_steps
        return dense, dense
    return dense, dense * layer.nonzero_rate if layer.enters == "events" else None


def _attention(activity: Activity, prices: Prices) -> Iterator[LayerEnergy]:
    for name, ssa in activity.attention.items():
        dense = ssa.dense_ops / activity.n_images
        f_q, f_k, f_v = (total / ssa.elements for total in (ssa.q, ssa.k, ssa.v))
        rate = min(f_k, f_v) + f_q
        yield prices.line(name, "attention", dense=2 * dense, rate=rate / 2, acs=dense * rate)
