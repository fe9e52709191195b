"""Measuring what a spiking network does: hooks that record its activity, layer by layer, during forward passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd as _Conv

from spikesearch.energy.activity import (
    Activity,
    AttentionActivity,
    LayerActivity,
    LayerShape,
    NeuronActivity,
    NeuronShape,
)
from spikesearch.nn.units import Enters, Unit
from spikesearch.space.genes import LEARNED_TAU

_Sum = Callable[[Tensor], Any]  # a number, or a scalar tensor with a gradient


@contextmanager
def measure_activity(net: nn.Module, *, differentiable: bool = False, detailed: bool = False) -> Iterator[Activity]:
    """Record the activity of a network during the forward passes inside a ``with`` block.

    Args:
        net: A :class:`~spikesearch.Spikformer`, or a :class:`~spikesearch.Supernet` with a chosen subnet.
        differentiable: Record sums as scalar tensors with a gradient, in float32 and rounded, instead of exact numbers.
        detailed: Count also what only comparisons need: operations of which neither factor is 0, and bytes. A subnet
            has to be chosen before.

    Raises:
        ValueError: If ``net`` is another kind of network, or wrapped in one.
    """
    from spikingjelly.activation_based.neuron import BaseNode

    from spikesearch.nn.functional import AttentionProduct, Shortcut, TokenSum
    from spikesearch.nn.lif import StatelessNeuron
    from spikesearch.nn.network import Network, Spikformer
    from spikesearch.nn.supernet import Supernet

    if not isinstance(net, Network):
        raise ValueError(f"`net` must be a Spikformer or a Supernet, but it is a {type(net).__name__}; unwrap it.")
    activity = Activity(detailed=detailed)
    if detailed:
        assert isinstance(net, Spikformer | Supernet)
        activity.nbytes = sum(unit.nbytes for unit in net.units(net.arch))
    add_up = _differentiable_sum if differentiable else count
    last = _LastSpikes(add_up)
    units = net.units()
    handles = [net.register_forward_pre_hook(_samples_hook(activity))]
    head = next(unit for unit in units if unit.averages)
    handles.append(net.head_lif.register_forward_hook(_average_hook(activity, head)))
    for unit in units:
        handles.append(net.get_submodule(unit.weights).register_forward_hook(_layer_hook(activity, unit, last)))
    neurons = {name: unit for unit in units for name in (unit.neurons, unit.fed_by) if name}
    for name, module in net.named_modules():
        if isinstance(module, AttentionProduct):
            handles.append(module.register_forward_hook(_attention_hook(activity, name, add_up)))
        elif isinstance(module, TokenSum):
            handles.append(module.register_forward_hook(_sum_hook(activity, name, add_up)))
        elif isinstance(module, Shortcut):
            handles.append(module.register_forward_hook(_shortcut_hook(activity, name)))
        elif isinstance(module, BaseNode | StatelessNeuron):
            handles.append(module.register_forward_hook(_neuron_hook(activity, name, neurons.get(name), last)))
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


def _layer_of(activity: Activity, unit: Unit) -> LayerActivity:
    enters: Enters = "events" if unit.enters == "pixels" and not activity.static else unit.enters
    return activity.layers.setdefault(
        unit.weights, LayerActivity(unit.layer.op, enters, unit.averages, fed_by=unit.fed_by)
    )


def _layer_hook(activity: Activity, unit: Unit, last: _LastSpikes) -> Any:
    conv, images, depthwise = unit.layer.op == "conv", unit.enters == "pixels", unit.layer.depthwise

    def record(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        x = args[0]
        layer = _layer_of(activity, unit)
        _note_order(activity, unit.weights)
        inputs = 1 if depthwise else x.shape[1] if conv else x.shape[-1]
        if layer.shape is None:
            channels = out.shape[1] if conv else out.shape[-1]
            layer.shape = LayerShape(
                channels=channels,
                outputs=1 if depthwise else channels,
                kernel=unit.layer.kernel,
                reached=math.ceil(unit.layer.size / unit.layer.stride) ** 2 if conv else 1,
                weights=channels * inputs * unit.layer.kernel,
                biased=True,
                spiking=unit.spiking,
            )
        layer.dense_ops += float(out.numel()) * inputs * unit.layer.kernel
        layer.total += _sum(x) if images or unit.averages else last.count(x)
        layer.elements += x.numel()
        layer.outputs += out.numel()
        if images:
            layer.nonzero += float(torch.count_nonzero(x))
        if activity.detailed:
            count_operations(layer, x, _weight_of(module, inputs, args), module)

    return record


def _weight_of(module: nn.Module, inputs: int, args: tuple[Any, ...]) -> Tensor:
    from spikesearch.nn.elastic import ElasticConv2d, ElasticLinear

    if isinstance(module, ElasticConv2d | ElasticLinear):
        return module.sliced_weight(inputs, args[1])
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


@torch.no_grad()
def count_operations(layer: LayerActivity, x: Tensor, weight: Tensor, module: nn.Module) -> None:
    """Count multiplications of an input and a weight that both are not 0, exactly.

    Args:
        layer: Where to add them.
        x: Input.
        weight: Of the layer.
        module: The layer; a convolution has a stride, a padding and a dilation.
    """
    samples = x.flatten(0, -weight.ndim) if weight.ndim > 2 else x.flatten(0, -2)
    connected = (weight != 0).double()
    if layer.shape is not None and layer.shape.zeros is None:
        layer.shape = replace(layer.shape, zeros=int((weight == 0).sum()))
    met, everything = (samples != 0).sum(0).double(), torch.full(samples.shape[1:], len(samples)).to(connected)

    def operations(inputs: Tensor, weights: Tensor) -> float:
        if isinstance(module, _Conv):
            convolve = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[weight.ndim]
            groups = len(inputs) // weight.shape[1]
            out = convolve(
                inputs[None],
                weights,
                stride=module.stride,
                padding=module.padding,
                dilation=module.dilation,
                groups=groups,
            )
        else:
            out = weights @ inputs
        return float(out.sum())

    layer.effective += operations(met, connected)
    layer.possible += operations(everything, torch.ones_like(connected))


def _average_hook(activity: Activity, head: Unit) -> Any:
    def record(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        _layer_of(activity, head).averaged += out.numel()

    return record


def _attention_hook(activity: Activity, name: str, add_up: _Sum) -> Any:
    def record(module: nn.Module, args: tuple[Tensor, Tensor, Tensor], out: Tensor) -> None:
        q, k, v = args
        ssa = activity.attention.setdefault(name, AttentionActivity())
        _note_order(activity, name)
        ssa.dense_ops += float(q.numel()) * q.shape[-1]  # T * batch * N * D * d_head
        ssa.q, ssa.k, ssa.v = ssa.q + add_up(q), ssa.k + add_up(k), ssa.v + add_up(v)
        ssa.pairs = ssa.pairs + add_up(k.sum(-1) * v.sum(-1))
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
        layer.outputs += out.numel()

    return record


def _shortcut_hook(activity: Activity, name: str) -> Any:
    def record(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        layer = activity.layers.setdefault(name, LayerActivity("shortcut", "currents"))
        _note_order(activity, name)
        layer.dense_ops += float(args[0].numel())
        layer.elements += args[0].numel()
        layer.outputs += out.numel()

    return record


def _neuron_hook(activity: Activity, name: str, unit: Unit | None, last: _LastSpikes) -> Any:
    from spikesearch.nn.lif import learned_tau

    reads_stream = unit is not None and name == unit.fed_by

    def record(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        neurons = activity.neurons.setdefault(name, NeuronActivity())
        if neurons.shape is None:
            tau = args[2] if len(args) > 2 else getattr(module, "tau", None)
            if learned_tau(module) is not None:  # hardly ever a power of two
                tau = LEARNED_TAU
            neurons.shape = NeuronShape(
                leak=leak_of(tau),
                reads_stream=reads_stream,
                normed=out.shape[-1] if reads_stream and unit is not None and unit.normed else 0,
                adds=unit is not None and not reads_stream and unit.layer.ends_branch,
            )
        activity.time_steps = out.shape[0]
        neurons.spikes += last.keep(out)
        neurons.elements += out.numel()

    return record


def leak_of(tau: float | None) -> Literal["none", "shift", "multiply"]:
    """Return how the potential of neurons with a time constant decays; ``None`` for neurons without one."""
    if tau is None:
        return "none"
    return "shift" if math.frexp(tau)[0] == 0.5 else "multiply"


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
