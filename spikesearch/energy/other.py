"""Measuring networks of any kind: torch's convolutions and linear layers, products of signals, SpikingJelly's neurons.

What enters a layer is not known from a list of units here, so that it is observed: ``spikes`` if every value that was
seen is 0 or 1, else ``values``. The first layer, which sees the samples themselves, is billed as often as the network
computes it. Batch-norms count as folded into the layer in front of them; pooling, dropout, reshaping and ReLU cost
nothing. Additions of residual connections leave no trace in modules and are not seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from spikingjelly.activation_based import functional, layer
from spikingjelly.activation_based.neuron import BaseNode, IFNode
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils._python_dispatch import TorchDispatchMode

from spikesearch.energy.activity import (
    Activity,
    LayerActivity,
    LayerShape,
    NeuronActivity,
    NeuronShape,
    ProductActivity,
)
from spikesearch.energy.measure import count_operations, leak_of, measure_activity
from spikesearch.nn.network import Network

_FREE = (
    *(nn.Identity, nn.Flatten, nn.Unflatten, nn.ReLU, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.ZeroPad2d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool2d, _BatchNorm),
    *(layer.Dropout, layer.Dropout2d),
)
_FACTORS = {"mm": (0, 1), "bmm": (0, 1), "addmm": (1, 2), "baddbmm": (1, 2)}  # of torch's products, by position
_OPAQUE = ("conv", "linear", "_scaled_dot_product", "multi_head_attention", "transformer")


@contextmanager
def measure_other(net: nn.Module) -> Iterator[Activity]:
    """Record the activity of a network of another kind during the forward passes inside a ``with`` block.

    Args:
        net: A module that takes samples ``[N, ...]`` and computes all their time steps: T calls of single-step neurons,
            or one of multi-step neurons. SpikingJelly's neurons are reset before and after every pass. What cannot be
            priced is listed in ``unknown``.
    """
    activity = Activity(detailed=True, nbytes=_nbytes(net))
    names = {module: name or type(net).__name__ for name, module in net.named_modules()}
    recorder = _Recorder(activity, names)
    whole = [module for module in names if isinstance(module, BaseNode)]
    inside = {child for module in whole for child in module.modules()}
    handles = [net.register_forward_pre_hook(recorder.begin), net.register_forward_hook(recorder.end)]
    for module, name in names.items():
        if isinstance(module, nn.Linear | _ConvNd) and not isinstance(module, _ConvTransposeNd):
            record = recorder.layer
        elif isinstance(module, BaseNode):
            record = recorder.neurons
        elif module in inside or isinstance(module, _FREE):
            continue
        elif any(module.children()):
            if any(True for _ in module.parameters(recurse=False)):
                activity.unknown.append(f"{name}: what {type(module).__name__} does with parameters of its own")
            continue
        else:
            activity.unknown.append(f"{name}: {type(module).__name__} is not known")
            record = recorder.nothing
        handles.append(module.register_forward_pre_hook(recorder.enter))
        handles.append(module.register_forward_hook(record))
    try:
        with recorder:
            yield activity
    finally:
        for handle in handles:
            handle.remove()


def measure_any(net: nn.Module) -> AbstractContextManager[Activity]:
    """Return the context in which the activity of a network of any kind is recorded in detail."""
    return measure_activity(net, detailed=True) if isinstance(net, Network) else measure_other(net)


class _Recorder(TorchDispatchMode):
    """Records modules as wholes; a product that none of them executes is one of two signals.

    Args:
        activity: Where to.
        names: Of the modules.
    """

    def __init__(self, activity: Activity, names: dict[nn.Module, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._activity = activity
        self._names = names
        self._spiking = any(isinstance(module, BaseNode) for module in names)
        self._depth = 0  # of modules that are recorded as wholes
        # of one forward pass: samples, time steps by module, products
        self._samples = 0
        self._steps: dict[str, int] = {}
        self._products = 0

    def begin(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        functional.reset_net(module)
        self._samples = len(args[0])
        self._activity.n_images += self._samples
        self._steps, self._products = {}, 0

    def end(self, module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        functional.reset_net(module)
        self._activity.time_steps = max((self._steps[name] for name in self._activity.neurons), default=1)
        for product in self._activity.products.values():
            product.steps = self._activity.time_steps

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._depth += 1

    def nothing(self, module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        self._depth -= 1

    def layer(self, module: nn.Linear | _ConvNd, args: tuple[Tensor, ...], out: Tensor) -> None:
        name, x, weight = self._names[module], args[0].detach(), module.weight.detach()
        binary, conv = _is_spikes(x), isinstance(module, _ConvNd)
        if name not in self._activity.layers:
            self._activity.layers[name] = LayerActivity("conv" if conv else "linear")
            self._activity.order.append(name)
        record = self._activity.layers[name]
        if not binary:
            record.enters = "values"
        stride, groups = (module.stride, module.groups) if isinstance(module, _ConvNd) else ((), 1)
        record.shape = LayerShape(
            channels=len(weight),
            outputs=len(weight) // groups,
            kernel=math.prod(weight.shape[2:]),
            reached=math.prod(math.ceil(k / s) for k, s in zip(weight.shape[2:], stride, strict=True)),
            weights=weight.numel(),
            biased=module.bias is not None,
            spiking=self._spiking,
            zeros=None if record.shape is None else record.shape.zeros,
            steps=self._count(name, module, x),
        )
        record.dense_ops += float(out.numel()) * weight[0].numel()
        record.total += float(x.sum(dtype=torch.float64))
        record.nonzero += float(torch.count_nonzero(x))
        record.elements += x.numel()
        record.outputs += out.numel()
        count_operations(record, x, weight, module)
        self._depth -= 1

    def neurons(self, module: BaseNode, args: tuple[Tensor, ...], out: Tensor) -> None:
        name = self._names[module]
        self._count(name, module, args[0])
        if name not in self._activity.neurons:
            tau = None if isinstance(module, IFNode) else float(getattr(module, "tau", math.nan))
            self._activity.neurons[name] = NeuronActivity(shape=NeuronShape(leak_of(tau)))
        record = self._activity.neurons[name]
        record.spikes += float(torch.count_nonzero(out))
        record.elements += out.numel()
        self._depth -= 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not self._depth:
            operation = str(func.overloadpacket.__name__)
            if operation in _FACTORS:
                first, second = _FACTORS[operation]
                self._product(args[first].detach(), args[second].detach(), out)
            elif any(word in operation for word in _OPAQUE):
                what = f"{operation}: a torch operation outside of layers that are known"
                if what not in self._activity.unknown:
                    self._activity.unknown.append(what)
        return out

    def _product(self, first: Tensor, second: Tensor, out: Tensor) -> None:
        """Record ``[.., n, k] @ [.., k, m]``."""
        self._products += 1
        name = f"product {self._products}"
        if name not in self._activity.products:
            self._activity.products[name] = ProductActivity()
            self._activity.order.append(name)
        record = self._activity.products[name]
        record.binary = (record.binary[0] and _is_spikes(first), record.binary[1] and _is_spikes(second))
        record.dense_ops += float(out.numel()) * first.shape[-1]
        record.first += float(first.sum(dtype=torch.float64))
        record.second += float(second.sum(dtype=torch.float64))
        record.first_elements += first.numel()
        record.second_elements += second.numel()
        record.outputs += out.numel()
        # along k: what n rows have, times what m columns have
        record.pairs += float((first.double().sum(-2) * second.double().sum(-1)).sum())

    def _count(self, name: str, module: nn.Module, x: Tensor) -> int:
        """Add the time steps of a call, and return those of this pass so far."""
        time_first = getattr(module, "step_mode", "s") == "m"
        if not time_first and x.ndim > 2:  # plain layers map tokens, and so whole sequences
            time_first = x.shape[1] == self._samples != x.shape[0]
        steps = x.shape[0] if time_first else max(1, x.shape[0] // self._samples)
        self._steps[name] = self._steps.get(name, 0) + steps
        return self._steps[name]


def _is_spikes(x: Tensor) -> bool:
    return bool(((x == 0) | (x == 1)).all())


def _nbytes(net: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (*net.parameters(), *net.buffers()))
