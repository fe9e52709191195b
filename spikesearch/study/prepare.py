"""What a search needs before its first trial: the data, the trained supernet, and proof that both are the study's."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from spikesearch.errors import StorageError, StudyError
from spikesearch.study import provenance

if TYPE_CHECKING:
    import optuna
    import torch

    from spikesearch.config import StudyConfig
    from spikesearch.data import DataBundle
    from spikesearch.nn import Supernet
    from spikesearch.scoring import Scorer
    from spikesearch.study.store import Store
    from spikesearch.train.distributed import Team

FINISHED = "supernet.json"  # written last

_log = logging.getLogger(__name__)


def load_data_of(config: StudyConfig, *, download: bool = False) -> DataBundle:
    """Read the data of a study file; ``download`` as for :func:`spikesearch.data.load_data`."""
    from spikesearch.data import load_data

    return load_data(config.data, seed=config.seed, download=download)


def new_supernet(config: StudyConfig, data: DataBundle) -> Supernet:
    """Build the untrained supernet of a study file.

    Raises:
        SpikesearchError: If no network of the space fits the images.
    """
    from spikesearch.nn import Supernet

    stages = config.model.pool_stages
    return Supernet(
        config.space.search_space(),
        in_channels=data.in_channels,
        image_size=data.image_size,
        num_classes=data.num_classes,
        pool_stages=None if stages is None else tuple(stages),
        residual=config.model.residual,
    )


def check_folder(folder: Path) -> None:
    """Make sure that files can be written to a folder, without leaving anything if they cannot.

    Raises:
        StorageError: If they cannot.
    """
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        if not existing.is_dir():
            raise NotADirectoryError(20, "Not a directory")
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise StorageError(
            f"Cannot write to {folder}: {error.strerror or error}. Choose a folder that is writable with --run-dir."
        ) from error


def check_files(config: StudyConfig, data: DataBundle, folder: Path, study: optuna.Study | None) -> None:
    """Make sure that some network of the space fits the data, and that a folder does not hold another supernet.

    Args:
        config: The study file.
        data: Its data.
        folder: Folder of the study's files; need not exist.
        study: The study; ``None`` if it is still to be made.

    Raises:
        SpikesearchError: If something does not fit.
    """
    from spikesearch.energy import energy_model
    from spikesearch.train.supernet import check_run_dir

    supernet = new_supernet(config, data)
    if study is None or provenance.SUPERNET_HASH not in study.user_attrs:
        check_run_dir(
            supernet, data, config.train, seed=config.seed, run_dir=folder, energy_model=energy_model(config.scoring)
        )


def check_data(study: optuna.Study, data: DataBundle) -> None:
    """Record the data's fingerprint with the study, or verify it, and what a guess scores; the caller holds the lock.

    Raises:
        StudyError: If the study was made with other data.
    """
    reasons = f", or read in another way than by spikesearch 0.1.0: {' '.join(data.rereads)}" if data.rereads else "."
    provenance.set_once(
        study,
        provenance.DATA_FINGERPRINT,
        data.fingerprint,
        f"these are other data{reasons} Restore them, or give --study-name to start another study.",
    )
    if provenance.MAJORITY_SHARE not in study.user_attrs:
        study.set_user_attr(provenance.MAJORITY_SHARE, data.majority_share)


def trained_supernet(
    store: Store,
    study: optuna.Study,
    config: StudyConfig,
    data: DataBundle,
    run_dir: Path,
    device: str,
    *,
    progress: bool,
) -> Supernet:
    """Return the study's supernet: load it, or train it first, or go on with training that was interrupted.

    Of several processes one trains and the others wait for it; those that ``torchrun`` started beside this one train
    with it, see :mod:`spikesearch.study.assist`.

    Raises:
        CheckpointError: If its file is corrupt or belongs to something else.
        StudyError: If it is not the supernet that the study's trials were scored with.
    """
    from spikesearch.train.distributed import forget, gathered

    with gathered(device) as (team, _):
        supernet = _trained_supernet(team, store, study, config, data, run_dir, device, progress=progress)
    if team.size > 1:
        forget()
    return supernet


def _trained_supernet(
    team: Team,
    store: Store,
    study: optuna.Study,
    config: StudyConfig,
    data: DataBundle,
    run_dir: Path,
    device: str,
    *,
    progress: bool,
) -> Supernet:
    from spikesearch.study.store import expect_study, find_study
    from spikesearch.train import load_supernet

    name = study.study_name
    if provenance.SUPERNET_HASH in study.user_attrs and (run_dir / FINISHED).exists():
        team.from_first(None)  # nothing to do
        supernet = load_supernet(run_dir, device=device)
        check_supernet(study, supernet)
        return supernet

    def train() -> Supernet:
        team.from_first((config, run_dir))
        return train_supernet_of(config, data, run_dir, device, progress=progress)

    lock = store.lock(name, "train")
    if lock is None:
        supernet = train()
    else:
        with lock.wait(lambda: _log.warning("Waiting: another process trains the supernet of study %r.", name)):
            find_study(store, name)  # it may have been deleted while this process waited
            supernet = train()
    with expect_study(store, name), store.locked(name):
        check_supernet(study, supernet)
    return supernet


def train_supernet_of(
    config: StudyConfig, data: DataBundle, run_dir: Path, device: str | torch.device, *, progress: bool
) -> Supernet:
    """Train the supernet of a study file; see :func:`spikesearch.train.train_supernet`."""
    from spikesearch.energy import energy_model
    from spikesearch.train import train_supernet

    return train_supernet(
        new_supernet(config, data),
        data,
        config.train,
        seed=config.seed,
        run_dir=run_dir,
        energy_model=energy_model(config.scoring),
        device=device,
        progress=progress,
    )


def check_supernet(study: optuna.Study, supernet: Supernet) -> None:
    """Record the supernet's hash with the study, or verify it.

    Raises:
        StudyError: If the study's trials were scored with another one.
    """
    from spikesearch.train import weights_hash

    provenance.set_once(
        study,
        provenance.SUPERNET_HASH,
        weights_hash(supernet),
        "this is another supernet, its scores would not be comparable. Restore the study's files, or give --study-name "
        "to start another study.",
    )


def make_scorer(config: StudyConfig, supernet: Supernet, data: DataBundle, device: str) -> Scorer:
    """Return what scores the study's architectures."""
    from spikesearch.scoring import Scorer

    return Scorer(supernet, data, config.scoring, device=device)


