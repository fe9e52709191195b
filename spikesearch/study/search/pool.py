"""Several worker processes on one study: started, watched, stopped and never left behind."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType

from spikesearch.errors import SpikesearchError, StudyError
from spikesearch.study.search.loop import Budget, FinishedTrial, Outcome, Search, build_search
from spikesearch.study.session import open_trained
from spikesearch.study.worker import running_here

_log = logging.getLogger(__name__)

_NAME = "spikesearch-worker"
_RESTARTS = 2  # how many dead workers are replaced; more of them mean that the next one dies as well


@dataclass(frozen=True)
class WorkerOrder:
    """What a worker process is told; it reads everything else from the study.

    Args:
        url: Storage URL.
        study_name: Name of the study.
        folder: Folder of the study's files.
        device: Where to compute.
        threads: Threads of torch.
        budget: Shared by all workers of the run.
    """

    url: str
    study_name: str
    folder: Path
    device: str
    threads: int
    budget: Budget


class StopRequest(KeyboardInterrupt):
    """The parent asked this worker to stop."""


def run_workers(order: WorkerOrder, count: int, on_trial: Callable[[FinishedTrial], None]) -> Outcome:
    """Run worker processes until the budget is used up.

    A worker that dies is replaced, and what it held is put into the queue by the others; Ctrl-C and errors stop all.

    Args:
        order: What they do.
        count: How many.
        on_trial: Called with the result of every trial.

    Returns:
        How the search ended.

    Raises:
        StudyError: If workers keep dying, or cannot start because the script that calls this has no main guard.
        SpikesearchError: What a worker raised.
        RuntimeError: With the traceback of any other error of a worker.
    """
    context = multiprocessing.get_context("spawn")
    team: dict[Connection, BaseProcess] = {}
    at_work: set[BaseProcess] = set()
    outcomes: set[Outcome] = set()
    restarts = 0

    def start() -> None:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(order, theirs), daemon=True, name=_NAME)
        process.start()
        theirs.close()
        team[ours] = process

    try:
        for _ in range(count):
            start()
        while team:
            for connection in wait(list(team)):
                assert isinstance(connection, Connection)
                try:
                    kind, payload = connection.recv()
                except (EOFError, OSError):  # it has ended, with or without a last word
                    process = team.pop(connection)
                    process.join()
                    if process not in at_work and (process.exitcode or 0) > 0:
                        raise StudyError(
                            f"A worker of the study {order.study_name!r} could not start, because it first runs the "
                            f"script again that started it{_script()}, or ask for one worker."
                        ) from None
                    if process.exitcode != 0:
                        restarts += 1
                        if restarts > _RESTARTS:
                            raise StudyError(
                                f"Workers of the study {order.study_name!r} keep dying (exit code {process.exitcode}; "
                                "-9 is most often a lack of memory). Use fewer --workers."
                            ) from None
                        _log.warning("Worker %s died with exit code %s; it is replaced.", process.pid, process.exitcode)
                        start()
                    continue
                if kind == "start":
                    at_work.add(team[connection])
                elif kind == "trial":
                    on_trial(payload)
                elif kind == "outcome":
                    outcomes.add(payload)
                elif kind == "mistake":
                    raise payload
                else:
                    raise RuntimeError(f"A worker of the study {order.study_name!r} failed:\n{payload}")
    finally:
        _stop(list(team.values()))
    return next((kind for kind in ("timeout", "exhausted", "done") if kind in outcomes), "stopped")


def _stop(team: list[BaseProcess]) -> None:
    # SIGTERM lets a worker give its trial back; whoever does not end then is killed, and repaired by the next run.
    for process in team:
        if process.is_alive():
            process.terminate()
    limit = time.monotonic() + 30
    for process in team:
        process.join(max(0.1, limit - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _work(order: WorkerOrder, connection: Connection) -> None:
    """Be a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to everybody; the parent passes it on, once
    signal.signal(signal.SIGTERM, _request_stop)
    parent = multiprocessing.parent_process()

    def send(kind: str, payload: object) -> None:
        with suppress(OSError):  # the parent has been killed; `stop` below ends this worker
            connection.send((kind, payload))

    def orphaned() -> bool:
        return parent is not None and not parent.is_alive()

    try:
        send("start", None)
        with running_here(order.budget.run):
            search = _search(order, on_trial=lambda trial: send("trial", trial), stop=orphaned)
            send("outcome", search.run())
    except KeyboardInterrupt:
        pass
    except SpikesearchError as error:
        send("mistake", error)
    except Exception:
        send("error", traceback.format_exc())
    finally:
        connection.close()


def _search(order: WorkerOrder, *, on_trial: Callable[[FinishedTrial], None], stop: Callable[[], bool]) -> Search:
    import torch

    torch.set_num_threads(order.threads)
    session = open_trained(order.study_name, storage=order.url, run_dir=order.folder, device=order.device)
    return build_search(session, order.budget, on_trial=on_trial, stop=stop)


def leave_unguarded() -> None:
    """End this process if it is a worker that runs the user's script again, which has no main guard.

    Raises:
        SystemExit: Then; whoever started the worker says what is wrong, once.
    """
    if multiprocessing.current_process().name == _NAME:
        raise SystemExit(1)


def _script() -> str:
    """Return which script that is, and what to do about it."""
    path = getattr(sys.modules["__main__"], "__file__", None)
    if path and not Path(path).exists():  # "<stdin>" and the like
        return f", and {path} cannot be run again. Save the script as a file"
    return f'{f" ({path})" if path else ""}. Put what the script does under `if __name__ == "__main__":`'


def available_cores() -> int:
    """Return how many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def _request_stop(signum: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # giving the trial back must not be interrupted again
    raise StopRequest(f"signal {signum} in process {os.getpid()}")
