"""A study without a network: an objective that is a formula of the architecture, and processes that work on it.

The search does not know what scores an architecture, so that its promises (budgets, repair, no architecture twice) can
be tested with thousands of trials, and by killing it at every single step.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import optuna

from spikesearch.config import StudyConfig
from spikesearch.space import Architecture, SearchSpace
from spikesearch.storage.locks import NullLock
from spikesearch.study.search.loop import Budget, Outcome, Search
from spikesearch.study.store import create_study, load_study, open_store
from spikesearch.study.worker import Worker, running_here

TINY: dict[str, Any] = {
    "name": "tiny",
    "data": {"kind": "digits", "augment": None, "splits": {"train": 0.3, "search": 0.1, "test": 0.1}},
    "space": {
        "embed_dims": [16, 24],
        "depths": [1, 2],
        "num_heads": [1, 2],
        "mlp_ratios": [1],
        "v_thresholds": [0.6, 1.0],
        "taus": [1.25, 2.0, 4.0],
        "time_steps": [1, 2],
    },
    "model": {"pool_stages": [2, 3]},
    "train": {"epochs": 3, "lr": 0.01, "warmup_epochs": 0, "random_subnets": 1, "batch_size": 16, "ema_decay": None},
    "scoring": {"calibration_images": 64},
    "search": {"n_trials": 6, "population_size": 4, "surrogate": False},
}


def tiny_config(**changes: Any) -> StudyConfig:
    """The tiny study file; ``changes`` are dotted keys with ``__`` for the dot."""
    data = copy.deepcopy(TINY)
    for name, value in changes.items():
        section = data
        *parents, key = name.split("__")
        for parent in parents:
            section = section.setdefault(parent, {})
        section[key] = value
    return StudyConfig.from_dict(data)


@dataclass(frozen=True)
class Formula:
    """A score that is a formula of the architecture; deeper and wider is better and dearer."""

    accuracy: float
    energy_uJ: float
    params: int
    macs: float
    acs: float
    mean_firing_rate: float
    dead: bool


def formula(arch: Architecture) -> Formula:
    heads = sum(block.num_heads for block in arch.blocks)
    size = arch.embed_dim * arch.depth + 3 * heads
    accuracy = 1 - 4 / (size + 5 * arch.stem.v_threshold + arch.time_steps)
    energy = size * arch.time_steps / (1 + sum(block.v_threshold for block in arch.blocks))
    return Formula(accuracy, energy, size * 10, float(size), 2.0 * size, 0.1 / arch.depth, accuracy < 0.2)


def slow_formula(arch: Architecture) -> Formula:
    time.sleep(0.02)
    return formula(arch)


@contextmanager
def deleted_at(line: str, url: str, name: str) -> Iterator[None]:
    """Delete a study as another process may, at the moment when a line that begins like this is logged."""

    class Deletes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith(line):
                optuna.delete_study(study_name=name, storage=url)

    logger, handler = logging.getLogger("spikesearch"), Deletes()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def new_study(url: str | optuna.storages.BaseStorage, **changes: Any) -> optuna.Study:
    return create_study(tiny_config(**changes), storage=url, load_if_exists=True)


def search(
    study: optuna.Study,
    *,
    total: int = 6,
    further: int | None = None,
    run: str = "run",
    url: str | None = None,
    score: Any = formula,
    **options: Any,
) -> Outcome:
    """Run a worker's loop in this process."""
    config = tiny_config()
    store = open_store(url) if url is not None else None
    with running_here(run):
        return Search(
            study,
            space_of(study),
            score,
            lock=store.lock(study.study_name) if store is not None else NullLock(),
            worker=Worker.here(run),
            budget=Budget(run, further, total),
            num_classes=10,
            constraints=options.pop("constraints", config.constraints),
            **options,
        ).run()


def space_of(study: optuna.Study) -> SearchSpace:
    return SearchSpace.from_dict(study.user_attrs["study_file"]["space"])


def search_process(url: str, run: str, further: int | None, total: int) -> str:
    """The same in a process of its own."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = load_study("tiny", storage=url)
    return search(study, url=url, run=run, further=further, total=total, score=slow_formula)


def optimize_process(url: str, n_trials: int) -> list[int]:
    """What a plain Optuna user does, with a storage and a sampler of their own."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})
    study = optuna.load_study(study_name="tiny", storage=storage, sampler=optuna.samplers.RandomSampler(seed=1))
    space = space_of(study)
    numbers = []

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        numbers.append(trial.number)
        score = slow_formula(space.suggest(trial))
        return score.accuracy, score.energy_uJ

    study.optimize(objective, n_trials=n_trials)
    return numbers


def check_study(study: optuna.Study) -> None:
    """What must hold of every study after every run, whatever happened before."""
    trials = study.get_trials(deepcopy=False)
    space = space_of(study)
    assert [trial.number for trial in trials] == list(range(len(trials)))
    complete = [trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]
    keys = [space.architecture(trial.params).key for trial in complete]
    assert len(keys) == len(set(keys))
    assert all(trial.state.is_finished() for trial in trials)
    for trial in trials:
        if "retried_by" in trial.user_attrs:
            assert trial.state == optuna.trial.TrialState.FAIL
            assert trials[trial.user_attrs["retried_by"]].user_attrs["retry_of"] == trial.number
        if "retry_of" in trial.user_attrs:
            assert trials[trial.user_attrs["retry_of"]].user_attrs["retried_by"] == trial.number
            # what a user left open is drawn again if it was not complete when the process died
            assert trials[trial.user_attrs["retry_of"]].params.items() <= trial.params.items()
    reference = next(trial for trial in complete if space.architecture(trial.params) == space.largest)
    for trial in complete:
        assert reference.datetime_complete <= trial.datetime_start or trial is reference
        if "worker" in trial.user_attrs:
            assert {"f_aeb", "params", "macs", "acs", "mean_firing_rate", "feasible"} <= trial.user_attrs.keys()
    assert study.user_attrs["reference_energy_uJ"] == reference.values[1]
