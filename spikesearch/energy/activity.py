"""What a spiking transformer does on real samples: spikes, and operations that they cause, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from spikesearch.space.architecture import Residual

FIRST_LAYER = "stem.stages.0.conv"
HEAD, HEAD_LIF = "head", "head_lif"

_Sum = Callable[[Tensor], Any]  # a number, or a scalar tensor with a gradient


@dataclass
class LayerActivity:
    """Sums over every sample seen by one convolution or linear layer."""

    kind: str
    dense_ops: float = 0.0
    total: float = 0.0
    nonzero: float = 0.0
    elements: int = 0


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
    """What a network did on the samples it has seen; made by :func:`measure_activity`.

    Args:
        layers: By name, convolutions and linear layers.
        attention: By name, attention products.
        neurons: By name, LIF layers.
        order: Names of layers and products as they were first executed.
        n_images: Number of samples.
        time_steps: Number of simulation steps T.
        static: Whether the samples were images (and not event frames).
        residual: What the network's residual connections carry, see :class:`~spikesearch.Spikformer`.

    What was recorded differentiably has scalar tensors for sums.
    """

    layers: dict[str, LayerActivity] = field(default_factory=dict)
    attention: dict[str, AttentionActivity] = field(default_factory=dict)
    neurons: dict[str, NeuronActivity] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    n_images: int = 0
    time_steps: int = 0
    static: bool = True
    residual: Residual = "add"

    def part(self, *names: str) -> Activity:
        """Return the records of some modules of the network, without copying them."""

        def wanted(key: str) -> bool:
            return any(key == name or key.startswith(f"{name}.") for name in names)

        part = Activity(n_images=self.n_images, time_steps=self.time_steps, static=self.static, residual=self.residual)
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
        self.time_steps, self.static, self.residual = other.time_steps, other.static, other.residual

    def add_part(self, other: Activity) -> None:
        """Append the records of another module of the same network, measured on the same samples."""
        for mine, theirs in zip(self._records(), other._records(), strict=True):
            mine.update(theirs)
        self.order.extend(other.order)
        self.n_images, self.time_steps = other.n_images, other.time_steps
        self.static, self.residual = other.static, other.residual

    @property
    def dense_ops(self) -> float:
        """Multiplications that these layers stand for, over all samples; what is computed once counts once."""
        layers = sum(layer.dense_ops for layer in self.layers.values())
        return layers + sum(2 * product.dense_ops for product in self.attention.values())

    def _records(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return self.layers, self.attention, self.neurons


@contextmanager
def measure_activity(net: nn.Module, *, differentiable: bool = False) -> Iterator[Activity]:
    """Record the activity of a network during the forward passes inside a ``with`` block.

    Args:
        net: A plain :class:`~spikesearch.Spikformer` or a supernet with a chosen subnet.
        differentiable: Record sums as scalar tensors with a gradient, in float32 and rounded, instead of exact numbers.
    """
    from spikingjelly.activation_based.neuron import BaseNode

    from spikesearch.nn.functional import AttentionProduct
    from spikesearch.nn.lif import StatelessNeuron

    activity = Activity(residual=getattr(net, "residual", "add"))
    add_up = _differentiable_sum if differentiable else count
    last = _LastSpikes(add_up)
    handles = [net.register_forward_pre_hook(_samples_hook(activity))]
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            handles.append(module.register_forward_hook(_layer_hook(activity, name, last)))
        elif isinstance(module, AttentionProduct):
            handles.append(module.register_forward_hook(_attention_hook(activity, name, add_up)))
        elif isinstance(module, BaseNode | StatelessNeuron):
            handles.append(module.register_forward_hook(_neuron_hook(activity, name, last)))
    try:
        yield activity
    finally:
        for handle in handles:
            handle.remove()


def _samples_hook(activity: Activity) -> Any:
    def record(module: nn.Module, args: tuple[Any, ...]) -> None:
        activity.n_images += args[0].shape[0]
        activity.static = args[0].ndim == 4

    return record


def _layer_hook(activity: Activity, name: str, last: _LastSpikes) -> Any:
    def record(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        x = args[0]
        conv = isinstance(module, nn.Conv2d)
        layer = activity.layers.setdefault(name, LayerActivity("conv" if conv else "linear"))
        _note_order(activity, name)
        kernel = module.kernel_size[0] * module.kernel_size[1] if isinstance(module, nn.Conv2d) else 1
        layer.dense_ops += float(out.numel()) * (x.shape[1] if conv else x.shape[-1]) * kernel
        layer.total += _sum(x) if name in (FIRST_LAYER, HEAD) else last.count(x)
        layer.elements += x.numel()
        if name == FIRST_LAYER:
            layer.nonzero += float(torch.count_nonzero(x))

    return record


def _attention_hook(activity: Activity, name: str, add_up: _Sum) -> Any:
    def record(module: nn.Module, args: tuple[Tensor, Tensor, Tensor], out: Tensor) -> None:
        q, k, v = args
        ssa = activity.attention.setdefault(name, AttentionActivity())
        _note_order(activity, name)
        ssa.dense_ops += float(q.numel()) * q.shape[-1]  # T * batch * N * D * d_head
        ssa.q, ssa.k, ssa.v = ssa.q + add_up(q), ssa.k + add_up(k), ssa.v + add_up(v)
        ssa.elements += q.numel()

    return record


def _neuron_hook(activity: Activity, name: str, last: _LastSpikes) -> Any:
    def record(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        neurons = activity.neurons.setdefault(name, NeuronActivity())
        activity.time_steps = out.shape[0]
        neurons.spikes += last.keep(out)
        neurons.elements += out.numel()

    return record


def _sum_of(first: Any, second: Any) -> Any:
    names = [one.name for one in fields(first) if one.name != "kind"]
    return replace(first, **{name: getattr(first, name) + getattr(second, name) for name in names})


def _note_order(activity: Activity, name: str) -> None:
    if name not in activity.order:
        activity.order.append(name)


def _sum(x: Tensor) -> float:
    return float(x.detach().sum(dtype=torch.float64))


def count(x: Tensor) -> float:
    """Return the exact sum of spikes or of sums of spikes, several times faster than a sum in float64.

    Args:
        x: Small whole numbers. Sums along its densest dimension have to stay below 2 ** 24, the last whole number up to
            which float32 is exact: 65,000 channels of the value 255.
    """
    if not x.ndim:
        return float(x)
    x = x.detach()
    densest = min((d for d in range(x.ndim) if x.shape[d] > 1), key=x.stride, default=0)
    return float(x.sum(densest, dtype=torch.float32).sum(dtype=torch.float64))


def _differentiable_sum(x: Tensor) -> Any:
    return x.sum(dtype=torch.float32)


class _LastSpikes:
    """The newest output of a LIF layer and its count: most often the input of the next layer, seen a second time."""

    def __init__(self, add_up: _Sum) -> None:
        self._add_up = add_up
        self._spikes: Tensor | None = None  # kept alive, so that its memory cannot become another tensor
        self._count = 0.0

    def keep(self, spikes: Tensor) -> float:
        self._spikes, self._count = spikes, self._add_up(spikes)
        return self._count

    def count(self, x: Tensor) -> float:
        spikes = self._spikes
        if spikes is not None and spikes.data_ptr() == x.data_ptr() and spikes.numel() == x.numel():
            self._spikes = None
            return self._count
        return self._add_up(x)
