"""Scores: deterministic, independent of batch size and order, and what the extracted network really does."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score

from spikesearch.config import ScoringConfig, TrainConfig
from spikesearch.data import load_data
from spikesearch.data.kinds.digits import DigitsData
from spikesearch.energy import EnergyModel
from spikesearch.nn import Supernet, count_parameters
from spikesearch.scoring import Scorer, scorer
from spikesearch.scoring.calibration import calibration_indices
from spikesearch.space import SearchSpace
from spikesearch.space.residual import RESIDUALS
from spikesearch.train import train_supernet
from tests.train.conftest import SPACE


@pytest.fixture(scope="module")
def data():
    return load_data(DigitsData(kind="digits"), seed=0)


@pytest.fixture(scope="module", params=[("add", 15), ("membrane", 3)], ids=["add", "membrane"])
def supernet(data, tmp_path_factory, request):
    residual, epochs = request.param
    recipe = TrainConfig(epochs=epochs, batch_size=64, lr=1e-2, random_subnets=1)
    fresh = Supernet(SPACE, in_channels=1, image_size=8, num_classes=10, residual=residual)
    return train_supernet(fresh, data, recipe, seed=0, run_dir=tmp_path_factory.mktemp("run"), progress=False)


def architectures(count=6):
    rng = np.random.default_rng(0)
    return [SPACE.largest, SPACE.smallest, *(SPACE.sample(rng) for _ in range(count - 2))]


def test_score_is_that_of_the_extracted_network(supernet, data):
    scorer = Scorer(supernet, data, ScoringConfig())
    for arch in architectures():
        score = scorer.score(arch)
        net = scorer.extract(arch)
        images = data.search.images(range(len(data.search)))
        with torch.no_grad():
            predicted = net(images).argmax(-1)
        assert score.accuracy == accuracy_score(data.search.labels, predicted)
        assert score.params == count_parameters(net)
        report = EnergyModel().report(net, images)
        assert score.energy_uJ == pytest.approx(report.total_uJ)
        assert (score.macs, score.acs) == pytest.approx((report.macs, report.acs))
        assert score.n_images == len(data.search)
    assert score.to_dict()["accuracy"] == score.accuracy


@pytest.mark.slow
def test_batch_size_moves_a_score_by_ties_only(supernet, data):
    one, many = (Scorer(supernet, data, ScoringConfig(batch_size=size)) for size in (1, 256))
    for arch in architectures(4):
        first, second = one.score(arch), many.score(arch)
        assert abs(first.accuracy - second.accuracy) <= max(1 / len(data.search), 0.001)
        assert first.energy_uJ == pytest.approx(second.energy_uJ, rel=1e-3)


def test_scores_do_not_depend_on_order_history_or_training_statistics(supernet, data):
    archs = architectures()
    first = [Scorer(supernet, data, ScoringConfig()).score(arch) for arch in archs]
    again = Scorer(supernet, data, ScoringConfig())
    with torch.no_grad():
        for norm in (module for module in supernet.modules() if hasattr(module, "running_mean")):
            norm.running_mean += 1  # calibration makes them irrelevant
    assert [again.score(arch) for arch in reversed(archs)] == first[::-1]


def test_calibration_sees_training_images_only(supernet, data):
    class Forbidden:
        labels = data.search.labels

        def images(self, indices):
            pytest.fail("calibration looked at another split")

    guarded = dataclasses.replace(data, search=Forbidden(), test=Forbidden())
    config = ScoringConfig()
    ours = Scorer(supernet, guarded, config).calibrate(SPACE.largest)
    chosen = calibration_indices(data.train.labels.numpy(), config.calibration_images)
    theirs = supernet.calibrate(SPACE.largest, data.train.images(chosen))
    assert ours.keys() == theirs.keys()
    for name, stats in theirs.items():
        assert torch.equal(ours[name].mean, stats.mean)
        assert torch.equal(ours[name].var, stats.var)


def test_splits_differ_and_large_ones_are_not_kept(supernet, data, monkeypatch):
    kept = Scorer(supernet, data, ScoringConfig(batch_size=100))
    search, test = kept.score(SPACE.largest), kept.score(SPACE.largest, "test")
    assert (search.n_images, test.n_images) == (len(data.search), len(data.test))
    monkeypatch.setattr(scorer, "_KEEP_BYTES", 0)
    assert Scorer(supernet, data, ScoringConfig(batch_size=100)).score(SPACE.largest, "test") == test


def test_guessing_is_called_dead(data):
    fresh = Supernet(SPACE, in_channels=1, image_size=8, num_classes=10)
    torch.nn.init.zeros_(fresh.head.weight)
    score = Scorer(fresh, data, ScoringConfig()).score(SPACE.largest)
    assert score.dead
    assert score.accuracy < 0.2


def test_strict_convention_costs_more(supernet, data):
    published, strict = (Scorer(supernet, data, ScoringConfig(convention=name)) for name in ("spikformer", "strict"))
    assert strict.score(SPACE.largest).energy_uJ > published.score(SPACE.largest).energy_uJ


def test_calibration_images_are_balanced_fixed_and_nested():
    labels = np.repeat([0, 1, 2], [50, 30, 4])
    small, large = calibration_indices(labels, 9), calibration_indices(labels, 40)
    assert np.bincount(labels[small]).tolist() == [3, 3, 3]
    assert set(small) <= set(large)
    assert (np.diff(large) > 0).all()
    assert np.array_equal(small, calibration_indices(labels, 9))
    assert len(calibration_indices(labels, 1000)) == 84


@pytest.mark.parametrize(
    ("residual", "convention"),
    [*((name, "spikformer") for name in sorted(RESIDUALS)), ("normed", "strict"), ("normed", "memory")],
)
def test_stages_and_mixers_score_alike_with_and_without_what_is_known(data, residual, convention):
    space = SearchSpace(
        embed_dims=(16, 32),
        time_steps=(1, 2),
        mlp_ratios=(0, 1),
        v_thresholds=(0.6, 1.0),
        taus=(2.0,),
        stem_channels=(4, 8),
        stages=[
            {"width": "1/2", "depths": [1, 2], "mixers": ["conv", "dwconv"]},
            {"width": 1, "depths": [1, 2], "mixers": ["ssa", "qk"], "num_heads": [2, 4]},
        ],
    )
    fresh = Supernet(space, in_channels=1, image_size=8, num_classes=10, residual=residual, stem="conv")
    torch.manual_seed(0)
    for value in fresh.parameters():
        value.data.add_(0.05 * torch.randn_like(value))
    cached, plain = (Scorer(fresh, data, ScoringConfig(cache_mb=size, convention=convention)) for size in (64, 0))
    rng = np.random.default_rng(0)
    parents = [space.largest, *(space.sample(rng) for _ in range(3))]
    for arch in [*parents, *(near for parent in parents for near in list(space.neighbours(parent))[:8]), *parents]:
        assert cached.score(arch) == plain.score(arch), arch.describe()
    assert cached.work.done < cached.work.needed
    assert torch.equal(
        cached.extract(arch)(data.search.images(range(9))), plain.extract(arch)(data.search.images(range(9)))
    )
