"""Run a study: from a study file to scored trials and a test score, however often it is interrupted."""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.storages import BaseStorage

from spikesearch.config import StudyConfig, find_study_file, load_study_file
from spikesearch.errors import StudyError
from spikesearch.racing import looks
from spikesearch.study import prepare, provenance
from spikesearch.study.assist import assist
from spikesearch.study.owner import claim
from spikesearch.study.resolve import Target, resolve
from spikesearch.study.results import read_results
from spikesearch.study.search.ledger import Ledger
from spikesearch.study.search.loop import Budget, Outcome
from spikesearch.study.search.pool import Job, build_search, run_workers
from spikesearch.study.search.progress import search_progress
from spikesearch.study.store import Store, check_name, create_study, expect_study, find_study, open_store, run_folder
from spikesearch.study.trained import final_score
from spikesearch.study.worker import running_here

if TYPE_CHECKING:
    import optuna

    from spikesearch.data import DataBundle
    from spikesearch.nn import Supernet

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Session:
    """A study that is ready to be worked on: created, verified, its data read.

    Args:
        store: Its storage.
        study: The study, with its sampler.
        config: Its study file.
        data: Its data.
        folder: Folder of its files.
        device: Where to train and score.
    """

    store: Store
    study: optuna.Study
    config: StudyConfig
    data: DataBundle
    folder: Path
    device: str

    def train(self, *, progress: bool = True) -> Supernet:
        """Return the trained supernet; see :func:`spikesearch.study.prepare.trained_supernet`."""
        return prepare.trained_supernet(
            self.store, self.study, self.config, self.data, self.folder, self.device, progress=progress
        )


def open_session(
    config_or_name: StudyConfig | str | Path,
    *,
    storage: str | BaseStorage | None = None,
    study_name: str | None = None,
    run_dir: str | Path | None = None,
    device: str = "cpu",
    download: bool = False,
) -> Session:
    """Create a study, or verify that it may be continued, after everything that a user can get wrong has been checked.

    In a process that ``torchrun`` or ``accelerate launch`` started beside the first one, this does not return: the
    process helps to train, and ends.

    Args:
        config_or_name: See :func:`run_study`, as for all arguments.
        storage: The storage.
        study_name: Name of the study.
        run_dir: Folder of its files.
        device: Where to train and score.
        download: Whether missing data may be fetched.

    Raises:
        SpikesearchError: If something is wrong; nothing has been written then.
        SystemExit: In a process that has helped.
    """
    assist(device)
    target, store = _resolve(config_or_name, storage, study_name)
    config = target.config
    study = find_study(store, target.name) if store is not None and target.exists else None
    if study is not None and provenance.STUDY_FILE in study.user_attrs:
        provenance.verify_config(study, config)
    stored = study.user_attrs.get(provenance.RUN_DIR) if study is not None else None
    prepare.check_device(device)
    folder = run_folder(target.url, target.name, run_dir, stored)
    prepare.check_folder(folder)
    data = prepare.load_data_of(config, download=download)
    prepare.check_files(config, data, folder, study)

    store = store or open_store(target.url)
    study = create_study(config, storage=store.storage, study_name=target.name, load_if_exists=True)
    with store.locked(target.name):
        prepare.check_data(study, data)
        if store.url is not None:  # a study in memory cannot come back for its files
            claim(folder, study)
        if run_dir is not None:
            study.set_user_attr(provenance.RUN_DIR, str(folder))
    _log.info("Study %r in %s, files in %s", target.name, store.name, folder)
    _log.info("Data: %s", data.summary())
    for note in data.notes:
        _log.info("Data: %s", note)
    return Session(store, study, config, data, folder, device)


