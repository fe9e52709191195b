"""Studies in a storage: create, open, list, delete."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import optuna
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState

from spikesearch.config import StudyConfig, storages_of_files
from spikesearch.errors import StorageError, StudyError, StudyNotFoundError, did_you_mean
from spikesearch.storage.locks import Lock, LockBusyError, NullLock, StudyLock
from spikesearch.storage.urls import (
    DEFAULT_STORAGE,
    backend_of,
    display_url,
    open_storage,
    resolve_url,
    storage_exists,
    study_folder,
    url_of,
)
from spikesearch.study import provenance
from spikesearch.study.assembly import make_sampler
from spikesearch.study.attributes import ARCH, RUN_DIR, STUDY_FILE, STUDY_ID
from spikesearch.study.folder import Claim, database_of, is_foreign, orphans, remove_files, withdraw
from spikesearch.study.worker import Worker

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger(__name__)

DIRECTIONS = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Store:
    """A storage. It is opened when it is first used, and a SQLite file that is missing is created then.

    Args:
        url: Its URL; ``None`` for a storage that lives in this process only.
        storage: Optuna's storage, if it is open already.
    """

    def __init__(self, url: str | None, storage: BaseStorage | None = None) -> None:
        self.url = url
        self._storage = storage

    @property
    def storage(self) -> BaseStorage:
        """Optuna's storage.

        Raises:
            StorageError: If it cannot be opened.
        """
        return self.opened(create=True)

    def opened(self, *, create: bool) -> BaseStorage:
        """Return Optuna's storage.

        Args:
            create: Whether a SQLite file that is missing may be created.

        Raises:
            StorageError: If it cannot be opened.
            StudyNotFoundError: If the file is missing and must not be created.
        """
        if self._storage is None:
            assert self.url is not None
            self._storage = open_storage(self.url, create=create)
        return self._storage

    @property
    def name(self) -> str:
        """What to call the storage in messages; without password."""
        return display_url(self.url) if self.url else "memory"

    def lock(self, study_name: str, purpose: str = "study") -> Lock:
        """Return a lock between the processes that work on a study; nobody competes for a storage in memory."""
        if self.url is None:
            return NullLock()
        return StudyLock(
            self.url, study_name, purpose=purpose, engine=getattr(backend_of(self.storage), "engine", None)
        )

    def study_names(self) -> list[str]:
        """Return the names of all studies, oldest first; none if a SQLite file does not exist."""
        if self._storage is None and self.url is not None and not storage_exists(self.url):
            return []
        return [study.study_name for study in self.storage.get_all_studies()]

    def has(self, study_name: str) -> bool:
        """Tell whether the storage holds a study of this name."""
        return study_name in self.study_names()


def store_of(storage: str | BaseStorage | None = None, *, from_file: str | None = None) -> Store:
    """Return the storage that is meant.

    Args:
        storage: A URL, an open Optuna storage (a database or memory), or ``None`` for the environment's or the default.
        from_file: The study file's ``storage``.

    Raises:
        StorageError: If it is an open storage of another kind.
    """
    if isinstance(storage, BaseStorage):
        inner = backend_of(storage)
        if isinstance(inner, InMemoryStorage):
            return Store(None, storage)
        if isinstance(inner, RDBStorage):
            return Store(inner.url, optuna.storages.get_storage(inner))
        raise StorageError(f"`storage` must be a database or in memory, but got a {type(storage).__name__}.")
    return Store(resolve_url(storage, from_file))


def open_store(storage: str | BaseStorage | None = None, *, from_file: str | None = None, create: bool = True) -> Store:
    """Open the storage that is meant; arguments and errors are those of :func:`store_of` and :meth:`Store.opened`."""
    store = store_of(storage, from_file=from_file)
    store.opened(create=create)
    return store


def store_with(name: str, storage: str | BaseStorage | None = None) -> Store:
    """Open the storage of a study that exists, by its name alone.

    Where nobody says which storage is meant and the default one has no such study, the storages are tried that study
    files in the working directory name.

    Args:
        name: Name of the study.
        storage: As for :func:`store_of`.

    Raises:
        StorageError: If the storage cannot be opened.
        StudyNotFoundError: If a SQLite file does not exist.
        StudyError: If the study files name several storages that have such a study.
    """
    store = store_of(storage)
    if storage is None and resolve_url(None, "") == DEFAULT_STORAGE and not store.has(name):
        holders = {}
        for url, path in storages_of_files(Path.cwd(), name).items():
            try:
                if Store(url).has(name):
                    holders[url] = path
            except StorageError as error:
                _log.warning("%s names a storage that cannot be asked for the study %r: %s", path.name, name, error)
        if len(holders) > 1:
            raise StudyError(f"A study {name!r} is in {' and in '.join(map(display_url, holders))}; give --storage.")
        for url, path in holders.items():
            _log.info("The study %r is in %s, the storage that %s names.", name, display_url(url), path.name)
            store = Store(url)
    store.opened(create=False)
    return store


def create_study(
    config: StudyConfig,
    *,
    storage: str | BaseStorage | None = None,
    study_name: str | None = None,
    load_if_exists: bool = False,
) -> optuna.Study:
    """Create a study; its first trial, the reference, waits to be run.

    Args:
        config: A checked study file.
        storage: A URL or an open Optuna storage. By default ``$SPIKESEARCH_STORAGE``, ``$OPTUNA_STORAGE``, the study
            file's ``storage``, or ``sqlite:///spikesearch.db``.
        study_name: Instead of the study file's ``name``.
        load_if_exists: Return a study that exists, provided that ``config`` may continue it.

    Returns:
        A plain Optuna study whose sampler is the study file's ``ESNNSampler``.

    Raises:
        StudyError: If the study exists, or may not be continued with ``config``.
        StorageError: If the storage cannot be opened.
    """
    name = check_name(config.name if study_name is None else study_name)
    return make_study(open_store(storage, from_file=config.storage), name, config, load_if_exists=load_if_exists)


def make_study(
    store: Store, name: str, config: StudyConfig, *, load_if_exists: bool, verified: str | None = None
) -> optuna.Study:
    """Create a study in an open store; otherwise as :func:`create_study`.

    Args:
        store: The store.
        name: A checked name.
        config: A checked study file.
        load_if_exists: See :func:`create_study`.
        verified: Id of a study of this name that ``config`` is known to continue.
    """
    with store.lock(name):
        if store.has(name):
            study = _bare(store, name)
        else:
            study = quietly(
                optuna.create_study,
                storage=store.storage,
                study_name=name,
                directions=list(DIRECTIONS),
                sampler=make_sampler(config),
            )
        if is_begun(study):
            if not load_if_exists:
                raise study_exists(store, name)
            if verified is None or study.user_attrs.get(STUDY_ID) != verified:
                provenance.verify_config(study, config)
            if provenance.stored_config(study) != config:  # only what is free to change
                study.set_user_attr(STUDY_FILE, config.to_dict())
        _complete_setup(study, config)
    study.sampler = make_sampler(config)
    return study


def is_begun(study: optuna.Study) -> bool:
    """Tell a study from one whose creation was interrupted, or that a user has created and left empty."""
    return provenance.kind_of(study) is not None or bool(study.get_trials(deepcopy=False))


def load_study(name: str, *, storage: str | BaseStorage | None = None) -> optuna.Study:
    """Open a study.

    Args:
        name: Name of the study.
        storage: As for :func:`create_study`.

    Returns:
        A plain Optuna study whose sampler is the one that the study was made with.

    Raises:
        StudyNotFoundError: If there is no such study; the message names the nearest.
        StudyError: If it was not made by spikesearch, or by a newer one.
        StorageError: If the storage cannot be opened.
    """
    study = find_study(store_with(name, storage), name)
    study.sampler = make_sampler(provenance.stored_config(study))
    return study


def find_study(store: Store, name: str) -> optuna.Study:
    """Open a study, whoever made it; :func:`load_study` for an open store.

    Raises:
        StudyNotFoundError: If there is no such study; the message names the nearest.
    """
    known = store.study_names()
    if name not in known:
        hint = did_you_mean(name, known) or ("; known studies: " + ", ".join(known[-10:]) if known else "; it is empty")
        raise StudyNotFoundError(f"There is no study {name!r} in {store.name}{hint}")
    return _bare(store, name)


def list_studies(storage: str | BaseStorage | None = None) -> list[optuna.Study]:
    """Return all studies of a storage, oldest first; none if the SQLite file does not exist."""
    store = store_of(storage)
    return [_bare(store, name) for name in store.study_names()]


def delete_study(name: str, *, storage: str | BaseStorage | None = None) -> None:
    """Delete a study, its supernet and its checkpoints.

    Files that spikesearch did not write stay, and so does a folder that the user named with ``run_dir``, or that
    another study has, such as that of a copied database; the log says so.

    Raises:
        StudyNotFoundError: If there is no such study.
        StudyError: If a living process works on it.
    """
    store = store_with(name, storage)
    study = find_study(store, name)
    folder = study_folder(store.url, name) if store.url else None
    foreign = folder is not None and is_foreign(folder, study)
    attrs = study.user_attrs
    with ExitStack() as held:
        for purpose in _training_locks(folder):
            held.enter_context(_idle(store, name, purpose))
        held.enter_context(store.lock(name))
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            worker = Worker.of(trial)
            if worker is not None and worker.is_alive():
                gone = "" if worker.on_this_host() else f" {worker.remedy(study)}"
                raise StudyError(
                    f"Process {worker.pid} on {worker.host} works on the study {name!r}; end it before you delete that."
                    f"{gone}"
                )
        optuna.delete_study(study_name=name, storage=store.storage)
    _remove_files(store, folder, Claim(attrs.get(STUDY_ID, ""), name, database_of(study)), attrs.get(RUN_DIR), foreign)


def _remove_files(store: Store, folder: Path | None, gone: Claim, run_dir: str | None, foreign: bool) -> None:
    """Delete the files of a deleted study, unless another one has them; say which folders stay."""
    if run_dir is not None and Path(run_dir).is_dir():
        if store.url is not None:  # a study in memory has claimed nothing
            withdraw(Path(run_dir), gone)
        _log.warning("The files in %s stay, because the folder was named with --run-dir.", run_dir)
    if folder is None or (run_dir is not None and Path(run_dir).resolve() == folder.resolve()):
        return
    others = withdraw(folder, gone)
    if foreign:
        _log.warning("The files in %s belong to another study of this name; they stay.", folder)
    elif others:
        _log.warning(
            "The files in %s stay, because %s has them, too; they go when the last study that has them is deleted.",
            folder,
            " and ".join(str(other) for other in others),
        )
    elif folder.is_dir():
        remove_files(folder)
    for orphan in orphans(folder, gone):
        _log.warning("The files in %s were this study's under another name; they stay.", orphan)


def study_exists(store: Store, name: str) -> StudyError:
    """Return what is raised where a study was to be made whose name is taken."""
    return StudyError(
        f"The study {name!r} exists in {store.name}; continue it with `spikesearch study run {name}`, "
        "accept it with --skip-if-exists, or choose another --study-name."
    )


@contextmanager
def expect_study(store: Store, name: str) -> Iterator[None]:
    """Say in one line that a study was deleted while this process worked on it.

    Raises:
        StudyNotFoundError: If that happens.
    """
    try:
        yield
    except KeyError as error:  # what Optuna raises for a study that is gone
        if isinstance(error, StudyNotFoundError) or store.has(name):
            raise
        raise StudyNotFoundError(
            f"The study {name!r} was deleted from {store.name} while this process worked on it."
        ) from error


def storage_name(study: optuna.Study) -> str:
    """Return what to call a study's storage in messages."""
    url = url_of(study)
    return display_url(url) if url else "memory"


