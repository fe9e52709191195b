"""The convention that counts reads and writes of memory beside operations (Lemaire et al., ICONIP 2022, 2210.13107).

Of a layer that is fed by spikes, ``theta`` of them per sample and all time steps together:

======================  ======================================================================================
input reads             ``theta``
weight reads            ``theta * outputs * kernel``
bias reads              ``T * N``, N neurons
potential reads, writes ``theta * outputs * kernel + T * N`` each
output writes           the spikes of its neurons
additions               ``theta * outputs * ceil(kernel / stride)``, ``T * N`` for biases, one per spike to reset
leak                    ``T * N`` multiply-accumulates; additions if tau is a power of two, a shift; none for IF
addressing              ``theta * outputs * kernel`` additions; of a convolution, ``2 * theta`` multiplications as well
======================  ======================================================================================

The paper's fully connected equation 2.4 has a factor ``N_in`` too many and no reset; SpikingJelly's
``estimate_lemaire_energy`` corrects the same. Weights have 8 bits, potentials 16 (``MemoryPrices`` has all widths).
An access costs what the published curve says of a memory of the layer's own size: its weights, its potentials, the
queue of spikes in front of it. The price is a band: ``packed``, if an access delivers as many values as fit into it,
and ``unpacked``, if it delivers one.

Ours, as the paper has nothing of the kind:

- Sums of spikes (residual connections ``add``) and values cost dense multiply-accumulates in every step, as in the
  paper's formal networks: a read of weight, and of input, for each.
- Static images pass the first layer once; its currents are stored, and read again in every time step. Of event frames
  only pixels with events are multiplied.
- Attention, in the order ``q (k.T v)``: of a token with k and v spikes, ``k * v`` additions to a memory of ``d_head **
  2`` sums; then, of every spike of q, a row of ``d_head`` of them is added to the potentials of the neurons behind. Q-K
  token attention: an addition per spike of q to the sum of its token and head; masking is a choice.
- Neurons that read a stream of currents read one, and add one, in every time step; with a batch-norm of their own also
  a threshold and a bias. Spikes that are added to the stream are reads, additions and writes there. A pooled shortcut
  reads, adds up and writes currents. Max-pooling is a choice.
- What the head averages is counted up, by channel: an addition per spike, or per sum; then it multiplies once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from spikesearch.config.hardware import MemoryPrices
from spikesearch.energy.activity import (
    Activity,
    AttentionActivity,
    LayerActivity,
    LayerShape,
    NeuronActivity,
    ProductActivity,
)
from spikesearch.energy.conventions import Prices, register
from spikesearch.energy.report import LayerEnergy


@register("memory")
def memory(activity: Activity, prices: Prices) -> Iterator[LayerEnergy]:
    """Count operations and accesses; the energy of a line is the packed end of its band."""
    for name, layer in activity.layers.items():
        counts = Ledger(prices, activity.n_images)
        _layer(counts, activity, layer)
        yield counts.line(name, layer.kind, dense=layer.dense_ops, rate=layer.rate)
    for name, product in activity.attention.items():
        counts = Ledger(prices, activity.n_images)
        _attention(counts, activity, product)
        rate = (product.q + product.k + product.v) / (3 * product.elements)
        yield counts.line(name, "attention", dense=2 * product.dense_ops, rate=rate)
    for name, signals in activity.products.items():
        counts = Ledger(prices, activity.n_images)
        _product(counts, activity, signals)
        yield counts.line(name, "product", dense=signals.dense_ops, rate=min(signals.spike_rates, default=1.0))
    if activity.neurons:
        counts = Ledger(prices, activity.n_images)
        for neurons in activity.neurons.values():
            _neurons(counts, activity, neurons)
        updates = sum(neurons.elements for neurons in activity.neurons.values())
        fired = sum(neurons.spikes for neurons in activity.neurons.values())
        yield counts.line("membranes", "lif", dense=updates, rate=fired / updates)


class Ledger:
    """Operations and accesses, and what they cost, over all samples.

    Args:
        prices: Of operations and accesses.
        n_images: Number of samples.

    Raises:
        ValueError: If the hardware has no prices of memory.
    """

    def __init__(self, prices: Prices, n_images: int) -> None:
        if prices.memory is None:
            raise ValueError("The convention memory needs hardware with prices of memory.")
        self.memory: MemoryPrices = prices.memory
        self.n_images = n_images
        self.counts: dict[str, float] = defaultdict(float)
        self.packed_pj = 0.0
        self.unpacked_pj = 0.0

    def access(self, what: str, count: float, *, bits: int, size: float) -> None:
        """Add accesses to a memory of ``size`` bits, ``bits`` at a time."""
        price = count * self.memory.access_pj(size / 8)
        self.counts[what] += count
        self.unpacked_pj = self.unpacked_pj + price
        self.packed_pj = self.packed_pj + price * (bits / self.memory.access_bits)

    def update(self, count: float, *, bits: int, size: float) -> None:
        """Add reads and writes of potentials, or of other sums."""
        self.access("potential_reads", count, bits=bits, size=size)
        self.access("potential_writes", count, bits=bits, size=size)

    def parameters(self, shape: LayerShape, weights: float, biases: float) -> None:
        """Add reads of weights and biases, which share a memory."""
        bits, bias_bits = self.memory.weight_bits, self.memory.potential_bits
        size = shape.weights * bits + shape.channels * bias_bits * shape.biased
        self.access("weight_reads", weights, bits=bits, size=size)
        if shape.biased:
            self.access("bias_reads", biases, bits=bias_bits, size=size)
            self.operate("acs", biases)

    def queue(self, what: str, spikes: float) -> None:
        """Add reads or writes of spikes between layers."""
        bits = self.memory.message_bits
        self.access(what, spikes, bits=bits, size=self.memory.queue_messages * bits)

    def operate(self, what: str, count: float) -> None:
        """Add ``acs``, ``macs``, ``addressing_acs`` or ``addressing_macs``."""
        self.counts[what] += count
        price = count * (self.memory.mac_pj if what.endswith("macs") else self.memory.add_pj)
        self.packed_pj, self.unpacked_pj = self.packed_pj + price, self.unpacked_pj + price

    def line(self, name: str, kind: str, *, dense: float, rate: float) -> LayerEnergy:
        """Return the line of a report, per sample."""
        counts = {what: count / self.n_images for what, count in self.counts.items()}
        to_uj = 1e-6 / self.n_images
        return LayerEnergy(
            name,
            kind,
            dense / self.n_images,
            rate,
            counts.get("macs", 0.0),
            counts.get("acs", 0.0),
            self.packed_pj * to_uj,
            unpacked_uJ=self.unpacked_pj * to_uj,
            counts=counts,
        )


def dense_layer(counts: Ledger, layer: LayerActivity, shape: LayerShape, *, steps: int, input_bits: int) -> None:
    """Add what a layer costs that multiplies everything (Lemaire et al., formal networks).

    Args:
        counts: Where to.
        layer: The layer.
        shape: Its sizes.
        steps: How often a sample is computed.
        input_bits: Width of its inputs.
    """
    conv = layer.kind == "conv"
    executions = counts.n_images * steps
    reads = layer.dense_ops if conv else layer.elements
    counts.access("input_reads", reads, bits=input_bits, size=layer.elements / executions * input_bits)
    counts.parameters(shape, layer.dense_ops, layer.outputs)
    counts.operate("macs", layer.dense_ops)
    offsets = shape.channels * shape.kernel * executions if conv else 0
    counts.operate("addressing_acs", layer.elements + layer.outputs + offsets)


def _layer(counts: Ledger, activity: Activity, layer: LayerActivity) -> None:
    memory, shape = counts.memory, layer.shape
    steps = layer.steps(activity)
    if layer.enters == "currents":
        bits = memory.potential_bits
        per_step = counts.n_images * steps
        counts.access("input_reads", layer.elements, bits=bits, size=layer.elements / per_step * bits)
        counts.operate("acs", layer.elements)
        counts.access("output_writes", layer.outputs, bits=bits, size=layer.outputs / per_step * bits)
    elif shape is None:  # the sums of Q-K token attention
        counts.queue("input_reads", layer.total)
        counts.operate("acs", layer.total)
        _into_potentials(counts, layer, steps, layer.total)
    elif layer.enters == "spikes" and not layer.averages:
        events = layer.total * shape.outputs * shape.kernel
        counts.queue("input_reads", layer.total)
        counts.parameters(shape, events, layer.outputs)
        counts.operate("acs", layer.total * shape.outputs * shape.reached)
        _into_potentials(counts, layer, steps, events)
        counts.operate("addressing_acs", events)
        if layer.kind == "conv":
            counts.operate("addressing_macs", 2 * layer.total)
    elif layer.enters == "events":
        events = layer.nonzero * shape.outputs * shape.kernel
        counts.queue("input_reads", layer.nonzero)
        counts.parameters(shape, events, layer.outputs)
        counts.operate("macs", layer.nonzero * shape.outputs * shape.reached)
        _into_potentials(counts, layer, steps, events)
        counts.operate("addressing_acs", events)
        counts.operate("addressing_macs", 2 * layer.nonzero)
    else:
        bits = memory.input_bits
        if layer.averages:
            _average(counts, activity, layer)
            bits = memory.potential_bits
        dense_layer(counts, layer, shape, steps=steps, input_bits=bits)
        _dense_outputs(counts, activity, layer, shape)


def _into_potentials(counts: Ledger, layer: LayerActivity, steps: int, events: float) -> None:
    bits = counts.memory.potential_bits
    counts.update(events, bits=bits, size=layer.outputs / (counts.n_images * steps) * bits)


def _dense_outputs(counts: Ledger, activity: Activity, layer: LayerActivity, shape: LayerShape) -> None:
    """Add what becomes of currents that are complete before anybody reads them."""
    bits = counts.memory.potential_bits
    size = layer.outputs / (counts.n_images * layer.steps(activity)) * bits
    if layer.enters == "pixels":  # stored, and read again in every time step
        again = layer.outputs * activity.time_steps
        counts.access("output_writes", layer.outputs, bits=bits, size=size)
        counts.access("current_reads", again, bits=bits, size=size)
        counts.operate("acs", again)
        if not shape.spiking:
            counts.access("output_writes", again, bits=bits, size=size)
    elif not shape.spiking:
        counts.access("output_writes", layer.outputs, bits=bits, size=size)


def _average(counts: Ledger, activity: Activity, layer: LayerActivity) -> None:
    memory = counts.memory
    size = layer.elements / counts.n_images * memory.potential_bits
    if layer.fed_by is not None:
        spikes = activity.neurons[layer.fed_by].spikes
        counts.queue("input_reads", spikes)
        counts.operate("acs", spikes)
        counts.update(spikes, bits=memory.potential_bits, size=size)
    else:
        bits = memory.input_bits
        per_step = layer.averaged / (counts.n_images * activity.time_steps)
        counts.access("input_reads", layer.averaged, bits=bits, size=per_step * bits)
        counts.operate("acs", layer.averaged)
        counts.access("output_writes", layer.elements, bits=memory.potential_bits, size=size)


def _attention(counts: Ledger, activity: Activity, product: AttentionActivity) -> None:
    bits = counts.memory.potential_bits
    head = product.head_dim
    outputs = product.elements / (counts.n_images * activity.time_steps)
    rows = product.q * head
    counts.queue("input_reads", product.q + product.k + product.v)
    counts.operate("acs", product.additions)
    counts.update(product.pairs, bits=bits, size=head * head * bits)
    counts.access("potential_reads", rows, bits=bits, size=head * head * bits)
    counts.update(rows, bits=bits, size=outputs * bits)


def _product(counts: Ledger, activity: Activity, product: ProductActivity) -> None:
    """Add a product of two signals; sums of it are kept, whether neurons are behind it or not."""
    memory = counts.memory
    per_step = counts.n_images * product.steps
    out = product.outputs / per_step * memory.potential_bits
    bits = memory.potential_bits
    if any(product.binary):
        counts.queue("input_reads", product.first + product.second)
        counts.operate("acs", product.additions)
        counts.update(product.additions, bits=bits, size=out)
        if not all(product.binary):  # what the spikes select
            elements = product.second_elements if product.binary[0] else product.first_elements
            counts.access("potential_reads", product.additions, bits=bits, size=elements / per_step * bits)
        return
    for count in (product.first_elements, product.second_elements):
        counts.access("input_reads", product.dense_ops, bits=bits, size=count / per_step * bits)
    counts.operate("macs", product.dense_ops)
    counts.access("output_writes", product.outputs, bits=bits, size=out)


def _neurons(counts: Ledger, activity: Activity, neurons: NeuronActivity) -> None:
    memory, shape, updates = counts.memory, neurons.shape, neurons.elements
    count = updates / (counts.n_images * activity.time_steps)
    bits = memory.potential_bits
    counts.update(updates, bits=bits, size=count * bits)
    counts.operate("acs", neurons.spikes)  # reset
    if shape is None or shape.leak == "multiply":
        counts.operate("macs", updates)
    elif shape.leak == "shift":
        counts.operate("acs", updates)
    if shape is not None and shape.reads_stream:
        counts.access("current_reads", updates, bits=bits, size=count * bits)
        counts.operate("acs", updates)
    if shape is not None and shape.normed:
        counts.access("bias_reads", 2 * updates, bits=bits, size=2 * shape.normed * bits)  # thresholds among them
        counts.operate("acs", updates)
    if shape is not None and shape.adds:
        counts.operate("acs", neurons.spikes)
        counts.update(neurons.spikes, bits=memory.input_bits, size=count * memory.input_bits)
    else:
        counts.queue("output_writes", neurons.spikes)
