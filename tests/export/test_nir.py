from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from spikesearch import Architecture, BlockSpec, Spikformer
from spikesearch.errors import ExportError, MissingDependencyError
from spikesearch.export import export_network
from spikesearch.space import StemSpec
from tests.export.conftest import fresh

nir = pytest.importorskip("nir")
pytest.importorskip("nirtorch")


def simulate(path: Path, currents: Tensor) -> Tensor:
    """Run a NIR graph by its definition: Euler steps of the equations, float64, edges into one node are summed.

    Args:
        path: The file.
        currents: What the input node gives, ``[T, N, C, H, W]``.
    """
    graph = nir.read(path)
    step = float(graph.metadata["time_step_s"])
    state: dict[str, Tensor] = {}
    outputs = []
    for current in currents.double():
        values: dict[str, Tensor] = {"input": current}
        while len(values) < len(graph.nodes):
            for name, node in graph.nodes.items():
                sources = [source for source, target in graph.edges if target == name]
                if name not in values and all(source in values for source in sources):
                    values[name] = run(node, sum(values[source] for source in sources), name, state, step)
        outputs.append(values["output"])
    return torch.stack(outputs)


def run(node: Any, x: Any, name: str, state: dict[str, Tensor], step: float) -> Tensor:
    if isinstance(node, nir.Output):
        return x
    if isinstance(node, nir.Conv2d):
        weight, bias = torch.from_numpy(node.weight).double(), torch.from_numpy(node.bias).double()
        assert (node.groups, *node.dilation) == (1, 1, 1)
        return F.conv2d(x, weight, bias, stride=tuple(node.stride), padding=tuple(node.padding))
    v = state.get(name, torch.zeros_like(x))
    value = {key: torch.from_numpy(np.asarray(getattr(node, key))) for key in ("r", "v_threshold", "v_reset")}
    if isinstance(node, nir.LIF):
        v = v + step / torch.from_numpy(node.tau) * (torch.from_numpy(node.v_leak) - v + value["r"] * x)
    else:
        assert isinstance(node, nir.IF)
        v = v + step * value["r"] * x
    spikes = v > value["v_threshold"]
    state[name] = torch.where(spikes, value["v_reset"], v)
    return spikes.double()


def tokens_of_stem(net: Spikformer, x: Tensor) -> Tensor:
    """What the first block gets: [T, N, tokens, D]."""
    caught: list[Tensor] = []
    handle = net.stem.register_forward_hook(lambda module, args, out: caught.append(out))
    with torch.no_grad():
        net(x)
    handle.remove()
    return caught[0]


@pytest.mark.parametrize("stages", [None, (), (0, 2, 3)])
def test_a_stem_by_the_equations_of_nir(tmp_path: Path, digits: Tensor, stages: tuple[int, ...] | None) -> None:
    net = fresh(pool_stages=stages)
    folder = export_network(net, tmp_path / "x", "nir-stem", samples=digits[:20])
    expected = tokens_of_stem(net, digits[:200])
    currents = digits[:200].expand(net.arch.time_steps, -1, -1, -1, -1)
    maps = simulate(folder / "stem.nir", currents)
    assert expected.max() == 2  # both ways through the residual fire
    assert float((maps.flatten(3).transpose(2, 3) == expected).double().mean()) > 0.999


@pytest.mark.parametrize("stages", [(), (0, 2)])
def test_a_stem_of_currents_by_the_equations_of_nir(tmp_path: Path, digits: Tensor, stages: tuple[int, ...]) -> None:
    net = fresh(pool_stages=stages, residual="membrane")
    folder = export_network(net, tmp_path / "x", "nir-stem", samples=digits[:20])
    expected = tokens_of_stem(net, digits[:100])
    maps = simulate(folder / "stem.nir", digits[:100].expand(net.arch.time_steps, -1, -1, -1, -1))
    assert expected.std() > 1
    assert float((maps.flatten(3).transpose(2, 3) - expected).abs().lt(1e-3).double().mean()) > 0.999


def test_a_maximum_of_currents_is_refused_before_anything_is_written(
    tmp_path: Path, membrane: Spikformer, digits: Tensor
) -> None:
    assert membrane.pool_stages == (3,)
    with pytest.raises(ExportError, match=r"NIR cannot hold `stem\.stages\.3\.pool`.*without 3 in `pool_stages`"):
        export_network(membrane, tmp_path / "x", "nir-stem", samples=digits[:8])
    with pytest.raises(ExportError, match=r"NIR cannot hold `blocks\.0\.attn\.product`"):
        export_network(membrane, tmp_path / "x", "nir", samples=digits[:8])
    assert list(tmp_path.iterdir()) == []


def test_a_stem_of_event_frames_in_spikingjelly(tmp_path: Path, digits: Tensor) -> None:
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    frames = digits[:90].view(30, 3, 1, 8, 8).expand(-1, -1, 2, -1, -1)
    net = fresh(in_channels=2)
    folder = export_network(net, tmp_path / "x", "nir-stem", samples=frames[:20])
    stem = import_from_nir(folder / "stem.nir", step_mode="m")
    with torch.no_grad():
        maps, _ = stem(frames.transpose(0, 1))
    expected = tokens_of_stem(net, frames)
    assert float((maps.flatten(3).transpose(2, 3) == expected).double().mean()) > 0.999


def test_a_whole_network_names_the_first_operation_that_nir_cannot_hold(
    tmp_path: Path, net: Spikformer, digits: Tensor
) -> None:
    with pytest.raises(ExportError, match=r"NIR cannot hold `blocks\.0\.attn\.product` .*--to nir-stem"):
        export_network(net, tmp_path / "x", "nir", samples=digits[:8])
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_computes_something_else_is_refused(
    tmp_path: Path, net: Spikformer, digits: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spikesearch.export.formats import nir_stem as nir_graph

    other = Architecture(16, 3, StemSpec(1.4, 4.0), (BlockSpec(2, 2.0, 1.4, 1.7),))
    graph = nir_graph.stem_graph(fresh(other))
    monkeypatch.setattr(nir_graph, "stem_graph", lambda _: graph)
    with pytest.raises(ExportError, match="of the values differ"):
        export_network(net, tmp_path / "x", "nir-stem", samples=digits[:8])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["nir", "nirtorch"])
def test_a_missing_extra_is_named(
    tmp_path: Path, net: Spikformer, digits: Tensor, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"{package} .*pip install 'spikesearch\[nir\]'"):
        export_network(net, tmp_path / "x", "nir-stem", samples=digits[:8])
    assert list(tmp_path.iterdir()) == []
