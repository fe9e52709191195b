"""Training one plain network: the supernet's twin in every number, reproducible and resumable."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from spikesearch.config import ScoringConfig
from spikesearch.energy import EnergyModel
from spikesearch.nn import Spikformer
from spikesearch.nn.fast import fast_copy
from spikesearch.nn.lif import StreamLIF, set_surrogate_slope
from spikesearch.scoring import Scorer
from spikesearch.scoring.calibration import calibration_images
from spikesearch.scoring.network import calibrate_network, score_network
from spikesearch.train import weights_hash
from spikesearch.train.drop_path import DropPath
from spikesearch.train.network import (
    applicable_recipe,
    compile_network,
    fresh_network,
    plain_copy,
    train_network,
)
from tests.interruptions import interruption
from tests.train.conftest import RECIPE, SPACE

SCORING = ScoringConfig(calibration_images=64)
TWO = RECIPE.model_copy(update={"epochs": 2, "mixup": 0.3})


@pytest.fixture(params=["add", "membrane"])
def net(request):
    torch.manual_seed(3)
    net = Spikformer(SPACE.largest, in_channels=1, image_size=8, num_classes=10, residual=request.param)
    for module in net.modules():
        if isinstance(module, StreamLIF):  # a gain that was learnt
            module.set_extra_state(module.get_extra_state() * (0.8 + 0.4 * torch.rand(())))
    return net


def test_stateless_neurons_compute_the_same_gradients(net, digits):
    """SpikingJelly's own neurons and autograd are the oracle."""
    images, labels = digits.train.images(range(20)), digits.train.labels[:20]
    fast = fast_copy(net)
    assert list(fast.state_dict()) == list(net.state_dict())
    for each in (net, fast):
        each.train()
        torch.nn.functional.cross_entropy(each(images), labels).backward()
    for (name, slow), quick in zip(net.named_parameters(), fast.parameters(), strict=True):
        assert torch.allclose(slow.grad, quick.grad, rtol=1e-4, atol=1e-6), name
    again = plain_copy(net, fast)
    assert weights_hash(again) == weights_hash(fast)
    assert torch.equal(again(images), fast.eval()(images))


def test_calibration_and_score_are_those_of_the_scorer(fresh, digits):
    """An extracted subnet, its statistics thrown away, gets them back, and the score that a trial has."""
    scorer = Scorer(fresh, digits, SCORING)
    net = scorer.extract(SPACE.largest)
    wanted = copy.deepcopy(net.state_dict())
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.reset_running_stats()
    calibrate_network(net, calibration_images(digits, SCORING))
    for name, value in net.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.allclose(value, wanted[name], rtol=1e-5, atol=1e-6), name
    for split in ("search", "test"):
        mine, theirs = score_network(net, digits, SCORING, split), scorer.score(SPACE.largest, split)
        assert mine.accuracy == pytest.approx(theirs.accuracy, abs=1.01 / theirs.n_images)
        assert mine.energy_uJ == pytest.approx(theirs.energy_uJ, rel=1e-3)
        assert (mine.params, mine.n_images, mine.dead) == (theirs.params, theirs.n_images, theirs.dead)


def test_scores_do_not_depend_on_the_batches(net, digits):
    whole = score_network(net, digits, SCORING)
    parts = score_network(net, digits, SCORING.model_copy(update={"batch_size": 50}))
    assert parts.accuracy == pytest.approx(whole.accuracy, abs=1.01 / whole.n_images)
    images = digits.search.images(range(len(digits.search)))
    assert parts.energy_uJ == pytest.approx(EnergyModel().report(net, images).total_uJ, rel=1e-4)


def test_a_fresh_network_depends_on_the_seed_alone(net):
    first = fresh_network(net, 5)
    torch.manual_seed(99)
    assert weights_hash(fresh_network(net, 5)) == weights_hash(first) != weights_hash(fresh_network(net, 6))
    assert first.arch == net.arch
    gain = net.arch.stem.v_threshold * net.arch.stem.tau / 2
    assert torch.all(first.stem.rpe.bn.weight == gain)


