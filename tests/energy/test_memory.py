"""The convention with memory: against SpikingJelly's estimator, by hand, and as a property of every network."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from spikingjelly.activation_based.op_counter.analytical_energy import estimate_lemaire_energy
from torch import Tensor, nn

from spikesearch.config.hardware import PROFILES, Hardware, MemoryPrices
from spikesearch.energy import EnergyModel, EnergyReport
from spikesearch.energy.measure import measure_activity
from spikesearch.nn import Spikformer
from spikesearch.space import Architecture, BlockSpec, StageSpec, StemSpec
from tests.energy.test_energy import by_name, force_spikes, network

CURVE = ((0, 0), (8192, 10), (32768, 20), (1048576, 100))
# SpikingJelly computes with 32 bits, and with accesses of 32 bits.
WIDE = Hardware(
    name="32 bits",
    memory=MemoryPrices(
        add_pj=0.1,
        mul_pj=3.1,
        curve=CURVE,
        access_bits=32,
        weight_bits=32,
        potential_bits=32,
        input_bits=32,
        message_bits=32,
    ),
    sources={"memory": "spikingjelly.activation_based.op_counter"},
)


class Sequence(nn.Module):
    """Multi-step layers on samples [N, T, ...]."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x.transpose(0, 1))
        return out


def conv(*sizes: int, **options: object) -> nn.Module:
    return layer.Conv2d(*sizes, step_mode="m", **options)


def linear(*sizes: int, **options: object) -> nn.Module:
    return layer.Linear(*sizes, step_mode="m", **options)


def lif(tau: float = 3.0) -> nn.Module:
    return neuron.LIFNode(tau=tau, v_threshold=0.1, step_mode="m")


