"""Checks of what a user can get wrong, before anything is written; and proof that data and supernet are the study's."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from spikesearch.errors import CheckpointError, StorageError, StudyError
from spikesearch.study import provenance
from spikesearch.study.assembly import device_limits, new_supernet
from spikesearch.study.attributes import DATA_FINGERPRINT, MAJORITY_SHARE, SUPERNET_HASH
from spikesearch.study.folder import is_foreign

if TYPE_CHECKING:
    import optuna

    from spikesearch.config import StudyConfig
    from spikesearch.data import DataBundle
    from spikesearch.nn import Supernet

_log = logging.getLogger(__name__)


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
    """Make sure that some network of the space fits data and device, and that a folder holds no other supernet.

    What is left of a training of this study that has diverged makes way.

    Args:
        config: The study file.
        data: Its data.
        folder: Folder of the study's files; need not exist.
        study: The study; ``None`` if it is still to be made.

    Raises:
        SpikesearchError: If something does not fit.
    """
    from spikesearch.energy import energy_model
    from spikesearch.train.supernet import check_run_dir, discard_checkpoints, is_trained

    supernet = new_supernet(config, data)
    device_limits(config, supernet).check()
    if study is not None and SUPERNET_HASH in study.user_attrs:
        return
    try:
        check_run_dir(
            supernet, data, config.train, seed=config.seed, run_dir=folder, energy_model=energy_model(config.scoring)
        )
    except CheckpointError:
        if study is None or not provenance.has_diverged(study) or is_foreign(folder, study) or is_trained(folder):
            raise
        discard_checkpoints(folder)
        _log.info("The training begins anew; the checkpoints of the one that diverged are deleted.")


def check_data(study: optuna.Study, data: DataBundle) -> None:
    """Record the data's fingerprint with the study, or verify it, and what a guess scores; the caller holds the lock.

    Raises:
        StudyError: If the study was made with other data.
    """
    if DATA_FINGERPRINT not in study.user_attrs:
        study.set_user_attr(MAJORITY_SHARE, data.majority_share)
    reasons = f", or read in another way than by spikesearch 0.1.0: {' '.join(data.rereads)}" if data.rereads else "."
    provenance.set_once(
        study,
        DATA_FINGERPRINT,
        data.fingerprint,
        f"these are other data{reasons} Restore them, or give --study-name to start another study.",
    )


def check_supernet(study: optuna.Study, supernet: Supernet) -> None:
    """Record the supernet's hash with the study, or verify it.

    Raises:
        StudyError: If the study's trials were scored with another one.
    """
    from spikesearch.train import weights_hash

    provenance.set_once(
        study,
        SUPERNET_HASH,
        weights_hash(supernet),
        "this is another supernet, its scores would not be comparable. Restore the study's files, or give --study-name "
        "to start another study.",
    )
