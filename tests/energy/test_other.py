"""Networks of other kinds: what is priced, what is named, and equality with a network that is known unit by unit."""

from __future__ import annotations

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

from spikesearch.energy import EnergyModel
from spikesearch.energy.other import measure_other
from tests.energy.test_energy import by_name, network


class Stepwise(nn.Module):
    """Single-step layers, called in a loop over T frames of samples [N, T, features]."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.lif = nn.Linear(6, 8), neuron.LIFNode(tau=2.0, v_threshold=0.1)
        self.second, self.out = nn.Linear(8, 3, bias=False), neuron.ParametricLIFNode(v_threshold=0.1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.out(self.second(self.lif(self.first(step)))) for step in x.unbind(1)]).mean(0)


class Attention(nn.Module):
    """Attention written with ``@``, on tokens [N, T, L, D] of spikes."""

    def __init__(self, width: int = 8, *, order: str = "kv", norm: nn.Module | None = None) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.neurons = nn.ModuleList(neuron.LIFNode(tau=2.0, v_threshold=0.1, step_mode="m") for _ in range(4))
        self.norm = norm or nn.Identity()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        q, k, v = (self.neurons[i](project(x)) for i, project in enumerate((self.q, self.k, self.v)))
        self.seen = q, k, v
        product = q @ (k.transpose(-2, -1) @ v) if self.order == "kv" else (q @ k.transpose(-2, -1)) @ v
        return self.norm(self.neurons[3](product))


def test_single_step_and_multi_step_networks_cost_the_same() -> None:
    torch.manual_seed(0)
    stepwise = Stepwise().eval()
    x = (torch.rand(3, 4, 6) > 0.5).float()
    reports = [EnergyModel(name).report(stepwise, x) for name in ("memory", "strict")]
    functional.set_step_mode(stepwise, "m")
    together = nn.Sequential(stepwise.first, stepwise.lif, stepwise.second, stepwise.out)

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = together

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layers(x.transpose(0, 1)).mean(0)
            return out

    for report in reports:
        other = EnergyModel(report.convention).report(Whole(), x)
        assert report.time_steps == other.time_steps == 4
        assert (other.macs, other.acs, other.total_uJ) == pytest.approx((report.macs, report.acs, report.total_uJ))
        assert other.comparison.qnn.packed == pytest.approx(report.comparison.qnn.packed)


def test_a_spikformer_seen_from_outside_costs_the_same_where_both_see_it() -> None:
    """With currents in the stream every layer but the first and the head is fed by spikes, whoever looks."""
    torch.manual_seed(0)
    net, x = network(residual="membrane"), torch.randn(4, 1, 8, 8)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.bias, mean=1.5)
    with torch.no_grad(), measure_other(net) as activity:
        net(x)
    for convention in ("spikformer", "memory"):
        model = EnergyModel(convention)
        ours, theirs = by_name(model.report(net, x)), by_name(model.price(activity))
        same = [name for name in ours if "linear" in name or ("conv" in name and "stages.0" not in name)]
        assert len(same) == 8
        for name in same:
            assert theirs[name].acs > 0
            biases = 0 if convention == "spikformer" else (ours[name].counts or {}).get("bias_reads", 0)
            assert theirs[name].acs + biases == pytest.approx(ours[name].acs)


@pytest.mark.parametrize("order", ["kv", "qk"])
def test_products_of_signals_are_counted_by_their_spikes(order: str) -> None:
    torch.manual_seed(0)
    net = Attention(order=order).eval()
    x = (torch.rand(2, 3, 5, 8) > 0.5).float()
    report = EnergyModel("memory").report(net, x)
    q, k, v = net.seen
    first, second = by_name(report)["product 1"], by_name(report)["product 2"]
    left, right = (k.transpose(-2, -1), v) if order == "kv" else (q, k.transpose(-2, -1))
    spikes = q if order == "kv" else v
    assert first.acs == (left @ right).sum().item() / len(x)
    assert second.acs == spikes.sum().item() * (8 if order == "kv" else 5) / len(x)
    assert report.time_steps == 3
    assert report.comparison.neurobench.attention_acs == first.acs + second.acs
    assert by_name(EnergyModel("strict").report(net, x))["product 1"].macs == 0


@pytest.mark.parametrize(
    ("unknown", "named"),
    [
        (nn.LayerNorm(8), "norm: LayerNorm is not known"),
        (nn.GELU(), "norm: GELU is not known"),
        (nn.GRU(8, 8), "norm: GRU is not known"),
    ],
)
def test_what_cannot_be_priced_is_named(unknown: nn.Module, named: str) -> None:
    class Wrapped(Attention):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x[:, :, 0].unsqueeze(2)) if isinstance(self.norm, nn.LayerNorm) else self.head(x)

        def head(self, x: Tensor) -> Tensor:
            out = self.norm(self.q(x[:, 0]))
            return out if isinstance(out, Tensor) else out[0]

    report = EnergyModel("strict").report(Wrapped(norm=unknown), torch.rand(2, 3, 5, 8).round())
    assert named in report.unpriced
    assert f"not priced: {named}" in report.table()
    assert report.to_dict()["unpriced"] == list(report.unpriced)


def test_functional_convolutions_and_attention_are_named() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = nn.Conv2d(1, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            tokens = torch.nn.functional.conv2d(x, self.own.weight).flatten(2)
            return torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)

    report = EnergyModel("strict").report(Functional(), torch.rand(2, 1, 8, 8))
    assert any("conv" in what for what in report.unpriced)
    attention = [line for line in report.layers if line.kind == "product"]  # some versions of torch take it apart
    assert attention or any("scaled_dot_product" in what for what in report.unpriced)


def test_convolutions_of_spikingjelly_with_time_first() -> None:
    net = nn.Sequential(layer.Conv2d(2, 4, 3, step_mode="m"), layer.BatchNorm2d(4, step_mode="m")).eval()

    class Frames(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.lif = net, neuron.IFNode(step_mode="m")

        def forward(self, x: Tensor) -> Tensor:
            return self.lif(self.net(x.transpose(0, 1)))

    report = EnergyModel("strict").report(Frames(), torch.ones(3, 5, 2, 6, 6))
    line = by_name(report)["net.0"]
    assert (line.macs, line.acs) == (0, 5 * 4 * 4 * 9 * 2 * 4)
    assert not report.unpriced
