"""Objectives that give up before they have asked for everything are not asked the same again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from spikesearch import ESNNSampler, SearchSpace
from spikesearch.sampler.stops import FAILED, PRUNED, Stops

SPACE = SearchSpace((8, 16, 32, 64), (1, 2), (1, 2), (1, 2), (1.0,), (2.0,), (1, 2))


def run(objective: Callable[[optuna.Trial], Any], sampler: ESNNSampler, n_trials: int = 40) -> optuna.Study:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    study.optimize(objective, n_trials=n_trials, catch=(MemoryError,))
    return study


def complete(study: optuna.Study) -> int:
    return sum(trial.state == TrialState.COMPLETE for trial in study.trials)


@pytest.mark.parametrize("surrogate", [True, False])
@pytest.mark.parametrize(("error", "wasted"), [(optuna.TrialPruned, 1), (MemoryError, 2)])
def test_a_value_that_is_given_up_at_once_is_left_alone(error: type[Exception], wasted: int, surrogate: bool) -> None:
    def objective(trial: optuna.Trial) -> tuple[float, float]:
        width = trial.suggest_categorical("width", [16, 32, 64, 128])
        if width == 128:
            raise error
        return width / 128 * trial.suggest_categorical("depth", [1, 2, 3]), width * trial.suggest_int("steps", 1, 8)

    study = run(objective, ESNNSampler(seed=0, surrogate=surrogate))
    # Before the first complete trial the sampler knows no genes, and draws each alone.
    known = next(trial.number for trial in study.trials if trial.state == TrialState.COMPLETE)
    assert complete(study) >= 40 - known - wasted
    assert len({tuple(t.params.items()) for t in study.trials if t.state == TrialState.COMPLETE}) == complete(study)


@pytest.mark.parametrize("error", [optuna.TrialPruned, MemoryError])
def test_combinations_that_are_given_up_are_left_alone(error: type[Exception]) -> None:
    def objective(trial: optuna.Trial) -> tuple[float, float]:
        width, depth = trial.suggest_int("width", 1, 4), trial.suggest_int("depth", 1, 4)
        if width * depth > 8:  # 4 of 16
            raise error
        return width * trial.suggest_float("rate", 0, 1), depth * trial.suggest_int("steps", 1, 8)

    study = run(objective, ESNNSampler(seed=0), 60)
    stopped = Counter(tuple(t.params.items()) for t in study.trials if t.state != TrialState.COMPLETE)
    assert max(stopped.values()) <= 2
    assert complete(study) >= 60 - 2 * 4


@pytest.mark.parametrize("error", [optuna.TrialPruned, MemoryError])
def test_architectures_of_a_space_that_are_given_up_early_are_left_alone(error: type[Exception]) -> None:
    def objective(trial: optuna.Trial) -> tuple[float, float]:
        if trial.suggest_categorical("embed_dim", SPACE.embed_dims) == 64:
            raise error
        arch = SPACE.suggest(trial)
        return arch.depth * arch.embed_dim, arch.embed_dim * arch.time_steps

    assert complete(run(objective, ESNNSampler(SPACE, seed=0))) >= 38


def test_a_failure_by_chance_forbids_nothing() -> None:
    def objective(trial: optuna.Trial) -> tuple[float, float]:
        width = trial.suggest_categorical("width", [16, 128])
        if trial.number == 14:
            raise MemoryError
        return width, width * trial.suggest_float("x", 0, 1)

    study = run(objective, ESNNSampler(seed=0))
    failed = study.trials[14].params["width"]
    assert sum(trial.params["width"] == failed for trial in study.trials[15:]) > 5


def test_what_went_further_once_is_not_forbidden() -> None:
    stops = Stops()
    stops.add({"a": 1.0}, PRUNED)
    assert {"a": 1.0, "b": 2.0} in stops
    assert {"a": 2.0, "b": 2.0} not in stops
    stops.add({"a": 1.0, "b": 2.0}, FAILED)
    assert {"a": 1.0, "b": 2.0, "c": 0.0} not in stops
    stops.add({"a": 1.0, "b": 2.0}, FAILED)
    assert {"a": 1.0, "b": 2.0, "c": 0.0} in stops
    assert {"a": 1.0, "b": 3.0, "c": 0.0} not in stops
    assert {"b": 2.0} not in stops


@pytest.mark.parametrize("before", [True, False])
def test_the_order_of_trials_does_not_matter(before: bool) -> None:
    stops = Stops()
    trials: list[tuple[dict[str, float], int]] = [({"a": 1.0}, PRUNED), ({"a": 1.0, "b": 0.0}, 0), ({}, PRUNED)]
    for genome, weight in trials if before else reversed(trials):
        stops.add(genome, weight)
    assert {"a": 1.0, "b": 1.0} not in stops


def test_where_everything_is_given_up_the_search_goes_on() -> None:
    def objective(trial: optuna.Trial) -> tuple[float, float]:
        if trial.suggest_int("a", 1, 2) > 0 and trial.number > 0:
            raise optuna.TrialPruned
        return trial.suggest_int("b", 1, 2), 1.0

    study = run(objective, ESNNSampler(seed=0), 12)
    assert len(study.trials) == 12
