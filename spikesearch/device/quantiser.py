"""From a network with floats to an integer one: folding, calibration, scales, thresholds."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from spikesearch.device.layout import Fire, Layout, Neurons, WeightLayer, roots
from spikesearch.device.program import (
    LARGEST_MULTIPLIER,
    LARGEST_SHIFT,
    LEAK_SHIFT,
    LIMIT,
    WIDE_LIMIT,
    Program,
    array_shapes,
    merge_frames,
    model_layout,
)
from spikesearch.errors import DataError, ExportError
from spikesearch.nn.lif import NormedLIF, PlainLIF
from spikesearch.nn.modules import Branch, Down, Stem, UnitModule
from spikesearch.nn.network import Spikformer
from spikesearch.nn.units import HEAD

if TYPE_CHECKING:
    from spikesearch.device.reference import Array

Floats = NDArray[np.float64]

BITS = 8
LARGEST_WEIGHT = 2 ** (BITS - 1) - 1
MARGIN = 1.5  # of the largest current in calibration that a buffer has room for
MOST_BITS, FEWEST_BITS = 12, 6  # of a threshold: what is enough, and what 16 bits must leave room for
CALIBRATION_BATCH = 64


@dataclass(frozen=True)
class Normalisation:
    """How raw bytes become what a network takes: ``(byte - mean) / std`` per channel.

    Args:
        mean: Of every channel; 0 for event counts.
        std: Of every channel.
    """

    mean: Sequence[float]
    std: Sequence[float]


@torch.no_grad()
def quantise(
    net: Spikformer, calibration: Tensor, *, normalisation: Normalisation | None = None, bits: int = BITS
) -> Program:
    """Return an integer network that computes nearly what a network does.

    Batch-norms, gains and the normalisation of the samples are folded. Weights have 8 bits and a scale per output
    channel; currents are measured in fractions of the threshold of the neurons that they reach, those of the stream in
    units per channel such that the largest one in calibration, times 1.5, fits into 16 bits.

    Args:
        net: The network, on any device.
        calibration: Training samples ``[N, C, H, W]`` or ``[N, F, C, H, W]``, normalised; 256 are enough.
        normalisation: Of the raw bytes; by default samples are quantised between the extremes of ``calibration``.
        bits: Of a weight: 8.

    Raises:
        ExportError: If ``bits`` is another number, or the network has something that the integer network lacks.
        DataError: If there is no sample, or event frames hold negative numbers.
    """
    if bits != BITS:
        raise ExportError(f"`bits` must be {BITS}, but got {bits!r}.")
    if not len(calibration):
        raise DataError("`calibration` must hold at least one sample, but got none.")
    net = copy.deepcopy(net).cpu().eval()
    samples = calibration.detach().float().cpu()
    check_network(net)
    static = samples.ndim == 4
    model = net.plain_settings
    layout = model_layout(net.arch, model, static=static)
    ranges = _measure(net, layout, samples)
    norm = _extremes(samples, net.arch.time_steps) if normalisation is None else normalisation
    quantiser = _Quantiser(net, layout, ranges, norm)
    if quantiser.narrow:
        layout = model_layout(net.arch, model, static=static, wide=True)
        quantiser = _Quantiser(net, layout, ranges, norm)
    arrays = quantiser.arrays()
    mean, std = (tuple(float(value) for value in values) for values in (norm.mean, norm.std))
    return Program(layout, model, arrays, mean, std, quantiser.logit, {"calibration_samples": len(samples)})


class StraightThrough(nn.Module):
    """A parametrization of a weight: what its integers stand for, with the gradient of the weight itself.

    Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons", 2013.
    """

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight rounded as :func:`quantise` rounds it."""
        steps = weight.detach().flatten(1).abs().amax(1).clamp(min=1e-30) / LARGEST_WEIGHT
        steps = steps.view(-1, *[1] * (weight.ndim - 1))
        rounding = ((weight / steps).round() * steps - weight).detach()
        rounded: Tensor = weight + rounding
        return rounded


