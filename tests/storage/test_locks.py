"""One process at a time, whatever happens to it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from spikesearch.errors import StorageError
from spikesearch.storage import locks
from spikesearch.storage.locks import NullLock, StudyLock


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/a.db"


def _hold(url: str, pipe: Connection) -> None:
    with StudyLock(url, "s"):
        pipe.send("held")
        pipe.recv()


def holder(url: str) -> tuple[multiprocessing.Process, Connection]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_hold, args=(url, theirs))
    process.start()
    assert ours.recv() == "held"
    return process, ours  # type: ignore[return-value]


def test_another_process_waits(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    process, pipe = holder(url)
    monkeypatch.setattr(locks, "LOCK_TIMEOUT_S", 0.05)
    with pytest.raises(StorageError, match="Another process holds the study lock of study 's'"), StudyLock(url, "s"):
        pass
    with StudyLock(url, "s", purpose="train"), StudyLock(url, "another"):
        pass
    pipe.send("end")
    process.join()
    with StudyLock(url, "s"):
        pass


def test_death_releases_the_lock(url: str) -> None:
    process, _ = holder(url)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    with StudyLock(url, "s"):
        pass
    process.join()


def test_waiting_says_so_once_and_ends_when_the_holder_does(url: str) -> None:
    process, pipe = holder(url)
    said = []

    def message() -> None:
        said.append(time.monotonic())
        pipe.send("end")

    with StudyLock(url, "s").wait(message):
        assert len(said) == 1
    process.join()


def test_the_holder_may_enter_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LOCK_TIMEOUT_S", 0.05)
    lock = StudyLock(url, "s")
    with lock:
        with lock:
            pass
        with pytest.raises(StorageError), StudyLock(url, "s"):
            pass
    with StudyLock(url, "s"):
        pass


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file, not a folder")
    with pytest.raises(StorageError, match="Cannot write"), StudyLock(f"sqlite:///{tmp_path}/a.db", "s"):
        pass


def test_a_lock_that_keeps_nobody_out() -> None:
    lock, other = NullLock(), NullLock()
    with lock, lock, other, lock.at_once(), other.wait(lambda: pytest.fail("nobody waits")):
        pass
    with pytest.raises(ZeroDivisionError), lock:
        raise ZeroDivisionError