def test_training_changes_a_copy_and_learns(net, digits, tmp_path):
    before = weights_hash(net)
    recipe = RECIPE.model_copy(update={"epochs": 6, "batch_size": 50, "lr": 1e-2, "ema_decay": 0.9})
    seen = []
    done = train_network(
        net,
        digits,
        recipe,
        seed=0,
        folder=tmp_path / "states",
        progress=False,
        on_epoch=lambda epoch, record, module: seen.append((epoch, record["loss"], weights_hash(module))),
    )
    assert weights_hash(net) == before != weights_hash(done.net)
    assert [epoch for epoch, _, _ in seen] == [1, 2, 3, 4, 5, 6]
    assert [loss for _, loss, _ in seen] == [record["loss"] for record in done.history]
    assert seen[-1][2] == weights_hash(done.net)
    assert done.history[-1]["loss"] < 0.9 * done.history[0]["loss"]
    assert not done.net.training
    done.checkpoints.delete()
    assert not (tmp_path / "states").exists()


@pytest.mark.parametrize("before_save", [True, False])
def test_interrupted_training_ends_with_the_same_weights(net, digits, tmp_path, before_save):
    def train(name):
        return train_network(net, digits, TWO, seed=1, folder=tmp_path / name, progress=False)

    whole = train("whole")
    with interruption(before_save=before_save):
        train("cut")
    torch.manual_seed(7)
    resumed = train("cut")
    assert weights_hash(resumed.net) == weights_hash(whole.net)
    assert len(resumed.history) == 2


def test_a_loss_that_is_not_finite_ends_the_training(net, digits, tmp_path):
    with torch.no_grad():
        net.head.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"lower `train\.lr`"):
        train_network(net, digits, TWO, seed=0, folder=tmp_path, progress=False)


@pytest.mark.parametrize("residual", ["add", "membrane"])
def test_a_compiled_network_computes_the_same(residual):
    """Traced as a whole, without a break, and once for all steps; no code is generated, which takes minutes."""
    torch.manual_seed(3)
    net = Spikformer(SPACE.largest, in_channels=1, image_size=8, num_classes=10, residual=residual).train()
    eager, compiled = fast_copy(net), fast_copy(net)
    compile_network(compiled, backend="eager")
    assert list(compiled.state_dict()) == list(net.state_dict())
    paths = [DropPath(each, 0.5) for each in (eager, compiled)]
    with paths[0].attached(), paths[1].attached(), set_surrogate_slope(eager, 2.0), set_surrogate_slope(compiled, 2.0):
        for step in range(3):
            x = torch.randn(12, 1, 8, 8)
            for path, each in zip(paths, (eager, compiled), strict=True):
                path.draw((0, 0, step), np.arange(12), torch.device("cpu"))
                each.zero_grad()
                with torch.compiler.set_stance("fail_on_recompile" if step else "default"):
                    each(x).square().sum().backward()
            for (name, parameter), twin in zip(eager.named_parameters(), compiled.parameters(), strict=True):
                assert (twin.grad - parameter.grad).norm() <= 1e-2 * parameter.grad.norm() + 1e-5, name
    assert torch.equal(plain_copy(net, compiled)(x), plain_copy(net, eager)(x))


def test_where_nothing_can_be_compiled_training_goes_on_without(net, digits, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    short = RECIPE.model_copy(update={"epochs": 1, "compile": True})
    with caplog.at_level("WARNING", logger="spikesearch"):
        done = train_network(net, digits, short, seed=0, folder=tmp_path / "states", progress=False)
    (record,) = caplog.records
    assert "`train.compile` has no effect" in record.message
    assert "\n" not in record.message
    assert len(done.history) == 1


def test_what_a_training_alone_depends_on():
    changed = RECIPE.model_copy(update={"drop_path": 0.2, "surrogate_slope": 2.0, "compile": True, "random_subnets": 5})
    assert applicable_recipe(changed) == {**applicable_recipe(RECIPE), "drop_path": 0.2, "surrogate_slope": 2.0}
