"""The stem of a network as a NIR graph: all that NIR can hold of one with attention, see ``nir``.

Most of the energy is often spent there. The residual is two edges into one node, and a max-pooling of spikes is a
convolution of ones followed by a neuron that fires on any spike. A max-pooling of currents, which the last stage may
have where residual connections carry membrane currents, has no such form.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spikesearch.errors import ExportError
from spikesearch.export.nir.builder import TIME_STEP, GraphBuilder, check_held
from spikesearch.export.nir.run import run_graph
from spikesearch.export.portable import require
from spikesearch.export.registry import Export, ExportFormat, register
from spikesearch.nn import Spikformer
from spikesearch.nn.functional import time_first

if TYPE_CHECKING:
    import nir

GRAPH = "stem.nir"
USAGE = f"""import nir
from spikesearch.export.nir import run_graph

stem = nir.read("FOLDER/{GRAPH}")
maps = run_graph(stem, images_in_every_time_step)  # [T, N, C, H, W] to [T, N, D, height, width]"""
SAME_VALUES = 0.999
ROUNDING = 1e-3  # standard deviations that currents may differ by; sums of spikes that differ, differ by 1


def check_stem(net: Spikformer) -> None:
    """Make sure that NIR can hold a network's stem, and that NIR graphs can be written here.

    Raises:
        ExportError: If the stem pools currents.
        MissingDependencyError: Without the extra ``nir``.
    """
    check_held(net)
    require("NIR export", ("nir",), "nir")


def stem_graph(net: Spikformer) -> nir.NIRGraph:
    """Return the stem as a graph.

    It takes one time step after the other: a static image is given in every step. Its output is the feature map
    ``[D, height, width]`` of the step, the tokens of the first block.

    Raises:
        ExportError: If the stem has an operation that NIR lacks.
    """
    check_stem(net)
    builder = GraphBuilder(net)
    x = builder.stem(net)
    return builder.graph(x if len(x.nodes) == 1 else builder.relay("residual", x))


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


@torch.no_grad()
def _agreement(path: Path, net: Spikformer, samples: Tensor) -> float:
    import nir

    steps = net.arch.time_steps
    x_seq = time_first(samples, steps)
    expected = net.stem(x_seq, net.arch)
    got = run_graph(nir.read(path), x_seq.expand(steps, *x_seq.shape[1:]))
    tokens = got.flatten(3).transpose(2, 3)
    return float(((tokens - expected).abs() <= ROUNDING * expected.std()).double().mean())


register(ExportFormat("nir-stem", (GRAPH,), USAGE, _write, lambda net, options: check_stem(net)))
