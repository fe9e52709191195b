"""Measuring what a spiking network does: hooks that record its activity, layer by layer, during forward passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from spikesearch.energy.activity import Activity, AttentionActivity, LayerActivity, NeuronActivity
from spikesearch.nn.units import Enters, Unit

_Sum = Callable[[Tensor], Any]  # a number, or a scalar tensor with a gradient


@contextmanager
def measure_activity(net: nn.Module, *, differentiable: bool = False) -> Iterator[Activity]:
    """Record the activity of a network during the forward passes inside a ``with`` block.

    Args:
        net: A :class:`~spikesearch.Spikformer`, or a :class:`~spikesearch.Supernet` with a chosen subnet.
        differentiable: Record sums as scalar tensors with a gradient, in float32 and rounded, instead of exact numbers.

    Raises:
        ValueError: If ``net`` is another kind of network, or wrapped in one.
    """
    from spikingjelly.activation_based.neuron import BaseNode

    from spikesearch.nn.functional import AttentionProduct, Shortcut, TokenSum
    from spikesearch.nn.lif import StatelessNeuron
    from spikesearch.nn.network import Network

    if not isinstance(net, Network):
        raise ValueError(f"`net` must be a Spikformer or a Supernet, but it is a {type(net).__name__}; unwrap it.")
    activity = Activity()
    add_up = _differentiable_sum if differentiable else count
    last = _LastSpikes(add_up)
    handles = [net.register_forward_pre_hook(_samples_hook(activity))]
    for unit in net.units():
        handles.append(net.get_submodule(unit.weights).register_forward_hook(_layer_hook(activity, unit, last)))
    for name, module in net.named_modules():
        if isinstance(module, AttentionProduct):
            handles.append(module.register_forward_hook(_attention_hook(activity, name, add_up)))
        elif isinstance(module, TokenSum):
            handles.append(module.register_forward_hook(_sum_hook(activity, name, add_up)))
        elif isinstance(module, Shortcut):
            handles.append(module.register_forward_hook(_shortcut_hook(activity, name)))
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


def _layer_hook(activity: Activity, unit: Unit, last: _LastSpikes) -> Any:
    name, conv = unit.weights, unit.layer.op == "conv"
    images = unit.enters == "pixels"

    def record(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        x = args[0]
        layer = activity.layers.get(name)
        if layer is None:
            enters: Enters = "events" if images and not activity.static else unit.enters
            layer = LayerActivity(unit.layer.op, enters, unit.averages, unit.fed_by)
            activity.layers[name] = layer
        _note_order(activity, name)
        inputs = 1 if unit.layer.depthwise else x.shape[1] if conv else x.shape[-1]
        layer.dense_ops += float(out.numel()) * inputs * unit.layer.kernel
        layer.total += _sum(x) if images or unit.averages else last.count(x)
        layer.elements += x.numel()
        if images:
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


def _sum_hook(activity: Activity, name: str, add_up: _Sum) -> Any:
    def record(module: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
        (q,) = args
        layer = activity.layers.setdefault(name, LayerActivity("attention"))
        _note_order(activity, name)
        layer.dense_ops += float(q.numel())
        layer.total += add_up(q)
        layer.elements += q.numel()

    return record


def _shortcut_hook(activity: Activity, name: str) -> Any:
    def record(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        layer = activity.layers.setdefault(name, LayerActivity("shortcut", "currents"))
        _note_order(activity, name)
        layer.dense_ops += float(args[0].numel())
        layer.elements += args[0].numel()

    return record


def _neuron_hook(activity: Activity, name: str, last: _LastSpikes) -> Any:
    def record(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        neurons = activity.neurons.setdefault(name, NeuronActivity())
        activity.time_steps = out.shape[0]
        neurons.spikes += last.keep(out)
        neurons.elements += out.numel()

    return record


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


def _differentiable_sum(x: Tensor) -> Tensor:
    return x.sum(dtype=torch.float32)


class _LastSpikes:
    """The newest output of a LIF layer and its count: most often the input of the next layer, seen a second time."""

    def __init__(self, add_up: _Sum) -> None:
        self._add_up = add_up
        self._spikes: Tensor | None = None  # kept alive, so that its memory cannot become another tensor
        self._count: Any = 0.0

    def keep(self, spikes: Tensor) -> Any:
        self._spikes, self._count = spikes, self._add_up(spikes)
        return self._count

    def count(self, x: Tensor) -> Any:
        spikes = self._spikes
        if spikes is not None and spikes.data_ptr() == x.data_ptr() and spikes.numel() == x.numel():
            self._spikes = None
            return self._count
        count: float = self._add_up(x)
        return count
