"""Run a study: from a study file to scored trials and a test score, however often it is interrupted."""

from __future__ import annotations

import logging
import math
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from optuna.storages import BaseStorage
from optuna.trial import TrialState

from spikesearch.config import StudyConfig
from spikesearch.errors import StudyError
from spikesearch.racing import looks
from spikesearch.study.assembly import device_limits
from spikesearch.study.attributes import F_AEB, FEASIBLE
from spikesearch.study.resolve import Target
from spikesearch.study.results import why_none
from spikesearch.study.search.ledger import Ledger
from spikesearch.study.search.loop import Budget, Outcome, build_search
from spikesearch.study.search.pool import WorkerOrder, available_cores, leave_unguarded, run_workers
from spikesearch.study.search.progress import search_progress
from spikesearch.study.session import Session, open_session
from spikesearch.study.worker import Worker, running_here

if TYPE_CHECKING:
    import optuna

_log = logging.getLogger(__name__)


def run_study(
    config_or_name: StudyConfig | str | Path | Target,
    *,
    storage: str | BaseStorage | None = None,
    study_name: str | None = None,
    n_trials: int | None = None,
    timeout: float | None = None,
    workers: int = 1,
    run_dir: str | Path | None = None,
    device: str = "cpu",
    download: bool = False,
    progress: bool = True,
) -> optuna.Study:
    """Do what a study file asks for, or what is left of it.

    Creates the study if it is missing, trains the supernet if it is missing (or goes on with its training), scores
    trials, the reference first, and scores the recommended and the reference architecture on the test split. It may be
    stopped, killed and called again at any moment; several calls may work on one study at once.

    Under ``torchrun`` or ``accelerate launch`` all processes train the supernet together. Only the first one goes on
    from there; in the others this call ends the process.

    Args:
        config_or_name: A study file that has been read; or the name of a study, else a path, else the id of a shipped
            study file; or the study as it was found (:func:`~spikesearch.study.resolve.resolve`).
        storage: URL, or an open Optuna storage. By default ``$SPIKESEARCH_STORAGE``, ``$OPTUNA_STORAGE``, the study
            file's ``storage``, or ``sqlite:///spikesearch.db``.
        study_name: Instead of the study file's ``name``.
        n_trials: COMPLETE trials to add, shared by the workers of this call; by default as many as are missing from the
            study file's ``search.n_trials``.
        timeout: Seconds of search after which no trial is started; training does not count.
        workers: Processes; on the CPU at most one per core. They divide the threads among themselves that torch uses
            here (``torch.set_num_threads``). Each first runs the script again that calls this, so what the script does
            must be under ``if __name__ == "__main__":``.
        run_dir: Folder of the study's files; by default ``runs/<study>`` beside the SQLite file.
        device: Where to train and score.
        download: Whether missing data may be fetched, where spikesearch knows how; the study does not remember it.
        progress: Whether to show progress on stderr.

    Returns:
        The study.

    Raises:
        SpikesearchError: If something is wrong with the study file, the data, the storage or the study; nothing has
            been written then.
        KeyboardInterrupt: After Ctrl-C; what ran is put into the queue again.
    """
    leave_unguarded()
    _check_arguments(n_trials, timeout, workers)
    session = open_session(
        config_or_name, storage=storage, study_name=study_name, run_dir=run_dir, device=device, download=download
    )
    study, config, n_images = session.study, session.config, len(session.data.search)
    if config.scoring.racing and not looks(n_images, config.scoring.batch_size):
        _log.warning(
            "`scoring.racing` stops nothing: a search split of %d images is less than four batches of "
            "`scoring.batch_size` %d.",
            *(n_images, config.scoring.batch_size),
        )
    session.train(progress=progress)
    session.scorer()  # whatever is wrong with it is found before a trial is started

    run = uuid.uuid4().hex[:12]
    deadline = None if timeout is None else time.time() + timeout
    budget = Budget(run=run, further=n_trials, total=config.search.n_trials, deadline=deadline)
    total, best = _remaining(session, budget)
    workers = _team_size(workers, total, device)
    url = session.store.url
    with session.expected(), running_here(run), search_progress(total, best, visible=progress) as bar:
        if workers > 1 and url is not None:
            import torch  # takes seconds, and has been imported by now

            threads = max(1, torch.get_num_threads() // workers)
            order = WorkerOrder(url, session.name, session.folder, device, threads, budget)
            outcome = run_workers(order, workers, bar)
        else:
            outcome = build_search(session, budget, on_trial=bar).run()
    _report_outcome(outcome, session)
    _score_finalists(session)
    return study


def _remaining(session: Session, budget: Budget) -> tuple[int, float | None]:
    """Return the number of trials to come, and the best F_AEB so far."""
    ledger = Ledger(session.study, session.space)
    ledger.refresh()
    values = [
        float(trial.user_attrs[F_AEB])
        for trial in ledger.trials
        if trial.user_attrs.get(FEASIBLE, 0) and isinstance(trial.user_attrs.get(F_AEB), int | float)
    ]
    total = budget.further if budget.further is not None else max(0, budget.total - ledger.n_complete)
    return total, max(values, default=None)


def _team_size(workers: int, total: int, device: str) -> int:
    cores = available_cores()
    if device == "cpu" and workers > cores:
        _log.warning("%d workers on %d cores would only wait for each other; using %d.", workers, cores, cores)
        workers = cores
    return max(1, min(workers, total))


def _report_outcome(outcome: Outcome, session: Session) -> None:
    name = session.name
    if session.results().reference is None:
        running = session.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        whose = [(trial, worker) for trial in running if (worker := Worker.of(trial)) is not None]
        who = [f" Trial {t.number} is run by process {w.pid} on {w.host}. {w.remedy(session.study)}" for t, w in whose]
        raise StudyError(
            f"The search of study {name!r} ended before its reference was scored, and without that nothing can be; "
            f"`spikesearch study run {name}` goes on{', and needs more --timeout' if outcome == 'timeout' else ''}."
            + "".join(who)
        )
    if outcome == "exhausted":
        within = " within the device limits" if device_limits(session.config, session.supernet()).bounds else ""
        _log.warning("The search space of study %r is exhausted: every architecture%s has been tried.", name, within)
    elif outcome == "timeout":
        _log.warning("The time is over; `spikesearch study run %s` goes on.", name)


def _score_finalists(session: Session) -> None:
    results = session.results()
    if results.reference is not None and results.recommended is None:
        _log.warning("%s", why_none(session.name, session.config, results.trials, results.reference))
    for trial in results.finalists:
        session.final_score(trial.architecture)


def _check_arguments(n_trials: int | None, timeout: float | None, workers: int) -> None:
    if n_trials is not None and n_trials < 1:
        raise StudyError(f"`n_trials` must be at least 1, but got {n_trials}.")
    if timeout is not None and not 0 < timeout < math.inf:
        raise StudyError(f"`timeout` must be above 0 seconds and finite, but got {timeout}.")
    if workers < 1:
        raise StudyError(f"`workers` must be at least 1, but got {workers}.")