def integrate_and_fire() -> nn.Module:
    return neuron.IFNode(v_threshold=0.2, step_mode="m")


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ((linear(20, 30), lif()), (20,)),
        ((linear(20, 30, bias=False), integrate_and_fire(), linear(30, 400), integrate_and_fire()), (20,)),
        ((linear(400, 500), lif(), linear(500, 10, bias=False), lif()), (400,)),
        ((conv(3, 8, 3, padding=1), lif()), (3, 12, 12)),
        ((conv(3, 8, 5, stride=2, bias=False), integrate_and_fire(), conv(8, 16, 3, stride=3), lif()), (3, 16, 16)),
        ((conv(2, 8, 3, stride=2), lif(), conv(8, 8, 3, groups=8), integrate_and_fire()), (2, 12, 12)),
    ],
)
def test_counts_are_those_of_spikingjelly(layers: tuple[nn.Module, ...], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    net = Sequence(*layers).eval()
    x = (torch.rand(1, 5, *shape) > 0.6).float()
    theirs = estimate_lemaire_energy(net, (x,))
    functional.reset_net(net)
    report = EnergyModel("memory", hardware=WIDE).report(net, x)
    assert theirs.counts["write_out_bytes"] > 0
    assert not report.unpriced
    assert report.total_uJ * 1e6 == pytest.approx(theirs.total_pj)
    assert report.unpacked_uJ == pytest.approx(report.total_uJ)
    assert (report.macs, report.acs) == (theirs.counts["mac"], theirs.counts["ac"])

    def counted(*names: str) -> float:
        return sum((line.counts or {}).get(name, 0.0) for line in report.layers for name in names)

    assert 4 * counted("input_reads") == theirs.counts["read_in_bytes"]
    assert 4 * counted("weight_reads", "bias_reads") == theirs.counts["read_params_bytes"]
    assert 4 * counted("potential_reads") == theirs.counts["read_potential_bytes"]
    assert 4 * counted("potential_writes") == theirs.counts["write_potential_bytes"]
    assert 4 * counted("output_writes") == theirs.counts["write_out_bytes"]
    assert counted("addressing_acs") == theirs.counts["acc_addr"]
    assert counted("addressing_macs") == theirs.counts["mac_addr"]


@pytest.mark.parametrize("first", [linear(20, 30), conv(3, 8, 3, stride=2, padding=1)])
def test_a_first_layer_on_values_is_dense_as_in_spikingjelly(first: nn.Module) -> None:
    shape = (20,) if isinstance(first, nn.Linear) else (3, 12, 12)
    net = Sequence(first, lif()).eval()
    x = torch.rand(1, 1, *shape)
    theirs = estimate_lemaire_energy(net, (x,))
    functional.reset_net(net)
    report = EnergyModel("memory", hardware=WIDE).report(net, x)
    assert report.macs == theirs.counts["mac"]
    assert report.total_uJ * 1e6 == pytest.approx(theirs.total_pj)


def test_two_linear_layers_by_hand() -> None:
    """Three inputs, two hidden neurons, one output; T = 2; every weight 1, tau 2, thresholds that always fire."""
    net = Sequence(linear(3, 2), lif(2.0), linear(2, 1, bias=False), lif(2.0)).eval()
    for parameter in net.parameters():
        nn.init.ones_(parameter)
    x = torch.tensor([[[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]]])  # 5 spikes
    report = EnergyModel("memory").report(net, x)
    # the first layer: 5 spikes, 2 outputs, 2 steps
    queue, weights, potentials = 2000, 3 * 2 + 2 * 2, 2 * 2  # bytes
    first = {
        "input_reads": (5, 16, queue),
        "weight_reads": (10, 8, weights),
        "bias_reads": (4, 16, weights),
        "potential_reads": (10, 16, potentials),
        "potential_writes": (10, 16, potentials),
    }
    # the second one: 4 spikes, 1 output, no bias
    second = {
        "input_reads": (4, 16, queue),
        "weight_reads": (4, 8, 2),
        "potential_reads": (4, 16, 2),
        "potential_writes": (4, 16, 2),
    }
    lines = by_name(report)
    for name, accesses, additions in (("layers.0", first, 10 + 4), ("layers.2", second, 4)):
        line = lines[name]
        assert line.counts == {
            **{what: float(count) for what, (count, _, _) in accesses.items()},
            "acs": additions,
            "addressing_acs": accesses["weight_reads"][0],
        }
        operations = (additions + accesses["weight_reads"][0]) * 0.1
        unpacked = sum(count * size * 10 / 8192 for count, _, size in accesses.values())
        packed = sum(count * size * 10 / 8192 * bits / 64 for count, bits, size in accesses.values())
        assert line.energy_uJ * 1e6 == pytest.approx(operations + packed)
        assert line.unpacked_uJ * 1e6 == pytest.approx(operations + unpacked)
    # membranes: 2 + 1 neurons, 2 steps, all fire: a shift and an addition each, and a reset
    membranes = lines["membranes"]
    assert membranes.counts == {"potential_reads": 6, "potential_writes": 6, "acs": 12, "output_writes": 6}
    accesses = 2 * (4 * 4 + 2 * 2) * 10 / 8192 + 6 * 2000 * 10 / 8192
    assert membranes.unpacked_uJ * 1e6 == pytest.approx(1.2 + accesses)
    assert membranes.energy_uJ * 1e6 == pytest.approx(1.2 + accesses / 4)
    data = report.to_dict()
    assert (data["packed"], data["unpacked"]) == (report.total_uJ, report.unpacked_uJ)
    assert data["qnn"]["activation_bits"] == 2


def test_a_static_image_passes_the_first_layer_once() -> None:
    """8 x 8 pixels, 2 channels; 3 x 3 weights each; every neuron fires; T = 4."""
    net = network(steps=4)
    force_spikes(net, 100.0)
    line = by_name(EnergyModel("memory").report(net, torch.randn(3, 1, 8, 8)))["stem.stages.0.conv"]
    macs, outputs = 64 * 9 * 2, 64 * 2
    assert line.counts == {
        "input_reads": macs,
        "weight_reads": macs,
        "bias_reads": outputs,
        "acs": outputs + 4 * outputs,
        "macs": macs,
        "addressing_acs": 64 + outputs + 2 * 9,
        "output_writes": outputs,
        "current_reads": 4 * outputs,
    }


def test_attention_where_every_neuron_always_fires() -> None:
    """16 tokens, 2 heads of 8 channels, T = 2: k.T v adds 16 * 8 * 8 pairs per head, q a row of 8 sums per spike."""
    net = network()
    force_spikes(net, 100.0)
    line = by_name(EnergyModel("memory").report(net, torch.randn(3, 1, 8, 8)))["blocks.0.attn.product"]
    pairs, rows = 2 * 2 * 16 * 8 * 8, 2 * 16 * 16 * 8
    assert line.counts == {
        "input_reads": 3 * 2 * 16 * 16,
        "acs": pairs + rows,
        "potential_reads": pairs + 2 * rows,
        "potential_writes": pairs + rows,
    }
    head, potentials, queue = 8 * 8 * 2, 16 * 16 * 2, 2000  # bytes
    accesses = 3 * 2 * 16 * 16 * queue + (2 * pairs + rows) * head + 2 * rows * potentials
    assert line.unpacked_uJ * 1e6 == pytest.approx((pairs + rows) * 0.1 + accesses * 10 / 8192)


def test_pairs_of_attention_are_counted_token_by_token() -> None:
    net = network()
    q, k, v = (torch.rand(2, 3, 2, 16, 8).round() for _ in range(3))
    with measure_activity(net) as activity:
        net.blocks[0].attn.product(q, k, v)
    (product,) = activity.attention.values()
    brute = torch.einsum("tbhnd,tbhne->", k, v)
    assert product.pairs == brute.item()
    assert product.additions == brute.item() + q.sum().item() * 8


MIXED = Architecture(
    32,
    2,
    StemSpec(1.0, 2.0),
    tuple(
        BlockSpec(heads, 2.0, 1.0, 3.0, mixer=mixer)
        for mixer, heads in (("conv", 0), ("dwconv", 0), ("qk", 2), ("ssa", 2))
    ),
    stages=(StageSpec(0.5, 2), StageSpec(1, 2, 1.0, 2.0)),
)


@pytest.mark.parametrize("residual", ["add", "membrane", "normed"])
@pytest.mark.parametrize("stem", ["sps", "conv"])
def test_every_mixer_and_residual_has_a_band(residual: str, stem: str) -> None:
    torch.manual_seed(0)
    shape = {"in_channels": 1, "image_size": 16, "num_classes": 5, "residual": residual, "stem": stem}
    net = Spikformer(MIXED, **shape).eval()
    report = EnergyModel("memory").report(net, torch.randn(4, 1, 16, 16))
    strict = EnergyModel("strict").report(net, torch.randn(4, 1, 16, 16))
    assert [line.name for line in report.layers] == [line.name for line in strict.layers]
    assert all(0 < line.energy_uJ <= line.unpacked_uJ for line in report.layers if line.acs or line.macs)
    assert report.first_layer_once_uJ is None
    names = set(by_name(report))
    assert {name.rpartition(".")[2] for name in names} >= {"sum", "product", "shortcut", "head"}
    qnn = report.to_dict()["qnn"]
    assert 0 < qnn["packed"] < qnn["unpacked"]
    assert qnn["ratio"]["packed"] == pytest.approx(qnn["packed"] / report.total_uJ)


def fired(steps: int = 2, width: int = 16, rate: float = 1.0, residual: str = "membrane") -> EnergyReport:
    """A network in which a share of the channels always fires, the others never."""
    net = network(embed_dim=width, steps=steps, residual=residual)
    force_spikes(net, 100.0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.bias.data[round(rate * len(module.bias)) :] = -100.0
    return EnergyModel("memory").report(net, torch.randn(2, 1, 8, 8))


@pytest.mark.parametrize("residual", ["add", "membrane"])
@pytest.mark.parametrize(
    "reports",
    [
        lambda residual: [fired(steps=steps, residual=residual) for steps in (1, 2, 3, 4, 8)],
        lambda residual: [fired(width=width, residual=residual) for width in (16, 32, 48, 96)],
        lambda residual: [fired(rate=rate, residual=residual) for rate in (0.0, 0.25, 0.5, 1.0)],
    ],
    ids=["time steps", "width", "rate"],
)
def test_more_costs_more(reports, residual: str) -> None:
    for less, more in pairwise(reports(residual)):
        assert less.total_uJ < more.total_uJ
        assert less.unpacked_uJ < more.unpacked_uJ


def test_the_price_of_an_access_follows_the_curve() -> None:
    memory = PROFILES["45nm-fp32"].memory
    sizes = [0, 4096, 8192, 20480, 32768, 1048576, 2097152]
    expected = [*np.interp(sizes[:-1], *zip(*CURVE, strict=True)), 100 + 80 * 1048576 / (1048576 - 32768)]
    assert [memory.access_pj(size) for size in sizes] == pytest.approx(expected)