def open_supernet(study: optuna.Study, run_dir: Path, device: str = "cpu") -> Supernet:
    """Load the trained supernet of a study that has been run, and verify it.

    Raises:
        StudyError: If the study has none yet, or it is another one.
        CheckpointError: If its file is corrupt.
    """
    from spikesearch.train import load_supernet

    if provenance.SUPERNET_HASH not in study.user_attrs:
        raise StudyError(
            f"The study {study.study_name!r} has no trained supernet yet; `spikesearch study run {study.study_name}` "
            "trains it."
        )
    if not (run_dir / FINISHED).exists():
        raise StudyError(
            f"There is no supernet in {run_dir}; restore the folder, say where it is with --run-dir, or train it again "
            f"with `spikesearch supernet train {study.study_name}`."
        )
    supernet = load_supernet(run_dir, device=device)
    check_supernet(study, supernet)
    return supernet


def check_device(device: str) -> None:
    """Make sure that a torch device can be used.

    Raises:
        StudyError: If it cannot.
    """
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise StudyError(f"`device` must be cpu or cuda, but got {device!r}.") from None
    if kind not in {"cpu", "cuda"}:  # mps has no float64, in which sums are kept
        raise StudyError(f"`device` must be cpu or cuda, but got {device!r}.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise StudyError(f"`device` {device!r} is not available here; use --device cpu.")


def available_cores() -> int:
    """Return how many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1
