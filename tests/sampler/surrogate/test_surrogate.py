"""The choice of the surrogate among many offspring."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.study import StudyDirection

from spikesearch.sampler import ESNNSampler, GaussianProcessSurrogate, Situation
from spikesearch.sampler.archive import Population
from spikesearch.sampler.domain import Genome
from tests.sampler.domains import LETTERS, additive, letters


def situation(genomes: list[Genome], losses: np.ndarray, **options: object) -> Situation:
    n = len(genomes)
    rng = np.random.default_rng(9)
    directions = (StudyDirection.MINIMIZE,) * losses.shape[1]
    nothing = np.zeros(n)
    ranks = np.zeros(n, dtype=np.int64)
    everyone = Population(np.arange(n), genomes, losses, nothing, nothing, ranks, directions)
    defaults = {
        "domain": LETTERS, "feasible": everyone, "infeasible": everyone.take(np.arange(0)), "pending": [],
        "make": lambda: LETTERS.sample(rng), "usable": lambda genome: genome not in genomes, "known": {}, "number": 0,
    }  # fmt: skip
    return Situation(**{**defaults, **options})  # type: ignore[arg-type]


def test_finds_the_minimum_of_a_sum() -> None:
    genomes = letters(40, 0)
    surrogate = GaussianProcessSurrogate(exploration=0.0)
    found = surrogate(situation(genomes, additive(genomes)[:, None]), np.random.default_rng(0))
    assert found is not None
    everything = [LETTERS.at(i) for i in range(4**5)]
    assert (additive(everything) < additive([found])[0]).mean() < 0.02


@pytest.mark.parametrize("max_rows", [15, 200])
def test_same_situation_same_choice_from_a_fresh_surrogate(max_rows: int) -> None:
    genomes = letters(30, 0)
    losses = np.stack([additive(genomes), -additive(genomes) + np.arange(30) % 3], axis=1)
    used = GaussianProcessSurrogate(exploration=0.0, max_rows=max_rows)
    for count in (12, 20, 30):
        used(situation(genomes[:count], losses[:count]), np.random.default_rng(count))
    again = used(situation(genomes, losses), np.random.default_rng(5))
    fresh = GaussianProcessSurrogate(exploration=0.0, max_rows=max_rows)
    assert again == fresh(situation(genomes, losses), np.random.default_rng(5))


def test_bounded_in_how_often() -> None:
    genomes = letters(90, 0)
    losses = np.stack([additive(genomes), -additive(genomes)], axis=1)
    surrogate = GaussianProcessSurrogate(max_rows=30, every=30, exploration=0.0)
    helped = [
        surrogate(situation(genomes, losses, number=number), np.random.default_rng(0)) is not None
        for number in range(6)
    ]
    assert helped == [True, False, False, True, False, False]
    assert surrogate(situation(genomes[:5], losses[:5]), np.random.default_rng(0)) is None


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_what_is_not_a_finite_number_is_never_chosen(objectives: int) -> None:
    genomes = letters(40, 0)
    losses = np.stack([additive(genomes) * (1 if i % 2 else -1) for i in range(objectives)], axis=1)

    def known(genome: Genome) -> float:
        return {0.0: math.nan, 1.0: math.inf}.get(genome["g0"], float(additive([genome])[0]) - 100.0)

    surrogate = GaussianProcessSurrogate(exploration=0.0)
    for seed in range(3):
        found = surrogate(situation(genomes, losses, known={0: known}), np.random.default_rng(seed))
        assert found is not None
        assert found["g0"] >= 2.0


def test_pending_trials_push_proposals_away() -> None:
    genomes = letters(30, 0)
    losses = np.stack([additive(genomes), -additive(genomes) + np.arange(30) % 3], axis=1)
    surrogate = GaussianProcessSurrogate(exploration=0.0)
    first = surrogate(situation(genomes, losses), np.random.default_rng(0))
    assert first is not None
    options = {"pending": [first], "usable": lambda genome: genome not in genomes and genome != first}
    second = surrogate(situation(genomes, losses, **options), np.random.default_rng(0))
    assert second is not None
    assert second != first


def test_a_long_study_is_mostly_evolution() -> None:
    study = optuna.create_study(sampler=ESNNSampler(surrogate=GaussianProcessSurrogate(every=5, min_rows=5), seed=0))
    study.optimize(lambda t: (t.suggest_int("x", 0, 1000) - 345) ** 2 * t.suggest_float("y", 1, 2), n_trials=60)
    assert study.best_value < 100
    assert isinstance(study.trials[0].distributions["x"], IntDistribution)
