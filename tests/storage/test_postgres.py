"""The same promises on a real PostgreSQL server, started here and thrown away."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import optuna
import pytest

from spikesearch.errors import StorageError
from spikesearch.storage import locks
from spikesearch.storage.genome_storage import GenomeStorage
from spikesearch.study import load_study
from spikesearch.study.store import open_store
from tests.study.helpers import check_study, new_study, search, search_process

pytestmark = pytest.mark.slow

pytest.importorskip("psycopg", reason="needs spikesearch[postgres]")


def _program(name: str) -> str | None:
    found = shutil.which(name)
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return found or (str(places[-1]) if places else None)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    initdb, pg_ctl = _program("initdb"), _program("pg_ctl")
    if initdb is None or pg_ctl is None:
        pytest.skip("no PostgreSQL server here")
    root = os.geteuid() == 0  # which PostgreSQL refuses to run as
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        if root:
            try:
                shutil.chown(folder, "postgres")
            except LookupError:
                pytest.skip("no user to run PostgreSQL as")
        user = {"user": "postgres"} if root else {}

        def run(*command: str) -> None:
            subprocess.run(command, check=True, capture_output=True, cwd=folder, timeout=120, **user)  # type: ignore[call-overload]

        data, log = f"{folder}/data", f"{folder}/log"
        run(initdb, "-D", data, "-U", "postgres", "-A", "trust", "-N")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        run(pg_ctl, "-D", data, "-l", log, "-o", options, "-w", "start")
        try:
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        finally:
            run(pg_ctl, "-D", data, "-m", "immediate", "stop")


@pytest.fixture
def url(server: str) -> Iterator[str]:
    new_study(server)
    yield server
    optuna.delete_study(study_name="tiny", storage=open_store(server).storage)


def test_one_process_does_the_job(url: str) -> None:
    study = load_study("tiny", storage=url)
    assert isinstance(study._storage._backend, GenomeStorage)  # type: ignore[attr-defined]
    study.enqueue_trial({"depth": 2})
    assert search(study, url=url, total=8) == "done"
    check_study(load_study("tiny", storage=url))
    assert len(study.trials) == 8


def test_processes_share_a_budget(url: str) -> None:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        runs = [pool.submit(search_process, url, "one-run", 15, 0) for _ in range(2)]
        assert [run.result(120) for run in runs] == ["done", "done"]
    study = load_study("tiny", storage=url)
    check_study(study)
    assert len(study.trials) == 15


def test_the_lock_excludes_and_is_released(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(url)
    monkeypatch.setattr(locks, "LOCK_TIMEOUT_S", 0.05)
    first, second, other = store.lock("tiny"), store.lock("tiny"), store.lock("another")
    busy = pytest.raises(StorageError, match="Another process holds the study lock of study 'tiny'")
    with first, first, other, busy, second:
        pass
    with second:
        pass
