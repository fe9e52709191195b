"""Comparing a spiking network: with the bit-matched quantised network, and in the terms of others.

The quantised network has the same graph and computes every layer once, with activations of ``ceil(log2(T + 1))`` bits,
which can count the spikes of T time steps, 8-bit weights and the prices of the convention ``memory`` (Yan et al.,
2409.08290, whose prices are others). Its neurons are activations: nothing leaks, and no potential is kept.
"""

from __future__ import annotations

from dataclasses import replace

from spikesearch.energy.activity import Activity, AttentionActivity, LayerActivity, NeuronActivity, ProductActivity
from spikesearch.energy.comparison import Band, Comparison, NeuroBench
from spikesearch.energy.conventions import Prices
from spikesearch.energy.conventions.memory import Ledger, dense_layer, memory


def compare(activity: Activity, prices: Prices) -> Comparison:
    """Return what a network is compared with.

    Args:
        activity: What it did.
        prices: Of the hardware; without prices of memory there is no quantised network.
    """
    layers = [layer for layer in activity.layers.values() if _behind_neurons(layer)]
    synapses = sum(layer.dense_ops / layer.steps(activity) for layer in layers)
    seen = sum(layer.dense_ops * layer.rate for layer in layers)
    snn = qnn = None
    bits = activity.time_steps.bit_length()  # ceil(log2(T + 1))
    if prices.memory is not None:
        own = list(memory(activity, prices))
        snn = Band(sum(line.energy_uJ for line in own), sum(line.unpacked_uJ or 0.0 for line in own))
        qnn = quantised(activity, prices, bits)
    return Comparison(
        mean_firing_rate=activity.mean_firing_rate,
        spikes_per_synapse=seen / synapses if synapses else 0.0,
        activation_bits=bits,
        snn=snn,
        qnn=qnn,
        neurobench=_neurobench(activity) if activity.detailed else None,
    )


def quantised(activity: Activity, prices: Prices, bits: int) -> Band:
    """Return the energy of a quantised network of the same graph.

    Args:
        activity: What the spiking network did; only sizes are used.
        prices: Of operations and accesses.
        bits: Of activations.
    """
    counts = Ledger(prices, activity.n_images)
    for layer in activity.layers.values():
        _layer(counts, activity, layer, bits)
    for attention in activity.attention.values():
        _products(counts, attention.dense_ops / activity.time_steps, attention, activity.time_steps, bits)
    for product in activity.products.values():
        _product(counts, product, bits)
    for neurons in activity.neurons.values():
        _activations(counts, activity, neurons, bits)
    to_uj = 1e-6 / activity.n_images
    return Band(counts.packed_pj * to_uj, counts.unpacked_pj * to_uj)


def _behind_neurons(layer: LayerActivity) -> bool:
    return layer.shape is not None and layer.enters in ("spikes", "sums") and not layer.averages


def _layer(counts: Ledger, activity: Activity, layer: LayerActivity, bits: int) -> None:
    memory, steps = counts.memory, layer.steps(activity)
    elements, outputs = layer.elements / steps, layer.outputs / steps
    inputs = elements / counts.n_images
    if layer.shape is None:  # sums: a pooled shortcut, or those of Q-K token attention
        width = memory.potential_bits if layer.enters == "currents" else bits
        counts.access("input_reads", elements, bits=width, size=inputs * width)
        counts.operate("acs", elements)
        counts.access("output_writes", outputs, bits=width, size=outputs / counts.n_images * width)
        return
    first = layer.enters in ("pixels", "events", "values")
    width = memory.input_bits if first else bits
    if layer.averages:
        averaged = layer.averaged / activity.time_steps
        counts.access("input_reads", averaged, bits=bits, size=averaged / counts.n_images * bits)
        counts.operate("acs", averaged)
        width = memory.potential_bits
    once = replace(layer, dense_ops=layer.dense_ops / steps, elements=elements, outputs=outputs)
    dense_layer(counts, once, layer.shape, steps=1, input_bits=width)
    written = bits if layer.shape.spiking else memory.potential_bits
    counts.access("output_writes", outputs, bits=written, size=outputs / counts.n_images * written)


def _products(counts: Ledger, macs: float, attention: AttentionActivity, steps: int, bits: int) -> None:
    """Add both products of attention; each writes as many values as a factor has."""
    values = attention.elements / steps
    size = values / counts.n_images
    wide = counts.memory.potential_bits
    counts.access("input_reads", 4 * macs, bits=bits, size=size * bits)
    counts.operate("macs", 2 * macs)
    counts.access("output_writes", 2 * values, bits=wide, size=size * wide)


def _product(counts: Ledger, product: ProductActivity, bits: int) -> None:
    macs, wide = product.dense_ops / product.steps, counts.memory.potential_bits
    for elements in (product.first_elements, product.second_elements):
        counts.access("input_reads", macs, bits=bits, size=elements / product.steps / counts.n_images * bits)
    counts.operate("macs", macs)
    outputs = product.outputs / product.steps
    counts.access("output_writes", outputs, bits=wide, size=outputs / counts.n_images * wide)


def _activations(counts: Ledger, activity: Activity, neurons: NeuronActivity, bits: int) -> None:
    """Add what activations cost that the layer in front of them did not: those that read or extend the stream."""
    updates, shape, wide = neurons.elements / activity.time_steps, neurons.shape, counts.memory.potential_bits
    size = updates / counts.n_images
    if shape is not None and shape.reads_stream:
        counts.access("current_reads", updates, bits=wide, size=size * wide)
        counts.access("output_writes", updates, bits=bits, size=size * bits)
    if shape is not None and shape.adds:
        counts.operate("acs", updates)
        counts.update(updates, bits=counts.memory.input_bits, size=size * counts.memory.input_bits)


def _neurobench(activity: Activity) -> NeuroBench:
    layers = [layer for layer in activity.layers.values() if layer.shape is not None]
    weights = sum(layer.shape.weights for layer in layers if layer.shape is not None)
    zeros = sum(layer.shape.zeros or 0 for layer in layers if layer.shape is not None)
    effective = {False: 0.0, True: 0.0}
    for layer in layers:
        effective[layer.enters == "spikes" and not layer.averages] += layer.effective
    products = sum(product.additions for product in activity.attention.values())
    products += sum(product.additions for product in activity.products.values())
    sums = sum(layer.total for layer in activity.layers.values() if layer.kind == "attention")
    return NeuroBench(
        footprint=activity.nbytes or 0,
        connection_sparsity=zeros / weights if weights else 0.0,
        activation_sparsity=1 - activity.mean_firing_rate,
        dense=sum(layer.possible for layer in layers) / activity.n_images,
        effective_macs=effective[False] / activity.n_images,
        effective_acs=effective[True] / activity.n_images,
        attention_acs=(products + sums) / activity.n_images,
    )
