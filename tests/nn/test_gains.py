"""Gains of a supernet's neurons: what they may learn beside the batch-norms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from spikesearch.nn import Supernet
from spikesearch.nn.lif import ElasticLIF, ElasticNormedLIF
from spikesearch.space import SearchSpace

SPACE = SearchSpace((16,), (1,), (2,), (2,), (1.0,), (2.0,), (2,))


def supernet(space: SearchSpace, residual: str) -> Supernet:
    torch.manual_seed(3)
    return Supernet(space, in_channels=1, image_size=8, num_classes=4, residual=residual)


def test_a_supernet_of_one_architecture_learns_what_the_network_learns_alone() -> None:
    shared = supernet(SPACE, "normed")
    alone = shared.extract(SPACE.largest).train()
    images, labels = torch.rand(32, 1, 8, 8), torch.randint(4, (32,))
    shared.train()

    def step(net: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimiser.step()

    with shared.subnet(SPACE.largest):
        own = torch.optim.SGD(shared.parameters(), lr=0.1), torch.optim.SGD(alone.parameters(), lr=0.1)
        for _ in range(4):
            step(shared, own[0])
            step(alone, own[1])
    learnt = shared.extract(SPACE.largest).state_dict()
    for name, value in alone.state_dict().items():
        if "num_batches" not in name:
            torch.testing.assert_close(learnt[name], value, rtol=1e-3, atol=1e-4, msg=name)
    start = supernet(SPACE, "normed").extract(SPACE.largest).state_dict()
    assert not torch.allclose(start["stem.stages.3.bn.weight"], learnt["stem.stages.3.bn.weight"])


@pytest.mark.parametrize(
    "neurons",
    [ElasticLIF((0.6, 1.4), (1.25, 2.0, 4.0), centred=True), ElasticNormedLIF(8, (0.6, 1.4), (1.25, 2.0, 4.0))],
    ids=["lif", "normed"],
)
def test_centred_gains_differ_between_choices_only(neurons: ElasticLIF) -> None:
    before = {(v, tau): neurons.gain(v, tau).item() for v in neurons.v_thresholds for tau in neurons.taus}
    for (v, tau), gain in before.items():
        assert gain == pytest.approx(v * tau / 2)
    with torch.no_grad():
        neurons.log_gain += 0.7  # what the batch-norm can learn as well
    for (v, tau), gain in before.items():
        assert neurons.gain(v, tau).item() == pytest.approx(gain)
    with torch.no_grad():
        neurons.log_gain[0, 0] += 0.7
    ratio = (neurons.gain(0.6, 1.25) / neurons.gain(1.4, 4.0)).item()
    assert ratio == pytest.approx(before[0.6, 1.25] / before[1.4, 4.0] * 2.71828**0.7, rel=1e-4)


def test_gains_of_the_first_kinds_of_networks_are_free() -> None:
    neurons = ElasticLIF((1.0,), (2.0,))
    with torch.no_grad():
        neurons.log_gain += 0.7
    assert neurons.gain(1.0, 2.0).item() == pytest.approx(2.71828**0.7, rel=1e-4)
