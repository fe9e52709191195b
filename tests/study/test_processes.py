"""Several processes on one study, and processes that are killed at every single step."""

from __future__ import annotations

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from threading import Barrier

import optuna
import pytest
from optuna.trial import TrialState

from spikesearch.study import load_study
from tests.study.helpers import check_study, new_study, optimize_process, search, search_process

pytestmark = pytest.mark.slow


@pytest.fixture
def url(tmp_path: Path) -> str:
    new_study(f"sqlite:///{tmp_path}/a.db")
    return f"sqlite:///{tmp_path}/a.db"


def states(url: str) -> list[TrialState]:
    return [trial.state for trial in load_study("tiny", storage=url).get_trials(deepcopy=False)]


def test_workers_share_a_budget_exactly_beside_a_plain_user(url: str) -> None:
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as pool:
        plain = pool.submit(optimize_process, url, 8)
        ours = [pool.submit(search_process, url, "one-run", 13, 0) for _ in range(2)]
        assert [process.result(120) for process in ours] == ["done", "done"]
        numbers = plain.result(120)
    trials = load_study("tiny", storage=url).get_trials(deepcopy=False)
    assert [trial.number for trial in trials] == list(range(len(trials)))
    mine = [
        t for t in trials if t.user_attrs.get("worker", {}).get("run") == "one-run" and t.state == TrialState.COMPLETE
    ]
    theirs = [t for t in trials if t.number in numbers]
    assert len(mine) == 13
    assert [t.state for t in theirs] == [TrialState.COMPLETE] * 8
    drawn = [trial.user_attrs["arch"] for trial in mine]
    assert len(set(drawn)) == len(drawn)


def test_two_runs_at_once_fill_the_study_and_not_more(url: str) -> None:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        runs = [pool.submit(search_process, url, run, None, 21) for run in ("a", "b")]
        assert [process.result(120) for process in runs] == ["done", "done"]
    study = load_study("tiny", storage=url)
    check_study(study)
    assert states(url) == [TrialState.COMPLETE] * 21


def _create_at_once(url: str, barrier: Barrier) -> list[str]:
    from spikesearch.study.store import create_study
    from tests.study.helpers import tiny_config

    names = []
    for number in range(5):
        barrier.wait(60)
        names.append(create_study(tiny_config(), storage=f"{url}{number}.db", load_if_exists=True).study_name)
    return names


def test_processes_that_find_no_storage_create_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(3, mp_context=context) as pool:
        barrier = manager.Barrier(3)
        runs = [pool.submit(_create_at_once, f"sqlite:///{tmp_path}/", barrier) for _ in range(3)]
        assert [run.result(120) for run in runs] == [["tiny"] * 5] * 3
    for number in range(5):
        assert states(f"sqlite:///{tmp_path}/{number}.db") == [TrialState.WAITING]


# --- kill -9 ----------------------------------------------------------------------------------------------------------


def _die_before(url: str, transaction: int) -> None:
    """Be a worker that is killed right before it commits its n-th transaction that writes."""
    from sqlalchemy import event

    from spikesearch.study.store import open_store

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_store(url).storage
    engine = storage._backend.engine  # type: ignore[attr-defined]
    seen, writes = 0, False

    def on_statement(connection: object, cursor: object, statement: str, *rest: object) -> None:
        nonlocal writes
        writes |= not statement.startswith("SELECT")

    def on_commit(connection: object) -> None:
        nonlocal seen, writes
        seen += writes
        writes = False
        if seen == transaction:
            os.kill(os.getpid(), signal.SIGKILL)

    study = load_study("tiny", storage=storage)
    event.listen(engine, "before_cursor_execute", on_statement)
    event.listen(engine, "commit", on_commit)
    search(study, url=url, total=3, run=f"{os.getpid()}")


def _killed(url: str, transaction: int) -> bool:
    # fork: a new interpreter for every one of these deaths would take minutes
    process = multiprocessing.get_context("fork").Process(target=_die_before, args=(url, transaction))
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def test_a_worker_may_be_killed_before_any_of_its_transactions(tmp_path: Path) -> None:
    step, killed = 0, True
    while killed:
        step += 1
        url = f"sqlite:///{tmp_path}/{step}.db"
        new_study(url)
        killed = _killed(url, step)
        search(load_study("tiny", storage=url), url=url, total=4)
        check_study(load_study("tiny", storage=url))
        assert states(url).count(TrialState.COMPLETE) == 4
    # claim the reference, store its energy, finish it; create and finish two more
    assert step == 8


@pytest.mark.parametrize("second", [1, 2, 3, 4])
def test_the_repair_may_be_killed_as_well(tmp_path: Path, second: int) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    new_study(url)
    search(load_study("tiny", storage=url), url=url, total=1)
    study = load_study("tiny", storage=url)
    study.enqueue_trial({"depth": 2})  # a genome that is only complete when it runs
    assert _killed(url, 5)
    assert _killed(url, second)
    assert _killed(url, 1)
    search(load_study("tiny", storage=url), url=url, total=5)
    check_study(load_study("tiny", storage=url))
    assert states(url).count(TrialState.COMPLETE) == 5


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


def test_ctrl_c_may_come_at_any_moment(tmp_path: Path) -> None:
    """Interrupt the loop after many different times; it must say so, leave nothing running and be able to go on."""
    moments = [0.001 + 0.006 * step for step in range(16)]

    def on_alarm(number: int, frame: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGALRM, on_alarm)
    try:
        for step, moment in enumerate(moments):
            url = f"sqlite:///{tmp_path}/{step}.db"
            study = new_study(url)
            search(study, url=url, total=1)
            timers = [moment]

            def begin(timers: list[float] = timers) -> bool:
                if timers:
                    signal.setitimer(signal.ITIMER_REAL, timers.pop())
                return False

            with pytest.raises(KeyboardInterrupt):
                search(study, url=url, total=10_000, run="interrupted", stop=begin)
            assert TrialState.RUNNING not in states(url)
            done = states(url).count(TrialState.COMPLETE)
            search(load_study("tiny", storage=url), url=url, total=done + 2, run="again")
            check_study(load_study("tiny", storage=url))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