def summary(study: optuna.Study) -> dict[str, Any]:
    """Return a study in one row of plain JSON types, whoever made it."""
    trials = study.get_trials(deepcopy=False)
    started = min((trial.datetime_start for trial in trials if trial.datetime_start), default=None)
    return {
        "name": study.study_name,
        "n_trials": len(trials),
        "complete": sum(trial.state == TrialState.COMPLETE for trial in trials),
        "started": started.isoformat(" ", "seconds") if started else None,
        "made_by": "spikesearch" if provenance.kind_of(study) else "Optuna",
    }


def check_name(name: str) -> str:
    """Return a study's name if a folder can be called so.

    Raises:
        StudyError: If it cannot.
    """
    if not _NAME.fullmatch(name):
        raise StudyError(
            "`study_name` must start with a letter or digit and hold only letters, digits, '.', '_' and '-' "
            f"(at most 100), but got {name!r}."
        )
    return name


def quietly(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call something of Optuna's, without its warning that this is experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return function(*args, **kwargs)


def _complete_setup(study: optuna.Study, config: StudyConfig) -> None:
    """Write what a new study must hold; also after a crash anywhere in the middle of it.

    The study file comes last of the attributes and before the first trial: a study without it and without trials is one
    whose creation was interrupted (or an empty one that the user made), and is completed by the next `create` or `run`.
    """
    if tuple(study.directions) != DIRECTIONS:
        raise StudyError(
            f"The study {study.study_name!r} exists with other directions than maximize, minimize; choose another "
            "--study-name."
        )
    if STUDY_FILE not in study.user_attrs:
        quietly(study.set_metric_names, list(provenance.METRIC_NAMES))
        described = provenance.describe(config)
        for key in sorted(described, key=lambda key: key == STUDY_FILE):
            study.set_user_attr(key, described[key])
    if not study.get_trials(deepcopy=False):
        space = config.space.search_space()
        reference, distributions = space.largest, space.distributions()
        params = space.params(reference)
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.WAITING,
                params=params,
                distributions={name: distributions[name] for name in params},
                user_attrs={ARCH: reference.key},
            )
        )


def _bare(store: Store, name: str) -> optuna.Study:
    # Optuna would choose a sampler of its own; the random one costs nothing and is replaced before it is used.
    return quietly(
        optuna.load_study, study_name=name, storage=store.storage, sampler=optuna.samplers.RandomSampler(seed=0)
    )


def _training_locks(folder: Path | None) -> list[str]:
    """Return the purposes of the locks that a process may hold for hours."""
    retrained = folder.glob(".retrain-*.lock") if folder is not None else ()
    return ["train", *(path.name.removeprefix(".").removesuffix(".lock") for path in retrained)]


@contextmanager
def _idle(store: Store, name: str, purpose: str) -> Iterator[None]:
    with ExitStack() as held:
        try:
            held.enter_context(store.lock(name, purpose).at_once())
        except LockBusyError:
            what = "the supernet" if purpose == "train" else "a network"
            raise StudyError(
                f"Another process trains {what} of the study {name!r}; end it before you delete that."
            ) from None
        yield
