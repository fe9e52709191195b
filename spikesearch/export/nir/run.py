"""Run a NIR graph by its equations: the reference to which an export is compared, and a way to use one."""

from __future__ import annotations

from collections import Counter
from functools import reduce
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spikesearch.errors import ExportError

if TYPE_CHECKING:
    import nir


@torch.no_grad()
def run_graph(graph: nir.NIRGraph, x_seq: Tensor) -> Tensor:
    """Run a graph without cycles from rest, one Euler step of its equations per time step.

    Edges into one node are summed. ``time_step_s`` of the graph's metadata is the length of a step, in seconds.

    Args:
        graph: The graph, such as ``nir.read`` returns it, with one input and one output.
        x_seq: What the input gives in every step, ``[T, N, ...]``.

    Returns:
        What reaches the output, ``[T, N, ...]``.

    Raises:
        ExportError: If the graph has a node that the formats of this package do not write.
    """
    sources: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for source, target in graph.edges:
        sources[target].append(source)
    readers = Counter(source for source, _ in graph.edges)
    step = float(graph.metadata["time_step_s"])
    values: dict[str, Tensor] = {}
    out = x_seq
    for name in TopologicalSorter(sources).static_order():
        given = [values[source] for source in sources[name]]
        out = _run_node(graph.nodes[name], reduce(torch.add, given) if given else x_seq, step)
        values[name] = out
        for source in sources[name]:
            readers[source] -= 1
            if not readers[source]:
                del values[source]
    (output,) = graph.outputs
    return values[output]


def _run_node(node: nir.NIRNode, x: Tensor, step: float) -> Tensor:
    import nir

    def value(array: Any) -> Tensor:
        return torch.from_numpy(np.asarray(array)).to(x.dtype)

    if isinstance(node, nir.Input | nir.Output):
        return x
    if isinstance(node, nir.LIF):
        rate = step / node.tau
        return _fire(node, value(rate * node.r) * x + value(rate * node.v_leak), value(1 - rate))
    if isinstance(node, nir.IF):
        return _fire(node, value(step * node.r) * x, torch.ones((), dtype=x.dtype))
    if isinstance(node, nir.Scale):
        return x * value(node.scale)
    if isinstance(node, nir.Flatten):
        return x.flatten(2)
    if isinstance(node, nir.Affine):
        return F.linear(x, value(node.weight), value(node.bias))
    maps, steps = x.flatten(0, 1), x.shape[:2]
    if isinstance(node, nir.Conv2d):
        stride, padding, dilation = (_pair(node, name) for name in ("stride", "padding", "dilation"))
        out = F.conv2d(maps, value(node.weight), value(node.bias), stride, padding, dilation, int(node.groups))
    elif isinstance(node, nir.AvgPool2d):
        out = F.avg_pool2d(maps, _pair(node, "kernel_size"), _pair(node, "stride"), _pair(node, "padding"))
    else:
        raise ExportError(f"A graph of spikesearch has no node of type {type(node).__name__}.")
    unfolded: Tensor = out.unflatten(0, steps)
    return unfolded


def _pair(node: nir.NIRNode, name: str) -> tuple[int, int]:
    height, width = getattr(node, name)
    return int(height), int(width)


def _fire(node: nir.LIF | nir.IF, currents: Tensor, keep: Tensor) -> Tensor:
    """Return the spikes of neurons of which a step keeps a share of the potential and adds the current."""
    threshold, reset = (torch.from_numpy(value).to(currents.dtype) for value in (node.v_threshold, node.v_reset))
    v = torch.zeros_like(currents[0])
    spikes = []
    for current in currents:
        v = keep * v + current
        fired = v > threshold
        spikes.append(fired.to(v.dtype))
        v = torch.where(fired, reset, v)
    return torch.stack(spikes)
