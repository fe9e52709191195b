"""Races inside a study: who takes part, what is recorded, and that a search still comes to its end."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from spikesearch import run_study
from spikesearch.audit.verify import check_trials, verify_study
from spikesearch.errors import StudyError
from spikesearch.fitness import pareto_front
from spikesearch.racing import Dominated, Rival
from spikesearch.study import create_study, load_study
from spikesearch.study.results import read_results
from spikesearch.study.search.ledger import Ledger
from spikesearch.study.search.trials import create
from spikesearch.study.session import open_trained
from spikesearch.study.worker import Worker, running_here
from tests.study.helpers import check_study, formula, new_study, search, space_of, tiny_config

ATTRS = {"accuracy_bound", "energy_bound_uJ", "images_seen", "dominated_by"}


@pytest.fixture
def study() -> optuna.Study:
    return new_study(InMemoryStorage())


def race(arch: Any, rivals: list[Rival]) -> Any:
    """A race whose bounds are the truth."""
    score = formula(arch)
    for rival in rivals:
        if rival.dominates(score.accuracy, score.energy_uJ):
            raise Dominated(
                accuracy_bound=score.accuracy,
                energy_bound_uJ=score.energy_uJ,
                images_seen=100,
                dominated_by=rival.number,
            )
    return score


def in_state(study: optuna.Study, state: TrialState) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(state,))


def test_stopped_trials_are_pruned_with_the_bounds_and_do_not_count(study: optuna.Study) -> None:
    assert search(study, total=20, race=race) == "done"
    check_study(study)
    complete, stopped = in_state(study, TrialState.COMPLETE), in_state(study, TrialState.PRUNED)
    assert len(complete) == 20
    assert 0 < len(stopped) <= 20
    for trial in stopped:
        assert trial.user_attrs.keys() - {"arch", "worker"} == ATTRS
        assert all(isinstance(trial.user_attrs[name], int | float) for name in ATTRS)
        rival = study.trials[trial.user_attrs["dominated_by"]]
        assert rival.state == TrialState.COMPLETE
        assert rival.values[0] >= trial.user_attrs["accuracy_bound"]
        assert rival.values[1] <= trial.user_attrs["energy_bound_uJ"]
    assert len({trial.user_attrs["arch"] for trial in study.trials}) == len(study.trials)
    assert read_results(study, "memory").states["pruned"] == len(stopped)


def test_the_front_is_that_of_everything_that_was_proposed(study: optuna.Study) -> None:
    search(study, total=20, race=race)
    scores = [formula(space_of(study).architecture(trial.params)) for trial in study.trials]
    best = pareto_front([(-score.accuracy, score.energy_uJ) for score in scores])
    front = {trial.number for trial in read_results(study, "memory").front}
    assert front == set(np.flatnonzero(best))


def test_a_candidate_races_against_the_feasible_front_of_the_moment(study: optuna.Study) -> None:
    constraints = {"params": 700.0}
    fields = []

    def watching(arch: Any, rivals: list[Rival]) -> Any:
        done = [trial for trial in in_state(study, TrialState.COMPLETE) if trial.user_attrs["feasible"]]
        best = pareto_front([(-trial.values[0], trial.values[1]) for trial in done])
        expected = {trial.number: tuple(trial.values) for trial, on in zip(done, best, strict=True) if on}
        assert {rival.number: (rival.accuracy, rival.energy_uJ) for rival in rivals} == expected
        fields.append(len(rivals))
        return race(arch, rivals)

    search(study, total=15, race=watching, constraints=constraints)
    assert max(fields) > 1


def test_the_reference_and_the_queue_are_scored_in_full(study: optuna.Study) -> None:
    raced = []

    def noting(arch: Any, rivals: list[Rival]) -> Any:
        raced.append(arch.key)
        return race(arch, rivals)

    search(study, total=10, race=noting)
    (again, *_) = in_state(study, TrialState.PRUNED)
    study.enqueue_trial(again.params)  # a user wants to know after all
    before = len(raced)
    search(study, total=11, race=noting, run="more")
    asked = study.trials[-1]
    assert (asked.state, asked.params) == (TrialState.COMPLETE, again.params)
    assert len(raced) == before
    assert space_of(study).largest.key not in raced
    check_study(study)


def test_a_repetition_is_scored_in_full(study: optuna.Study) -> None:
    def killed(arch: Any, rivals: list[Rival]) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(study, total=6, race=killed)
    search(study, total=2, race=killed, run="more")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    check_study(study)


def test_no_more_trials_are_stopped_than_completed(study: optuna.Study) -> None:
    def hopeless(arch: Any, rivals: list[Rival]) -> Any:
        raise Dominated(accuracy_bound=0.1, energy_bound_uJ=9.0, images_seen=10, dominated_by=0)

    assert search(study, total=12, race=hopeless) == "done"
    check_study(study)
    assert len(in_state(study, TrialState.PRUNED)) == 11
    ledger = Ledger(study, space_of(study))
    ledger.refresh()
    assert (ledger.n_stopped, ledger.n_complete) == (11, 12)


def test_running_trials_count_as_stopped(study: optuna.Study) -> None:
    """They may all lose; otherwise many workers would stop more than they complete."""
    space = space_of(study)
    search(study, total=4)
    raced: list[Any] = []
    with running_here("beside"):
        for number in range(4):
            create(study, space, space.params(space.at(number)), Worker.here("beside"))
        search(study, further=2, run="other", race=lambda arch, rivals: raced.append(arch) or formula(arch))
    scored = in_state(study, TrialState.COMPLETE)[-2:]
    assert [space.architecture(trial.params) for trial in scored][1:] == raced  # beside 4 running: of 4, then of 5


def test_an_exhausted_space_ends_the_search() -> None:
    study = new_study(InMemoryStorage(), space__depths=[1], space__taus=[2.0])
    space = space_of(study)
    assert search(study, total=10_000, race=race) == "exhausted"
    assert sorted(trial.user_attrs["arch"] for trial in study.trials) == sorted(
        space.at(i).key for i in range(space.size)
    )
    assert search(study, total=10_000, race=race, run="again") == "exhausted"


def test_racing_cannot_be_toggled_in_a_study(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    study = new_study(url)
    with pytest.raises(StudyError, match=r"`scoring\.racing` False, but got True"):
        new_study(url, scoring__racing=True)
    stored = study.user_attrs["study_file"]
    del stored["scoring"]["racing"]  # a study from before there were races
    study.set_user_attr("study_file", stored)
    assert create_study(tiny_config(), storage=url, load_if_exists=True).study_name == "tiny"


@pytest.mark.slow
def test_a_study_with_races(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    config = tiny_config(scoring__racing=True, scoring__batch_size=10, search__n_trials=6)
    with caplog.at_level(logging.WARNING, logger="spikesearch"):
        study = run_study(config, storage=url, progress=False)
    assert "racing" not in caplog.text
    check_study(study)
    complete, stopped = in_state(study, TrialState.COMPLETE), in_state(study, TrialState.PRUNED)
    assert len(complete) == 6
    assert stopped
    scorer = open_trained("tiny", storage=url).scorer()
    for trial in complete:
        score = scorer.score(space_of(study).architecture(trial.params))
        assert trial.values == [score.accuracy, score.energy_uJ]
    for trial in stopped:
        score = scorer.score(space_of(study).architecture(trial.params))
        assert trial.user_attrs["images_seen"] < score.n_images
        assert trial.user_attrs["accuracy_bound"] >= score.accuracy
        assert trial.user_attrs["energy_bound_uJ"] <= score.energy_uJ
    checks = {check.name: check for check in verify_study("tiny", storage=url)}
    assert checks["stopped trials"].found == f"{len(stopped)} by racing"
    assert all(check.passed for check in checks.values())
    assert len(run_study("tiny", storage=url, progress=False).trials) == len(study.trials)  # nothing is left to do


def test_a_stopped_trial_that_nothing_dominates_is_found(tmp_path: Path) -> None:
    study = new_study(f"sqlite:///{tmp_path}/a.db")
    search(study, total=10, race=race)
    assert all(check.passed for check in check_trials(study))
    lost = in_state(study, TrialState.PRUNED)[0]
    study.add_trial(
        optuna.trial.create_trial(
            state=TrialState.PRUNED,
            params=lost.params,
            distributions=lost.distributions,
            user_attrs={**lost.user_attrs, "accuracy_bound": 1.0},
        )
    )
    (check,) = [check for check in check_trials(load_study("tiny", storage=study._storage)) if not check.passed]
    assert check.name == "stopped trials"
    assert f"[{len(study.trials) - 1}]" in check.found


def test_a_split_of_few_batches_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = tiny_config(scoring__racing=True, train__epochs=1, search__n_trials=1)
    with caplog.at_level(logging.WARNING, logger="spikesearch"):
        run_study(config, storage=f"sqlite:///{tmp_path}/a.db", progress=False)
    assert "`scoring.racing` stops nothing" in caplog.text
