"""Residual connections by membrane currents, against their definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.nn.conftest import SPACE, trained
from tests.nn.test_lif import spikingjelly


def by_definition(net: Any, x: torch.Tensor) -> torch.Tensor:
    """The network written down once more, in the order of the papers, from its weights and nothing else."""
    arch, steps = net.arch, net.arch.time_steps

    def current(unit, spikes):  # over time and batch together
        shape = spikes.shape[:2]
        op = next(module for name, module in unit.named_children() if name in ("conv", "linear"))
        if isinstance(op, nn.Conv2d):
            out = F.conv2d(spikes.flatten(0, 1), op.weight, padding=1)
        else:
            out = F.linear(spikes.flatten(0, 1), op.weight).transpose(1, 2)
        norm = unit.bn
        out = F.batch_norm(out, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        return (out if isinstance(op, nn.Conv2d) else out.transpose(1, 2)).unflatten(0, shape)

    def pooled(x, stage):
        if stage not in net.pool_stages:
            return x
        return F.max_pool2d(x.flatten(0, 1), 3, 2, 1).unflatten(0, x.shape[:2])

    genes: Any = arch.stem
    frames = x.transpose(0, 1) if x.ndim == 5 else x.expand(steps, *x.shape)
    stream = current(net.stem.stages[0], frames)
    for stage in (1, 2, 3):
        spikes = pooled(spikingjelly(stream, genes.tau, genes.v_threshold), stage - 1)
        stream = current(net.stem.stages[stage], spikes)
    stream = pooled(stream, 3)
    stream = stream + current(net.stem.rpe, spikingjelly(stream, genes.tau, net.stem.rpe_lif.v_threshold))
    stream = stream.flatten(3).transpose(2, 3)  # tokens
    for block, genes in zip(net.blocks, arch.blocks, strict=True):
        spikes = spikingjelly(stream, genes.tau, block.attn.lif_in.v_threshold)
        qkv = spikingjelly(current(block.attn.qkv, spikes), genes.tau, genes.v_threshold)
        q, k, v = (part.unflatten(3, (genes.num_heads, -1)).transpose(2, 3) for part in qkv.chunk(3, -1))
        attended = ((q @ k.transpose(-2, -1)) @ v * 0.125).transpose(2, 3).flatten(3)
        stream = stream + current(block.attn.proj, spikingjelly(attended, 2.0, 0.5))
        spikes = spikingjelly(stream, genes.tau, block.mlp.lif_in.v_threshold)
        hidden = spikingjelly(current(block.mlp.fc1, spikes), genes.tau, genes.v_threshold)
        stream = stream + current(block.mlp.fc2, hidden)
    spikes = spikingjelly(stream, genes.tau, net.head_lif.v_threshold)
    return torch.stack([net.head(step) for step in spikes]).mean((0, 2))  # classify every token, then average


@torch.no_grad()
@pytest.mark.parametrize(("pool_stages", "frames"), [((3,), None), ((), None), ((0, 2), None), ((1, 3), 4)])
def test_the_network_is_its_definition(pool_stages, frames):
    channels = 1 if frames is None else 2
    supernet = trained(8, channels, frames, pool_stages=pool_stages, residual="membrane")
    rng = np.random.default_rng(0)
    x = torch.randn(40, 1, 8, 8) if frames is None else torch.rand(40, frames, channels, 8, 8).round()
    for arch in [SPACE.largest, *(SPACE.sample(rng) for _ in range(3))]:
        if frames is not None and arch.time_steps != frames:
            continue
        ours, expected = supernet.extract(arch)(x), by_definition(supernet.extract(arch), x)
        assert float(expected.std(0).min()) > 0
        same = torch.isclose(ours, expected, rtol=1e-3, atol=1e-4).all(1)
        assert float(same.float().mean()) >= 0.7  # rounding may tip a neuron that is at its threshold


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6))
@torch.no_grad()
def test_every_input_behind_the_first_layer_is_binary(nets, seed):
    supernet, x = nets[seed % len(nets)]
    net = supernet.extract(SPACE.sample(np.random.default_rng(seed)))
    seen: dict[str, torch.Tensor] = {}
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0]}))
    net.head_lif.register_forward_hook(lambda _, args, out: seen.update(spikes=out))
    net(x)
    first, average = seen.pop("stem.stages.0.conv"), seen.pop("head")
    assert not torch.all((first == 0) | (first == 1))
    assert len(seen) == 3 + 1 + 4 * len(net.blocks) + 1
    for name, value in seen.items():
        assert torch.all((value == 0) | (value == 1)), name
    # the head is linear: that of an average of spikes is an average over spikes
    assert torch.equal(average, seen["spikes"].mean((0, 2)))


@pytest.fixture(scope="module")
def nets():
    return [
        (trained(residual="membrane"), torch.randn(8, 1, 8, 8)),
        (trained(pool_stages=(0, 1), residual="membrane"), torch.randn(8, 1, 8, 8)),
        (trained(8, 2, 5, residual="membrane"), torch.randint(0, 4, (8, 5, 2, 8, 8)).float()),
    ]


@torch.no_grad()
def test_the_two_kinds_share_the_names_of_their_weights():
    add, membrane = trained(), trained(residual="membrane")

    def weights(net):
        return {name: value.shape for name, value in net.named_parameters() if not name.endswith("log_gain")}

    assert weights(add) == weights(membrane)
    assert add.count_parameters(SPACE.largest) == membrane.count_parameters(SPACE.largest)
    assert [name for name in membrane.extract(SPACE.smallest).state_dict() if "extra" in name] == [
        "stem.rpe_lif._extra_state",
        "blocks.0.attn.lif_in._extra_state",
        "blocks.0.mlp.lif_in._extra_state",
        "head_lif._extra_state",
    ]
    assert not [name for name in add.extract(SPACE.smallest).state_dict() if "extra" in name]
