"""What a spiking network did on real samples, as records: spikes, and operations that they cause, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from spikesearch.nn.units import Enters


@dataclass(frozen=True)
class LayerShape:
    """Sizes of a convolution or linear layer.

    Args:
        channels: Output channels.
        outputs: Those that an input channel leads to: all of them, or one of a depthwise convolution.
        kernel: Weights between an input and an output channel.
        reached: Those of them that meet an input, on average; with a stride, fewer.
        weights: Number of weights.
        biased: Whether there is a bias per output channel; a batch-norm behind the layer is one.
        spiking: Whether neurons integrate its currents.
        zeros: Number of weights that are 0; ``None`` if nobody asked.
        steps: How often a sample is computed; ``None`` follows from what enters: once for pixels and for averages, else
            in every time step.
    """

    channels: int
    outputs: int
    kernel: int
    reached: int
    weights: int
    biased: bool
    spiking: bool
    zeros: int | None = None
    steps: int | None = None


@dataclass(frozen=True)
class NeuronShape:
    """What a layer of neurons does in every time step.

    Args:
        leak: How the potential decays: not at all, by a shift (tau is a power of two), or by a multiplication.
        reads_stream: Whether it reads currents from the stream, instead of integrating those of a layer.
        normed: Channels that have a threshold and a bias current of their own; 0 for none.
        adds: Whether its spikes are added to the stream.
    """

    leak: Literal["none", "shift", "multiply"]
    reads_stream: bool = False
    normed: int = 0
    adds: bool = False


@dataclass
class LayerActivity:
    """Sums over every sample seen by one convolution or linear layer.

    Args:
        kind: ``conv`` or ``linear``.
        enters: What it multiplies.
        averages: Whether its input is averaged over time and tokens.
        fed_by: Name of the neurons that read the stream for it, or ``None``.
        dense_ops: Multiplications without any sparsity.
        total: Sum of the input.
        nonzero: Inputs that are not 0, of pixels and events.
        elements: Number of inputs.
        outputs: Number of outputs.
        averaged: Number of values that the averages were taken over.
        effective: Multiplications of an input and a weight that both are not 0, where there are both, without the
            border of a convolution; counted in detail only, like the next.
        possible: The same if nothing were 0.
        shape: Its sizes; ``None`` for what has no weights.
    """

    kind: str
    enters: Enters = "spikes"
    averages: bool = False
    fed_by: str | None = None
    dense_ops: float = 0.0
    total: float = 0.0
    nonzero: float = 0.0
    elements: float = 0
    outputs: float = 0
    averaged: float = 0
    effective: float = 0.0
    possible: float = 0.0
    shape: LayerShape | None = None

    def steps(self, activity: Activity) -> int:
        """Return how often a sample is computed."""
        if self.shape is not None and self.shape.steps is not None:
            return self.shape.steps
        return 1 if self.enters == "pixels" or self.averages else activity.time_steps

    @property
    def rate(self) -> float:
        """Mean input per element and step."""
        return self.total / self.elements

    @property
    def nonzero_rate(self) -> float:
        """Share of the inputs that are not 0."""
        return self.nonzero / self.elements


@dataclass
class AttentionActivity:
    """Sums over every sample seen by one attention product; ``elements`` is the size of q, of k and of v.

    ``pairs`` adds up, over tokens, the spikes of k times those of v: the additions of ``k.T v``.
    """

    dense_ops: float = 0.0
    q: float = 0.0
    k: float = 0.0
    v: float = 0.0
    pairs: float = 0.0
    elements: int = 0

    @property
    def head_dim(self) -> float:
        """Channels per head."""
        return self.dense_ops / self.elements

    @property
    def additions(self) -> float:
        """Additions in the order ``q (k.T v)``."""
        return self.pairs + self.q * self.head_dim


@dataclass
class ProductActivity:
    """Sums over every sample seen by a product of two signals ``[n, k]`` and ``[k, m]`` in a network of another kind.

    Args:
        binary: Whether the first, and the second, factor held nothing but spikes.
        dense_ops: Multiplications without any sparsity.
        first: Sum of the first factor, if that is spikes.
        second: Sum of the second one, likewise.
        first_elements: Size of the first factor.
        second_elements: Size of the second one.
        outputs: Size of the product.
        pairs: Spikes of both factors that meet.
        steps: How often a sample is computed.
    """

    binary: tuple[bool, bool] = (True, True)
    dense_ops: float = 0.0
    first: float = 0.0
    second: float = 0.0
    first_elements: int = 0
    second_elements: int = 0
    outputs: int = 0
    pairs: float = 0.0
    steps: int = 0

    @property
    def spike_rates(self) -> list[float]:
        """Rates of the factors that are spikes."""
        rates = (self.first / self.first_elements, self.second / self.second_elements)
        return [rate for rate, binary in zip(rates, self.binary, strict=True) if binary]

    @property
    def additions(self) -> float:
        """Additions that spikes cause; 0 where neither factor is spikes."""
        return self.pairs if all(self.binary) else self.dense_ops * sum(self.spike_rates)


@dataclass
class NeuronActivity:
    """Spikes, and neurons times time steps, over every sample seen by one LIF layer."""

    spikes: float = 0.0
    elements: int = 0
    shape: NeuronShape | None = None

    @property
    def rate(self) -> float:
        """Spikes per neuron and time step."""
        return self.spikes / self.elements if self.elements else 0.0


@dataclass
class Activity:
    """What a network did on the samples it has seen; made by :func:`~spikesearch.energy.measure.measure_activity`.

    Args:
        layers: By name, convolutions and linear layers.
        attention: By name, attention products.
        neurons: By name, LIF layers.
        products: By name, products of signals in networks of other kinds.
        order: Names of layers and products as they were first executed.
        n_images: Number of samples.
        time_steps: Number of simulation steps T.
        static: Whether the samples were images (and not event frames).
        detailed: Whether operations were counted in detail, see :class:`LayerActivity`.
        nbytes: Bytes of the parameters and buffers of the network; ``None`` if nobody asked.
        unknown: What the network has that nobody can price, and why.

    What was recorded differentiably has scalar tensors for sums.
    """

    layers: dict[str, LayerActivity] = field(default_factory=dict)
    attention: dict[str, AttentionActivity] = field(default_factory=dict)
    neurons: dict[str, NeuronActivity] = field(default_factory=dict)
    products: dict[str, ProductActivity] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    n_images: int = 0
    time_steps: int = 0
    static: bool = True
    detailed: bool = False
    nbytes: int | None = None
    unknown: list[str] = field(default_factory=list)

    def part(self, *names: str) -> Activity:
        """Return the records of some modules of the network, without copying them."""

        def wanted(key: str) -> bool:
            return any(key == name or key.startswith(f"{name}.") for name in names)

        part = Activity(n_images=self.n_images)
        part._agree(self)
        for mine, theirs in zip(self._records(), part._records(), strict=True):
            theirs.update({key: value for key, value in mine.items() if wanted(key)})
        part.order.extend(filter(wanted, self.order))
        return part

    def take(self) -> Activity:
        """Return what has been recorded since the last call, and record anew."""
        taken = replace(self)
        self.layers, self.attention, self.neurons, self.products, self.order = {}, {}, {}, {}, []
        self.n_images = 0
        return taken

    def add_samples(self, other: Activity) -> None:
        """Add the records of the same modules of the same network, measured on other samples."""
        for mine, theirs in zip(self._records(), other._records(), strict=True):
            for name, record in theirs.items():
                mine[name] = _sum_of(mine[name], record) if name in mine else record
        self.order.extend(name for name in other.order if name not in self.order)
        self.n_images += other.n_images
        self._agree(other)

    def add_part(self, other: Activity) -> None:
        """Append the records of another module of the same network, measured on the same samples."""
        for mine, theirs in zip(self._records(), other._records(), strict=True):
            mine.update(theirs)
        self.order.extend(other.order)
        self.n_images = other.n_images
        self._agree(other)

    @property
    def mean_firing_rate(self) -> float:
        """Spikes per neuron and time step over all neurons; 0 where there are none."""
        elements = sum(layer.elements for layer in self.neurons.values())
        return sum(layer.spikes for layer in self.neurons.values()) / elements if elements else 0.0

    @property
    def dense_ops(self) -> float:
        """Multiplications that these layers stand for, over all samples; what is computed once counts once."""
        layers = sum(layer.dense_ops for layer in self.layers.values())
        return layers + sum(2 * product.dense_ops for product in self.attention.values())

    def _agree(self, other: Activity) -> None:
        self.time_steps, self.static = other.time_steps, other.static
        self.detailed, self.nbytes = other.detailed, other.nbytes

    def _records(self) -> tuple[dict[str, Any], ...]:
        return self.layers, self.attention, self.neurons, self.products


_FACTS = (str, bool, tuple, LayerShape, NeuronShape, type(None))  # of a record, beside its sums


def _sum_of(first: Any, second: Any) -> Any:
    names = [field.name for field in fields(first) if not isinstance(getattr(first, field.name), _FACTS)]
    return replace(first, **{name: getattr(first, name) + getattr(second, name) for name in names})
