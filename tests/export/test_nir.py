from __future__ import annotations

import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from spikingjelly.activation_based.neuron import LIFNode, ParametricLIFNode
from torch import Tensor
from torch.nn import functional as F

from spikesearch import Architecture, BlockSpec, Spikformer
from spikesearch.errors import ExportError, MissingDependencyError
from spikesearch.export import export_network
from spikesearch.export.nir import run_graph
from spikesearch.space import StageSpec, StemSpec
from tests.export.conftest import fresh

nir = pytest.importorskip("nir")


def simulate(path: Path, currents: Tensor) -> dict[str, Tensor]:
    """Run a NIR graph by its definition: Euler steps of the equations, float64, edges into one node are summed.

    Args:
        path: The file.
        currents: What the input node gives, ``[T, N, C, H, W]``.

    Returns:
        What every node gives, ``[T, N, ...]``.
    """
    graph = nir.read(path)
    step = float(graph.metadata["time_step_s"])
    state: dict[str, Tensor] = {}
    steps = []
    for current in currents.double():
        values: dict[str, Tensor] = {"input": current}
        while len(values) < len(graph.nodes):
            for name, node in graph.nodes.items():
                sources = [source for source, target in graph.edges if target == name]
                if name not in values and all(source in values for source in sources):
                    values[name] = run(node, sum(values[source] for source in sources), name, state, step)
        steps.append(values)
    return {name: torch.stack([values[name] for values in steps]) for name in graph.nodes}


def run(node: Any, x: Any, name: str, state: dict[str, Tensor], step: float) -> Tensor:
    if isinstance(node, nir.Output):
        return x
    if isinstance(node, nir.Scale):
        return x * torch.from_numpy(node.scale)
    if isinstance(node, nir.Flatten):
        return x.flatten(1 + int(node.start_dim))
    if isinstance(node, nir.Affine):
        return x @ torch.from_numpy(node.weight).double().T + torch.from_numpy(node.bias)
    if isinstance(node, nir.AvgPool2d):
        assert (*node.padding,) == (0, 0)
        return F.avg_pool2d(x, tuple(node.kernel_size), tuple(node.stride))
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
    maps = simulate(folder / "stem.nir", currents)["output"]
    assert expected.max() == 2  # both ways through the residual fire
    assert float((maps.flatten(3).transpose(2, 3) == expected).double().mean()) > 0.999


@pytest.mark.parametrize("residual", ["membrane", "normed"])
@pytest.mark.parametrize("stages", [(), (0, 2)])
def test_a_stem_of_currents_by_the_equations_of_nir(
    tmp_path: Path, digits: Tensor, stages: tuple[int, ...], residual: str
) -> None:
    net = fresh(pool_stages=stages, residual=residual)
    folder = export_network(net, tmp_path / "x", "nir-stem", samples=digits[:20])
    expected = tokens_of_stem(net, digits[:100])
    maps = simulate(folder / "stem.nir", digits[:100].expand(net.arch.time_steps, -1, -1, -1, -1))["output"]
    assert expected.std() > 1
    assert float((maps.flatten(3).transpose(2, 3) - expected).abs().lt(1e-3).double().mean()) > 0.999


def test_a_maximum_of_currents_is_refused_before_anything_is_written(
    tmp_path: Path, membrane: Spikformer, digits: Tensor
) -> None:
    assert membrane.pool_stages == (3,)
    with pytest.raises(ExportError, match=r"NIR cannot hold `stem\.stages\.3\.pool`.*without 3 in `pool_stages`"):
        export_network(membrane, tmp_path / "x", "nir-stem", samples=digits[:8])
    assert list(tmp_path.iterdir()) == []


def test_a_stem_of_event_frames_in_spikingjelly(tmp_path: Path, digits: Tensor) -> None:
    pytest.importorskip("nirtorch")
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    frames = digits[:90].view(30, 3, 1, 8, 8).expand(-1, -1, 2, -1, -1)
    net = fresh(in_channels=2)
    folder = export_network(net, tmp_path / "x", "nir-stem", samples=frames[:20])
    stem = import_from_nir(folder / "stem.nir", step_mode="m")
    with torch.no_grad():
        maps, _ = stem(frames.transpose(0, 1))
    expected = tokens_of_stem(net, frames)
    assert float((maps.flatten(3).transpose(2, 3) == expected).double().mean()) > 0.999


