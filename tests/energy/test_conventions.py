"""Conventions from outside: registered by name, used by models, study files and scores, refused where unknown."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from spikesearch.config import ScoringConfig
from spikesearch.energy import CONVENTIONS, Activity, EnergyModel, LayerEnergy, Prices, energy_model, register
from spikesearch.nn import Spikformer
from tests.nn.conftest import SPACE


@pytest.fixture
def one_per_spike() -> Iterator[None]:
    """A convention that counts one accumulate per spike."""

    @register("one-per-spike")
    def price(activity: Activity, prices: Prices) -> Iterator[LayerEnergy]:
        for name, neurons in activity.neurons.items():
            spikes = neurons.spikes / activity.n_images
            yield prices.line(name, "lif", dense=spikes, rate=neurons.rate, acs=spikes)

    yield
    CONVENTIONS.unregister("one-per-spike")


@pytest.mark.usefixtures("one_per_spike")
def test_a_convention_from_outside_prices_a_network() -> None:
    net = Spikformer(SPACE.largest, in_channels=1, image_size=8, num_classes=3)
    x = torch.randn(5, 1, 8, 8)
    spikes = []
    for name, module in net.named_modules():
        if name.endswith("lif") and type(module).__name__ == "PlainLIF":
            module.register_forward_hook(lambda _, args, out: spikes.append(float(out.sum())))
    config = ScoringConfig(convention="one-per-spike", ac_pj=2.0)
    report = energy_model(config).report(net, x)
    assert sum(spikes) > 0
    assert report.total_uJ == pytest.approx(sum(spikes) / 5 * 2e-6)
    assert report.convention == "one-per-spike"
    assert list(CONVENTIONS) == ["memory", "one-per-spike", "spikformer", "strict"]


def test_a_name_belongs_to_one_convention() -> None:
    with pytest.raises(ValueError, match="'strict' is registered already"):
        register("strict")(lambda activity, prices: iter(()))


def test_unknown_conventions_are_refused_with_the_nearest() -> None:
    with pytest.raises(
        ValueError, match="must be one of memory, spikformer, strict, but got 'spikeformer'; did you mean"
    ):
        EnergyModel("spikeformer")
    with pytest.raises(ValueError, match="must be one of memory, spikformer, strict, but got 'joule'"):
        ScoringConfig(convention="joule")
