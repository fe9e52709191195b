"""The supernet against what it extracts, and its parts against SpikingJelly's."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, memopt, monitor, neuron, op_counter

from spikesearch.errors import DataError, SpaceError, SpikesearchError
from spikesearch.nn import Spikformer, Supernet, count_parameters
from spikesearch.nn.functional import default_pool_stages, time_first
from spikesearch.space import Architecture, BlockSpec, SearchSpace, StemSpec
from tests.nn.conftest import SPACE, trained

BOTH = pytest.mark.parametrize("residual", ["add", "membrane"])


def random_architectures(count: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    return [SPACE.largest, SPACE.smallest, *(SPACE.sample(rng) for _ in range(count - 2))]


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2, 33])
def test_extracted_logits_are_bit_equal(supernet, batch):
    x, images = torch.randn(batch, 1, 8, 8), torch.randn(40, 1, 8, 8)
    for arch in random_architectures(12, seed=batch):
        for stats in (None, supernet.calibrate(arch, images)):
            with supernet.subnet(arch, stats):
                ours = supernet(x)
            assert torch.equal(ours, supernet.extract(arch, stats)(x)), arch


@torch.no_grad()
@BOTH
@pytest.mark.parametrize(("size", "channels", "frames"), [(17, 3, None), (12, 2, 4), (10, 2, 5)])
def test_bit_equal_for_other_images_and_events(size, channels, frames, residual):
    supernet = trained(size, channels, frames, residual=residual)
    x = torch.randn(5, channels, size, size) if frames is None else torch.rand(5, frames, channels, size, size).round()
    alive = 0
    for arch in random_architectures(8):
        with supernet.subnet(arch):
            ours = supernet(x)
        assert torch.equal(ours, supernet.extract(arch)(x)), arch
        alive += float(ours.std(0).max()) > 0  # not the bias alone
    assert alive > 4


@torch.no_grad()
@BOTH
@pytest.mark.parametrize("size", [1, 2, 5])
def test_bit_equal_for_the_smallest_networks(size, residual):
    """One channel in the stem, one head, one token, one step."""
    space = SearchSpace((8, 16), (1, 2), (1, 8), (0.125, 1), (1.0,), (1.25, 2.0), (1, 2))
    supernet = Supernet(space, in_channels=1, image_size=size, num_classes=3, residual=residual).eval()
    rng = np.random.default_rng(0)
    x = 3 * torch.randn(3, 1, size, size)
    for arch in [space.smallest, space.largest, *(space.sample(rng) for _ in range(8))]:
        stats = supernet.calibrate(arch, x)
        with supernet.subnet(arch, stats):
            ours = supernet(x)
        assert torch.equal(ours, supernet.extract(arch, stats)(x)), arch


@torch.no_grad()
def test_plain_state_survives_saving(supernet, tmp_path):
    from safetensors.torch import load_model, save_model

    net = supernet.extract(SPACE.largest)
    save_model(net, str(tmp_path / "net.safetensors"))
    shape = {"in_channels": 1, "image_size": 8, "num_classes": 7, "residual": supernet.residual}
    again = Spikformer(SPACE.largest, **shape).eval()
    load_model(again, str(tmp_path / "net.safetensors"))
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(net(x), again(x))


def test_extracted_network_is_independent(supernet):
    net = supernet.extract(SPACE.smallest)
    before = copy.deepcopy(supernet.state_dict())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    assert all(torch.equal(before[name], value) for name, value in supernet.state_dict().items())
    copy.deepcopy(net)


@torch.no_grad()
@pytest.mark.parametrize("gene", ["num_heads", "mlp_ratio", "v_threshold", "tau"])
def test_every_block_gene_changes_the_function(supernet, gene):
    images = torch.randn(64, 1, 8, 8)
    base = SPACE.largest
    block = base.blocks[0]
    choices = {"num_heads": 2, "mlp_ratio": 1.0, "v_threshold": 0.6, "tau": 4.0}
    changed = BlockSpec(**{**block.__dict__, gene: choices[gene]})
    other = Architecture(base.embed_dim, base.time_steps, base.stem, (changed, *base.blocks[1:]))
    assert other != base
    with supernet.subnet(base, supernet.calibrate(base, images)):
        first = supernet(images)
    with supernet.subnet(other, supernet.calibrate(other, images)):
        assert not torch.equal(first, supernet(images))


@torch.no_grad()
def test_weights_are_shared_from_the_first_convolution_on(supernet):
    """A change of the last channel of every layer leaves the smallest subnet alone and changes the largest."""
    changed = copy.deepcopy(supernet)
    for name, parameter in changed.named_parameters():
        if name.endswith(("conv.weight", "linear.weight")):
            parameter[-1] += 3
    x = torch.randn(4, 1, 8, 8)
    for arch, same in ((SPACE.smallest, True), (SPACE.largest, False)):
        with supernet.subnet(arch), changed.subnet(arch):
            assert torch.equal(supernet(x), changed(x)) is same
    small, large = supernet.extract(SPACE.smallest), supernet.extract(SPACE.largest)
    assert small.stem.stages[0].conv.weight.shape == (2, 1, 3, 3)
    assert torch.equal(small.stem.stages[0].conv.weight, large.stem.stages[0].conv.weight[:2])
    assert torch.equal(small.blocks[0].attn.proj.linear.weight, large.blocks[0].attn.proj.linear.weight[:16, :16])


@torch.no_grad()
def test_calibration_is_layer_by_layer(supernet):
    """Brute force: freeze the first layers, measure the next, in the plain network with float64 statistics."""
    arch = SPACE.largest
    images = 2 * torch.randn(50, 1, 8, 8) + 1
    stats = supernet.calibrate(arch, images)
    net = supernet.extract(arch, stats)
    seen = {}
    norms = {n: m for n, m in net.named_modules() if isinstance(m, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d)}
    handles = [
        module.register_forward_pre_hook(lambda _, args, name=name: seen.__setitem__(name, args[0].clone()))
        for name, module in norms.items()
    ]
    net(images)
    assert seen.keys() == stats.keys()
    for name, x in seen.items():
        channels = x.double().transpose(0, 1).flatten(1)
        torch.testing.assert_close(stats[name].mean, channels.mean(1).float())
        torch.testing.assert_close(stats[name].var, channels.var(1, correction=0).float())
    for handle in handles:
        handle.remove()


def test_calibration_leaves_the_supernet_as_it_was(supernet):
    before = copy.deepcopy(supernet.state_dict())
    supernet.train()
    try:
        supernet.calibrate(SPACE.largest, torch.randn(8, 1, 8, 8))
        assert supernet.training
    finally:
        supernet.eval()
    assert all(torch.equal(before[name], value) for name, value in supernet.state_dict().items())


def test_choice_of_subnet_is_bound_to_its_block(supernet):
    x = torch.randn(2, 1, 8, 8)
    with pytest.raises(SpikesearchError, match="Choose an architecture"):
        supernet(x)
    with supernet.subnet(SPACE.largest):
        outer = supernet(x)
        with supernet.subnet(SPACE.smallest):
            assert not torch.equal(outer, supernet(x))
            with pytest.raises(DataError), supernet.subnet(SPACE.largest):
                supernet(x[0])
            assert not torch.equal(outer, supernet(x))
        assert torch.equal(outer, supernet(x))
    foreign = Architecture(40, 1, StemSpec(1.0, 2.0), SPACE.smallest.blocks)
    with pytest.raises(SpaceError, match="`embed_dim` must be one of"), supernet.subnet(foreign):
        pass


def test_statistics_of_another_architecture_are_refused(supernet):
    images = torch.randn(8, 1, 8, 8)
    small = supernet.calibrate(SPACE.smallest, images)
    with pytest.raises(SpikesearchError, match="`stats` must be what `calibrate` returned"):
        supernet.extract(SPACE.largest, small)
    partial = dict(list(supernet.calibrate(SPACE.largest, images).items())[:-1])
    with pytest.raises(SpikesearchError, match="is missing"), supernet.subnet(SPACE.largest, partial):
        pass


def test_extraction_costs_no_random_numbers(supernet):
    before = torch.get_rng_state()
    supernet.extract(SPACE.largest)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
@BOTH
def test_largest_subnet_gives_every_weight_a_gradient(residual):
    supernet = trained(
        pool_stages=(), residual=residual
    ).train()  # 64 tokens: with few of them a fresh attention LIF never fires
    with supernet.subnet(SPACE.largest):
        supernet(torch.randn(64, 1, 8, 8)).square().sum().backward()
    for name, parameter in supernet.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name
    assert supernet.no_weight_decay() == {n for n, _ in supernet.named_parameters() if "log_gain" in n}


@torch.no_grad()
@pytest.mark.parametrize(
    ("mixer", "attention", "first"), [("ssa", layer.SpikingSelfAttention, "qkv"), ("qk", layer.TokenQKAttention, "qk")]
)
def test_attention_equals_spikingjelly_with_equal_weights(mixer, attention, first):
    spec = BlockSpec(num_heads=4, mlp_ratio=1.0, v_threshold=1.0, tau=2.0, mixer=mixer)
    arch = Architecture(32, 4, StemSpec(1.0, 2.0), (spec,))
    for tokens in (3, 16):  # fewer and more tokens than channels per head: both orders of the product
        (_, ours), _ = Spikformer(arch, in_channels=1, image_size=8, num_classes=2).eval().blocks[0].branches(spec)
        theirs = attention(32, num_heads=4).eval()
        functional.set_step_mode(theirs, "m")
        for name in (first, "proj"):
            mine, conv_bn = ours.get_submodule(name), theirs.get_submodule(f"{name}_conv_bn")
            torch.nn.init.normal_(mine.linear.weight)
            torch.nn.init.uniform_(mine.bn.weight, 0.5, 2)
            torch.nn.init.normal_(mine.bn.bias)
            conv_bn[0].weight.copy_(mine.linear.weight.unsqueeze(-1))
            conv_bn[1].load_state_dict(mine.bn.state_dict())
        x = torch.randint(0, 3, (4, 5, tokens, 32)).float()
        expected = theirs(x.transpose(2, 3)).transpose(2, 3)
        assert 0 < float(expected.mean()) < 1
        assert torch.equal(ours(x, arch, spec), expected)


@torch.no_grad()
def test_spikingjelly_tools_work_on_the_plain_network(supernet):
    net = supernet.extract(SPACE.largest)
    x = torch.randn(2, 1, 8, 8)
    expected = net(x)
    counter = op_counter.SynOpCounter()
    with op_counter.DispatchCounterMode([counter]):
        net(x)
    assert counter.get_total() > 0
    spikes = monitor.OutputMonitor(net, neuron.LIFNode)
    net(x)
    assert len(spikes.records) == sum(isinstance(m, neuron.LIFNode) for m in net.modules())
    spikes.remove_hooks()
    optimised = memopt.optimize_memory(copy.deepcopy(net), neuron.LIFNode, lambda net: net(x), level=1)
    assert torch.equal(optimised(x), expected)


def test_plain_network_resets_itself(supernet):
    net = supernet.extract(SPACE.largest)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(net(x), net(x))
    net.train()
    net(x).sum().backward()
    net(x).sum().backward()


def test_fresh_plain_network_starts_at_the_gain():
    arch = Architecture(16, 2, StemSpec(1.4, 4.0), (BlockSpec(2, 2.0, 0.6, 1.25),))
    net = Spikformer(arch, in_channels=1, image_size=8, num_classes=3)
    assert net.stem.rpe.bn.weight[0].item() == pytest.approx(2.8)
    assert net.blocks[0].mlp.fc2.bn.weight[0].item() == pytest.approx(0.375)


def test_fresh_plain_network_reads_its_stream_at_the_gain():
    arch = Architecture(16, 2, StemSpec(1.4, 4.0), (BlockSpec(2, 2.0, 0.6, 1.25), BlockSpec(2, 2.0, 1.0, 2.0)))
    net = Spikformer(arch, in_channels=1, image_size=8, num_classes=3, residual="membrane")
    assert net.stem.stages[2].bn.weight[0].item() == pytest.approx(2.8)
    for unit in (net.stem.stages[3], net.stem.rpe, net.blocks[0].attn.proj, net.blocks[0].mlp.fc2):
        assert torch.all(unit.bn.weight == 1)  # nobody but the stream takes these currents
    nodes = [net.stem.rpe_lif, net.blocks[0].attn.lif_in, net.blocks[0].mlp.lif_in, net.head_lif]
    assert [node.v_threshold for node in nodes] == pytest.approx([0.5, 1.6, 1.6, 1.0])  # v / (v * tau / 2)
    assert [(node.gene, node.tau) for node in nodes] == [(1.4, 4.0), (0.6, 1.25), (0.6, 1.25), (1.0, 2.0)]


@BOTH
def test_published_size(residual):
    """Spikformer-4-384 (CIFAR-10) prints 9,330,874: 6,144 belong to LayerNorms that it never uses."""
    arch = Architecture(384, 4, StemSpec(1.0, 2.0), (BlockSpec(12, 4.0, 1.0, 2.0),) * 4)
    net = Spikformer(arch, in_channels=3, image_size=32, num_classes=10, residual=residual)
    biases = 4 * (3 * 384 + 384 + 4 * 384 + 384)
    assert count_parameters(net) == 9_310_906
    assert count_parameters(net) + biases == 9_330_874 - 6_144
    assert net.pool_stages == (2, 3)


@pytest.mark.parametrize(("size", "stages"), [(8, (3,)), (16, (3,)), (28, (2, 3)), (32, (2, 3)), (224, (0, 1, 2, 3))])
def test_default_poolings(size, stages):
    assert default_pool_stages(size) == stages


@pytest.mark.parametrize("stages", [(4,), (-1,), (2, 2)])
def test_impossible_poolings_are_refused(stages):
    with pytest.raises(SpaceError, match="`pool_stages`"):
        Supernet(SPACE, in_channels=1, image_size=8, num_classes=2, pool_stages=stages)


def test_impossible_residuals_are_refused():
    for network, of in ((Supernet, SPACE), (Spikformer, SPACE.largest)):
        with pytest.raises(SpaceError, match="`residual` must be one of add, membrane, normed, but got 'sum'"):
            network(of, in_channels=1, image_size=8, num_classes=2, residual="sum")


@pytest.mark.parametrize("shape", [(2, 1, 13, 9), (2, 3, 8, 8), (2, 4, 2, 8, 8)])
def test_images_of_another_shape_are_refused(supernet, shape):
    x = torch.zeros(shape)
    with supernet.subnet(SPACE.smallest), pytest.raises(DataError, match=r"\(1, 8, 8\), but got"):
        supernet(x)
    with pytest.raises(DataError, match=r"\(1, 8, 8\), but got"):
        supernet.extract(SPACE.smallest)(x)


def test_event_frames_are_summed_never_dropped():
    x = torch.arange(10.0).view(1, 5, 2, 1, 1)
    assert torch.equal(time_first(x, 5), x.transpose(0, 1))
    for steps in (1, 2, 3, 4):
        summed = time_first(x, steps)
        assert summed.shape == (steps, 1, 2, 1, 1)
        assert torch.equal(summed.sum(0), x.sum(1))
    assert time_first(x, 2)[0].flatten().tolist() == [0 + 2, 1 + 3]
    with pytest.raises(DataError, match="6 time steps, but the data only 5"):
        time_first(x, 6)
    with pytest.raises(DataError, match="must be"):
        time_first(x[0, 0], 1)


@BOTH
def test_deep_and_wide_space_builds_on_meta_device(residual):
    space = SearchSpace((384,), (8,), (6, 12), (4,), (1.0,), (2.0,), (4,))
    with torch.device("meta"):
        supernet = Supernet(space, in_channels=3, image_size=224, num_classes=1000, residual=residual)
        Spikformer(space.largest, in_channels=3, image_size=224, num_classes=1000, residual=residual)
    assert count_parameters(supernet) > 16_000_000