def network(residual: str, stem: str, mixers: str, **settings: Any) -> Spikformer:
    """A network of two stages, of one where its stream is one of spikes, whose last block has an MLP."""
    blocks = [BlockSpec(0, 0.0, 0.6, 2.0, mixer) for mixer in mixers.split()]
    blocks[-1] = replace(blocks[-1], mlp_ratio=2.0, num_heads=2 * (blocks[-1].mixer in ("qk", "ssa")))
    stages = (StageSpec(0.5, len(blocks) - 1), StageSpec(1.0, 1, 0.8, 3.0)) if residual != "add" else ()
    arch = Architecture(32, 3, StemSpec(0.6, 1.25, 6 if stem == "conv" else 0), tuple(blocks), stages)
    pools = (0, 2) if residual != "add" else None
    return fresh(arch, residual=residual, stem=stem, pool_stages=pools, **settings)


def spikes_of_neurons(net: Spikformer, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The logits, and the spikes of all neurons by name as ``[T, N, C, H, W]``."""
    caught: dict[str, Tensor] = {}

    def catch(name: str) -> Any:
        def hook(module: Any, args: Any, out: Tensor) -> None:
            side = round(out.shape[2] ** 0.5)
            if out.ndim == 5:
                caught[name] = out.permute(0, 1, 4, 2, 3) if name == "stem.rpe_lif" else out
            else:
                caught[name] = out.transpose(2, 3).unflatten(3, (side, side))

        return hook

    handles = [
        module.register_forward_hook(catch(name)) for name, module in net.named_modules() if isinstance(module, LIFNode)
    ]
    with torch.no_grad():
        logits = net(x)
    for handle in handles:
        handle.remove()
    return logits, caught


NETWORKS = [
    ("normed", "conv", "conv dwconv conv", {}),
    ("normed", "conv", "dwconv conv", {"stem_stride": 3}),  # 3 x 3 positions, which do not halve
    ("normed", "sps", "conv dwconv", {}),
    ("membrane", "conv", "dwconv conv", {"stem_stride": 3}),
    ("membrane", "sps", "conv conv", {}),
    ("add", "conv", "conv dwconv", {}),
    ("add", "sps", "dwconv conv", {}),
]


@pytest.mark.parametrize(("residual", "stem", "mixers", "settings"), NETWORKS)
def test_a_network_by_the_equations_of_nir(
    tmp_path: Path, digits: Tensor, residual: str, stem: str, mixers: str, settings: dict[str, Any]
) -> None:
    net = network(residual, stem, mixers, **settings)
    folder = export_network(net, tmp_path / "x", "nir", samples=digits[:20])
    values = simulate(folder / "network.nir", digits[:60].expand(3, -1, -1, -1, -1))
    logits, neurons = spikes_of_neurons(net, digits[:60])
    mean = values["output"].mean(0)
    assert torch.equal(mean.argmax(1), logits.argmax(1))
    assert float((mean - logits).abs().amax(1).median()) < 1e-5
    names = {name: name.replace(".", "_") for name in neurons}
    if stem == "sps":
        names |= {f"stem.stages.{i}.lif": f"stem_stage{i}_lif" for i in range(4)} | {"stem.rpe_lif": "stem_rpe_lif_in"}
    for name, spikes in neurons.items():
        assert float((values[names[name]] == spikes).double().mean()) > 0.999, name
    assert sum(0.01 < float(spikes.mean()) < 0.99 for spikes in neurons.values()) > len(neurons) / 2


def test_a_network_of_event_frames(tmp_path: Path, digits: Tensor) -> None:
    net = network("normed", "conv", "conv dwconv", in_channels=2)
    frames = digits[:180].view(30, 6, 1, 8, 8).expand(-1, -1, 2, -1, -1)
    folder = export_network(net, tmp_path / "x", "nir", samples=frames)
    pairs = frames.unflatten(1, (3, 2)).sum(2).transpose(0, 1)
    with torch.no_grad():
        expected = net(frames)
    assert torch.equal(simulate(folder / "network.nir", pairs)["output"].mean(0).argmax(1), expected.argmax(1))


@pytest.mark.parametrize(("residual", "stem"), [("membrane", "conv"), ("add", "sps")])
def test_spikingjelly_reads_a_network_whose_channels_have_the_same_threshold(
    tmp_path: Path, digits: Tensor, residual: str, stem: str
) -> None:
    pytest.importorskip("nirtorch")
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    net = network(residual, stem, "conv dwconv conv")
    folder = export_network(net, tmp_path / "x", "nir", samples=digits[:20])
    read = import_from_nir(folder / "network.nir", step_mode="m")
    with torch.no_grad():
        steps, _ = read(digits[:60].expand(3, -1, -1, -1, -1))
        assert torch.equal(steps.mean(0).argmax(1), net(digits[:60]).argmax(1))


def test_the_usage_in_the_card_runs_the_graph(tmp_path: Path, digits: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    net = network("normed", "conv", "conv dwconv")
    names: dict[str, Any] = {"images_in_every_time_step": digits[:30].expand(3, -1, -1, -1, -1)}
    for to, result in (("nir", "logits"), ("nir-stem", "maps")):
        export_network(net, "FOLDER", to, samples=digits[:8])
        (code,) = re.findall(r"```python\n(.*?)```", Path("FOLDER/README.md").read_text(), re.DOTALL)
        exec(code, names)
        shutil.rmtree("FOLDER")
        expected = net(digits[:30]) if result == "logits" else tokens_of_stem(net, digits[:30])
        got = names[result] if result == "logits" else names[result].flatten(3).transpose(2, 3)
        assert torch.allclose(got, expected, atol=1e-4)


def test_attention_is_named_block_by_block(tmp_path: Path, net: Spikformer, digits: Tensor) -> None:
    with pytest.raises(ExportError, match=r"NIR cannot hold `blocks\.0\.attn`: .*attention.*--to nir-stem"):
        export_network(net, tmp_path / "x", "nir", samples=digits[:8])
    mixed = network("normed", "conv", "conv qk")
    with pytest.raises(ExportError, match=r"NIR cannot hold `stages\.1\.blocks\.0\.qk`: "):
        export_network(mixed, tmp_path / "x", "nir", samples=digits[:8])
    assert list(tmp_path.iterdir()) == []
    export_network(mixed, tmp_path / "x", "nir-stem", samples=digits[:8])


def test_a_maximum_of_sums_of_spikes_is_refused(tmp_path: Path, digits: Tensor) -> None:
    block = BlockSpec(0, 0.0, 1.0, 2.0, "conv")
    stages = (StageSpec(0.5, 1), StageSpec(1.0, 1, 1.0, 2.0))
    net = Spikformer(
        Architecture(32, 2, StemSpec(1.0, 2.0), (block, block), stages),
        in_channels=1,
        image_size=8,
        num_classes=10,
        stem="conv",
    )
    with pytest.raises(ExportError, match=r"`stages\.1\.down\.shortcut`.*maximum of sums of spikes.*'normed'"):
        export_network(net, tmp_path / "x", "nir", samples=digits[:8])


def test_neurons_that_nir_does_not_know_are_named(tmp_path: Path, digits: Tensor) -> None:
    net = network("normed", "conv", "conv dwconv")
    net.set_submodule("stages.0.blocks.0.conv.lif_in", ParametricLIFNode(step_mode="m"))
    with pytest.raises(ExportError, match=r"`stages\.0\.blocks\.0\.conv\.lif_in` \(ParametricLIFNode\)"):
        export_network(net, tmp_path / "x", "nir", samples=digits[:8])


def test_a_graph_of_another_program_with_unknown_nodes_is_refused() -> None:
    delay = nir.NIRGraph.from_list(nir.Delay(np.ones(2)))
    delay.metadata = {"time_step_s": 1e-4}
    with pytest.raises(ExportError, match="no node of type Delay"):
        run_graph(delay, torch.zeros(2, 1, 2))


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


@pytest.mark.parametrize("to", ["nir", "nir-stem"])
def test_a_missing_extra_is_named(tmp_path: Path, digits: Tensor, to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = network("normed", "conv", "conv dwconv")
    monkeypatch.setitem(sys.modules, "nir", None)
    with pytest.raises(MissingDependencyError, match=r"nir .*pip install 'spikesearch\[nir\]'"):
        export_network(net, tmp_path / "x", to, samples=digits[:8])
    assert list(tmp_path.iterdir()) == []
