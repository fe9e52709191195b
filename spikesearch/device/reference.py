"""The integer reference: what an integer network computes, in NumPy's integers. It defines the numbers.

Two rules hold everywhere. A right shift rounds to the nearest whole number, halves upwards: :func:`rounded`. What goes
into a buffer of currents or potentials saturates at its range, :func:`saturated`.

Products of matrices run through the floating-point BLAS only where that is exact: their entries are whole numbers of
which all partial sums stay below 2 ** 24 in float32, or 2 ** 53 in float64. A
:class:`~spikesearch.device.program.Program` proves these bounds from its weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spikesearch.device.layout import (
    INPUT,
    Attention,
    Buffer,
    Count,
    Fire,
    Mask,
    Neurons,
    Operation,
    Pool,
    Shortcut,
    Sum,
    Tile,
    WeightLayer,
)

if TYPE_CHECKING:
    from spikesearch.device.program import Program

Ints = NDArray[np.int64]
Array = NDArray[np.integer]

FIRES = 8  # an attention product from which on its neurons fire whatever their potential is
FLOAT32_EXACT = 2**24


def rounded(values: Ints, shift: Array | int) -> Ints:
    """Return ``floor(values / 2 ** shift + 1 / 2)``."""
    places = np.asarray(shift, np.int64)
    result: Ints = (values + ((np.ones_like(places) << places) >> 1)) >> places
    return result


def saturated(values: Ints, limit: int) -> Ints:
    """Return values in the range from ``-limit - 1`` to ``limit``."""
    return np.clip(values, -limit - 1, limit)


@dataclass
class Trace:
    """What the layers did, by name, each ``[T, N, positions, channels]``, or ``[1, ...]`` what is done once.

    Args:
        currents: Of every weight layer, before neurons or sums; int32.
        spikes: Of all neurons; uint8.
        saturations: Currents of layers, and of the stream, that left the range of their buffer.
    """

    currents: dict[str, Array] = field(default_factory=dict)
    spikes: dict[str, Array] = field(default_factory=dict)
    saturations: int = 0


class Reference:
    """Runs a program on a batch of samples.

    Args:
        program: The program.
        keep_currents: Whether to keep the currents of every layer.
        keep_spikes: Whether to keep the spikes of all neurons.
    """

    def __init__(self, program: Program, *, keep_currents: bool = False, keep_spikes: bool = False) -> None:
        self.program = program
        self.keep_currents = keep_currents
        self.keep_spikes = keep_spikes

    def run(self, raw: NDArray[np.uint8]) -> tuple[NDArray[np.int32], Trace]:
        """Return logits ``[N, classes]``, and what was kept.

        Args:
            raw: Unsigned bytes, ``[N, 1, C, H, W]`` of an image, or ``[N, T, C, H, W]`` of event frames.
        """
        layout = self.program.layout
        self._trace = Trace()
        self._lists: dict[tuple[str, str], list[Array]] = {}
        self._values: dict[str, Ints] = {}
        for buffer in layout.buffers.values():
            if buffer.kept:
                self._values[buffer.name] = np.zeros((len(raw), buffer.positions, buffer.channels), np.int64)
        self._load(raw[:, 0])
        for operation in layout.once:
            self._do(operation)
        for step in range(layout.arch.time_steps):
            if step and not layout.static:
                self._load(raw[:, step])
            for operation in layout.step:
                self._do(operation)
        for (kind, name), steps in self._lists.items():
            getattr(self._trace, kind)[name] = np.stack(steps)
        head = self.program.layout.head
        sums = self._values["sums"]
        logits = self._scaled("head", self._product("head", sums.reshape(len(raw), head.inputs)))
        return logits.astype(np.int32), self._trace

    def _load(self, raw: NDArray[np.uint8]) -> None:
        """Take a frame ``[N, C, H, W]`` as ``[N, positions, C]``, without the zero point of its channels."""
        pixels = raw.astype(np.int64).reshape(*raw.shape[:2], -1).transpose(0, 2, 1)
        self._values[INPUT] = pixels - self.program.arrays["input.zero"].astype(np.int64)

    def _do(self, operation: Operation) -> None:
        source = self._values[operation.source]
        target = self.program.layout.buffers[operation.target]
        match operation:
            case WeightLayer():
                self._layer(operation, source, target)
            case Fire():
                self._fire(operation.neurons, source, target)
            case Pool():
                self._values[target.name] = _pooled(_maps(source, operation.side))
            case Tile():
                self._values[target.name] = _tiled(source, target.channels)
            case Shortcut():
                cells = _averages if target.kind == "currents" else _maxima
                self._values[target.name] = _tiled(cells(_maps(source, operation.side)), target.channels)
            case Count():
                self._values[target.name] = self._values[target.name] + source
            case Attention():
                self._attention(operation, source)
            case Mask():
                q, k = _heads(source, 2, operation.heads)
                mask = q.any(-1, keepdims=True)
                self._keep("spikes", operation.name, mask[..., 0].transpose(0, 2, 1))
                self._values[target.name] = _merged(mask * k)
            case Sum():
                self._values[target.name] = self._values[target.name] + source.sum(1, keepdims=True)
            case _:
                raise TypeError(f"There is no operation {type(operation).__name__}.")

    # --- layers ---------------------------------------------------------------------------------------------------

    def _layer(self, layer: WeightLayer, source: Ints, target: Buffer) -> None:
        if layer.conv:
            patches = _patches(_maps(source, layer.side), layer.size, layer.stride)  # [N, positions, taps, C]
            if layer.depthwise:
                weight = self.program.arrays[f"{layer.name}.weight"].astype(np.int64)
                sums = np.einsum("nptc,tc->npc", patches, weight.reshape(layer.outputs, -1).T)
            else:
                sums = self._product(layer.name, patches.reshape(*patches.shape[:2], -1))
        else:
            sums = self._product(layer.name, source)
        currents = self._scaled(layer.name, sums)
        self._keep("currents", layer.name, currents)
        if layer.neurons is not None:
            self._fire(layer.neurons, currents, target)
        else:
            held = self._values[target.name] if layer.into else 0
            self._values[target.name] = self._saturated(held + currents)

    def _product(self, name: str, values: Ints) -> Ints:
        """Return the exact product of whole numbers ``[..., inputs]`` with the weight of a layer."""
        weight = self.program.arrays[f"{name}.weight"]
        if weight.ndim == 4:
            weight = weight.transpose(0, 2, 3, 1)
        bound = self.program.sum_bounds[name]
        kind: type[np.floating[Any]] = np.float32 if bound <= FLOAT32_EXACT else np.float64
        matrix = weight.reshape(len(weight), -1).T.astype(kind)
        product: Ints = (values.astype(kind) @ matrix).astype(np.int64)
        return product

    def _scaled(self, name: str, sums: Ints) -> Ints:
        arrays = self.program.arrays
        products = sums * arrays[f"{name}.multiplier"].astype(np.int64)
        return rounded(products, arrays[f"{name}.shift"]) + arrays[f"{name}.bias"].astype(np.int64)

    def _saturated(self, values: Ints) -> Ints:
        result = saturated(values, self.program.limit)
        self._trace.saturations += int(np.count_nonzero(result != values))
        return result

    # --- neurons --------------------------------------------------------------------------------------------------

    def _fire(self, neurons: Neurons, currents: Ints, target: Buffer) -> None:
        arrays = self.program.arrays
        if neurons.biased:
            currents = currents + arrays[f"{neurons.name}.bias"].astype(np.int64)
        threshold = arrays[f"{neurons.name}.threshold"].astype(np.int64)
        currents = self._saturated(currents)
        if neurons.potential is None:
            spikes = currents >= threshold
        else:
            v = self._values[neurons.potential]
            multiplier, shift = (int(value) for value in arrays[f"{neurons.name}.leak"])
            h = v + rounded((currents - v) * multiplier, shift)
            spikes = h >= threshold
            self._values[neurons.potential] = np.where(spikes, 0, h)
        self._give(neurons.name, spikes, target.name)

    def _attention(self, operation: Attention, source: Ints) -> None:
        q, k, v = (part.astype(np.float32) for part in _heads(source, 3, operation.heads))
        tokens, channels = q.shape[-2:]
        pairs = q @ (k.swapaxes(-2, -1) @ v) if tokens > channels else (q @ k.swapaxes(-2, -1)) @ v
        product = np.minimum(_merged(pairs), FIRES).astype(np.int64)
        if operation.state is None:
            spikes = product >= FIRES
        else:
            steps = self.program.layout.arch.time_steps
            h = (self._values[operation.state] + (product << steps)) >> 1
            spikes = h >= 1 << (2 + steps)
            self._values[operation.state] = np.where(spikes, 0, h)
        self._give(operation.name, spikes, operation.target)

    def _give(self, name: str, spikes: NDArray[np.bool_], target: str) -> None:
        self._keep("spikes", name, spikes)
        self._values[target] = spikes.astype(np.int64)

    def _keep(self, kind: str, name: str, values: NDArray[np.integer] | NDArray[np.bool_]) -> None:
        if kind == "currents" and self.keep_currents:
            self._lists.setdefault((kind, name), []).append(values.astype(np.int32))
        elif kind == "spikes" and self.keep_spikes:
            self._lists.setdefault((kind, name), []).append(values.astype(np.uint8))


# --- shapes -----------------------------------------------------------------------------------------------------------


def _maps(tokens: Ints, side: int) -> Ints:
    """Return tokens ``[N, positions, C]`` as ``[N, H, W, C]``."""
    return tokens.reshape(len(tokens), side, side, -1)


def _patches(maps: Ints, size: int, stride: int) -> Ints:
    """Return ``[N, positions, size * size, C]``: what a convolution with padding ``size // 2`` sees."""
    pad = size // 2
    padded = np.pad(maps, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    outputs = (maps.shape[1] - 1) // stride + 1
    reach = (outputs - 1) * stride + 1
    taps = [
        padded[:, y : y + reach : stride, x : x + reach : stride].reshape(len(maps), outputs**2, -1)
        for y in range(size)
        for x in range(size)
    ]
    return np.stack(taps, 2)


def _pooled(maps: Ints) -> Ints:
    """Return the maxima over 3 x 3 with stride 2; what lies outside is never one."""
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=np.iinfo(np.int64).min)
    outputs = (maps.shape[1] + 1) // 2
    reach = 2 * outputs - 1
    cells = [padded[:, y : y + reach : 2, x : x + reach : 2] for y in range(3) for x in range(3)]
    maxima: Ints = np.maximum.reduce(cells).reshape(len(maps), outputs**2, -1)
    return maxima


