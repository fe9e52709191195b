"""What a spiking network did on real samples, as records: spikes, and operations that they cause, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from spikesearch.nn.units import Enters


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
    """

    kind: str
    enters: Enters = "spikes"
    averages: bool = False
    fed_by: str | None = None
    dense_ops: float = 0.0
    total: float = 0.0
    nonzero: float = 0.0
    elements: int = 0

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
    """Sums over every sample seen by one attention product; ``elements`` is the size of q, of k and of v."""

    dense_ops: float = 0.0
    q: float = 0.0
    k: float = 0.0
    v: float = 0.0
    elements: int = 0


@dataclass
class NeuronActivity:
    """Spikes, and neurons times time steps, over every sample seen by one LIF layer."""

    spikes: float = 0.0
    elements: int = 0

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
        order: Names of layers and products as they were first executed.
        n_images: Number of samples.
        time_steps: Number of simulation steps T.
        static: Whether the samples were images (and not event frames).

    What was recorded differentiably has scalar tensors for sums.
    """

    layers: dict[str, LayerActivity] = field(default_factory=dict)
    attention: dict[str, AttentionActivity] = field(default_factory=dict)
    neurons: dict[str, NeuronActivity] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    n_images: int = 0
    time_steps: int = 0
    static: bool = True

    def part(self, *names: str) -> Activity:
        """Return the records of some modules of the network, without copying them."""

        def wanted(key: str) -> bool:
            return any(key == name or key.startswith(f"{name}.") for name in names)

        part = Activity(n_images=self.n_images, time_steps=self.time_steps, static=self.static)
        for mine, theirs in zip(self._records(), part._records(), strict=True):
            theirs.update({key: value for key, value in mine.items() if wanted(key)})
        part.order.extend(filter(wanted, self.order))
        return part

    def take(self) -> Activity:
        """Return what has been recorded since the last call, and record anew."""
        taken = replace(self)
        self.layers, self.attention, self.neurons, self.order = {}, {}, {}, []
        self.n_images = 0
        return taken

    def add_samples(self, other: Activity) -> None:
        """Add the records of the same modules of the same network, measured on other samples."""
        for mine, theirs in zip(self._records(), other._records(), strict=True):
            for name, record in theirs.items():
                mine[name] = _sum_of(mine[name], record) if name in mine else record
        self.order.extend(name for name in other.order if name not in self.order)
        self.n_images += other.n_images
        self.time_steps, self.static = other.time_steps, other.static

    def add_part(self, other: Activity) -> None:
        """Append the records of another module of the same network, measured on the same samples."""
        for mine, theirs in zip(self._records(), other._records(), strict=True):
            mine.update(theirs)
        self.order.extend(other.order)
        self.n_images, self.time_steps, self.static = other.n_images, other.time_steps, other.static

    @property
    def dense_ops(self) -> float:
        """Multiplications that these layers stand for, over all samples; what is computed once counts once."""
        layers = sum(layer.dense_ops for layer in self.layers.values())
        return layers + sum(2 * product.dense_ops for product in self.attention.values())

    def _records(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return self.layers, self.attention, self.neurons


def _sum_of(first: Any, second: Any) -> Any:
    names = [field.name for field in fields(first) if not isinstance(getattr(first, field.name), str | bool | None)]
    return replace(first, **{name: getattr(first, name) + getattr(second, name) for name in names})
