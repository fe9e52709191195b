"""Forecasts: who is learned from, when kernels are chosen, and what is predicted."""

from __future__ import annotations

import numpy as np
import pytest
from optuna.study import StudyDirection
from optuna.study._multi_objective import _fast_non_domination_rank

from spikesearch.sampler.archive import Population
from spikesearch.sampler.domain import Genome
from spikesearch.sampler.surrogate import forecast
from spikesearch.sampler.surrogate.forecast import Forecaster, choose_trials, scheduled
from spikesearch.sampler.surrogate.gaussian_process import KernelChoice, Rows, choose_kernel
from tests.sampler.domains import LETTERS, additive, letters


def population(numbers: np.ndarray, genomes: list[Genome], losses: np.ndarray, margin: float = 0.0) -> Population:
    n = len(numbers)
    margins = np.full(n, margin)
    directions = (StudyDirection.MINIMIZE,) * losses.shape[1]
    return Population(numbers, genomes, losses, margins, margins, np.zeros(n, dtype=np.int64), directions)


def conflicting(genomes: list[Genome]) -> np.ndarray:
    return np.stack([additive(genomes), -additive(genomes) + np.arange(len(genomes)) % 3], axis=1)


def test_schedule_is_a_function_of_the_count() -> None:
    points = [scheduled(count, 10) for count in range(10, 400)]
    assert points == sorted(points)
    assert len(set(points)) < 25
    assert all(point <= count < 1.3 * point + 2 for point, count in zip(points, range(10, 400), strict=True))


@pytest.mark.parametrize("objectives", [1, 2, 3])
@pytest.mark.parametrize("count", [150, 450, 600])
def test_half_the_best_and_half_the_latest_in_any_order_of_arrival(objectives: int, count: int) -> None:
    rng = np.random.default_rng(0)
    losses = np.round(rng.random((600, objectives)), 2)
    genomes = letters(600, 0)
    ranks = _fast_non_domination_rank(losses[:count])
    best = set(np.lexsort((-np.arange(count), ranks))[:100].tolist())
    latest = [i for i in range(count - 1, -1, -1) if i not in best][:100]
    expected = sorted([*best, *latest])
    for order in (np.arange(600), np.arange(600)[::-1], rng.permutation(600)):
        arrived = population(order, [genomes[i] for i in order], losses[order])
        trials = choose_trials(arrived, arrived.take(np.arange(0)), count, 200)
        assert trials.genomes == [genomes[i] for i in expected]
        assert trials.losses.tolist() == losses[expected].tolist()


def test_infeasible_trials_are_never_among_the_best() -> None:
    genomes = letters(40, 0)
    losses = conflicting(genomes)
    feasible = population(np.arange(0, 40, 2), genomes[::2], losses[::2])
    infeasible = population(np.arange(1, 40, 2), genomes[1::2], losses[1::2] - 100.0, margin=1.0)
    trials = choose_trials(feasible, infeasible, 40, 10)
    assert (trials.margins == 0.0).sum() >= 5
    assert trials.genomes[-1] == genomes[39]


def test_kernels_are_chosen_on_the_first_trials_of_the_schedule_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def counting(rows: Rows, target: np.ndarray) -> KernelChoice:
        seen.append(len(rows))
        return choose_kernel(rows, target)

    monkeypatch.setattr(forecast, "choose_kernel", counting)
    genomes = letters(120, 0)
    losses = conflicting(genomes)
    forecaster = Forecaster(10, 50)
    for count in range(10, 121):
        trials = population(np.arange(count), genomes[:count], losses[:count])
        forecaster(LETTERS, trials, trials.take(np.arange(0)), {})
    points = {scheduled(count, 10) for count in range(10, 121)}
    assert seen == [min(point, 50) for point in sorted(points) for _ in range(2)]


def test_predicts_losses_margins_and_what_is_known() -> None:
    genomes, others = letters(60, 0), letters(30, 1)
    losses = np.stack([additive(genomes), -additive(genomes)], axis=1)
    able = additive(genomes) < np.median(losses[:, 0])
    numbers = np.arange(60)
    feasible = population(numbers[able], [g for g, a in zip(genomes, able, strict=True) if a], losses[able], -1.0)
    infeasible = population(
        numbers[~able], [g for g, a in zip(genomes, able, strict=True) if not a], losses[~able], 1.0
    )
    known = {1: lambda genome: -2.0 * float(additive([genome])[0])}
    mean, std, margin = Forecaster(10, 200)(LETTERS, feasible, infeasible, known)(others)
    truth = additive(others)
    assert np.mean((mean[:, 0] - truth) ** 2) < 0.02 * np.var(truth)
    np.testing.assert_allclose(mean[:, 1], -2 * truth)
    assert (std[:, 0] > 0).all()
    assert not std[:, 1].any()
    assert margin is not None
    assert np.corrcoef(margin[0], truth)[0, 1] > 0.8
