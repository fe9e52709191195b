"""Energy in the loss: the energy of the report in every number, with the gradient of its formula."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from spikesearch.config import ScoringConfig
from spikesearch.energy import Convention, EnergyModel
from spikesearch.errors import CheckpointError
from spikesearch.nn import Spikformer, Supernet
from spikesearch.nn.fast import fast_copy
from spikesearch.nn.functional import AttentionProduct
from spikesearch.scoring.plain import score_network
from spikesearch.train import weights_hash
from spikesearch.train.energy_loss import EnergyLoss
from spikesearch.train.retrain import train_network
from tests.interruptions import interruption
from tests.train.conftest import RECIPE, SPACE

SAVING = RECIPE.model_copy(update={"ema_decay": 0.8, "energy_weight": 0.1})


def network(residual: str = "add") -> Spikformer:
    torch.manual_seed(3)
    return Spikformer(SPACE.largest, in_channels=1, image_size=8, num_classes=10, residual=residual)


def spikes_by_hand(net: Spikformer, x: Tensor) -> Tensor:
    """Return the microjoules of the accumulates of ``net``: the published formula, written out for this network."""
    inputs: dict[str, Tensor] = {}
    products: list[tuple[Tensor, ...]] = []
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda m, args, out, name=name: inputs.__setitem__(name, args[0]))
        elif isinstance(module, AttentionProduct):
            module.register_forward_hook(lambda m, args, out: products.append(args))
    net(x)
    steps, width, hidden, tokens, heads = 2, 16, 16, 16, 2  # pooling after the last stage
    pixels = {"stem.stages.1.conv": 2 * 4, "stem.stages.2.conv": 4 * 8, "stem.stages.3.conv": 8 * 16}
    dense = {name: 9 * 64 * channels for name, channels in pixels.items()}
    dense["stem.rpe.conv"] = 9 * tokens * width * width
    for block in range(2):
        dense[f"blocks.{block}.attn.qkv.linear"] = tokens * width * 3 * width
        dense[f"blocks.{block}.attn.proj.linear"] = tokens * width * width
        dense[f"blocks.{block}.mlp.fc1.linear"] = dense[f"blocks.{block}.mlp.fc2.linear"] = tokens * width * hidden
    acs = sum(steps * operations * inputs[name].mean() for name, operations in dense.items())
    for q, k, v in products:
        acs = acs + steps * tokens * width * (width // heads) * (torch.minimum(k.mean(), v.mean()) + q.mean())
    return acs * 0.9e-6


@pytest.mark.parametrize("residual", ["add", "membrane"])
def test_gradients_are_those_of_the_formula(residual: str) -> None:
    net, x = network(residual), torch.rand(6, 1, 8, 8)
    ours, by_hand = fast_copy(net).train(), fast_copy(net).train()
    energy = EnergyLoss(ours, 0.7, EnergyModel())
    with energy.attached():
        ours(x)
        loss = energy()
    loss.backward()
    macs = (2 * 64 * 9 * 2 + 16 * 10) * 4.6e-6  # first layer and head
    expected = 0.7 * (spikes_by_hand(by_hand, x) + macs).log()
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    moved = 0
    for (name, mine), theirs in zip(ours.named_parameters(), by_hand.parameters(), strict=True):
        if name.startswith("head."):  # makes no spikes
            assert mine.grad is None
        elif theirs.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-7)
            moved += bool(mine.grad.any())
    assert moved > 10


@pytest.mark.parametrize("residual", ["add", "membrane"])
@pytest.mark.parametrize("convention", ["spikformer", "strict"])
def test_the_energy_is_that_of_the_report(convention: Convention, residual: str) -> None:
    """Of a plain network, and of subnets one after another; nothing of one call is left for the next."""
    model, x = EnergyModel(convention), torch.rand(20, 1, 8, 8)
    net = fast_copy(network(residual)).eval()
    supernet = Supernet(SPACE, in_channels=1, image_size=8, num_classes=10, residual=residual).eval()
    energy = EnergyLoss(net, 2.0, model)
    with energy.attached():
        for images in (x, x[:7]):
            net(images)
            assert float(energy().detach()) == pytest.approx(2 * math.log(model.report(net, images).total_uJ), rel=1e-5)
            energy._activity.take()  # what the report's own forward pass left
    energy = EnergyLoss(supernet, 1.0, model)
    for arch in (SPACE.largest, SPACE.smallest):
        with supernet.subnet(arch):
            with energy.attached():
                supernet(x)
                value = float(energy().detach())
            assert value == pytest.approx(math.log(model.report(supernet, x).total_uJ), rel=1e-5)


def test_training_saves_energy_and_still_learns(digits, tmp_path: Path) -> None:
    scores = []
    for weight in (0.0, 0.1):
        recipe = SAVING.model_copy(update={"energy_weight": weight, "epochs": 8, "batch_size": 50, "lr": 1e-2})
        done = train_network(network(), digits, recipe, seed=0, folder=tmp_path / str(weight), progress=False)
        scores.append(score_network(done.net, digits, ScoringConfig(), "search"))
        assert not any(module._forward_hooks for module in done.net.modules())
    plain, saving = scores
    assert saving.energy_uJ < 0.7 * plain.energy_uJ
    assert saving.mean_firing_rate < plain.mean_firing_rate
    assert not saving.dead


def test_interrupted_training_ends_with_the_same_weights(digits, tmp_path: Path) -> None:
    def train(name: str, model: EnergyModel) -> str:
        done = train_network(
            network(), digits, SAVING, seed=1, folder=tmp_path / name, energy_model=model, progress=False
        )
        return weights_hash(done.net)

    published, strict = EnergyModel(), EnergyModel("strict")
    whole = train("whole", published)
    with interruption():
        train("cut", published)
    with pytest.raises(CheckpointError, match="recipe"):
        train("cut", strict)
    assert train("cut", published) == whole != train("strict", strict)


def test_it_is_not_compiled(digits, tmp_path: Path, caplog) -> None:
    recipe = SAVING.model_copy(update={"epochs": 1, "compile": True})
    with caplog.at_level("WARNING", logger="spikesearch"):
        train_network(network(), digits, recipe, seed=0, folder=tmp_path, progress=False)
    (record,) = caplog.records
    assert "`train.compile` has no effect beside `train.energy_weight`" in record.message