def _maxima(maps: Ints) -> Ints:
    """Return the maxima of cells of 2 x 2, fewer at the border; of values that are not negative."""
    maxima: Ints = np.maximum.reduce(_cells(maps)).reshape(len(maps), -1, maps.shape[-1])
    return maxima


def _averages(maps: Ints) -> Ints:
    """Return the means of cells of 2 x 2, fewer at the border."""
    rows = np.minimum(2, maps.shape[1] - 2 * np.arange((maps.shape[1] + 1) // 2))
    shift = (rows[:, None] * rows).astype(np.int64) >> 1  # of 4, 2 or 1 positions
    total = np.add.reduce(_cells(maps))
    return rounded(total, shift[..., None]).reshape(len(maps), -1, maps.shape[-1])


def _cells(maps: Ints) -> list[Ints]:
    odd = maps.shape[1] % 2
    padded = np.pad(maps, ((0, 0), (0, odd), (0, odd), (0, 0)))
    return [padded[:, y::2, x::2] for y in (0, 1) for x in (0, 1)]


def _tiled(tokens: Ints, width: int) -> Ints:
    return tokens[..., np.arange(width) % tokens.shape[-1]]


def _heads(tokens: Ints, parts: int, heads: int) -> Ints:
    """Return ``[parts, N, heads, positions, channels]`` of tokens ``[N, positions, parts * heads * channels]``."""
    return tokens.reshape(*tokens.shape[:2], parts, heads, -1).transpose(2, 0, 3, 1, 4)


def _merged(x: NDArray[Any]) -> Ints:
    """Turn ``[N, heads, positions, channels]`` into ``[N, positions, heads * channels]``."""
    merged: Ints = x.transpose(0, 2, 1, 3).reshape(len(x), x.shape[2], -1)
    return merged
