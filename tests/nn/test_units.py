"""The list of units against the modules that are built, and against what enters them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based.neuron import LIFNode
from torch import nn

from spikesearch.nn import Spikformer, Supernet, count_parameters
from spikesearch.nn.elastic import ElasticLinear
from spikesearch.nn.units import block_share, network_neurons, stem_share
from spikesearch.space import SearchSpace
from spikesearch.space.residual import RESIDUALS
from tests.nn.conftest import SPACE, trained

BOTH = pytest.mark.parametrize("residual", sorted(RESIDUALS))


def plain(seed: int, residual: str) -> Spikformer:
    arch = SPACE.sample(np.random.default_rng(seed))
    return Spikformer(arch, in_channels=2, image_size=8, num_classes=7, residual=residual).eval()


@BOTH
def test_every_weight_layer_is_listed_once_with_its_shape(residual: str) -> None:
    for seed in range(5):
        net = plain(seed, residual)
        units = net.units(net.arch)
        layers = {name: m for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
        assert [unit.weights for unit in units] == list(layers)
        for unit in units:
            weight = layers[unit.weights].weight
            assert weight.shape[:2] == (unit.outputs * unit.layer.groups, unit.inputs)
            assert weight[0, 0].numel() == unit.layer.kernel
            assert unit.enters == ("pixels" if unit is units[0] else unit.enters)
        assert sum(unit.parameters for unit in units) == count_parameters(net)


@BOTH
def test_every_neuron_is_listed_with_its_genes(residual: str) -> None:
    for seed in range(5):
        net = plain(seed, residual)
        listed = network_neurons(net.arch, net.form)
        nodes = {name: m for name, m in net.named_modules() if isinstance(m, LIFNode)}
        assert listed.keys() == nodes.keys()
        for name, spec in listed.items():
            node = nodes[name]
            gene = getattr(node, "gene", node.v_threshold)
            assert (gene, node.tau) == ((0.5, 2.0) if spec is None else (spec.v_threshold, spec.tau))
        for unit in net.units(net.arch):
            assert unit.spiking == (unit.neurons in nodes)
            assert unit.fed_by is None or unit.fed_by in nodes


@torch.no_grad()
@BOTH
@pytest.mark.parametrize("frames", [None, 5])
def test_what_enters_a_layer_is_what_the_list_says(residual: str, frames: int | None) -> None:
    supernet = trained(8, 2, frames, residual=residual)
    x = torch.randn(8, 2, 8, 8) if frames is None else torch.randint(0, 4, (8, frames, 2, 8, 8)).float()
    summed = set()
    for seed in range(4):
        net = supernet.extract(SPACE.sample(np.random.default_rng(seed)))
        seen: dict[str, torch.Tensor] = {}
        for unit in net.units(net.arch):
            net.get_submodule(unit.weights).register_forward_pre_hook(
                lambda _, args, name=unit.weights, seen=seen: seen.update({name: args[0]})
            )
        net(x)
        for unit in net.units(net.arch):
            value = seen[unit.weights]
            binary = bool(torch.all((value == 0) | (value == 1)))
            if unit.enters == "spikes" and not unit.averages:
                assert binary, unit.name
            elif unit.enters == "sums" and not unit.averages:
                assert torch.equal(value, value.round()), unit.name
                summed |= set() if binary else {unit.name}
    assert bool(summed) == (residual == "add")


@BOTH
def test_elastic_layers_have_the_widths_of_the_largest(residual: str) -> None:
    supernet = Supernet(SPACE, in_channels=2, image_size=8, num_classes=7, residual=residual)
    for unit in supernet.units():
        layer = supernet.get_submodule(unit.weights)
        outputs = unit.outputs * (layer.groups if isinstance(layer, ElasticLinear) else 1)
        assert layer.get_parameter("weight").shape[:2] == (outputs, unit.inputs)
    assert [unit.name for unit in supernet.units()] == [unit.name for unit in supernet.units(SPACE.largest)]


@given(seed=st.integers(0, 10**6))
def test_shares_are_the_multiplications_behind_the_first_layer(seed: int) -> None:
    """By hand: 3x3 convolutions D/8 to D/4 to D/2 to D to D, and q, k, v, projection and two MLP layers per block."""
    arch = SPACE.sample(np.random.default_rng(seed))
    width = arch.embed_dim
    expected = 9 * width**2 * (1 / 32 + 1 / 8 + 1 / 2 + 1)
    expected += sum(width * (4 * width + 2 * width * block.mlp_ratio) for block in arch.blocks)
    assert width**2 * (stem_share() + sum(block_share(block, width) for block in arch.blocks)) == pytest.approx(
        expected
    )


SPACES = st.builds(
    SearchSpace,
    embed_dims=st.sets(st.sampled_from((8, 16, 24)), min_size=1).map(tuple),
    depths=st.sets(st.integers(1, 3), min_size=1).map(tuple),
    num_heads=st.sets(st.sampled_from((1, 2, 4, 8)), min_size=1).map(tuple),
    mlp_ratios=st.sets(st.sampled_from((0.125, 0.5, 1, 2, 3.5)), min_size=1).map(tuple),
    v_thresholds=st.sets(st.floats(0.3, 2), min_size=1, max_size=3).map(tuple),
    taus=st.sets(st.floats(1.1, 5), min_size=1, max_size=3).map(tuple),
    time_steps=st.sets(st.integers(1, 4), min_size=1).map(tuple),
)


@torch.no_grad()
@settings(max_examples=25)
@given(space=SPACES, residual=st.sampled_from(("add", "membrane")), seed=st.integers(0, 10**6))
def test_extraction_is_bit_equal_in_any_space(space: SearchSpace, residual: str, seed: int) -> None:
    torch.manual_seed(seed)
    pool_stages = ((), (3,), (0, 2))[seed % 3]
    supernet = Supernet(space, in_channels=2, image_size=7, num_classes=5, pool_stages=pool_stages, residual=residual)
    for parameter in supernet.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    supernet.eval()
    x = 2 * torch.randn(3, 2, 7, 7)
    arch = space.sample(np.random.default_rng(seed))
    stats = supernet.calibrate(arch, x)
    with supernet.subnet(arch, stats):
        logits = supernet(x)
    net = supernet.extract(arch, stats)
    assert torch.equal(logits, net(x))
    assert supernet.count_parameters(arch) == count_parameters(net)
