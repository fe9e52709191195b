"""Networks of several stages and of every mixer: against naive implementations, and supernet against plain network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spikesearch.energy import CONVENTIONS, EnergyModel
from spikesearch.errors import SpaceError
from spikesearch.extensions import MIXERS
from spikesearch.nn import Spikformer, Supernet, fuse
from spikesearch.nn.lif import NormedLIF, lif
from spikesearch.space import Architecture, BlockSpec, SearchSpace, StageSpec, StemSpec
from spikesearch.space.residual import RESIDUALS

SPACE = SearchSpace(
    embed_dims=(32, 64),
    time_steps=(1, 2),
    mlp_ratios=(0, 2),
    num_heads=(2,),
    v_thresholds=(0.6, 1.0),
    taus=(2.0, 3.0),
    stem_channels=(6, 10),
    stages=[
        {"width": "1/4", "depths": [1, 2], "mixers": ["conv", "dwconv"]},
        {"width": 0.5, "depths": [1], "mixers": ["conv", "qk"]},
        {"width": 1, "depths": [1, 2], "mixers": ["conv", "ssa", "qk", "dwconv"], "num_heads": [2, 4]},
    ],
)
SHAPE: dict[str, Any] = {"in_channels": 3, "image_size": 13, "num_classes": 5, "stem": "conv"}


def scrambled(net: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Give a network weights and statistics that no symmetry hides mistakes behind."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in net.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
        elif name.endswith("log_gain"):
            value.add_(0.2 * torch.randn(value.shape, generator=generator))
        elif value.is_floating_point() and value.ndim:
            scale = 1.0 if name.rpartition(".")[0].endswith("bn") else 1.5 / max(1, value[0].numel()) ** 0.5
            value.copy_(scale * torch.randn(value.shape, generator=generator))
    return net.eval()


@pytest.fixture(params=sorted(RESIDUALS))
def supernet(request: pytest.FixtureRequest) -> Supernet:
    net = scrambled(Supernet(SPACE, residual=request.param, stem_stride=2, **SHAPE), 0)
    assert isinstance(net, Supernet)
    return net


def test_extracted_networks_are_bit_equal_and_count_their_parameters(supernet: Supernet) -> None:
    rng = np.random.default_rng(1)
    images, x = torch.rand(12, 3, 13, 13), torch.rand(5, 3, 13, 13)
    for arch in (SPACE.largest, SPACE.smallest, *(SPACE.sample(rng) for _ in range(12))):
        stats = supernet.calibrate(arch, images)
        net = supernet.extract(arch, stats)
        with supernet.subnet(arch, stats):
            assert torch.equal(net(x), supernet(x)), arch.describe()
        assert sum(p.numel() for p in net.parameters()) == supernet.count_parameters(arch)
        assert torch.allclose(fuse(net)(x), net(x), atol=1e-4)
        again = Spikformer(Architecture.from_dict(arch.to_dict()), **net.settings)
        again.load_state_dict(net.state_dict())
        assert torch.equal(again.eval()(x), net(x))


@pytest.mark.parametrize("convention", sorted(CONVENTIONS))
def test_a_subnet_costs_what_the_extracted_network_costs(supernet: Supernet, convention: str) -> None:
    rng, model = np.random.default_rng(2), EnergyModel(convention)
    images, x = torch.rand(12, 3, 13, 13), torch.rand(5, 3, 13, 13)
    for arch in (SPACE.largest, SPACE.smallest, *(SPACE.sample(rng) for _ in range(6))):
        stats = supernet.calibrate(arch, images)
        alone = model.report(supernet.extract(arch, stats), x)
        with supernet.subnet(arch, stats):
            inherited = model.report(supernet, x)
        lines = [{line.name: line.energy_uJ for line in report.layers} for report in (alone, inherited)]
        assert lines[1] == pytest.approx(lines[0]), arch.describe()


@pytest.mark.parametrize("residual", sorted(RESIDUALS))
def test_stages_behind_the_stem_of_four_convolutions(residual: str) -> None:
    space = replace(SPACE, stem_channels=(0,))
    shape = {**SHAPE, "stem": "sps", "pool_stages": (0, 2)}
    net = scrambled(Supernet(space, residual=residual, **shape), 0)
    assert isinstance(net, Supernet)
    images, x = torch.rand(12, 3, 13, 13), torch.rand(5, 3, 13, 13)
    for arch in (space.largest, space.smallest):
        stats = net.calibrate(arch, images)
        plain = net.extract(arch, stats)
        with net.subnet(arch, stats):
            assert torch.equal(plain(x), net(x))
        assert plain(x).std() > 0
        assert torch.allclose(fuse(plain)(x), plain(x), atol=1e-4)


def naive(net: Any, x: Tensor) -> Tensor:  # noqa: C901 - one network from end to end
    """Compute a network of currents that are read through batch-norms, one image and time step after the other."""
    arch = net.arch

    def norm(module: Any, x: Tensor) -> Tensor:
        shape = [1, -1] + [1] * (x.ndim - 2)
        weight = module.weight.abs()
        scale = weight / (module.running_var + module.eps).sqrt()
        return x * scale.view(shape) + (module.bias - module.running_mean * scale).view(shape)

    def signed(module: Any, x: Tensor) -> Tensor:
        scale = (module.weight / (module.running_var + module.eps).sqrt()).view(1, -1, 1, 1)
        return (x - module.running_mean.view(1, -1, 1, 1)) * scale + module.bias.view(1, -1, 1, 1)

    def fire(steps: list[Tensor], tau: float, threshold: float) -> list[Tensor]:
        v, out = torch.zeros_like(steps[0]), []
        for current in steps:
            v = v + (current - v) / tau
            out.append((v >= threshold).float())
            v = v * (v < threshold)
        return out

    def read(module: Any, stream: list[Tensor]) -> list[Tensor]:
        return fire([norm(module.bn, s) for s in stream], module.tau, module.v_threshold)

    def linear(unit: Any, s: Tensor) -> Tensor:
        return signed(unit.bn, F.conv2d(s, unit.linear.weight[:, :, None, None]))

    def conv(unit: Any, s: Tensor, **how: Any) -> Tensor:
        return signed(unit.bn, F.conv2d(s, unit.conv.weight, **how))

    embed = net.stem.embed
    first = conv(embed, x, stride=embed.conv.stride[0], padding=embed.conv.padding[0])
    first = torch.stack([first[:, c % first.shape[1]] for c in range(arch.widths[0])], 1)
    stream = [first] * arch.time_steps
    for number, blocks in enumerate(arch.blocks_of_stages):
        stage = net.stages[number]
        if number:
            down, width = stage.down, arch.widths[number]
            spikes = read(down.lif_in, stream)
            side = (stream[0].shape[-1] + 1) // 2
            short = []
            for s in stream:
                cells = [
                    [s[..., 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((-2, -1)) for j in range(side)]
                    for i in range(side)
                ]
                pooled = torch.stack([torch.stack(row, -1) for row in cells], -2)
                short.append(torch.stack([pooled[:, c % pooled.shape[1]] for c in range(width)], 1))
            stream = [conv(down.conv, s, stride=2, padding=1) + r for s, r in zip(spikes, short, strict=True)]
        for block, spec in zip(stage.blocks, blocks, strict=True):
            branch = getattr(block, MIXERS[spec.mixer].module)
            spikes = read(branch.lif_in, stream)
            width = arch.widths[number]
            if spec.mixer == "conv":
                out = [conv(branch.conv, s, padding=1) for s in spikes]
            elif spec.mixer == "dwconv":
                hidden = [conv(branch.dw, s, padding=1, groups=width) for s in spikes]
                hidden = fire(hidden, branch.dw.lif.tau, branch.dw.lif.v_threshold)
                out = [linear(branch.pw, s) for s in hidden]
            elif spec.mixer == "qk":
                both = fire([linear(branch.qk, s) for s in spikes], branch.qk.lif.tau, branch.qk.lif.v_threshold)
                q, k = [b[:, :width] for b in both], [b[:, width:] for b in both]
                sums = [h.unflatten(1, (spec.num_heads, -1)).sum(2, keepdim=True) for h in q]
                masks = fire(sums, 2.0, 0.5)
                masked = [m * h.unflatten(1, (spec.num_heads, -1)) for m, h in zip(masks, k, strict=True)]
                out = [linear(branch.proj, h.flatten(1, 2)) for h in masked]
            else:
                raise AssertionError(spec.mixer)
            stream = [s + o for s, o in zip(stream, out, strict=True)]
            if spec.mlp_ratio:
                mlp = block.mlp
                hidden = [linear(mlp.fc1, s) for s in read(mlp.lif_in, stream)]
                hidden = fire(hidden, mlp.fc1.lif.tau, mlp.fc1.lif.v_threshold)
                stream = [s + linear(mlp.fc2, h) for s, h in zip(stream, hidden, strict=True)]
    return net.head(torch.stack(read(net.head_lif, stream)).mean((0, 3, 4)))


@pytest.mark.parametrize("mixer", ["conv", "dwconv", "qk"])
def test_mixers_and_stages_compute_what_a_naive_implementation_does(mixer: str) -> None:
    heads = 2 if mixer == "qk" else 0
    blocks = tuple(BlockSpec(heads, ratio, 1.0, 2.0, mixer) for ratio in (0.0, 2.0, 2.0))
    stages = (StageSpec(0.5, 2), StageSpec(1.0, 1, 0.6, 3.0))
    arch = Architecture(16, 3, StemSpec(1.0, 2.0, 5), blocks, stages)
    net = Spikformer(arch, residual="normed", stem_stride=2, **SHAPE)
    scrambled(net, 3)
    x = torch.rand(6, 3, 13, 13)
    with torch.no_grad():
        expected, got = naive(net, x), net(x)
    assert expected.std() > 0.05
    assert torch.allclose(got, expected, atol=2e-4)


def test_a_normed_neuron_is_one_with_a_threshold_and_a_bias_per_channel() -> None:
    node = NormedLIF(6, 0.8, 3.0)
    scrambled(node, 5)
    assert bool((node.bn.weight < 0).any())  # which is used as if it were positive
    x = 4 * torch.randn(4, 3, 7, 6)
    with torch.no_grad():
        spikes = node(x)
    threshold, bias = node.folded()
    assert bool((threshold > 0).all())
    scaled = torch.stack([lif((x[..., c] + bias[c]), tau=3.0, v_threshold=float(threshold[c])) for c in range(6)], -1)
    assert 0.05 < float(spikes.mean()) < 0.95
    assert float((scaled != spikes).float().mean()) < 0.01  # rounding at a threshold


def test_positive_scales_stay_when_training_pushes_them_below_zero() -> None:
    node = NormedLIF(4, 1.0, 2.0).train()
    with torch.no_grad():
        node.bn.weight.copy_(torch.tensor([-2.0, -1e-9, 0.0, 1.0]))
    node(torch.randn(2, 5, 3, 4))
    threshold, _ = node.eval().folded()
    assert bool(((threshold > 0) & threshold.isfinite()).all())


def test_the_stem_with_four_convolutions_refuses_what_only_the_other_has() -> None:
    block = BlockSpec(0, 0.0, 1.0, 2.0, "conv")
    arch = Architecture(16, 1, StemSpec(1.0, 2.0, 4), (block,))
    with pytest.raises(SpaceError, match="stem: conv"):
        Spikformer(arch, in_channels=1, image_size=8, num_classes=2)


def test_energy_of_a_stage_is_what_a_pencil_says() -> None:
    block = BlockSpec(0, 0.0, 1.0, 2.0, "conv")
    arch = Architecture(16, 2, StemSpec(1.0, 2.0), (block, block), (StageSpec(0.5, 1), StageSpec(1.0, 1, 1.0, 2.0)))
    net = scrambled(Spikformer(arch, in_channels=3, image_size=8, num_classes=2, residual="normed", stem="conv"), 1)
    x = torch.rand(4, 3, 8, 8)
    report = {layer.name: layer for layer in EnergyModel("strict").report(net, x).layers}
    steps, side, half = 2, 64, 16
    assert report["stem.embed.conv"].macs == steps * side * 8 * 3 * 9
    conv = report["stages.0.blocks.0.conv.conv.conv"]
    assert conv.dense_ops == steps * side * 8 * 8 * 9
    assert conv.acs == pytest.approx(conv.dense_ops * conv.input_rate)
    assert report["stages.1.down.conv.conv"].dense_ops == steps * half * 16 * 8 * 9
    assert report["stages.1.down.shortcut"].acs == steps * side * 8
    assert report["membranes"].macs == steps * (side * 8 + side * 8 + half * 16 + half * 16)
    published = {layer.name for layer in EnergyModel("spikformer").report(net, x).layers}
    assert "stages.1.down.shortcut" not in published


def test_depthwise_and_token_attention_count_what_they_do() -> None:
    blocks = BlockSpec(0, 0.0, 1.0, 2.0, "dwconv"), BlockSpec(2, 0.0, 1.0, 2.0, "qk")
    net = scrambled(
        Spikformer(
            Architecture(16, 2, StemSpec(1.0, 2.0), blocks),
            in_channels=1,
            image_size=8,
            num_classes=2,
            residual="normed",
            stem="conv",
        ),
        2,
    )
    x = torch.rand(4, 1, 8, 8)
    report = {layer.name: layer for layer in EnergyModel("spikformer").report(net, x).layers}
    assert report["blocks.0.dwconv.dw.conv"].dense_ops == 2 * 64 * 16 * 9
    assert report["blocks.0.dwconv.pw.linear"].dense_ops == 2 * 64 * 16 * 16
    sums = report["blocks.1.qk.sum"]
    assert sums.dense_ops == 2 * 64 * 16
    assert 0 < sums.acs == pytest.approx(sums.input_rate * sums.dense_ops)


def test_one_stage_is_what_it_was() -> None:
    spec = BlockSpec(2, 2.0, 1.0, 2.0)
    arch = Architecture(16, 2, StemSpec(1.0, 2.0), (spec, spec))
    assert arch.to_dict().keys() == {"embed_dim", "time_steps", "stem", "blocks"}
    assert replace(arch, stages=()).key == arch.key
    assert set(Spikformer(arch, in_channels=1, image_size=8, num_classes=2).settings) == {
        "in_channels",
        "image_size",
        "num_classes",
        "pool_stages",
        "residual",
    }
