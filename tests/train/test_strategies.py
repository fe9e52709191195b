"""Which subnets a step trains, and with which gradient."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spikesearch.train.strategies import ArchitectureDeck, SandwichStrategy, SingleStrategy, UniformStrategy
from tests.train.conftest import SPACE


def test_deck_shows_every_depth_equally_often_and_depends_on_its_key_only():
    deck = ArchitectureDeck(SPACE, seed=3)
    drawn = [deck.draw(0, index) for index in range(40)]
    assert Counter(arch.depth for arch in drawn) == {1: 20, 2: 20}
    assert all(Counter(a.depth for a in drawn[i : i + 2]) == {1: 1, 2: 1} for i in range(0, 40, 2))
    assert ArchitectureDeck(SPACE, seed=3).draw(0, 17) == drawn[17]
    assert {a.key for a in drawn} != {deck.draw(1, i).key for i in range(40)}
    assert len({a.key for a in drawn}) > 20


@pytest.fixture
def batch():
    return torch.randn(12, 1, 8, 8), torch.arange(12) % 10


def gradients(supernet) -> dict[str, torch.Tensor]:
    return {
        name: parameter.grad.clone() for name, parameter in supernet.named_parameters() if parameter.grad is not None
    }


def against(labels):
    return lambda logits, targets: F.cross_entropy(logits, labels if targets is None else targets)


@pytest.mark.parametrize("distillation", [False, True])
def test_sandwich_gradient_is_the_mean_over_its_subnets(fresh, batch, distillation):
    images, labels = batch
    strategy = SandwichStrategy(SPACE, seed=1, random_subnets=2, distillation=distillation)
    state = {name: value.clone() for name, value in fresh.state_dict().items()}
    result = strategy(fresh, images, against(labels), epoch=4, step=5)
    got = gradients(fresh)
    fresh.zero_grad()
    fresh.load_state_dict(state)
    deck = ArchitectureDeck(SPACE, seed=1)
    with fresh.subnet(SPACE.largest):
        teacher = fresh(images)
    total = F.cross_entropy(teacher, labels)
    assert result.loss == pytest.approx(total.item())
    for arch in (SPACE.smallest, deck.draw(4, 10), deck.draw(4, 11)):
        with fresh.subnet(arch):
            logits = fresh(images)
        target = teacher.detach().softmax(-1) if distillation else labels
        total = total + F.cross_entropy(logits, target)
    (total / 4).backward()
    expected = gradients(fresh)
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_uniform_trains_the_drawn_subnet(fresh, batch):
    images, labels = batch
    UniformStrategy(SPACE, seed=1)(fresh, images, against(labels), epoch=0, step=3)
    got = gradients(fresh)
    fresh.zero_grad()
    with fresh.subnet(ArchitectureDeck(SPACE, seed=1).draw(0, 3)):
        F.cross_entropy(fresh(images), labels).backward()
    for name, gradient in gradients(fresh).items():
        torch.testing.assert_close(got[name], gradient, msg=name)


def test_plain_network_is_trained_as_usual(batch):
    images, labels = batch
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    result = SingleStrategy()(net, images, against(labels), epoch=0, step=0)
    assert result.loss == pytest.approx(F.cross_entropy(net(images), labels).item())
    assert net[1].weight.grad.abs().sum() > 0


def test_plain_network_is_refused_by_supernet_strategies(batch):
    with pytest.raises(TypeError, match="trains a Supernet"):
        UniformStrategy(SPACE, seed=0)(nn.Linear(1, 1), batch[0], against(batch[1]), epoch=0, step=0)
