"""The stem of a network as a NIR graph, for simulators and neuromorphic chips that read it (Pedersen et al., 2024).

NIR knows weights, neurons and sums of signals, but no product of two signals, and spiking self-attention is one. So no
whole Spikformer fits; its stem does, where most of the energy is often spent: batch-norms are folded into the
convolutions, the residual is two edges into one node, and a max-pooling of spikes is a convolution of ones followed by
a neuron that fires on any spike. A max-pooling of currents, which the last stage may have where residual connections
carry membrane currents, has no such form.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np
import torch
from spikingjelly.activation_based.neuron import LIFNode
from torch import Tensor, nn

from spikesearch.errors import ExportError
from spikesearch.export.portable import require
from spikesearch.export.registry import Export, ExportFormat, register
from spikesearch.nn import Spikformer
from spikesearch.nn.functional import AttentionProduct, time_first
from spikesearch.nn.lif import Currents, NoLIF, NormedLIF
from spikesearch.nn.modules import ConvUnit
from spikesearch.nn.units import STEM_STAGES
from spikesearch.space.residual import RESIDUALS

if TYPE_CHECKING:
    import nir

GRAPH = "stem.nir"
USAGE = f"""from spikingjelly.activation_based.nir_exchange import import_from_nir

stem = import_from_nir("FOLDER/{GRAPH}", step_mode="m")
maps, _ = stem(images_in_every_time_step)  # [T, N, C, H, W] to [T, N, D, height, width]"""
TIME_STEP = 1e-4  # seconds; SpikingJelly's default, so that its importer needs no argument
SAME_VALUES = 0.999
ROUNDING = 1e-3  # standard deviations that currents may differ by; sums of spikes that differ, differ by 1

_HELD = (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.MaxPool2d, LIFNode, NoLIF, Currents)


def refuse_network(net: Spikformer) -> NoReturn:
    """Say why NIR cannot hold a whole network.

    Raises:
        ExportError: Naming the first operation that it cannot hold.
    """
    name, module = next(_not_held(net), ("stages", net))
    reason = "it multiplies spikes by spikes" if isinstance(module, AttentionProduct) else "there is no such node"
    raise ExportError(
        f"NIR cannot hold `{name}` ({type(module).__name__}): {reason}; NIR knows weights, neurons and sums. "
        "`--to nir-stem` writes the part in front of the first block, `--to onnx` and `--to torch` the whole network."
    )


