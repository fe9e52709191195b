"""Operation counts against published figures, networks with known spikes, and SpikingJelly's counter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import op_counter
from torch import nn

from spikesearch.energy import EnergyModel
from spikesearch.energy.activity import Activity
from spikesearch.energy.measure import count, measure_activity
from spikesearch.export.card import model_card
from spikesearch.nn import Spikformer
from spikesearch.space import Architecture, BlockSpec, StemSpec
from tests.nn.conftest import SPACE, trained

FIRST_LAYER = "stem.stages.0.conv"
MAC, AC = 4.6e-6, 0.9e-6  # microjoules


def network(embed_dim=16, steps=2, heads=2, depth=1, **shape) -> Spikformer:
    arch = Architecture(embed_dim, steps, StemSpec(1.0, 2.0), (BlockSpec(heads, 2.0, 1.0, 2.0),) * depth)
    return Spikformer(
        arch, **{"in_channels": 1, "image_size": 8, "num_classes": 10, "pool_stages": (3,), **shape}
    ).eval()


def force_spikes(net: nn.Module, value: float) -> None:
    """Make every neuron behind a batch-norm fire always (large value) or never (negative value)."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.zeros_(module.weight)
            nn.init.constant_(module.bias, value)


def by_name(report):
    return {layer.name: layer for layer in report.layers}


def test_published_mac_count():
    """Spikformer-4-384 on CIFAR-10 (ZK-Zhou/spikformer issue 23): 5,312,266 MACs, of which 10 are the head's bias."""
    net = network(384, steps=4, heads=12, depth=4, in_channels=3, image_size=32, pool_stages=None)
    report = EnergyModel("spikformer").report(net, torch.randn(1, 3, 32, 32))
    assert report.macs == 5_312_256 == 5_312_266 - 10
    assert by_name(report)[FIRST_LAYER].energy_uJ == pytest.approx(24.4, abs=0.05)
    assert report.total_uJ - report.first_layer_once_uJ == pytest.approx(24.4187 * 3 / 4, abs=1e-3)


@pytest.mark.parametrize("convention", ["spikformer", "strict"])
def test_network_where_every_neuron_always_fires(convention):
    """All rates are 1, the residual stream counts 2 behind the stem, 3 behind the attention: all by hand."""
    net = network()  # D 16, T 2, 8x8, pooling after the last stage: 4x4 = 16 tokens; 2 heads of 8; hidden 32
    force_spikes(net, 100.0)
    report = EnergyModel(convention).report(net, torch.randn(3, 1, 8, 8))
    lines = by_name(report)
    steps, pixels, tokens, width, hidden = 2, 64, 16, 16, 32
    first = steps * pixels * 9 * 1 * 2
    stem = {"stem.stages.1.conv": 2 * 4, "stem.stages.2.conv": 4 * 8, "stem.stages.3.conv": 8 * 16}
    expected = {name: (0.0, steps * pixels * 9 * channels * 1.0) for name, channels in stem.items()}
    expected["stem.rpe.conv"] = (0.0, steps * tokens * 9 * width * width * 1.0)
    qkv, fc1 = steps * tokens * width * 3 * width, steps * tokens * width * hidden
    strict = convention == "strict"
    expected["blocks.0.attn.qkv.linear"] = (qkv, 0.0) if strict else (0.0, qkv * 2.0)
    expected["blocks.0.attn.product"] = (0.0, steps * tokens * width * 8 * 2.0)
    expected["blocks.0.attn.proj.linear"] = (0.0, steps * tokens * width * width * 1.0)
    expected["blocks.0.mlp.fc1.linear"] = (fc1, 0.0) if strict else (0.0, fc1 * 3.0)
    expected["blocks.0.mlp.fc2.linear"] = (0.0, steps * tokens * hidden * width * 1.0)
    expected[FIRST_LAYER] = (first, 0.0)
    expected["head"] = (width * 10, 0.0)
    if strict:
        neurons = pixels * (2 + 4 + 8 + 16) + tokens * (width + 3 * width + width + width + hidden + width)
        expected["membranes"] = (steps * neurons, 0.0)
    assert {name: (line.macs, line.acs) for name, line in lines.items()} == expected
    macs, acs = (sum(column) for column in zip(*expected.values(), strict=True))
    assert report.total_uJ == pytest.approx(macs * MAC + acs * AC)
    assert report.mean_firing_rate == 1.0
    assert report.n_images == 3


