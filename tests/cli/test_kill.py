"""``study run`` is killed, for real: during training, during scoring, between trials; alone and with workers."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from optuna.trial import TrialState

from spikesearch.study import load_study
from tests.cli.conftest import command, environment
from tests.commands import Result
from tests.study.helpers import check_study

pytestmark = [pytest.mark.skipif(os.name != "posix", reason="signals"), pytest.mark.slow]


@contextlib.contextmanager
def running(folder: Path, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command("study", "run", "tiny", *arguments),
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def trial_states(folder: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(folder / "spikesearch.db", timeout=60)) as connection:
        return [row[0] for row in connection.execute("SELECT state FROM trials ORDER BY trial_id")]


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    limit = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < limit
        assert process is None or process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.002)


def stop_when(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Freeze the process in a state; only what a frozen process has left can be looked at without a race."""

    def frozen() -> bool:
        process.send_signal(signal.SIGSTOP)
        with contextlib.suppress(sqlite3.OperationalError):  # it may be frozen while it holds a lock of the database
            if condition():
                return True
        process.send_signal(signal.SIGCONT)
        return False

    wait_until(frozen, process)


def go_on(cli: Callable[..., Result], folder: Path, undisturbed: Path, *arguments: object) -> None:
    """What every killed study must come to: the next run completes it."""
    result = cli("study", "run", "tiny", *arguments)
    assert result.status == 0, result.err
    study = load_study("tiny", storage=f"sqlite:///{folder}/spikesearch.db")
    check_study(study)
    alone = load_study("tiny", storage=f"sqlite:///{undisturbed}/spikesearch.db")
    assert study.user_attrs["supernet_hash"] == alone.user_attrs["supernet_hash"]
    # the same architecture has the same score, whatever happened
    scores = {trial.user_attrs["arch"]: trial.values for trial in alone.trials}
    assert all(
        scores.get(trial.user_attrs["arch"], trial.values) == trial.values
        for trial in study.trials
        if trial.state == TrialState.COMPLETE
    )


def test_during_training(tmp_path: Path, tiny_file: Path, undisturbed: Path, cli: Callable[..., Result]) -> None:
    assert cli("study", "create", tiny_file).status == 0
    with running(tmp_path) as process:
        checkpoints = tmp_path / "runs/tiny/checkpoints"
        stop_when(process, lambda: checkpoints.is_dir() and any(checkpoints.glob("[!.]*")))
        process.kill()
        process.wait()
    assert not (tmp_path / "runs/tiny/supernet.json").exists()
    go_on(cli, tmp_path, undisturbed)
    assert trial_states(tmp_path) == ["COMPLETE"] * 6


def test_during_scoring(finished: Path, undisturbed: Path, cli: Callable[..., Result]) -> None:
    with running(finished, "--n-trials", 3500) as process:
        stop_when(process, lambda: trial_states(finished)[6:].count("RUNNING") == 1)
        process.kill()
        process.wait()
    left = trial_states(finished)
    assert left.count("RUNNING") == 1
    go_on(cli, finished, undisturbed, "--n-trials", 2)
    states = trial_states(finished)
    assert states.count("FAIL") == 1
    assert states.count("COMPLETE") == left.count("COMPLETE") + 2


def test_between_trials(finished: Path, undisturbed: Path, cli: Callable[..., Result]) -> None:
    with running(finished, "--n-trials", 3500) as process:
        wait_until(lambda: len(trial_states(finished)) > 7, process)
        stop_when(process, lambda: "RUNNING" not in trial_states(finished))
        process.kill()
        process.wait()
    left = trial_states(finished)
    assert set(left) == {"COMPLETE"}
    go_on(cli, finished, undisturbed, "--n-trials", 2)
    assert trial_states(finished) == [*left, "COMPLETE", "COMPLETE"]


def test_ctrl_c(finished: Path, undisturbed: Path, cli: Callable[..., Result]) -> None:
    with running(finished, "--n-trials", 3500) as process:
        stop_when(process, lambda: trial_states(finished)[6:].count("RUNNING") == 1)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "spikesearch: interrupted; the same command goes on from here."
    assert "Traceback" not in err
    states = trial_states(finished)
    # the trial may have had its score when the process was frozen; then it is finished first
    assert states[-2:] == ["FAIL", "WAITING"] or set(states) == {"COMPLETE"}
    go_on(cli, finished, undisturbed, "--n-trials", 1)
    assert trial_states(finished) == [*(state for state in states if state != "WAITING"), "COMPLETE"]


def test_a_batch_systems_signal_stops_all_workers(
    finished: Path, undisturbed: Path, cli: Callable[..., Result]
) -> None:
    with running(finished, "--n-trials", 3500, "--workers", 2) as process:
        wait_until(lambda: len(workers(finished)) == 2, process)
        team = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert "RUNNING" not in trial_states(finished)
    psutil.wait_procs(team, timeout=60)
    assert not any(worker.is_running() for worker in team)
    go_on(cli, finished, undisturbed, "--n-trials", 3)


def test_orphaned_workers_end_and_killed_ones_are_replaced(
    finished: Path, undisturbed: Path, cli: Callable[..., Result]
) -> None:
    with running(finished, "--n-trials", 3500, "--workers", 2) as process:
        wait_until(lambda: len(workers(finished)) == 2, process)
        victim = workers(finished).pop()
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(workers(finished)) == 3, process)
        team = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        psutil.wait_procs(team, timeout=60)
        assert not any(worker.is_running() for worker in team)
    go_on(cli, finished, undisturbed, "--n-trials", 3)


def workers(folder: Path) -> set[int]:
    """Process ids of all that have worked on the study since it was finished."""
    study = load_study("tiny", storage=f"sqlite:///{folder}/spikesearch.db")
    started = [trial for trial in study.get_trials(deepcopy=False)[6:] if trial.state != TrialState.WAITING]
    return {trial.user_attrs["worker"]["pid"] for trial in started}