def _not_held(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        if isinstance(child, _HELD):
            continue
        if list(child.children()):
            yield from _not_held(child, f"{prefix}{name}.")
        elif not isinstance(child, nn.ModuleList):
            yield prefix + name, child


def _write(folder: Path, export: Export) -> dict[str, Any]:
    import nir

    path = folder / GRAPH
    nir.write(path, stem_graph(export.net))
    same = _agreement(path, export.net, export.samples)
    if same < SAME_VALUES:
        raise ExportError(
            f"The NIR graph does not compute what the stem computes: {1 - same:.2%} of the values differ. This is a "
            "defect of an exporter; please report it."
        )
    return {"samples": len(export.samples), "same_values": same, "time_step_s": TIME_STEP}


def check_stem(net: Spikformer) -> None:
    """Make sure that NIR can hold a network's stem, and that NIR graphs can be written here.

    Raises:
        ExportError: If the stem is none of four convolutions, or pools currents.
        MissingDependencyError: Without the extra ``nir``.
    """
    if net.stem_kind != "sps":
        raise ExportError(
            f"`--to nir-stem` writes a stem of kind 'sps', but this network has one of kind {net.stem_kind!r}; use "
            "`--to onnx` or `--to torch`."
        )
    last = STEM_STAGES - 1
    if RESIDUALS[net.residual].currents and last in net.pool_stages:
        raise ExportError(
            f"NIR cannot hold `stem.stages.{last}.pool`: with `residual` 'membrane' it takes the maximum of currents; "
            f"train a network without {last} in `pool_stages`, or use `--to onnx` or `--to torch`."
        )
    require("NIR export", ("nir", "nirtorch"), "nir")


def stem_graph(net: Spikformer) -> nir.NIRGraph:
    """Return the stem as a graph.

    It takes one time step after the other: a static image is given in every step. Its output is the feature map
    ``[D, height, width]`` of the step, the tokens of the first block.

    Raises:
        ExportError: If the stem has an operation that NIR lacks.
    """
    import nir

    check_stem(net)
    stem = net.stem
    graph = _Chain((net.in_channels, net.image_size, net.image_size))
    for i, stage in enumerate(stem.stages):
        graph.add_unit(f"stage{i}", cast(ConvUnit, stage))
    before = graph.last
    if isinstance(stem.rpe_lif, LIFNode):
        graph.add_lif("rpe_lif_in", stem.rpe_lif)
    graph.add_unit("rpe", stem.rpe)
    # Two edges into a node are a sum; readers take two edges into the output for two outputs.
    graph.add_conv("residual", np.eye(graph.shape[0], dtype=np.float32)[:, :, None, None], padding=0)
    graph.edges.append((before, "residual"))
    graph.add("output", nir.Output(output_type={"output": np.array(graph.shape)}))
    metadata = {"time_step_s": TIME_STEP, "time_steps": net.arch.time_steps}
    return nir.NIRGraph(graph.nodes, graph.edges, metadata=metadata)


class _Chain:
    """Nodes one behind the other, and the shape of what the last one gives."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        import nir

        self.shape = shape
        self.nodes: dict[str, Any] = {"input": nir.Input(input_type={"input": np.array(shape)})}
        self.edges: list[tuple[str, str]] = []
        self.last = "input"

    def add_lif(self, name: str, lif: LIFNode) -> None:
        import nir

        threshold, bias = np.full(1, lif.v_threshold), np.zeros(1)
        if isinstance(lif, NormedLIF):
            threshold, bias = (value.numpy().astype(float) for value in lif.folded())
        self.add(
            name,
            nir.LIF(
                tau=np.full(self.shape, lif.tau * TIME_STEP),
                r=np.ones(self.shape),
                v_leak=np.broadcast_to(bias[:, None, None], self.shape).copy(),
                v_threshold=np.broadcast_to(threshold[:, None, None], self.shape).copy(),
                v_reset=np.zeros(self.shape),
            ),
        )

    def add_unit(self, name: str, unit: ConvUnit) -> None:
        import nir

        self.add_conv(f"{name}_conv", *_folded(unit))
        if isinstance(unit.lif, LIFNode):
            self.add_lif(f"{name}_lif", unit.lif)
        if unit.pool is not None:
            # SpikingJelly reads no grouped convolution and no threshold; an integrate-and-fire neuron that is fed whole
            # numbers is back at rest after every step.
            channels = self.shape[0]
            ones = np.zeros((channels, channels, 3, 3), np.float32)
            ones[np.arange(channels), np.arange(channels)] = 1
            self.add_conv(f"{name}_pool", ones, stride=2)
            self.add(
                f"{name}_any",
                nir.IF(
                    r=np.full(self.shape, 1 / TIME_STEP),
                    v_threshold=np.full(self.shape, 0.5),
                    v_reset=np.zeros(self.shape),
                ),
            )

    def add_conv(
        self, name: str, weight: np.ndarray, bias: np.ndarray | None = None, *, stride: int = 1, padding: int = 1
    ) -> None:
        import nir

        height, width = self.shape[1:]
        bias = np.zeros(len(weight), np.float32) if bias is None else bias
        self.add(name, nir.Conv2d((height, width), weight, stride, padding, dilation=1, groups=1, bias=bias))
        self.shape = (len(weight), (height - 1) // stride + 1, (width - 1) // stride + 1)

    def add(self, name: str, node: Any) -> None:
        self.nodes[name] = node
        self.edges.append((self.last, name))
        self.last = name


def _folded(unit: ConvUnit) -> tuple[np.ndarray, np.ndarray]:
    """Return weight and bias of a convolution with its batch-norm in it, computed in float64."""
    norm = cast(nn.BatchNorm2d, unit.bn)
    mean, var = cast(Tensor, norm.running_mean).double(), cast(Tensor, norm.running_var).double()
    scale = norm.weight.detach().double() / torch.sqrt(var + norm.eps)
    weight = cast(Tensor, unit.op.weight).detach().double() * scale.view(-1, 1, 1, 1)
    bias = norm.bias.detach().double() - mean * scale
    return weight.float().numpy(), bias.float().numpy()


@torch.no_grad()
def _agreement(path: Path, net: Spikformer, samples: Tensor) -> float:
    from spikingjelly.activation_based import functional
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    steps = net.arch.time_steps
    x_seq = time_first(samples, steps)
    functional.reset_net(net)
    expected = net.stem(x_seq, net.arch)
    functional.reset_net(net)
    graph = import_from_nir(path, dt=TIME_STEP, step_mode="m")
    got, _ = graph(x_seq.expand(steps, *x_seq.shape[1:]))
    tokens = got.flatten(3).transpose(2, 3)
    return float(((tokens - expected).abs() <= ROUNDING * expected.std()).double().mean())


register(
    ExportFormat(
        "nir-stem",
        (GRAPH,),
        USAGE,
        _write,
        lambda net, options: check_stem(net),
        refused={"nir": refuse_network},
    )
)