@pytest.mark.parametrize("convention", ["spikformer", "strict"])
def test_currents_in_the_stream_where_every_neuron_always_fires(convention):
    """By hand again: every rate is 1, and by the strict convention only the first layer is paid in MACs."""
    net = network(residual="membrane")
    force_spikes(net, 100.0)
    report = EnergyModel(convention).report(net, torch.randn(3, 1, 8, 8))
    steps, pixels, tokens, width, hidden = 2, 64, 16, 16, 32
    strict = convention == "strict"
    acs = {
        "stem.stages.1.conv": pixels * 9 * 2 * 4,
        "stem.stages.2.conv": pixels * 9 * 4 * 8,
        "stem.stages.3.conv": pixels * 9 * 8 * 16,
        "stem.rpe.conv": tokens * 9 * width * width,
        "blocks.0.attn.qkv.linear": tokens * width * 3 * width,
        "blocks.0.attn.product": tokens * width * 8 * 2,
        "blocks.0.attn.proj.linear": tokens * width * width,
        "blocks.0.mlp.fc1.linear": tokens * width * hidden,
        "blocks.0.mlp.fc2.linear": tokens * hidden * width,
        "head": tokens * width * 10 if strict else 0,
    }
    macs = {FIRST_LAYER: steps * pixels * 9 * 1 * 2, "head": 0 if strict else width * 10}
    if strict:  # neurons behind three stages, on the stream (four times), behind q, k, v, the product and fc1
        macs["membranes"] = steps * (pixels * (2 + 4 + 8) + tokens * (4 * width + 3 * width + width + hidden))
    assert {name: line.acs for name, line in by_name(report).items() if line.acs} == {
        name: float(steps * count) for name, count in acs.items() if count
    }
    assert {name: line.macs for name, line in by_name(report).items() if line.macs} == {
        name: count for name, count in macs.items() if count
    }
    assert report.mean_firing_rate == 1.0


def test_no_macs_behind_the_first_layer_where_the_stream_carries_currents():
    supernet = trained(residual="membrane")
    rng = np.random.default_rng(0)
    for arch in [SPACE.largest, SPACE.smallest, *(SPACE.sample(rng) for _ in range(4))]:
        report = EnergyModel("strict").report(supernet.extract(arch), torch.randn(8, 1, 8, 8))
        assert {layer.name for layer in report.layers if layer.macs} == {FIRST_LAYER, "membranes"}


@pytest.mark.parametrize("residual", ["add", "membrane"])
@pytest.mark.parametrize("convention", ["spikformer", "strict"])
def test_silent_network_still_pays_what_does_not_depend_on_spikes(convention, residual):
    net = network(residual=residual)
    force_spikes(net, -100.0)
    report = EnergyModel(convention).report(net, torch.randn(3, 1, 8, 8))
    assert report.acs == 0
    paid = {layer.name for layer in report.layers if layer.macs}
    graded = {"blocks.0.attn.qkv.linear", "blocks.0.mlp.fc1.linear", "head"} if residual == "add" else set()
    assert paid == {FIRST_LAYER} | (graded | {"membranes"} if convention == "strict" else {"head"})