def run_study(
    config_or_name: StudyConfig | str | Path,
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
            study file.
        storage: URL, or an open Optuna storage. By default ``$SPIKESEARCH_STORAGE``, ``$OPTUNA_STORAGE``, the study
            file's ``storage``, or ``sqlite:///spikesearch.db``.
        study_name: Instead of the study file's ``name``.
        n_trials: COMPLETE trials to add, shared by the workers of this call; by default as many as are missing from the
            study file's ``search.n_trials``.
        timeout: Seconds of search after which no trial is started; training does not count.
        workers: Processes; on the CPU at most one per core. They divide the threads among themselves that torch uses
            here (``torch.set_num_threads``).
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
    _check_arguments(n_trials, timeout, workers)
    session = open_session(
        config_or_name, storage=storage, study_name=study_name, run_dir=run_dir, device=device, download=download
    )
    store, study, config, data = session.store, session.study, session.config, session.data
    if config.scoring.racing and not looks(len(data.search), config.scoring.batch_size):
        _log.warning(
            "`scoring.racing` stops nothing: a search split of %d images is less than four batches of "
            "`scoring.batch_size` %d.",
            *(len(data.search), config.scoring.batch_size),
        )
    scorer = prepare.make_scorer(config, session.train(progress=progress), data, device)

    run = uuid.uuid4().hex[:12]
    deadline = None if timeout is None else time.time() + timeout
    budget = Budget(run=run, further=n_trials, total=config.search.n_trials, deadline=deadline)
    total, best = _remaining(study, config, budget)
    workers = _team_size(workers, total, device)
    gone = expect_study(store, study.study_name)
    with gone, running_here(run), search_progress(total, best, visible=progress) as bar:
        if workers > 1 and store.url is not None:
            import torch  # takes seconds, and has been imported by now

            threads = max(1, torch.get_num_threads() // workers)
            job = Job(store.url, study.study_name, session.folder, device, threads, budget)
            outcome = run_workers(job, workers, bar)
        else:
            search = build_search(store, study, lambda *_: scorer, budget, data=data, on_trial=bar)
            outcome = search.run()
    _report_outcome(outcome, study.study_name)
    _score_final(store, study, scorer)
    return study


def _resolve(
    what: StudyConfig | str | Path, storage: str | BaseStorage | None, study_name: str | None
) -> tuple[Target, Store | None]:
    """Return what is meant, and its store unless that would have to be created first."""
    if not isinstance(storage, BaseStorage):
        target = resolve(what, storage=storage, study_name=study_name)
        return target, open_store(target.url, create=False) if target.exists else None
    store = open_store(storage)
    if store.url is not None:
        return resolve(what, storage=store.url, study_name=study_name), store
    if isinstance(what, str) and study_name is None and store.has(what):
        return Target(what, provenance.stored_config(find_study(store, what)), None, exists=True), store
    config = what if isinstance(what, StudyConfig) else load_study_file(find_study_file(what))
    name = check_name(config.name if study_name is None else study_name)
    return Target(name, config, None, exists=store.has(name)), store


def _remaining(study: optuna.Study, config: StudyConfig, budget: Budget) -> tuple[int, float | None]:
    ledger = Ledger(study, config.space.search_space())
    ledger.refresh()
    values = [
        float(trial.user_attrs["f_aeb"])
        for trial in study.get_trials(deepcopy=False)
        if trial.user_attrs.get("feasible", 0) and isinstance(trial.user_attrs.get("f_aeb"), int | float)
    ]
    total = budget.further if budget.further is not None else max(0, budget.total - ledger.n_complete)
    return total, max(values, default=None)


def _team_size(workers: int, total: int, device: str) -> int:
    cores = prepare.available_cores()
    if device == "cpu" and workers > cores:
        _log.warning("%d workers on %d cores would only wait for each other; using %d.", workers, cores, cores)
        workers = cores
    return max(1, min(workers, total))


def _report_outcome(outcome: Outcome, name: str) -> None:
    if outcome == "exhausted":
        _log.warning("The search space of study %r is exhausted: every architecture has been tried.", name)
    elif outcome == "timeout":
        _log.warning("The time is over; `spikesearch study run %s` goes on.", name)


def _score_final(store: Store, study: optuna.Study, scorer: Any) -> None:
    results = read_results(study, store.name)
    if results.reference is not None and results.recommended is None:
        _log.warning("No trial of study %r is both feasible and accurate enough to be recommended.", study.study_name)
    for trial in (results.reference, results.recommended):
        if trial is not None:
            final_score(store, study, scorer, trial.architecture)


def _check_arguments(n_trials: int | None, timeout: float | None, workers: int) -> None:
    if n_trials is not None and n_trials < 1:
        raise StudyError(f"`n_trials` must be at least 1, but got {n_trials}.")
    if timeout is not None and not timeout > 0:
        raise StudyError(f"`timeout` must be above 0 seconds, but got {timeout}.")
    if workers < 1:
        raise StudyError(f"`workers` must be at least 1, but got {workers}.")