def round_weights(net: nn.Module) -> None:
    """Give all weight layers of a network, in place, weights that are rounded as :func:`quantise` rounds them."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            register_parametrization(module, "weight", StraightThrough())


def check_network(net: Spikformer) -> None:
    """Fail where :func:`quantise` is bound to fail, before anything is measured.

    Raises:
        ExportError: If the network has something that the integer network lacks.
    """
    model_layout(net.arch, net.settings)
    for name, module in net.named_modules():
        if hasattr(module, "v_threshold") and not isinstance(module, PlainLIF):
            raise ExportError(f"`{name}` is a {type(module).__name__}: quantise the network itself, no copy of it.")


def _extremes(samples: Tensor, time_steps: int) -> Normalisation:
    """Return the normalisation that maps the extremes of every channel to the least and the largest byte."""
    static = samples.ndim == 4
    if not static:  # what a time step gets is a sum of frames
        samples = torch.from_numpy(merge_frames(samples.double().numpy(), time_steps))
    channels = samples.transpose(0, -3).flatten(1)
    low, high = channels.amin(1).double(), channels.amax(1).double()
    if not static:
        if float(low.min()) < 0:
            raise DataError("Event frames must hold counts, but got negative numbers.")
        low = torch.zeros_like(low)
    step = ((high - low) / 255).clamp(min=1e-12)
    return Normalisation((-low / step).tolist(), (1 / step).tolist())


# --- calibration ------------------------------------------------------------------------------------------------------


@dataclass
class _Ranges:
    """The largest absolute currents of every channel, by unit and by stream."""

    units: dict[str, Floats] = field(default_factory=dict)
    streams: dict[str, Floats] = field(default_factory=dict)


def _measure(net: Spikformer, layout: Layout, samples: Tensor) -> _Ranges:
    ranges = _Ranges()
    with _hooks(net, layout, ranges):
        for batch in samples.split(CALIBRATION_BATCH):
            net(batch)
    return ranges


@contextmanager
def _hooks(net: Spikformer, layout: Layout, ranges: _Ranges) -> Iterator[None]:
    """Record, while a network runs, what its neurons integrate and its stream holds."""

    def take(known: dict[str, Floats], name: str, x: Tensor, channels: int) -> None:
        peak = x.detach().abs().movedim(channels, 0).flatten(1).amax(1).double().numpy()
        known[name] = np.maximum(known[name], peak) if name in known else peak

    def unit_hook(name: str) -> Callable[..., None]:
        return lambda module, args, out: take(ranges.units, name, out, 1)

    def output_hook(stream: str) -> Callable[..., None]:
        return lambda module, args, out: take(ranges.streams, stream, out, 3)

    def input_hook(stream: str, channels: int) -> Callable[..., None]:
        return lambda module, args: take(ranges.streams, stream, args[0], channels)

    streams = iter(layout.streams)
    stream = next(streams)
    handles = [net.head_lif.register_forward_pre_hook(input_hook(layout.streams[-1], 3))]
    for name, module in net.named_modules():
        if isinstance(module, UnitModule):
            handles.append(module.bn.register_forward_hook(unit_hook(name)))
        elif isinstance(module, Stem):
            handles.append(module.register_forward_hook(output_hook(stream)))
            if hasattr(module, "rpe_lif"):
                handles.append(module.rpe_lif.register_forward_pre_hook(input_hook(stream, 4)))
        elif isinstance(module, Down):
            stream = next(streams)
            handles.append(module.register_forward_hook(output_hook(stream)))
        elif isinstance(module, Branch):
            handles.append(module.register_forward_pre_hook(input_hook(stream, 3)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# --- numbers ----------------------------------------------------------------------------------------------------------


class _Quantiser:
    """Chooses units, and writes the integers of a program.

    Attributes:
        narrow: Whether 16 bits leave thresholds too few steps.
        logit: What a unit of a logit is worth.
    """

    def __init__(self, net: Spikformer, layout: Layout, ranges: _Ranges, norm: Normalisation) -> None:
        self.net = net
        self.layout = layout
        self.norm = norm
        self.limit = WIDE_LIMIT if layout.wide else LIMIT
        self.repeats = layout.arch.time_steps > 1
        self.narrow = False
        self.logit = 1.0
        self._arrays: dict[str, Array] = {}
        mean = np.asarray(norm.mean, np.float64)
        self.zero = np.clip(np.rint(mean), 0, 255)
        self._stream_units(ranges)
        self._fired = {op.source: op.neurons for op in layout.step if isinstance(op, Fire)}
        self._layer_units = {neurons.name: self._unit_of(neurons, ranges) for neurons in self._layer_neurons()}

    def arrays(self) -> dict[str, Array]:
        """Return the arrays of the program."""
        self._arrays["input.zero"] = self.zero
        for layer in self.layout.layers:
            self._layer(layer)
        self._head()
        for neurons in self.layout.neurons:
            self._neurons(neurons)
        return {name: self._arrays[name].astype(dtype) for name, (_, dtype) in array_shapes(self.layout)}

    # --- units --------------------------------------------------------------------------------------------------

    def _layer_neurons(self) -> Iterator[Neurons]:
        return (neurons for neurons in self.layout.neurons if not neurons.own)

    def _unit_of(self, neurons: Neurons, ranges: _Ranges) -> tuple[float, int]:
        """Return what a unit of the currents of neurons is worth, and their threshold in units."""
        threshold, bits = self._threshold(neurons), MOST_BITS
        if self.repeats:
            largest = MARGIN * float(ranges.units[neurons.name.removesuffix(".lif")].max()) / threshold
            bits = min(bits, math.floor(math.log2(self.limit / max(largest, 1e-9))))
            if bits < FEWEST_BITS:
                self.narrow = True
                bits = FEWEST_BITS
        return threshold / 2**bits, 2**bits

    def _stream_units(self, ranges: _Ranges) -> None:
        """Choose what a unit of the stream is worth, in every channel that has a unit of its own."""
        self._roots = {name: np.array(values) for name, values in roots(self.layout).items()}
        if not self._roots:
            return
        peaks = np.zeros(1 + max(int(values.max()) for values in self._roots.values()))
        for name, own in self._roots.items():
            seen = ranges.streams.get(name, ranges.units.get(name))
            assert seen is not None
            np.maximum.at(peaks, own, seen)
        peaks = np.maximum(peaks, 1e-3 * max(float(peaks.max()), 1e-6))
        room = MARGIN * peaks
        readers = [
            (op.neurons, self._roots[op.source])
            for op in self.layout.step
            if isinstance(op, Fire) and op.source in self._roots
        ]
        for neurons, own in readers:
            need = np.max(np.abs(self._reading(neurons)), axis=0)
            np.maximum.at(room, own, np.minimum(need, 4 * peaks[own]))
        self._units = room / self.limit
        steps = [np.abs(self._folded(neurons)[0]) / self._units[own] for neurons, own in readers]
        self.narrow = bool(np.quantile(np.concatenate(steps), 0.05) < 2**FEWEST_BITS)

    def _module(self, neurons: Neurons) -> PlainLIF:
        module = self.net.get_submodule(neurons.name)
        assert isinstance(module, PlainLIF)
        return module

    def _threshold(self, neurons: Neurons) -> float:
        """Return the current at which neurons fire that start at rest, or with several time steps their threshold."""
        module = self._module(neurons)
        return float(module.v_threshold) * (1.0 if self.repeats else module.tau)

    def _folded(self, neurons: Neurons) -> tuple[Floats, Floats]:
        """Return threshold and bias current per channel of neurons that read the stream."""
        module = self._module(neurons)
        if not isinstance(module, NormedLIF):
            return np.full(neurons.channels, module.v_threshold), np.zeros(neurons.channels)
        double = copy.deepcopy(module).double()
        threshold, bias = (value.numpy() for value in double.folded())
        return threshold, bias

    def _reading(self, neurons: Neurons) -> Floats:
        """Return the numbers that stand for a neuron of every channel, in currents, ``[1 or 2, channels]``."""
        threshold, bias = self._folded(neurons)
        if self.repeats:
            return np.stack([threshold, bias])
        return (threshold * self._module(neurons).tau - bias)[None]

    # --- arrays -------------------------------------------------------------------------------------------------

    def _layer(self, layer: WeightLayer) -> None:
        unit = self.net.get_submodule(layer.name)
        assert isinstance(unit, UnitModule)
        weight, bias = folded(unit)
        if layer.source == "input":
            mean, std = (np.asarray(values, np.float64) for values in (self.norm.mean, self.norm.std))
            weight = weight / std[:, None, None]
            bias = bias + np.einsum("ochw,c->o", weight, self.zero - mean)
        neurons = layer.neurons or self._fired.get(layer.target) if layer.target not in self._roots else None
        if neurons is not None:
            units = np.full(layer.outputs, self._layer_units[neurons.name][0])
        else:
            units = self._units[self._roots[layer.target]]
        self._scaled(layer.name, weight, bias, units)

    def _head(self) -> None:
        head = self.layout.head
        weight = self.net.head.weight.detach().double().numpy()
        weight = weight / (self.layout.arch.time_steps * self.layout.buffers[self.layout.streams[-1]].positions)
        self.logit = max(float(np.abs(weight).max()) / LARGEST_WEIGHT, 1e-30)
        self._scaled(HEAD, weight, self.net.head.bias.detach().double().numpy(), np.full(head.outputs, self.logit))

    def _scaled(self, name: str, weight: Floats, bias: Floats, units: Floats) -> None:
        """Write a layer whose currents are measured in units per output."""
        steps = np.abs(weight).reshape(len(weight), -1).max(1) / LARGEST_WEIGHT
        integers = np.rint(weight / np.where(steps, steps, 1).reshape(-1, *[1] * (weight.ndim - 1)))
        exponent = np.frexp(steps / units)[1]
        shift = np.clip(15 - exponent, 0, LARGEST_SHIFT)
        multiplier = np.rint(np.ldexp(steps / units, shift))
        if multiplier.max() > LARGEST_MULTIPLIER:
            raise ExportError(
                f"Currents of `{name}` are up to {multiplier.max():.0f} units per step of a weight, more than "
                f"{LARGEST_MULTIPLIER}; a threshold is very small. Train the network on, or choose another trial."
            )
        self._arrays |= {
            f"{name}.weight": integers,
            f"{name}.multiplier": multiplier,
            f"{name}.shift": shift,
            f"{name}.bias": np.clip(np.rint(bias / units), -(2**30), 2**30),
        }

    def _neurons(self, neurons: Neurons) -> None:
        tau = self._module(neurons).tau
        if neurons.own:
            (own,) = [
                self._roots[op.source] for op in self.layout.step if isinstance(op, Fire) and op.neurons is neurons
            ]
            numbers = np.clip(np.rint(self._reading(neurons) / self._units[own]), -self.limit - 1, self.limit)
            self._arrays[f"{neurons.name}.threshold"] = numbers[0]
            if neurons.biased:
                self._arrays[f"{neurons.name}.bias"] = numbers[1]
        else:
            self._arrays[f"{neurons.name}.threshold"] = np.array([self._layer_units[neurons.name][1]])
        if neurons.potential is not None:
            self._arrays[f"{neurons.name}.leak"] = np.array(leak(tau))


def leak(tau: float) -> tuple[int, int]:
    """Return a multiplier and a shift that divide by a time constant: exactly, if that is a power of two."""
    mantissa, exponent = math.frexp(tau)
    shift = LEAK_SHIFT + exponent - 1  # the multiplier has as many bits whatever tau is
    return (1, exponent - 1) if mantissa == 0.5 else (round(2**shift / tau), shift)


def folded(unit: UnitModule) -> tuple[Floats, Floats]:
    """Return weight and bias of a unit with its batch-norm in them, in float64."""
    norm: Any = unit.bn
    assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
    state: Mapping[str, Floats] = {
        name: value.double().numpy() for name, value in norm.state_dict().items() if value.is_floating_point()
    }
    scale = state["weight"] / np.sqrt(state["running_var"] + norm.eps)
    op: Any = unit.op
    weight = op.weight.detach().double().numpy()
    bias = state["bias"] - state["running_mean"] * scale
    return weight * scale.reshape(-1, *[1] * (weight.ndim - 1)), bias
