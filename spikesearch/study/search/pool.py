"""Several worker processes on one study: started, watched, stopped and never left behind."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from spikesearch.errors import SpikesearchError, StudyError
from spikesearch.storage.urls import open_storage
from spikesearch.study.search.loop import Budget, Finished, Outcome, Search
from spikesearch.study.worker import Worker, running_here

_log = logging.getLogger(__name__)

_RESTARTS = 2  # how many dead workers are replaced; more of them mean that the next one dies as well


@dataclass(frozen=True)
class Job:
    """What a worker process is told; it reads everything else from the study.

    Args:
        url: Storage URL.
        study_name: Name of the study.
        run_dir: Folder of the study's files.
        device: Where to compute.
        threads: Threads of torch.
        budget: Shared by all workers of the run.
    """

    url: str
    study_name: str
    run_dir: Path
    device: str
    threads: int
    budget: Budget


class Stopped(KeyboardInterrupt):
    """The parent asked this worker to stop."""


def run_workers(job: Job, count: int, on_trial: Callable[[Finished], None]) -> Outcome:
    """Run worker processes until the budget is used up.

    A worker that dies is replaced, and what it held is put into the queue by the others; Ctrl-C and errors stop all.

    Args:
        job: What they do.
        count: How many.
        on_trial: Called with the result of every trial.

    Returns:
        How the search ended.

    Raises:
        StudyError: If workers keep dying.
        SpikesearchError: What a worker raised.
        RuntimeError: With the traceback of any other error of a worker.
    """
    context = multiprocessing.get_context("spawn")
    team: dict[Connection, BaseProcess] = {}
    outcomes: set[Outcome] = set()
    restarts = 0

    def start() -> None:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(job, theirs), daemon=True, name="spikesearch-worker")
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
                    if process.exitcode != 0:
                        restarts += 1
                        if restarts > _RESTARTS:
                            raise StudyError(
                                f"Workers of the study {job.study_name!r} keep dying (exit code {process.exitcode}; "
                                "-9 is most often a lack of memory). Use fewer --workers."
                            ) from None
                        _log.warning("Worker %s died with exit code %s; it is replaced.", process.pid, process.exitcode)
                        start()
                    continue
                if kind == "trial":
                    on_trial(payload)
                elif kind == "outcome":
                    outcomes.add(payload)
                elif kind == "mistake":
                    raise payload
                else:
                    raise RuntimeError(f"A worker of the study {job.study_name!r} failed:\n{payload}")
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


def _work(job: Job, connection: Connection) -> None:
    """Be a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to everybody; the parent passes it on, once
    signal.signal(signal.SIGTERM, _raise_stopped)
    parent = multiprocessing.parent_process()

    def send(kind: str, payload: Any) -> None:
        with suppress(OSError):  # the parent has been killed; `stop` below ends this worker
            connection.send((kind, payload))

    def orphaned() -> bool:
        return parent is not None and not parent.is_alive()

    try:
        with running_here(job.budget.run):
            search = _search(job, on_trial=lambda result: send("trial", result), stop=orphaned)
            send("outcome", search.run())
    except KeyboardInterrupt:
        pass
    except SpikesearchError as error:
        send("mistake", error)
    except Exception:
        send("error", traceback.format_exc())
    finally:
        connection.close()


def _search(job: Job, *, on_trial: Callable[[Finished], None], stop: Callable[[], bool]) -> Search:
    import torch

    from spikesearch.study import prepare
    from spikesearch.study.store import Store, load_study

    torch.set_num_threads(job.threads)
    storage = open_storage(job.url, create=False)
    study = load_study(job.study_name, storage=storage)
    return build_search(
        Store(storage, job.url),
        study,
        lambda config, data: prepare.make_scorer(
            config, prepare.open_supernet(study, job.run_dir, job.device), data, job.device
        ),
        job.budget,
        on_trial=on_trial,
        stop=stop,
    )


def build_search(
    store: Any,
    study: Any,
    make_scorer: Callable[[Any, Any], Any],
    budget: Budget,
    *,
    data: Any = None,
    on_trial: Callable[[Finished], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Search:
    """Wire a :class:`Search` for this process.

    Args:
        store: The open storage.
        study: The study, with its sampler.
        make_scorer: Makes the scorer from study file and data.
        budget: How much may be done.
        data: The data, if they have been read already.
        on_trial: See :class:`Search`.
        stop: See :class:`Search`.
    """
    from contextlib import nullcontext

    from spikesearch.study import prepare, provenance

    config = provenance.stored_config(study)
    data = prepare.load_data_of(config) if data is None else data
    scorer = make_scorer(config, data)
    return Search(
        study,
        config.space.search_space(),
        scorer.score,
        lock=store.lock(study.study_name) or nullcontext(),
        worker=Worker.here(budget.run),
        budget=budget,
        num_classes=data.num_classes,
        majority_share=data.majority_share,
        constraints=config.constraints,
        beta=config.report.beta,
        on_trial=on_trial,
        stop=stop,
        race=scorer.race if config.scoring.racing else None,
    )


def _raise_stopped(signum: int, frame: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # giving the trial back must not be interrupted again
    raise Stopped(f"signal {signum} in process {os.getpid()}")