def test_event_first_layer_is_paid_by_its_events():
    net = network(in_channels=2)
    x = torch.zeros(4, 2, 2, 8, 8)
    x[:, :, :, ::2, ::2] = 3.0  # a quarter of the pixels, counts of three
    report = EnergyModel().report(net, x)
    line = by_name(report)[FIRST_LAYER]
    assert line.macs == pytest.approx(0.25 * 2 * 64 * 9 * 2 * 2)
    assert line.input_rate == pytest.approx(0.75)
    assert report.first_layer_once_uJ is None, "other frames in every time step: nothing is computed twice"
    assert report.to_dict()["first_layer_once_uJ"] is None
    for text in (report.table(), model_card(net, "safetensors", {"frames": 2}, [report])):
        assert f"{report.total_uJ:.4f}" in text
        assert "counted once" not in text


def test_attention_takes_the_rarer_of_k_and_v():
    net = network()
    product = net.blocks[0].attn.product
    q, k, v = torch.ones(2, 1, 2, 16, 8), torch.zeros(2, 1, 2, 16, 8), torch.zeros(2, 1, 2, 16, 8)
    k[..., :2], v[..., :4] = 1, 1  # rates 1, 0.25, 0.5
    with measure_activity(net) as activity:
        net(torch.zeros(1, 1, 8, 8))
        for layer in activity.attention.values():
            layer.dense_ops = layer.q = layer.k = layer.v = layer.elements = 0
        product(q, k, v)
    line = by_name(EnergyModel().price(activity))["blocks.0.attn.product"]
    assert line.acs == 2 * 16 * 16 * 8 * (0.25 + 1)


@pytest.mark.parametrize("residual", ["add", "membrane"])
def test_supernet_and_extracted_network_report_the_same(residual):
    supernet = trained(residual=residual)
    x = torch.randn(40, 1, 8, 8)
    rng = np.random.default_rng(0)
    for arch in [SPACE.largest, *(SPACE.sample(rng) for _ in range(4))]:
        for convention in ("spikformer", "strict"):
            model = EnergyModel(convention)
            with supernet.subnet(arch):
                ours = model.report(supernet, x, batch_size=16)
            plain = model.report(supernet.extract(arch), x)
            for mine, theirs in zip(ours.layers, plain.layers, strict=True):
                assert mine.name == theirs.name
                assert (mine.macs, mine.acs) == pytest.approx((theirs.macs, theirs.acs))
            assert ours.mean_firing_rate == pytest.approx(plain.mean_firing_rate)
            assert not any(module._forward_hooks for module in supernet.modules())


@torch.no_grad()
@pytest.mark.parametrize("residual", ["add", "membrane"])
def test_synaptic_operations_agree_with_spikingjelly(residual):
    """What may differ: SpikingJelly leaves out the padded border of convolutions and counts coincidences in q, k, v.

    Layers without border (linear, binary input) have to agree exactly; the whole within the share of the border, which
    is (3 * 8 - 2)^2 / (3 * 8)^2 = 84 % for an 8x8 map and (3 * 4 - 2)^2 / (3 * 4)^2 = 69 % for a 4x4 one.
    """
    supernet = trained(residual=residual)
    net = supernet.extract(SPACE.largest)
    x = torch.randn(16, 1, 8, 8)
    lines = by_name(EnergyModel().report(net, x))
    counter = op_counter.SynOpCounter()
    with op_counter.DispatchCounterMode([counter]):
        net(x)
    theirs = {scope: sum(ops.values()) / len(x) for scope, ops in counter.get_counts().items()}

    def counted(name: str) -> float:
        return theirs.get(f"Spikformer.{name}", 0.0)

    exact = [n for n in lines if n.endswith(("proj.linear", "fc2.linear"))]
    if residual == "membrane":
        exact += [n for n in lines if n.endswith(("qkv.linear", "fc1.linear"))]
    assert len(exact) == (2 if residual == "add" else 4) * SPACE.largest.depth
    assert sum(lines[name].acs for name in exact) > 0
    for name in exact:
        assert counted(name) == pytest.approx(lines[name].acs, rel=1e-6), name
    for name, inside in (("stem.stages.1.conv", 0.84), ("stem.stages.2.conv", 0.84), ("stem.rpe.conv", 0.69)):
        assert counted(name) / lines[name].acs == pytest.approx(inside, abs=0.12), name
    binary = [n for n in lines if lines[n].acs and n.endswith(("conv", "proj.linear", "fc2.linear"))]
    ours, sj = (sum(of(name) for name in binary) for of in (lambda n: lines[n].acs, counted))
    assert sj / ours == pytest.approx(0.83, abs=0.08)


