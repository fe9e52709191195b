"""What a report compares a network with: by hand, and against the packages that define the terms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from spikesearch.energy import EnergyModel
from spikesearch.energy.qnn import compare
from spikesearch.export.card import model_card
from spikesearch.nn import Spikformer
from tests.energy.test_energy import force_spikes, network
from tests.energy.test_memory import Sequence, conv, integrate_and_fire, lif, linear
from tests.nn.conftest import SPACE, trained


def test_the_quantised_network_by_hand() -> None:
    """Two linear layers, T = 2: 2-bit activations; six and two multiplications, once."""
    net = Sequence(linear(3, 2), lif(2.0), linear(2, 1, bias=False), lif(2.0)).eval()
    x = torch.ones(1, 2, 3)
    qnn = EnergyModel("memory").report(net, x).to_dict()["qnn"]
    accesses = [  # count, bits, bytes of the memory
        *((3, 2, 3 * 2 / 8), (6, 8, 10), (2, 16, 10), (2, 2, 2 * 2 / 8)),  # inputs, weights, biases, outputs
        *((2, 2, 2 * 2 / 8), (2, 8, 2), (1, 2, 2 / 8)),
    ]
    operations = 8 * 0.3 + 2 * 0.1 + (3 + 2 + 2 + 1) * 0.1  # multiplications, biases, addressing
    unpacked = operations + sum(count * size * 10 / 8192 for count, _, size in accesses)
    packed = operations + sum(count * size * 10 / 8192 * bits / 64 for count, bits, size in accesses)
    assert qnn["activation_bits"] == 2
    assert qnn["unpacked"] * 1e6 == pytest.approx(unpacked)
    assert qnn["packed"] * 1e6 == pytest.approx(packed)


@pytest.mark.parametrize(("steps", "bits"), [(1, 1), (2, 2), (3, 2), (4, 3), (7, 3), (8, 4)])
def test_activations_have_as_many_bits_as_count_the_steps(steps: int, bits: int) -> None:
    report = EnergyModel().report(network(steps=steps), torch.randn(2, 1, 8, 8))
    assert report.comparison.activation_bits == bits


def test_the_quantised_network_does_not_depend_on_spikes() -> None:
    loud, silent = network(residual="membrane"), network(residual="membrane")
    force_spikes(loud, 100.0)
    force_spikes(silent, -100.0)
    x = torch.randn(2, 1, 8, 8)
    reports = [EnergyModel("memory").report(net, x).comparison for net in (loud, silent)]
    assert reports[0].qnn == reports[1].qnn
    assert reports[0].snn.packed > reports[1].snn.packed
    assert [report.spikes_per_synapse for report in reports] == [2.0, 0.0]
    assert "too many" in reports[0].lines()[0]
    assert "few enough" in reports[1].lines()[0]


@pytest.mark.parametrize("residual", ["add", "membrane", "normed"])
def test_a_subnet_compares_as_the_network_that_is_taken_out(residual: str) -> None:
    supernet = trained(residual=residual)
    x = torch.randn(20, 1, 8, 8)
    for arch in (SPACE.largest, SPACE.smallest):
        net = supernet.extract(arch)
        with supernet.subnet(arch):
            ours = EnergyModel("memory").report(supernet, x)
        plain = EnergyModel("memory").report(net, x)
        assert vars(ours.comparison.neurobench) == pytest.approx(vars(plain.comparison.neurobench))
        assert ours.total_uJ == pytest.approx(plain.total_uJ)
        assert plain.comparison.neurobench.footprint == sum(
            tensor.numel() * tensor.element_size() for tensor in (*net.parameters(), *net.buffers())
        )


def test_every_report_and_card_has_the_lines() -> None:
    net = network()
    x = torch.randn(2, 1, 8, 8)
    reports = [EnergyModel(name).report(net, x) for name in ("memory", "spikformer", "strict")]
    card = model_card(net, "safetensors", {}, reports)
    for report in reports:
        for line in report.comparison.lines():
            assert line in report.table()
            assert line in card
        data = report.to_dict()
        assert data["qnn"] == reports[0].to_dict()["qnn"]
        operations = data["comparison"]["neurobench"]["synaptic_operations"]
        assert set(operations) == {"Effective_MACs", "Effective_ACs", "Dense"}
    assert f"{reports[0].total_uJ:.4f} to {reports[0].unpacked_uJ:.4f}" in card


def pruned(net: nn.Module) -> nn.Module:
    """The network with a twentieth of its weights at 0."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.weight.data *= torch.rand(module.weight.shape, generator=generator) > 1 / 20
    return net.eval()


def spikformer() -> Spikformer:
    torch.manual_seed(0)
    return trained(residual="membrane").extract(SPACE.largest)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Sequence(linear(20, 30), lif(), linear(30, 10), integrate_and_fire()),
        lambda: Sequence(conv(2, 8, 3, padding=1, stride=2), lif(), conv(8, 8, 3, groups=8), integrate_and_fire()),
        spikformer,
    ],
    ids=["linear", "convolutions", "spikformer"],
)
def test_terms_are_those_of_neurobench(make) -> None:
    pytest.importorskip("neurobench.metrics.workload", exc_type=ImportError)
    from neurobench.metrics.static import ConnectionSparsity, Footprint
    from neurobench.metrics.workload import ActivationSparsity, SynapticOperations
    from neurobench.models import TorchModel
    from spikingjelly.activation_based import functional
    from spikingjelly.activation_based.neuron import BaseNode

    torch.manual_seed(0)
    net = pruned(make())
    shape = {"Linear": (3, 5, 20), "Conv2d": (3, 5, 2, 12, 12)}
    first = next(type(m).__name__ for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d))
    x = torch.randn(3, 1, 8, 8) if isinstance(net, Spikformer) else (torch.rand(*shape[first]) > 0.6).float()
    report = EnergyModel("memory").report(net, x)
    ours = report.comparison.to_dict()["neurobench"]

    model = TorchModel(net)
    model.add_activation_module(BaseNode)
    model.register_hooks()
    with torch.no_grad():
        out = model(x)
    functional.reset_net(net)
    theirs = SynapticOperations()(model, out, (x, torch.zeros(len(x))))
    assert ours["footprint"] == Footprint()(model)
    assert ours["connection_sparsity"] == pytest.approx(ConnectionSparsity()(model), abs=1e-4)
    assert ours["activation_sparsity"] == pytest.approx(ActivationSparsity()(model, out, (x, None)))
    assert ours["synaptic_operations"] == pytest.approx(theirs)
    model.cleanup_hooks()


def test_hardware_without_memory_has_no_quantised_network() -> None:
    from spikesearch.energy import Prices
    from spikesearch.energy.measure import measure_activity

    net = network()
    with measure_activity(net) as activity:
        net(torch.randn(2, 1, 8, 8))
    comparison = compare(activity, Prices(4.6, 0.9))
    assert comparison.qnn is None
    assert comparison.qnn_dict() is None
    assert comparison.neurobench is None
    assert len(comparison.lines()) == 2
