"""The parts of benchmarks/baselines.py whose mistakes would not show in its tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from parts.baselines_arms import (
    Arm,
    InheritedScores,
    is_uniform,
    random_architectures,
    search_arms,
    some_of,
    uniform_grid,
)
from parts.baselines_networks import accuracy, count_macs, families, patch_size
from torch import nn

from spikesearch.config import StudyConfig, find_study_file, load_study_file
from spikesearch.data import DataBundle, load_data
from spikesearch.fitness import hypervolume
from spikesearch.nn import count_parameters
from spikesearch.scoring import Scorer
from spikesearch.space import SearchSpace
from spikesearch.study.assembly import new_supernet
from spikesearch.study.results import TrialResult

SPACE = SearchSpace((16, 32), (1, 2), (2, 4), (1, 2), (0.6, 1.0), (2.0,), (1, 2))


@pytest.fixture(scope="module")
def config() -> StudyConfig:
    return load_study_file(find_study_file("digits-spikformer"))


@pytest.fixture(scope="module")
def data(config: StudyConfig) -> DataBundle:
    return load_data(config.data, seed=0)


# --- conventional networks ------------------------------------------------------------------------


def test_macs_of_a_convolution_and_a_linear_layer_by_hand(data: DataBundle) -> None:
    net = nn.Sequential(nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 10))
    assert count_macs(net, data) == 16 * 6 * 9 + 96 * 10  # 4x4 places; biases are ignored


def test_macs_of_a_vit_by_hand_with_both_attention_products(data: DataBundle) -> None:
    width, tokens, depth = 8, 16, 2  # patches of 2x2 pixels
    net = families(SPACE.largest, data)[0].build(width)
    hidden = int(SPACE.largest.blocks[0].mlp_ratio * width)
    block = tokens * (3 * width**2 + width**2 + 2 * width * hidden) + 2 * tokens**2 * width
    assert count_macs(net, data) == tokens * 4 * width + depth * block + width * 10


def test_macs_of_a_resnet_by_hand(data: DataBundle) -> None:
    w = 3
    stage = 2 * 9 * w * w * 64
    stage += (9 * w * 2 * w + w * 2 * w + 9 * (2 * w) ** 2) * 16  # with the 1x1 convolution of the shortcut
    stage += (9 * 2 * w * 4 * w + 2 * w * 4 * w + 9 * (4 * w) ** 2) * 4
    assert count_macs(families(SPACE.largest, data)[1].build(w), data) == 9 * w * 64 + stage + 4 * w * 10


def test_a_network_nearly_as_large_as_wanted_is_the_nearest_of_all_widths(data: DataBundle) -> None:
    for family in families(SPACE.largest, data):
        sizes = {w: count_parameters(family.build(w)) for w in range(family.step, 40, family.step)}
        for target in (1, 5000, 20000):
            best = min((abs(np.log(size / target)), w) for w, size in sizes.items())[1]
            assert family.nearest(target, count_parameters) == best


def test_weights_depend_on_the_seed_alone(data: DataBundle) -> None:
    family = families(SPACE.largest, data)[1]
    torch.manual_seed(5)
    first = family.seeded(4, 0).state_dict()
    torch.rand(3)
    second, other = family.seeded(4, 0).state_dict(), family.seeded(4, 1).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


@pytest.mark.parametrize(("size", "patch"), [(8, 2), (28, 4), (32, 4), (224, 28)])
def test_patches_leave_no_more_than_64_tokens(size: int, patch: int) -> None:
    assert patch_size(size) == patch


def test_accuracy_counts_right_answers(data: DataBundle) -> None:
    class Zero(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.eye(10)[:1].expand(len(x), 10)

    share = float((data.test.labels == 0).float().mean())
    assert accuracy(Zero(1, 1), data.test, 100) == pytest.approx(share)


# --- ways to choose -------------------------------------------------------------------------------


def test_the_uniform_grid_is_the_uniform_part_of_the_space() -> None:
    grid = list(uniform_grid(SPACE))
    whole = [SPACE.at(i) for i in range(SPACE.size)]
    expected = {
        arch
        for arch in whole
        if len(set(arch.blocks)) == 1
        and (arch.stem.v_threshold, arch.stem.tau) == (arch.blocks[0].v_threshold, arch.blocks[0].tau)
    }
    assert len(grid) == len(set(grid)) == 2 * 2 * 2 * 2 * 2 * 2
    assert set(grid) == expected == {arch for arch in whole if is_uniform(arch)}


def test_every_way_begins_with_the_largest_and_repeats_nothing() -> None:
    grid = list(uniform_grid(SPACE))
    for archs in (random_architectures(SPACE, 0, 20), some_of(grid, SPACE.largest, 0, 20)):
        assert archs[0] == SPACE.largest
        assert len(archs) == len(set(archs)) == 20
    assert len(some_of(grid, SPACE.largest, 0, 1000)) == len(grid)
    assert random_architectures(SPACE, 0, 20) != random_architectures(SPACE, 1, 20)


def test_what_an_arm_has_found(config: StudyConfig) -> None:
    archs = random_architectures(SPACE, 0, 5)
    figures = [(0.9, 8.0, True), (0.898, 2.0, True), (0.8, 2.0, True), (0.95, 3.0, False), (0.5, 1.0, True)]
    trials = [
        TrialResult(i, arch, accuracy, energy, None, feasible)
        for i, (arch, (accuracy, energy, feasible)) in enumerate(zip(archs, figures, strict=True))
    ]
    arm = Arm("by hand", config, trials, trials[0])
    assert arm.recommended is trials[1]
    assert arm.within(0.25) is trials[1]
    assert arm.within(0.2) is trials[4]
    assert arm.within(0.1) is None
    assert arm.front == [(0.125, 0.5), (0.25, 0.898), (1.0, 0.9)]
    assert arm.hypervolume == pytest.approx(hypervolume([(0.5, 0.125), (0.102, 0.25)], (1, 1)))


def test_scores_are_those_of_the_scorer_and_are_kept(config: StudyConfig, data: DataBundle, tmp_path: Path) -> None:
    config = config.model_copy(update={"space": type(config.space)(**SPACE.to_dict())})
    scorer = Scorer(new_supernet(config, data), data, config.scoring)
    scores = InheritedScores(scorer, {"params": 1.0}, tmp_path / "scores.json")
    esnn = scores.trials([SPACE.largest, SPACE.smallest])
    direct = Scorer(scorer.supernet, data, config.scoring).score(SPACE.smallest)
    assert (esnn[1].accuracy, esnn[1].energy_uJ, esnn[1].feasible) == (direct.accuracy, direct.energy_uJ, False)
    arms = search_arms(config, esnn, scores, grid_limit=0)
    assert [(arm.name, len(arm.trials)) for arm in arms] == [("ESNN", 2), ("random", 2), ("uniform", 2)]
    assert all(arm.reference.architecture == SPACE.largest for arm in arms)
    again = InheritedScores(None, {}, tmp_path / "scores.json")  # type: ignore[arg-type]
    assert again.trials([SPACE.smallest])[0].energy_uJ == direct.energy_uJ
