"""Energy in the loss: the energy of the report in every number, with the gradient of its formula."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from spikesearch.config import ScoringConfig
from spikesearch.energy import EnergyModel
from spikesearch.energy.measure import measure_activity
from spikesearch.errors import CheckpointError
from spikesearch.nn import Spikformer, Supernet
from spikesearch.nn.fast import fast_copy
from spikesearch.nn.functional import AttentionProduct
from spikesearch.nn.lif import StatelessNeuron
from spikesearch.scoring.network import score_network
from spikesearch.train import weights_hash
from spikesearch.train.energy_loss import EnergyLoss
from spikesearch.train.network import train_network
from tests.interruptions import interruption
from tests.train.conftest import RECIPE, SPACE

SAVING = RECIPE.model_copy(update={"ema_decay": 0.8, "energy_weight": 0.1})


def network(residual: str = "add") -> Spikformer:
    torch.manual_seed(3)
    return Spikformer(SPACE.largest, in_channels=1, image_size=8, num_classes=10, residual=residual)


def energy_by_hand(net: Spikformer, x: Tensor, convention: str) -> Tensor:
    """Return the microjoules of ``net``: the formulas of both conventions, written out for this network."""
    inputs: dict[str, Tensor] = {}
    products: list[tuple[Tensor, ...]] = []
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda m, args, out, name=name: inputs.__setitem__(name, args[0]))
        elif isinstance(module, AttentionProduct):
            module.register_forward_hook(lambda m, args, out: products.append(args))
    neurons: dict[str, Tensor] = {}
    for name, module in net.named_modules():
        if isinstance(module, StatelessNeuron):
            module.register_forward_hook(lambda m, args, out, name=name: neurons.__setitem__(name, out))
    net(x)
    steps, width, hidden, tokens, heads = 2, 16, 16, 16, 2  # pooling after the last stage
    pixels = {"stem.stages.1.conv": 2 * 4, "stem.stages.2.conv": 4 * 8, "stem.stages.3.conv": 8 * 16}
    dense = {name: 9 * 64 * channels for name, channels in pixels.items()}
    dense["stem.rpe.conv"] = 9 * tokens * width * width
    for block in range(2):
        dense[f"blocks.{block}.attn.qkv.linear"] = tokens * width * 3 * width
        dense[f"blocks.{block}.attn.proj.linear"] = tokens * width * width
        dense[f"blocks.{block}.mlp.fc1.linear"] = dense[f"blocks.{block}.mlp.fc2.linear"] = tokens * width * hidden
    macs: float = steps * 64 * 9 * 2
    graded = [name for name in dense if name.endswith(("qkv.linear", "fc1.linear"))]
    acs = torch.zeros(())
    if convention == "strict":
        macs += sum(out.numel() for out in neurons.values()) / len(x)  # membranes
        if net.residual == "add":
            macs += sum(steps * dense.pop(name) for name in graded)
    if convention == "strict" and net.residual == "membrane":
        acs = acs + steps * tokens * width * 10 * neurons["head_lif"].mean()
    else:
        macs += width * 10
    for name, operations in dense.items():
        acs = acs + steps * operations * inputs[name].mean()
    for q, k, v in products:
        acs = acs + steps * tokens * width * (width // heads) * (torch.minimum(k.mean(), v.mean()) + q.mean())
    return acs * 0.9e-6 + macs * 4.6e-6


@pytest.mark.parametrize("residual", ["add", "membrane"])
@pytest.mark.parametrize("convention", ["spikformer", "strict"])
def test_gradients_are_those_of_the_formula(convention: str, residual: str) -> None:
    net, x = network(residual), torch.rand(6, 1, 8, 8)
    ours, by_hand = fast_copy(net).train(), fast_copy(net).train()
    energy = EnergyLoss(ours, 0.7, EnergyModel(convention))
    with energy.attached():
        ours(x)
        loss = energy()
    loss.backward()
    assert energy.energies == [pytest.approx(math.exp(float(loss.detach()) / 0.7), rel=1e-5)]
    expected = 0.7 * energy_by_hand(by_hand, x, convention).log()
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
def test_the_energy_is_that_of_the_report(convention: str, residual: str) -> None:
    """Of a plain network, and of subnets one after another; nothing of one call is left for the next."""
    model, x = EnergyModel(convention), torch.rand(20, 1, 8, 8)
    net = fast_copy(network(residual)).eval()
    supernet = Supernet(SPACE, in_channels=1, image_size=8, num_classes=10, residual=residual).eval()
    energy = EnergyLoss(net, 2.0, model)
    values = []
    with energy.attached():
        for images in (x, x[:7]):
            net(images)
            values.append(float(energy().detach()))
    assert values == pytest.approx(
        [2 * math.log(model.report(net, images).total_uJ) for images in (x, x[:7])], rel=1e-5
    )
    energy = EnergyLoss(supernet, 1.0, model)
    for arch in (SPACE.largest, SPACE.smallest):
        with supernet.subnet(arch):
            with energy.attached():
                supernet(x)
                value = float(energy().detach())
            assert value == pytest.approx(math.log(model.report(supernet, x).total_uJ), rel=1e-5)


@pytest.mark.slow
def test_training_saves_energy_and_still_learns(digits, tmp_path: Path) -> None:
    scores = []
    for weight in (0.0, 0.1):
        recipe = SAVING.model_copy(update={"energy_weight": weight, "epochs": 8, "batch_size": 50, "lr": 1e-2})
        done = train_network(network(), digits, recipe, seed=0, folder=tmp_path / str(weight), progress=False)
        scores.append(score_network(done.net, digits, ScoringConfig(), "search"))
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


def test_the_weight_grows_over_the_first_half() -> None:
    net, x = fast_copy(network()), torch.rand(5, 1, 8, 8)
    energy = EnergyLoss(net, 0.4, EnergyModel())
    weights = []
    with energy.attached():
        for energy.progress in (0.0, 0.1, 0.25, 0.5, 0.9):
            net(x)
            weights.append(float(energy().detach() / energy.energies[-1].log()))
    assert weights == pytest.approx([0, 0.08, 0.2, 0.4, 0.4])


def test_what_looks_at_the_network_between_epochs_changes_nothing(digits, tmp_path: Path) -> None:
    """Without an average, the network that is looked at is the one that is trained."""
    recipe = SAVING.model_copy(update={"ema_decay": None, "epochs": 2})
    x = digits.search.images(range(50))

    def look(epoch: int, record: dict[str, float], module: nn.Module) -> None:
        assert not any(one._forward_hooks or one._forward_pre_hooks for one in module.modules())
        assert 0 < record["energy_uJ"] < 1
        with torch.no_grad():
            module.eval()(x)

    hashes = [
        weights_hash(
            train_network(
                network(), digits, recipe, seed=0, folder=tmp_path / str(i), progress=False, on_epoch=on_epoch
            ).net
        )
        for i, on_epoch in enumerate((None, look))
    ]
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    "changes", [{"accumulate": 3}, {"mixup": 0.4, "drop_path": 0.3}, {"ema_decay": None, "clip_grad": None}]
)
def test_the_history_holds_the_energy_whatever_else_the_recipe_does(digits, tmp_path: Path, changes) -> None:
    recipe = SAVING.model_copy(update={"epochs": 1, "lr": 1e-9, "warmup_epochs": 0, **changes})
    done = train_network(network(), digits, recipe, seed=0, folder=tmp_path, progress=False)
    net = fast_copy(network()).train()  # hardly changed by then
    with torch.no_grad(), measure_activity(net) as activity:
        for start in range(0, 1000, 200 // recipe.accumulate):
            net(digits.train.images(range(start, start + 200 // recipe.accumulate)))
    expected = EnergyModel().price(activity).total_uJ
    assert done.history[0]["energy_uJ"] == pytest.approx(expected, rel=0.3 if recipe.mixup else 0.05)


def test_event_frames(tmp_path: Path) -> None:
    net = Spikformer(SPACE.largest, in_channels=2, image_size=8, num_classes=3)
    frames = torch.poisson(torch.full((9, 2, 2, 8, 8), 0.3))
    fast = fast_copy(net).train()
    energy = EnergyLoss(fast, 1.0, EnergyModel())
    with energy.attached():
        fast(frames)
        value = energy()
    value.backward()
    with torch.no_grad(), measure_activity(fast) as activity:
        fast(frames)
    assert float(value.detach()) == pytest.approx(math.log(EnergyModel().price(activity).total_uJ), rel=1e-5)
    assert fast.stem.stages[0].conv.weight.grad.any()


def test_other_networks_and_calls_without_a_forward_pass_are_refused() -> None:
    other = EnergyLoss(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), 1.0, EnergyModel())
    with pytest.raises(ValueError, match="must be a Spikformer"), other.attached():
        pass
    energy = EnergyLoss(network(), 1.0, EnergyModel())
    with energy.attached(), pytest.raises(ValueError, match="at least one sample"):
        energy()


def test_it_is_not_compiled(digits, tmp_path: Path, caplog) -> None:
    recipe = SAVING.model_copy(update={"epochs": 1, "compile": True})
    with caplog.at_level("WARNING", logger="spikesearch"):
        train_network(network(), digits, recipe, seed=0, folder=tmp_path, progress=False)
    (record,) = caplog.records
    assert "`train.compile` has no effect beside `train.energy_weight`" in record.message
