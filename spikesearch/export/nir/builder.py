"""NIR graphs of the parts of a network: units, neurons, sums of signals, shortcuts.

Batch-norms are folded: into the weights in front of them, or, where they read a stream of currents, into thresholds and
bias currents. A sum is several edges into one node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from spikingjelly.activation_based.neuron import BaseNode, LIFNode
from torch import Tensor, nn

from spikesearch.errors import ExportError
from spikesearch.nn import Spikformer
from spikesearch.nn.lif import NoLIF, NormedLIF, PlainLIF, StreamLIF
from spikesearch.nn.modules import Branch, ConvUnit, Down, UnitModule
from spikesearch.nn.units import STEM_STAGES
from spikesearch.space.residual import RESIDUALS

if TYPE_CHECKING:
    import nir

TIME_STEP = 1e-4  # seconds; SpikingJelly's default, so that its importer needs no argument
OTHERS = "`--to onnx` and `--to torch` write the whole network"


@dataclass(frozen=True)
class Signal:
    """The sum of what some nodes give, all of the same shape."""

    nodes: tuple[str, ...]
    shape: tuple[int, ...]

    def __add__(self, other: Signal) -> Signal:
        return Signal(self.nodes + other.nodes, self.shape)


class GraphBuilder:
    """Collects nodes and edges.

    Args:
        net: The network whose images the graph takes, in every time step.
    """

    def __init__(self, net: Spikformer) -> None:
        import nir

        shape = (net.in_channels, net.image_size, net.image_size)
        self.images = Signal(("input",), shape)
        self._nodes: dict[str, Any] = {"input": nir.Input(input_type={"input": np.array(shape)})}
        self._edges: list[tuple[str, str]] = []
        self._time_steps = net.arch.time_steps

    def graph(self, x: Signal) -> nir.NIRGraph:
        """Return the graph whose output is ``x``, which one node gives: readers take two edges for two outputs."""
        import nir

        self.node("output", nir.Output(output_type={"output": np.array(x.shape)}), x)
        metadata = {"time_step_s": TIME_STEP, "time_steps": self._time_steps}
        return nir.NIRGraph(self._nodes, self._edges, metadata=metadata)

    def node(self, name: str, node: nir.NIRNode, x: Signal, shape: tuple[int, ...] | None = None) -> Signal:
        """Add a node that is fed by ``x``; its output has the same shape unless another is given."""
        name = name.replace(".", "_")  # readers make modules of nodes
        self._nodes[name] = node
        self._edges += [(source, name) for source in x.nodes]
        return Signal((name,), x.shape if shape is None else shape)

    def neurons(self, name: str, lif: nn.Module, x: Signal) -> Signal:
        """Add neurons; where a network has none, return ``x``."""
        import nir

        if isinstance(lif, NoLIF):
            return x
        assert isinstance(lif, LIFNode)
        threshold, bias = np.full(1, lif.v_threshold), np.zeros(1)
        if isinstance(lif, NormedLIF):
            threshold, bias = (value.numpy().astype(float) for value in lif.folded())
        node = nir.LIF(
            tau=np.full(x.shape, lif.tau * TIME_STEP),
            r=np.ones(x.shape),
            v_leak=np.broadcast_to(bias[:, None, None], x.shape).copy(),
            v_threshold=np.broadcast_to(threshold[:, None, None], x.shape).copy(),
            v_reset=np.zeros(x.shape),
        )
        return self.node(name, node, x)

    def unit(self, name: str, unit: UnitModule, x: Signal) -> Signal:
        """Add a weight layer with its batch-norm, its neurons and its pooling."""
        import nir

        stride = unit.op.stride[0] if isinstance(unit.op, nn.Conv2d) else 1
        x = self.neurons(f"{name}_lif", unit.lif, self.conv(f"{name}_conv", *_folded(unit), x, stride=stride))
        if not isinstance(unit, ConvUnit) or unit.pool is None:
            return x
        # SpikingJelly reads no node for a threshold; an integrate-and-fire neuron that is fed whole numbers is back at
        # rest after every step.
        channels = x.shape[0]
        x = self.conv(f"{name}_pool", _diagonal(np.ones((channels, 1, 3, 3), np.float32)), None, x, stride=2)
        resistance, half = np.full(x.shape, 1 / TIME_STEP), np.full(x.shape, 0.5)
        return self.node(f"{name}_any", nir.IF(r=resistance, v_threshold=half, v_reset=np.zeros(x.shape)), x)

    def conv(self, name: str, weight: np.ndarray, bias: np.ndarray | None, x: Signal, *, stride: int = 1) -> Signal:
        """Add a convolution of odd size that is padded to see every position."""
        import nir

        _, height, width = x.shape
        bias = np.zeros(len(weight), np.float32) if bias is None else bias
        padding = weight.shape[-1] // 2
        node = nir.Conv2d((height, width), weight, stride, padding, dilation=1, groups=1, bias=bias)
        return self.node(name, node, x, (len(weight), (height - 1) // stride + 1, (width - 1) // stride + 1))

    def relay(self, name: str, x: Signal, width: int | None = None) -> Signal:
        """Add a node that gives ``x`` on, with its channels again from the first, or cut, where ``width`` differs."""
        weight = np.eye(x.shape[0], dtype=np.float32)[np.arange(width or x.shape[0]) % x.shape[0]]
        return self.conv(name, weight[:, :, None, None], None, x)

    def stem(self, net: Spikformer, prefix: str = "") -> Signal:
        """Add the stem; the signal is the stream of the first block."""
        stem = net.stem
        if net.stem_kind == "conv":
            x = self.unit(f"{prefix}embed", stem.embed, self.images)
            width = net.arch.widths[0]
            return x if x.shape[0] == width else self.relay(f"{prefix}tile", x, width)
        x = self.images
        for i, stage in enumerate(stem.stages):
            x = self.unit(f"{prefix}stage{i}", cast(ConvUnit, stage), x)
        return self.unit(f"{prefix}rpe", stem.rpe, self.neurons(f"{prefix}rpe_lif_in", stem.rpe_lif, x)) + x

    def down(self, name: str, down: Down, x: Signal, width: int) -> Signal:
        """Add the way into a stage of some width, where the stream is one of currents."""
        out = self.unit(f"{name}.conv", down.conv, self.neurons(f"{name}.lif_in", down.lif_in, x))
        channels, side = x.shape[:2]
        weight = np.zeros((width, channels, 3, 3), np.float32)
        weight[np.arange(width), np.arange(width) % channels, 1:, 1:] = 1 / 4
        shortcut = self.conv(f"{name}.shortcut", weight, None, x, stride=2)
        if side % 2:  # the last cells have fewer positions
            import nir

            last = np.where(np.arange(shortcut.shape[1]) == shortcut.shape[1] - 1, 2.0, 1.0)
            scale = np.broadcast_to(np.outer(last, last), shortcut.shape).astype(np.float32)
            shortcut = self.node(f"{name}.shortcut_scale", nir.Scale(scale), shortcut)
        return out + shortcut

    def branch(self, name: str, branch: Branch, x: Signal) -> Signal:
        """Add a residual branch that is its layers one behind the other; the signal is what it adds."""
        x = self.neurons(f"{name}.lif_in", branch.lif_in, x)
        for layer in branch.plan.layers:
            x = self.unit(f"{name}.{layer.name}", branch.get_submodule(layer.name), x)  # type: ignore[arg-type]
        return x

    def head(self, net: Spikformer, x: Signal) -> Signal:
        """Add the head; its signal is the logits of a time step, whose mean over time is the logits."""
        import nir

        x = self.neurons("head_lif", net.head_lif, x)
        channels, *sides = x.shape
        pool = nir.AvgPool2d(kernel_size=np.array(sides), stride=np.array(sides), padding=np.zeros(2, int))
        x = self.node("head_mean", pool, x, (channels, 1, 1))
        flat = nir.Flatten({"input": np.array(x.shape)}, start_dim=0, end_dim=-1)
        x = self.node("head_tokens", flat, x, (channels,))
        weight, bias = (value.detach().numpy().copy() for value in (net.head.weight, net.head.bias))
        return self.node("head", nir.Affine(weight, bias), x, bias.shape)


def check_held(net: Spikformer) -> None:
    """Make sure that NIR can hold what any graph of a network has.

    Raises:
        ExportError: Naming neurons that are no LIF with a hard reset, or a pooling of currents.
    """
    for name, node in net.named_modules():
        if isinstance(node, BaseNode) and type(node) not in (PlainLIF, StreamLIF, NormedLIF):
            raise ExportError(f"NIR cannot hold `{name}` ({type(node).__name__}): there is no such node. {OTHERS}.")
    last = STEM_STAGES - 1
    if net.stem_kind == "sps" and RESIDUALS[net.residual].currents and last in net.pool_stages:
        raise ExportError(
            f"NIR cannot hold `stem.stages.{last}.pool`: with `residual` {net.residual!r} it takes the maximum of "
            f"currents; train a network without {last} in `pool_stages`, or use `--to onnx` or `--to torch`."
        )


def _folded(unit: UnitModule) -> tuple[np.ndarray, np.ndarray]:
    """Return a unit's weight, as that of a convolution, and its bias, with the batch-norm in them; in float64."""
    norm = cast(nn.BatchNorm2d, unit.bn)
    mean, var = cast(Tensor, norm.running_mean).double(), cast(Tensor, norm.running_var).double()
    scale = norm.weight.detach().double() / torch.sqrt(var + norm.eps)
    weight = cast(Tensor, unit.op.weight).detach().double()
    weight = (weight if weight.ndim == 4 else weight[:, :, None, None]) * scale.view(-1, 1, 1, 1)
    bias = norm.bias.detach().double() - mean * scale
    folded = weight.float().numpy()
    return _diagonal(folded) if unit.layer.depthwise else folded, bias.float().numpy()


def _diagonal(weight: np.ndarray) -> np.ndarray:
    """Return the weight of a convolution of every channel by itself as one of all, which more readers know."""
    channels = np.arange(len(weight))
    dense = np.zeros((len(weight), len(weight), *weight.shape[2:]), weight.dtype)
    dense[channels, channels] = weight[:, 0]
    return dense