@pytest.mark.parametrize("largest", [1, 255])
def test_fast_counts_are_exact_in_every_layout(largest):
    x = torch.randint(0, largest + 1, (3, 4, 6, 64, 65)).float()
    channels_last = x[0].contiguous(memory_format=torch.channels_last)
    for view in (x, x.transpose(1, 4), channels_last, x[..., 1:7], x[0, 0, 0, 0, 0]):
        assert count(view) == view.sum(dtype=torch.float64).item()
    assert count(torch.full((1 << 16, 2), 255.0).T) == 255 * 2**17  # too much for a single float32


@pytest.mark.parametrize("residual", ["add", "membrane"])
def test_activity_counts_every_tensor_exactly(residual):
    supernet = trained(residual=residual)
    seen = {}
    handles = [
        module.register_forward_pre_hook(lambda m, args, name=name: seen.setdefault(name, []).extend(args))
        for name, module in supernet.named_modules()
        if name.endswith((".linear", ".conv", "product"))
    ]
    with supernet.subnet(SPACE.largest), measure_activity(supernet) as activity:
        supernet(torch.randn(9, 1, 8, 8))
    for handle in handles:
        handle.remove()
    for name, layer in activity.layers.items():
        if name != "head":
            assert layer.total == seen[name][0].sum(dtype=torch.float64).item(), name
    for name, product in activity.attention.items():
        assert [product.q, product.k, product.v] == [x.sum().item() for x in seen[name]]


@pytest.mark.parametrize("residual", ["add", "membrane"])
def test_parts_make_up_the_whole(residual):
    net = network(depth=2, residual=residual)
    with measure_activity(net) as activity:
        net(torch.randn(3, 1, 8, 8))
    parts = [activity.part(name) for name in ("stem", "blocks.0.attn", "blocks.0.mlp", "blocks.1")]
    whole = Activity()
    for part in parts:
        whole.add_part(part)
    whole.layers["head"] = activity.layers["head"]
    whole.neurons |= {name: neurons for name, neurons in activity.neurons.items() if name == "head_lif"}
    whole.order.append("head")
    assert whole == activity
    assert sum(part.dense_ops for part in parts) == activity.dense_ops - activity.layers["head"].dense_ops
    assert activity.part("block").layers == {}


def test_report_as_text_and_data():
    report = EnergyModel("strict").report(network(), torch.randn(2, 1, 8, 8))
    text = report.table()
    assert "convention 'strict'" in text
    assert text.endswith(f"first layer counted once: {report.first_layer_once_uJ:.4f} uJ")
    assert all(layer.name in text for layer in report.layers)
    data = report.to_dict()
    assert data["total_uJ"] == pytest.approx(sum(layer["energy_uJ"] for layer in data["layers"]))


def test_wrapped_networks_and_empty_samples_are_refused():
    net = network()
    with pytest.raises(ValueError, match="unwrap it"), measure_activity(nn.Sequential(net)):
        pass
    with pytest.raises(ValueError, match="at least one sample"):
        EnergyModel().report(net, torch.randn(0, 1, 8, 8))


def test_every_module_returns_to_its_own_mode():
    net = network().train()
    net.stem.eval()
    EnergyModel().report(net, torch.randn(2, 1, 8, 8))
    assert net.training
    assert not net.stem.training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"convention": "joule"}, "`convention` must be one of"),
        ({"mac_pj": -1.0}, "`mac_pj` must be at least 0"),
        ({"ac_pj": float("nan")}, "`ac_pj` must be at least 0"),
    ],
)
def test_impossible_models_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        EnergyModel(**arguments)
