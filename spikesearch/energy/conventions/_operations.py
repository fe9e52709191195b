"""What conventions that count operations alone have in common."""

from __future__ import annotations

from collections.abc import Iterator

from spikesearch.energy.activity import Activity, LayerActivity
from spikesearch.energy.conventions import Prices
from spikesearch.energy.report import LayerEnergy


def image_operations(activity: Activity, layer: LayerActivity) -> tuple[float, float | None]:
    """Return dense operations per sample, and the MACs of a layer that sees images or events; ``None`` for others."""
    dense = layer.dense_ops / activity.n_images
    if layer.enters == "pixels":  # computed once, counted in every time step
        dense *= activity.time_steps
        return dense, dense
    if layer.enters == "values":
        return dense, dense
    return dense, dense * layer.nonzero_rate if layer.enters == "events" else None


def attention_lines(activity: Activity, prices: Prices) -> Iterator[LayerEnergy]:
    """Yield the lines of products of signals: ACs at the rate of the rarer factor, where a factor is spikes."""
    for name, ssa in activity.attention.items():
        dense = ssa.dense_ops / activity.n_images
        f_q, f_k, f_v = (total / ssa.elements for total in (ssa.q, ssa.k, ssa.v))
        rate = min(f_k, f_v) + f_q
        yield prices.line(name, "attention", dense=2 * dense, rate=rate / 2, acs=dense * rate)
    for name, product in activity.products.items():
        dense = product.dense_ops / activity.n_images
        rates = product.spike_rates
        rate = min(rates, default=1.0)
        macs, acs = (0.0, dense * rate) if rates else (dense, 0.0)
        yield prices.line(name, "product", dense=dense, rate=rate, macs=macs, acs=acs)
