"""An integer network as an ONNX graph: weights int8 behind DequantizeLinear, everything else whole numbers in float32.

Whole numbers below 2 ** 24 are exact in float32, and roundings are written out, so that the graph computes what the
reference computes, but where a product has more bits than float32.
"""

from __future__ import annotations

import hashlib
import math
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from spikesearch.device.layout import (
    INPUT,
    LARGEST,
    SUMS,
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
from spikesearch.device.program import Program
from spikesearch.device.reference import FIRES
from spikesearch.nn.units import HEAD, frame_bounds


def qdq_model(program: Program, *, frames: int | None, opset: int, names: tuple[str, str]) -> onnx.ModelProto:
    """Return the model: normalised samples, float32, to logits, float32.

    Args:
        program: The integer network.
        frames: Of an event recording; ``None`` for images.
        opset: Version of the operators.
        names: Of input and output.
    """
    return _Graph(program, frames, opset, names).model


class _Graph:
    """Writes nodes; buffers are maps ``[N, channels, height, width]``, and linear layers convolutions of size 1."""

    def __init__(self, program: Program, frames: int | None, opset: int, names: tuple[str, str]) -> None:
        self.program = program
        self.layout = program.layout
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.values: dict[str, str] = {}
        given, wanted = names
        x = self._raw(given, frames)
        self._load(x, 0)
        for operation in self.layout.once:
            self._do(operation)
        for step in range(self.layout.arch.time_steps):
            if step:
                self._load(x, step)
            for operation in self.layout.step:
                self._do(operation)
        logits = self._rounded(self._node("Gemm", self.values[SUMS], self._weight(HEAD), transB=1))
        logits = self._node("Add", logits, self._float(self._array(f"{HEAD}.bias")))
        self._node("Mul", logits, self._float(np.array(program.logit)), output=wanted)
        side, form = self.layout.image_size, self.layout.form
        shape: list[str | int | None] = ["batch", *([] if frames is None else [frames]), form.in_channels, side, side]
        graph = helper.make_graph(
            self.nodes,
            "spikesearch",
            [helper.make_tensor_value_info(given, TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(wanted, TensorProto.FLOAT, ["batch", form.num_classes])],
            list(self.constants.values()),
        )
        self.model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], producer_name="spikesearch", ir_version=10
        )
        onnx.checker.check_model(self.model, full_check=True)

    # --- words ----------------------------------------------------------------------------------------------------

    def _node(self, op: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        name = output or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=f"n{len(self.nodes)}", **attributes))
        return name

    def _constant(self, array: NDArray[Any], name: str = "") -> str:
        array = np.asarray(array, order="C")  # `ascontiguousarray` makes a list of a number
        content = f"{array.dtype} {array.shape}".encode() + array.tobytes()
        name = name or hashlib.sha256(content).hexdigest()[:16]
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def _float(self, array: NDArray[Any]) -> str:
        return self._constant(np.asarray(array).astype(np.float32))

    def _number(self, value: float) -> str:
        return self._float(np.array(value))

    def _ints(self, *values: int) -> str:
        return self._constant(np.array(values, np.int64))

    def _array(self, name: str) -> NDArray[Any]:
        return self.program.arrays[name]

    def _channels(self, name: str) -> str:
        """Return an array of numbers per channel, or a single one, so that it meets maps."""
        return self._float(self._array(name).reshape(1, -1, 1, 1))

    def _rounded(self, x: str) -> str:
        return self._node("Floor", self._node("Add", x, self._number(0.5)))

    def _saturated(self, x: str) -> str:
        limit = self.program.limit
        return self._node("Clip", x, self._number(-limit - 1), self._number(limit))

    def _spikes(self, x: str, threshold: str) -> str:
        return self._node("Cast", self._node("GreaterOrEqual", x, threshold), to=TensorProto.FLOAT)

    def _weight(self, name: str) -> str:
        """Return the weight of a layer, dequantised by multiplier and shift."""
        scale = np.ldexp(
            self._array(f"{name}.multiplier").astype(np.float32), -self._array(f"{name}.shift").astype(int)
        )
        weight = self._array(f"{name}.weight")
        if weight.ndim == 2 and name != HEAD:
            weight = weight[:, :, None, None]
        stored, scales = self._constant(weight, f"{name}.weight"), self._constant(scale, f"{name}.scale")
        zeros = self._constant(np.zeros(len(scale), np.int8), f"{name}.zero")
        return self._node("DequantizeLinear", stored, scales, zeros, axis=0)

    # --- operations -----------------------------------------------------------------------------------------------

    def _raw(self, given: str, frames: int | None) -> list[str]:
        """Return what enters in every time step, without the zero point."""
        mean, std = (np.array(values).reshape(-1, 1, 1) for values in (self.program.mean, self.program.std))
        x = self._node("Round", self._node("Add", self._node("Mul", given, self._float(std)), self._float(mean)))
        steps = [x]
        if frames is not None:
            bounds = pairwise(frame_bounds(frames, self.layout.arch.time_steps))
            parts = [self._node("Slice", x, self._ints(a), self._ints(b), self._ints(1)) for a, b in bounds]
            steps = [self._node("ReduceSum", part, self._ints(1), keepdims=0) for part in parts]
        zero = self._float(self._array("input.zero").reshape(1, -1, 1, 1))
        clipped = [self._node("Clip", x, self._number(0), self._number(LARGEST)) for x in steps]
        return [self._node("Sub", x, zero) for x in clipped]

    def _load(self, steps: list[str], step: int) -> None:
        self.values[INPUT] = steps[min(step, len(steps) - 1)]

    def _do(self, operation: Operation) -> None:
        source = self.values[operation.source]
        target = self.layout.buffers[operation.target]
        match operation:
            case WeightLayer():
                out = self._layer(operation, source)
            case Fire():
                out = self._fire(operation.neurons, source)
            case Pool():
                out = self._node("MaxPool", source, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
            case Tile():
                out = self._tiled(source, self.layout.buffers[operation.source].channels, target.channels)
            case Shortcut():
                window: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}
                if target.kind == "currents":
                    out = self._rounded(self._node("AveragePool", source, count_include_pad=0, **window))
                else:
                    out = self._node("MaxPool", source, **window)
                out = self._tiled(out, self.layout.buffers[operation.source].channels, target.channels)
            case Count():
                out = self._node("Add", self.values[target.name], source)
            case Attention():
                out = self._attention(operation)
            case Mask():
                q, k = self._heads(operation, 2)
                mask = self._node("ReduceMax", q, self._ints(2), keepdims=1)
                out = self._merged(self._node("Mul", mask, k), target)
            case Sum():
                total = self._node("ReduceSum", source, self._ints(2, 3), keepdims=0)
                held = self.values.get(target.name)
                out = total if held is None else self._node("Add", held, total)
            case _:
                raise TypeError(f"There is no operation {type(operation).__name__}.")
        self.values[target.name] = out

    def _layer(self, layer: WeightLayer, source: str) -> str:
        pad = layer.size // 2
        x = self._node(
            "Conv",
            source,
            self._weight(layer.name),
            strides=[layer.stride] * 2,
            pads=[pad] * 4,
            group=layer.inputs if layer.depthwise else 1,
        )
        x = self._node("Add", self._rounded(x), self._channels(f"{layer.name}.bias"))
        if layer.neurons is not None:
            return self._fire(layer.neurons, x)
        return self._saturated(self._node("Add", self.values[layer.target], x) if layer.into else x)

    def _fire(self, neurons: Neurons, x: str) -> str:
        if neurons.biased:
            x = self._node("Add", x, self._channels(f"{neurons.name}.bias"))
        h = self._saturated(x)
        if neurons.potential is not None:
            multiplier, shift = (int(value) for value in self._array(f"{neurons.name}.leak"))
            v = self.values.get(neurons.potential)
            h = h if v is None else self._node("Sub", h, v)
            h = self._rounded(self._node("Mul", h, self._number(multiplier / 2**shift)))
            h = h if v is None else self._node("Add", v, h)
        spikes = self._spikes(h, self._channels(f"{neurons.name}.threshold"))
        if neurons.potential is not None:
            self.values[neurons.potential] = self._reset(h, spikes)
        return spikes

    def _reset(self, h: str, spikes: str) -> str:
        return self._node("Mul", h, self._node("Sub", self._number(1), spikes))

    def _tiled(self, x: str, channels: int, width: int) -> str:
        if channels == width:
            return x
        return self._node("Gather", x, self._ints(*(c % channels for c in range(width))), axis=1)

    def _heads(self, operation: Attention | Mask, parts: int) -> list[str]:
        """Return the parts of what an operation reads, each ``[N, heads, channels, positions]``."""
        channels = self.layout.buffers[operation.target].channels // operation.heads
        shape = self._ints(0, parts, operation.heads, channels, -1)
        x = self._node("Reshape", self.values[operation.source], shape)
        return [self._node("Gather", x, self._constant(np.array(part)), axis=1) for part in range(parts)]

    def _merged(self, x: str, target: Buffer) -> str:
        side = math.isqrt(target.positions)
        return self._node("Reshape", x, self._ints(0, target.channels, side, side))

    def _attention(self, operation: Attention) -> str:
        target = self.layout.buffers[operation.target]
        q, k, v = self._heads(operation, 3)
        if target.positions > target.channels // operation.heads:
            pairs = self._node("MatMul", k, self._node("Transpose", v, perm=[0, 1, 3, 2]))
            product = self._node("MatMul", self._node("Transpose", pairs, perm=[0, 1, 3, 2]), q)
        else:
            pairs = self._node("MatMul", self._node("Transpose", k, perm=[0, 1, 3, 2]), q)
            product = self._node("MatMul", v, pairs)
        x = self._node("Min", self._merged(product, target), self._number(FIRES))
        if operation.state is None:
            return self._spikes(x, self._number(FIRES))
        steps = self.layout.arch.time_steps
        x, v = self._node("Mul", x, self._number(2**steps)), self.values.get(operation.state, "")
        h = self._node("Mul", self._node("Add", x, v) if v else x, self._number(0.5))
        spikes = self._spikes(h, self._number(2 ** (2 + steps)))
        self.values[operation.state] = self._reset(h, spikes)
        return spikes
