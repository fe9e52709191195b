"""The folder of a study's files: where it is, whose it is, and what goes from it when the study is deleted.

Two databases beside each other may both hold a study of one name, and the folder of a study's files does not tell them
apart. So every study has an id of its own, and a folder says who was the first to write to it: only that study takes
the files along when it is deleted. Using them is another matter: weights say what they were trained on, and a study of
the same training may share them.
"""

from __future__ import annotations

import logging
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from spikesearch.errors import StorageError, StudyError
from spikesearch.io import atomic_write_json, read_json, user_path
from spikesearch.storage.urls import display_url, study_folder
from spikesearch.study.attributes import STUDY_ID

if TYPE_CHECKING:
    import optuna

OWNER_FILE = "owner.json"
# What a study leaves in its folder; nothing else is ever deleted.
FILES = (
    *("supernet.safetensors", "supernet.json", "checkpoints/*/state.*"),
    *("retrained/*/model.*", "retrained/*.checkpoints/*/state.*", "trials/*/*/state.*"),
    *("fidelity/networks-*.json", "fidelity/alone-*.json", "fidelity/alone-*.checkpoints/*/state.*"),
    *("fidelity/report.json", "fidelity/scatter.png"),
    *(OWNER_FILE, ".study.lock", ".train.lock", ".test.lock", ".retrain-*.lock"),
)

_log = logging.getLogger(__name__)


def run_folder(url: str | None, name: str, run_dir: str | Path | None = None, stored: str | None = None) -> Path:
    """Return the folder of a study's files.

    Args:
        url: Storage URL of the study; ``None`` for memory.
        name: Name of the study.
        run_dir: Given by the user; wins.
        stored: What the user gave when the study was run before.

    Returns:
        The given folder, else ``runs/<study>`` beside the SQLite file.

    Raises:
        StudyError: If the storage is not a SQLite file and no folder is given.
        StorageError: If the operating system refuses the given folder.
    """
    if run_dir or stored:
        return user_path(run_dir or stored or "", "`run_dir`").absolute()
    usual = study_folder(url, name) if url else None
    if usual is None:
        where = display_url(url) if url else "memory"
        raise StudyError(f"`run_dir` is needed for a study in {where}: give the folder of its files with --run-dir.")
    return usual


def new_study_id() -> str:
    """Return an id that no other study has."""
    return uuid.uuid4().hex


def is_foreign(folder: Path, study: optuna.Study) -> bool:
    """Tell whether a folder belongs to another study; one that nobody has claimed does not.

    Args:
        folder: Folder of a study's files; need not exist.
        study: The study.

    Raises:
        StorageError: If the folder's owner cannot be read.
    """
    path = folder / OWNER_FILE
    try:
        if not path.exists():
            return False
        owner = read_json(path, error=StorageError, remedy="restore it, or remove it.")["study"]
    except (OSError, KeyError, TypeError):
        raise StorageError(f"Cannot read {path}, which says whose files these are; restore it, or remove it.") from None
    return bool(owner != study.user_attrs.get(STUDY_ID))


def claim(folder: Path, study: optuna.Study) -> None:
    """Write into a folder that it belongs to a study; the caller holds the study's lock.

    One that belongs to another study stays that one's, with a warning.

    Raises:
        StorageError: If the folder cannot be written, or its owner cannot be read.
    """
    if not (folder / OWNER_FILE).exists():
        atomic_write_json(folder / OWNER_FILE, {"study": study.user_attrs[STUDY_ID], "name": study.study_name})
    elif is_foreign(folder, study):
        _log.warning(
            "%s belongs to another study, with which study %r shares its supernet and other files. They go when that "
            "one is deleted; --run-dir gives a study a folder of its own.",
            folder,
            study.study_name,
        )


def remove_files(folder: Path) -> None:
    """Delete what a study leaves in its folder, and every folder that is empty then."""
    files = [path for pattern in FILES for path in folder.glob(pattern) if path.is_file()]
    folders = {folder}
    for path in files:
        path.unlink()
        folders |= {parent for parent in path.parents if folder in parent.parents}
    for empty in sorted(folders, key=lambda path: len(path.parts), reverse=True):
        if not any(empty.iterdir()):
            empty.rmdir()
