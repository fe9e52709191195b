"""A machine that is gone: nobody waits for it for ever, and its trials can be had back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from spikesearch.audit.verify import check_trials
from spikesearch.errors import StudyError
from spikesearch.study import run_study
from spikesearch.study.release import release_host
from spikesearch.study.search import signs
from spikesearch.study.store import delete_study
from spikesearch.study.worker import Worker
from tests.commands import Result
from tests.study.helpers import check_study, formula, new_study, search, space_of, tiny_config

AWAY = Worker("node-a", 4242, "boot:1", "their-run")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/spikesearch.db"


@pytest.fixture
def study(url: str) -> optuna.Study:
    return new_study(url)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signs, "PATIENCE_S", 0.3)


def leave(study: optuna.Study, index: int | None = None, worker: Worker | None = AWAY) -> int:
    """Leave a running trial, by default the reference, as a killed process does; return its number."""
    space = space_of(study)
    arch = space.largest if index is None else space.at(index)
    study.add_trial(
        optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=space.params(arch),
            distributions=dict(space.distributions(arch.depth)),
            user_attrs={"arch": arch.key, **({"worker": worker.to_dict()} if worker else {})},
        )
    )
    return len(study.trials) - 1


@pytest.mark.usefixtures("impatient")
def test_a_reference_without_a_sign_of_life_is_not_waited_for(study: optuna.Study, url: str) -> None:
    number = leave(study)
    with pytest.raises(StudyError, match=rf"trial {number}, the reference.*4242 on node-a.*study release tiny node-a"):
        search(study, url=url)
    assert release_host("tiny", "node-a", storage=url) == [number]
    search(study, url=url)
    lost = study.trials[number]
    assert lost.state == TrialState.FAIL
    assert study.trials[lost.user_attrs["retried_by"]].user_attrs["arch"] == space_of(study).largest.key
    assert "lost" not in study.trials[lost.user_attrs["retried_by"]].user_attrs["worker"]
    check_study(study)


@pytest.mark.usefixtures("impatient")
def test_a_reference_of_something_else_is_not_waited_for(study: optuna.Study, url: str) -> None:
    number = leave(study, worker=None)
    with pytest.raises(StudyError, match=rf"something other than spikesearch.*study\.tell\({number}, state="):
        search(study, url=url)
    study.tell(number, state=TrialState.FAIL)
    search(study, url=url)


@pytest.mark.usefixtures("impatient")
def test_signs_of_life_are_waited_for(study: optuna.Study, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # the machine is at work for three times as long as its silence would be waited for, and then gone
    import time

    leave(study)
    monkeypatch.setattr(signs, "EVERY_S", 0.05)
    their = optuna.load_study(study_name="tiny", storage=url)
    began = time.monotonic()

    class Ends(Exception):
        pass

    def at_work() -> bool:
        if time.monotonic() - began > 0.9:
            raise Ends
        return False

    with pytest.raises(Ends), signs.signs_of_life(their):
        search(study, url=url, stop=at_work)
    with pytest.raises(StudyError, match="sign of life"):
        search(study, url=url)


def test_whoever_scores_the_reference_gives_signs(study: optuna.Study, url: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(signs, "EVERY_S", 0.01)
    seen = []

    def slow(arch: Any) -> Any:
        import time

        before = study.user_attrs.get("sign_of_life")
        time.sleep(0.3)
        seen.append(study.user_attrs.get("sign_of_life") != before)
        return formula(arch)

    search(study, url=url, score=slow, total=2)
    assert seen == [True, False]


@pytest.mark.usefixtures("impatient")
def test_a_run_that_scores_nothing_fails(study: optuna.Study, url: str) -> None:
    number = leave(study)
    with pytest.raises(StudyError, match=rf"before its reference was scored.*Trial {number} is run by .*node-a"):
        run_study(tiny_config(), storage=url, timeout=0.05, progress=False)
    with pytest.raises(StudyError, match="without a sign of life"):
        run_study(tiny_config(), storage=url, progress=False)


def test_a_timeout_before_the_first_trial_fails(url: str) -> None:
    with pytest.raises(StudyError, match=r"before its reference was scored.*needs more --timeout"):
        run_study(tiny_config(), storage=url, timeout=1e-6, progress=False)


def test_verify_and_delete_say_what_to_do(study: optuna.Study, url: str) -> None:
    search(study, url=url, total=2)
    numbers = [leave(study, 5), leave(study, 6)]
    running = {check.name: check for check in check_trials(study)}["running trials"]
    assert not running.passed
    assert f"{numbers} of node-a" in running.found
    assert f"`spikesearch study release tiny node-a --storage {url}` says so" in running.found
    with pytest.raises(StudyError, match=r"4242 on node-a works on .*study release tiny node-a"):
        delete_study("tiny", storage=url)
    assert release_host("tiny", "node-a", storage=url) == numbers
    running = {check.name: check for check in check_trials(study)}["running trials"]
    assert not running.passed
    assert "the next `study run` repeats them" in running.found
    delete_study("tiny", storage=url)


def test_the_usual_storage_need_not_be_named(study: optuna.Study, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(study)
    monkeypatch.setenv("SPIKESEARCH_STORAGE", url)
    with pytest.raises(StudyError, match="`spikesearch study release tiny node-a` says so"):
        delete_study("tiny", storage=url)


def test_other_trials_of_another_machine_are_left_alone_with_a_remedy(
    study: optuna.Study, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    search(study, url=url, total=2)
    number = leave(study, 5)
    with caplog.at_level(logging.WARNING):
        search(study, url=url, total=3)
    assert study.trials[number].state == TrialState.RUNNING
    assert "study release tiny node-a" in caplog.text
    release_host("tiny", "node-a", storage=url)
    search(study, url=url, total=6)
    check_study(study)


def test_who_can_be_released(study: optuna.Study, url: str, cli: Callable[..., Result]) -> None:
    leave(study, 5)
    leave(study, 6, Worker.here("run"))
    before = study.trials
    here = Worker.here("run").host
    assert f"did you mean 'node-a'; these machines have one: node-a, {here}" in (
        cli("study", "release", "tiny", "node-b").complaint.replace("?", "")
    )
    assert f"{here} is this machine" in cli("study", "release", "tiny", here).complaint
    assert study.trials == before
    assert cli("study", "release", "tiny", "node-a").out == "1\n"
    assert "There is no study 'tinny'" in cli("study", "release", "tinny", "node-a").complaint
