"""Genes that are fixed from outside do not make proposals repeat."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import optuna
import pytest
from optuna.samplers import PartialFixedSampler
from optuna.storages import InMemoryStorage

from spikesearch import ESNNSampler, SearchSpace
from tests.study.helpers import check_study, new_study, search

SPACE = SearchSpace((8, 16, 32), (1, 2), (1, 2), (1, 2), (1.0, 2.0), (2.0,), (1, 2))


@pytest.fixture(autouse=True)
def _experimental() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def of_space(trial: optuna.Trial) -> tuple[float, float]:
    arch = SPACE.suggest(trial)
    return arch.depth * arch.embed_dim + arch.time_steps, arch.embed_dim * arch.time_steps


def of_anything(trial: optuna.Trial) -> tuple[float, float]:
    n, x = trial.suggest_int("n", 1, 8), trial.suggest_float("x", 0, 1)
    kind = trial.suggest_categorical("kind", ["a", "b"])
    return n * x, n * (2.0 if kind == "a" else 1.0) * trial.suggest_int("m", 1, 8)


def of_steps(trial: optuna.Trial) -> tuple[float, float]:
    n, m = trial.suggest_int("n", 1, 6), trial.suggest_int("m", 1, 6)
    return n * m, n + m + trial.suggest_int("k", 1, 3)


def run(sampler: optuna.samplers.BaseSampler, objective: Any, n_trials: int) -> list[dict[str, Any]]:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    study.optimize(objective, n_trials=n_trials)
    return [trial.params for trial in study.trials]


def different(params: list[dict[str, Any]]) -> int:
    return len({tuple(sorted(point.items())) for point in params})


@pytest.mark.parametrize("surrogate", [True, False])
@pytest.mark.parametrize(
    ("objective", "fixed"),
    [
        (of_space, {"time_steps": 1}),
        (of_space, {"depth": 2}),
        (of_space, {"depth": 1, "block1.v_threshold": 2.0}),
        (of_space, {"embed_dim": 8, "stem.v_threshold": 1.0}),
        (of_anything, {"kind": "b"}),
        (of_anything, {"x": 0.25}),
        (of_anything, {"x": 0.25, "kind": "a"}),
        (of_steps, {"k": 2}),
    ],
)
@pytest.mark.parametrize("knows_space", [True, False])
def test_a_partly_fixed_sampler_repeats_nothing(
    knows_space: bool, objective: Any, fixed: dict[str, Any], surrogate: bool
) -> None:
    space = SPACE if knows_space and objective is of_space else None
    sampler = PartialFixedSampler(fixed, ESNNSampler(space, seed=0, surrogate=surrogate))
    params = run(sampler, objective, 24)
    assert all(point.get(name, value) == value for point in params for name, value in fixed.items())
    # Without a space, genes are learned from finished trials: the first is drawn without them.
    assert different(params) >= 24 - 2 * (space is None)


def test_samplers_around_samplers() -> None:
    inner = PartialFixedSampler({"n": 3}, ESNNSampler(seed=0))
    params = run(PartialFixedSampler({"k": 1}, inner), of_steps, 6)
    assert {(point["n"], point["k"]) for point in params} == {(3, 1)}
    assert different(params) == 6


def test_all_that_is_left_is_found_and_then_repeated() -> None:
    params = run(PartialFixedSampler({"n": 3, "k": 1}, ESNNSampler(seed=0)), of_steps, 12)
    assert different(params[:6]) >= 5
    assert different(params) == 6


class Hides(optuna.samplers.BaseSampler):
    """A sampler around another that keeps a gene to itself, and changes it halfway."""

    def __init__(self, inner: optuna.samplers.BaseSampler) -> None:
        self.inner = inner

    def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
        return {k: v for k, v in self.inner.infer_relative_search_space(study, trial).items() if k != "k"}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
        return self.inner.sample_relative(study, trial, search_space)

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        if param_name == "k":
            return 1 + (trial.number >= 12)
        return self.inner.sample_independent(study, trial, param_name, param_distribution)


def test_genes_that_are_fixed_to_what_is_not_known() -> None:
    assert different(run(Hides(ESNNSampler(seed=0)), of_steps, 24)) >= 23


@pytest.mark.parametrize(
    "fixed", [{"time_steps": 1}, {"embed_dim": 16}, {"depth": 2, "time_steps": 2}, {"block0.v_threshold": 2.0}]
)
@pytest.mark.parametrize("surrogate", [True, False])
def test_parts_of_genomes_that_are_enqueued(fixed: dict[str, Any], surrogate: bool) -> None:
    study = optuna.create_study(
        directions=["maximize", "minimize"], sampler=ESNNSampler(SPACE, seed=0, surrogate=surrogate)
    )
    study.optimize(of_space, n_trials=4)
    for _ in range(12):
        study.enqueue_trial(fixed)
    study.optimize(of_space, n_trials=16)
    params = [trial.params for trial in study.trials]
    assert all(point.items() >= fixed.items() for point in params[4:16])
    assert different(params) == 20


def test_a_fixed_value_that_is_none_is_left_to_optuna() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=ESNNSampler(seed=0))
    study.optimize(of_anything, n_trials=3)
    study.enqueue_trial({"n": 3, "x": "much", "other": 1})
    study.enqueue_trial({"n": 99})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study.optimize(of_anything, n_trials=2, catch=(ValueError, TypeError))
    assert study.trials[3].params["n"] == 3


def test_parts_of_genomes_that_are_enqueued_in_a_study_are_scored() -> None:
    study = new_study(InMemoryStorage())
    for _ in range(8):
        study.enqueue_trial({"time_steps": 1})
    search(study, total=12)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 12
    assert all(trial.params["time_steps"] == 1 for trial in study.trials[1:9])
    check_study(study)
