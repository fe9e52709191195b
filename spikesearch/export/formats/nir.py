"""A whole network as a NIR graph, for simulators and neuromorphic chips that read it.

NIR knows weights, neurons and sums of signals, but no product of two signals, and attention is one. So a network fits
whose blocks are layers one behind the other: convolutions and MLPs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spikesearch.errors import ExportError
from spikesearch.export.nir.builder import OTHERS, TIME_STEP, GraphBuilder, check_held
from spikesearch.export.nir.run import run_graph
from spikesearch.export.portable import agreement, require
from spikesearch.export.registry import Export, ExportFormat, register
from spikesearch.nn import Spikformer
from spikesearch.nn.functional import time_first
from spikesearch.nn.modules import Block, Branch
from spikesearch.nn.units import stage_module
from spikesearch.space.residual import RESIDUALS

if TYPE_CHECKING:
    import nir

GRAPH = "network.nir"
USAGE = f"""import nir
from spikesearch.export.nir import run_graph

graph = nir.read("FOLDER/{GRAPH}")
logits = run_graph(graph, images_in_every_time_step).mean(0)  # [T, N, C, H, W] to [N, classes]"""
BATCH = 32  # samples that are compared at a time: every node keeps its output for a while


def network_graph(net: Spikformer) -> nir.NIRGraph:
    """Return a network as a graph.

    It takes one time step after the other: a static image is given in every step. The mean of its output over time is
    the logits. Nodes are called like the modules of the network, with ``_`` for dots.

    Raises:
        ExportError: If the network has an operation that NIR lacks.
    """
    check_network(net)
    builder, arch = GraphBuilder(net), net.arch
    x = builder.stem(net, "stem_")
    for number, ((down, blocks), specs) in enumerate(zip(net.parts(), arch.blocks_of_stages, strict=True)):
        prefix = stage_module(arch, number)
        if down is not None:
            x = builder.down(f"{prefix}down", down, x, arch.widths[number])
        for i, (block, spec) in enumerate(zip(blocks, specs, strict=True)):
            assert isinstance(block, Block)
            for name, branch in block.branches(spec):
                x = x + builder.branch(f"{prefix}blocks.{i}.{name}", branch, x)
    return builder.graph(builder.head(net, x))


def check_network(net: Spikformer) -> None:
    """Make sure that NIR can hold a network, and that NIR graphs can be written here.

    Raises:
        ExportError: Naming the blocks that it cannot hold, or the operation.
        MissingDependencyError: Without the extra ``nir``.
    """
    branches = [(name, module) for name, module in net.named_modules() if isinstance(module, Branch)]
    more = [f"`{name}`" for name, branch in branches if not branch.plan.chain]
    if more:
        raise ExportError(
            f"NIR cannot hold {', '.join(more)}: it knows weights, neurons and sums, and no product of spikes, which "
            f"attention is. `--to nir-stem` writes the part in front of the first block, {OTHERS}."
        )
    check_held(net)
    if net.arch.stages[1:] and not RESIDUALS[net.residual].currents:
        raise ExportError(
            f"NIR cannot hold `stages.1.down.shortcut`: with `residual` {net.residual!r} it takes the maximum of sums "
            f"of spikes; train a network with `residual` 'normed' or of one stage. {OTHERS}."
        )
    require("NIR export", ("nir",), "nir")


def _write(folder: Path, export: Export) -> dict[str, Any]:
    import nir

    path = folder / GRAPH
    nir.write(path, network_graph(export.net))
    graph, steps = nir.read(path), export.net.arch.time_steps

    def run(samples: Tensor) -> Tensor:
        x_seq = time_first(samples, steps).expand(steps, *(-1,) * 4)
        return torch.cat([run_graph(graph, part).mean(0) for part in x_seq.split(BATCH, 1)])

    return {**agreement(export.net, run, export.samples, "The NIR graph"), "time_step_s": TIME_STEP}


register(ExportFormat("nir", (GRAPH,), USAGE, _write, lambda net, options: check_network(net)))
