"""A study that a command works on: looked up, verified and read once."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.storages import BaseStorage

from spikesearch.config import StudyConfig
from spikesearch.errors import StudyError, TrainingError
from spikesearch.storage.locks import Lock
from spikesearch.study import provenance
from spikesearch.study.assembly import load_data_of, make_sampler, train_supernet_of
from spikesearch.study.assist import assist
from spikesearch.study.attributes import DIVERGED, RUN_DIR, STUDY_ID, SUPERNET_HASH, TEST_PREFIX
from spikesearch.study.checks import check_data, check_device, check_files, check_folder, check_supernet
from spikesearch.study.folder import claim, run_folder
from spikesearch.study.resolve import Target, find, resolve
from spikesearch.study.results import StudyResult, read_results
from spikesearch.study.store import Store, expect_study, find_study, is_begun, make_study

if TYPE_CHECKING:
    import optuna

    from spikesearch.data import DataBundle
    from spikesearch.nn import Supernet
    from spikesearch.scoring import Scorer
    from spikesearch.space import Architecture, SearchSpace
    from spikesearch.train.distributed import Team

_log = logging.getLogger(__name__)


class Session:
    """What a command has of a study of architectures.

    Data, supernet and scorer are read when they are first asked for, verified then, and kept.

    Args:
        store: Its storage.
        study: The study.
        config: Its study file.
        folder: Folder of its files.
        device: Where to train and score.
        data: Its data, if they have been read already.
    """

    def __init__(
        self,
        store: Store,
        study: optuna.Study,
        config: StudyConfig,
        folder: Path,
        device: str,
        data: DataBundle | None = None,
    ) -> None:
        self.store = store
        self.study = study
        self.config = config
        self.folder = folder
        self.device = device
        self._data = data
        self._supernet: Supernet | None = None
        self._scorer: Scorer | None = None

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.study.study_name

    @cached_property
    def space(self) -> SearchSpace:
        """Its search space."""
        return self.config.space.search_space()

    @property
    def supernet_hash(self) -> str:
        """Hash of the weights that its trials were scored with."""
        return str(self.study.user_attrs[SUPERNET_HASH])

    @property
    def data(self) -> DataBundle:
        """Its data.

        Raises:
            DataError: If they cannot be read.
            StudyError: If they are not those that the study was made with.
        """
        if self._data is None:
            data = load_data_of(self.config)
            with self.lock():
                check_data(self.study, data)
            self._data = data
        return self._data

    def supernet(self) -> Supernet:
        """Return the trained supernet.

        Raises:
            StudyError: If it is not trained yet, missing, or not the one that the study's trials were scored with.
            CheckpointError: If its file is corrupt.
        """
        from spikesearch.train import load_supernet
        from spikesearch.train.supernet import is_trained

        if self._supernet is None:
            if SUPERNET_HASH not in self.study.user_attrs:
                raise StudyError(
                    f"The study {self.name!r} has no trained supernet yet; `spikesearch study run {self.name}` "
                    "trains it."
                )
            if not is_trained(self.folder):
                raise StudyError(
                    f"There is no supernet in {self.folder}; restore the folder, say where it is with --run-dir, or "
                    f"train it again with `spikesearch supernet train {self.name}`."
                )
            supernet = load_supernet(self.folder, device=self.device)
            check_supernet(self.study, supernet)
            self._supernet = supernet
        return self._supernet

    def train(self, *, progress: bool = True) -> Supernet:
        """Return the supernet: load it, or train it first, or go on with training that was interrupted.

        Of several processes one trains and the others wait for it; those that ``torchrun`` started beside this one
        train with it, see :mod:`spikesearch.study.assist`.

        Args:
            progress: Whether to show progress on stderr.

        Raises:
            CheckpointError: If its file is corrupt or belongs to something else.
            StudyError: If it is not the supernet that the study's trials were scored with.
        """
        from spikesearch.train.distributed import forget, gathered

        if self._supernet is None:
            with gathered(self.device) as (team, _):
                self._supernet = self._trained_by(team, progress=progress)
            if team.size > 1:
                forget()
        return self._supernet

    def _trained_by(self, team: Team, *, progress: bool) -> Supernet:
        from spikesearch.train.supernet import is_trained

        if SUPERNET_HASH in self.study.user_attrs and is_trained(self.folder):
            team.from_first(None)  # nothing to do
            return self.supernet()
        with self.lock("train").wait(
            lambda: _log.warning("Waiting: another process trains the supernet of study %r.", self.name)
        ):
            find_study(self.store, self.name)  # it may have been deleted while this process waited
            team.from_first((self.config, self.folder))
            try:
                supernet = train_supernet_of(self.config, self.data, self.folder, self.device, progress=progress)
            except TrainingError as error:
                with self.expected():
                    self.study.set_user_attr(DIVERGED, True)
                raise TrainingError(
                    f"{error} The study {self.name!r} accepts another `train` section: change it in the study file, "
                    "and run that again."
                ) from None
        with self.expected(), self.lock():
            check_supernet(self.study, supernet)
        return supernet

    def scorer(self) -> Scorer:
        """Return what scores its architectures with the weights of :meth:`supernet`."""
        from spikesearch.scoring import Scorer

        if self._scorer is None:
            self._scorer = Scorer(self.supernet(), self.data, self.config.scoring, device=self.device)
        return self._scorer

    def final_score(self, arch: Architecture) -> dict[str, Any]:
        """Return an architecture's score on the test split, with inherited weights; never computed twice.

        Finished trials are immutable, so it is an attribute of the study, ``test:<key>``.

        Args:
            arch: What to score.
        """
        key = TEST_PREFIX + arch.key
        with self.expected(), self.lock("test"):
            stored = self.study.user_attrs.get(key)
            if stored is None:
                _log.info("Scoring architecture %s on the test split.", arch.key)
                stored = self.scorer().score(arch, split="test").to_dict()
                self.study.set_user_attr(key, stored)
        return dict(stored)

    def results(self) -> StudyResult:
        """Return the state of the study as it is now."""
        return read_results(self.study, self.store.name)

    def supernet_info(self) -> dict[str, Any]:
        """Return what is known of the supernet, in plain JSON types.

        Raises:
            StudyError: As :meth:`supernet`.
            CheckpointError: As :meth:`supernet`.
        """
        from spikesearch.nn import count_parameters
        from spikesearch.train.checkpoint import load_facts

        parameters = count_parameters(self.supernet())
        facts = load_facts(self.folder / "supernet.json")
        last = facts["history"][-1] if facts.get("history") else {}
        return {
            "architectures": self.space.size,
            "parameters": parameters,
            "hash": self.supernet_hash,
            "file": str(self.folder / "supernet.safetensors"),
            "epochs": self.config.train.epochs,
            "last_epoch": {key: round(value, 4) for key, value in last.items() if isinstance(value, int | float)},
            "versions": facts.get("versions", {}),
        }

    def lock(self, purpose: str = "study") -> Lock:
        """Return a lock between the processes that work on the study."""
        return self.store.lock(self.name, purpose)

    def expected(self) -> AbstractContextManager[None]:
        """Say in one line that the study was deleted inside a ``with`` block; see :func:`expect_study`."""
        return expect_study(self.store, self.name)


def open_session(
    what: StudyConfig | str | Path | Target,
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
        what: See :func:`spikesearch.run_study`, as for all arguments.
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
    target = what if isinstance(what, Target) else resolve(what, storage=storage, study_name=study_name)
    config, known = target.config, target.study
    attrs = known.user_attrs if known is not None else {}
    verified = None
    if known is not None and is_begun(known):
        provenance.verify_config(known, config)
        verified = attrs.get(STUDY_ID)
    check_device(device)
    folder = run_folder(target.store.url, target.name, run_dir, attrs.get(RUN_DIR))
    check_folder(folder)
    data = load_data_of(config, download=download)
    check_files(config, data, folder, known)

    store = target.store
    study = make_study(store, target.name, config, load_if_exists=True, verified=verified)
    session = Session(store, study, config, folder, device, data)
    with session.lock():
        check_data(study, data)
        if store.url is not None:  # a study in memory cannot come back for its files
            claim(folder, study)
        if run_dir is not None:
            study.set_user_attr(RUN_DIR, str(folder))
    _log.info("Study %r in %s, files in %s", session.name, store.name, folder)
    _log.info("Data: %s", data.summary())
    for note in data.notes:
        _log.info("Data: %s", note)
    return session


def open_study(
    study: str | Target,
    *,
    storage: str | BaseStorage | None = None,
    run_dir: str | Path | None = None,
    device: str = "cpu",
) -> Session:
    """Open a study that exists.

    Args:
        study: Its name, or the study as it was found.
        storage: As for :func:`spikesearch.load_study`.
        run_dir: Folder of the study's files, where it is not the usual one.
        device: Where to compute.

    Raises:
        SpikesearchError: If something is missing or not the study's.
    """
    target = study if isinstance(study, Target) else find(study, storage)
    config = target.config
    target.existing.sampler = make_sampler(config)
    check_device(device)
    folder = run_folder(target.store.url, target.name, run_dir, target.existing.user_attrs.get(RUN_DIR))
    return Session(target.store, target.existing, config, folder, device)


def open_trained(
    study: str | Target,
    *,
    storage: str | BaseStorage | None = None,
    run_dir: str | Path | None = None,
    device: str = "cpu",
) -> Session:
    """Open a study with its supernet and its data, and verify that they are the ones that it was made with.

    Arguments and errors are those of :func:`open_study`.
    """
    session = open_study(study, storage=storage, run_dir=run_dir, device=device)
    session.scorer()
    return session
