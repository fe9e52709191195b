"""Whose files a folder holds.

Two databases beside each other may both hold a study of one name, and the folder of a study's files does not tell them
apart. So every study has an identity of its own, and a folder says who was the first to write to it: only that study
takes the files along when it is deleted. Using them is another matter: weights carry the identity of their training,
and a study of the same training may share them.
"""

from __future__ import annotations

import logging
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from spikesearch.errors import StorageError
from spikesearch.io import atomic_write_json, read_json
from spikesearch.study import provenance

if TYPE_CHECKING:
    import optuna

OWNER_FILE = "owner.json"

_log = logging.getLogger(__name__)


def new_identity() -> str:
    """Return an identity that no other study has."""
    return uuid.uuid4().hex


def is_foreign(folder: Path, study: optuna.Study | None) -> bool:
    """Tell whether a folder belongs to another study; one that nobody has claimed does not.

    Args:
        folder: Folder of a study's files; need not exist.
        study: The study; ``None`` if it is still to be made.

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
    return study is None or owner != study.user_attrs.get(provenance.IDENTITY)


def claim(folder: Path, study: optuna.Study) -> None:
    """Write into a folder that it belongs to a study; the caller holds the study's lock.

    One that belongs to another study stays that one's, with a warning.

    Raises:
        StorageError: If the folder cannot be written, or its owner cannot be read.
    """
    if (folder / OWNER_FILE).exists():
        if is_foreign(folder, study):
            _log.warning(
                "%s belongs to another study, with which study %r shares its supernet and other files. They go when "
                "that one is deleted; --run-dir gives a study a folder of its own.",
                folder,
                study.study_name,
            )
        return
    identity = study.user_attrs.get(provenance.IDENTITY)
    if identity is None:  # made by an earlier version
        identity = new_identity()
        study.set_user_attr(provenance.IDENTITY, identity)
    atomic_write_json(folder / OWNER_FILE, {"study": identity, "name": study.study_name})
