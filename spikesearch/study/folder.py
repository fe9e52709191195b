"""The folder of a study's files: where it is, whose it is, and what goes from it when the study is deleted.

Two databases beside each other may both hold a study of one name, and the folder of a study's files does not tell them
apart. So every study has an id of its own, and a folder says who was the first to write to it. Using the files is
another matter: weights say what they were trained on, and a study of the same training may share them.

A database that is copied holds the same study, with the same id. So the files go with the last study that has them: a
folder also says which databases have used it, and those beside it are looked at, read-only.
"""

from __future__ import annotations

import logging
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikesearch.errors import StorageError, StudyError
from spikesearch.io import atomic_write_json, read_json, user_path
from spikesearch.storage.sqlite_files import is_sqlite, studies_of
from spikesearch.storage.urls import display_url, sqlite_path, study_folder, url_of
from spikesearch.study.attributes import DATA_FINGERPRINT, RUN_DIR, STUDY_ID, SUPERNET_HASH

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


@dataclass(frozen=True)
class Claim:
    """Another study that has the files of a folder.

    Args:
        study_id: Its id.
        name: Its name.
        database: Where it is: a SQLite file, or a URL without password.
    """

    study_id: str
    name: str
    database: str

    def __str__(self) -> str:
        return f"study {self.name!r} in {self.database}"


def is_foreign(folder: Path, study: optuna.Study) -> bool:
    """Tell whether a folder belongs to another study; one that nobody has claimed does not.

    Args:
        folder: Folder of a study's files; need not exist.
        study: The study.

    Raises:
        StorageError: If the folder's owner cannot be read.
    """
    return _owner(folder).get("study", study.user_attrs.get(STUDY_ID)) != study.user_attrs.get(STUDY_ID)


def database_of(study: optuna.Study) -> str:
    """Return where a study is, as folders note it: the path of its SQLite file, or the URL without password."""
    url = url_of(study)
    path = sqlite_path(url) if url else None
    return (display_url(url) if url else "memory") if path is None else str(path)


def claim(folder: Path, study: optuna.Study) -> None:
    """Write into a folder that it belongs to a study, or that the study uses it; the caller holds the study's lock.

    One that belongs to another study stays that one's, with a warning.

    Raises:
        StorageError: If the folder cannot be written, or its owner cannot be read.
    """
    here = Claim(study.user_attrs[STUDY_ID], study.study_name, database_of(study))
    owner = _owner(folder) or {"study": here.study_id, "name": here.name}
    noted = _noted(owner)
    if here not in noted:
        _write_owner(folder, owner, [*noted, here])
    if owner["study"] != here.study_id:
        _log.warning(
            "%s belongs to another study, with which study %r shares its supernet and other files. They go when the "
            "last of these studies is deleted; --run-dir gives a study a folder of its own.",
            folder,
            study.study_name,
        )


def withdraw(folder: Path, gone: Claim) -> list[Claim]:
    """Take back what a folder notes of a study that has been deleted, and return who else has the folder's files.

    If the folder was the study's, it is the first of the others' from now on.

    Args:
        folder: Folder of a study's files; need not exist.
        gone: The study that has been deleted.

    Raises:
        StorageError: If the folder cannot be written, or its owner cannot be read.
    """
    owner = _owner(folder)
    noted = [claim for claim in _noted(owner) if claim != gone]
    others = list(_others(folder, gone, noted))
    if owner and others:
        if owner["study"] == gone.study_id:
            owner |= {"study": others[0].study_id or gone.study_id, "name": others[0].name}
        _write_owner(folder, owner, noted)
    return others


def orphans(folder: Path, gone: Claim) -> list[Path]:
    """Return the folders beside a deleted study's own that hold files of it, which it had under another name."""
    found = []
    for path in sorted(folder.parent.glob(f"*/{OWNER_FILE}")):
        with suppress(StorageError):  # who owns that one is no concern of this study
            owner = _owner(path.parent)
            if path.parent != folder and owner["study"] == gone.study_id:
                found += [] if any(_others(path.parent, gone, _noted(owner))) else [path.parent]
    return found


def remove_files(folder: Path) -> None:
    """Delete what a study leaves in its folder, and every folder that is empty then.

    What lies behind a link stays, and so does what the operating system refuses to delete; the log says so.
    """
    files = [path for pattern in FILES for path in folder.glob(pattern) if path.is_file()]
    ways = {path: [folder, *(parent for parent in path.parents if folder in parent.parents)] for path in files}
    links = {way for above in ways.values() for way in above if way.is_symlink()}
    for link in sorted(links):
        _log.warning("The files in %s stay, because that is a link to %s.", link, link.resolve())
    folders = {folder} - links
    try:
        for path, above in ways.items():
            if links.isdisjoint(above):
                path.unlink()
                folders.update(above)
        for empty in sorted(folders, key=lambda path: len(path.parts), reverse=True):
            if not any(empty.iterdir()):
                empty.rmdir()
    except OSError as error:
        _log.warning("Other files in %s stay: %s cannot be deleted (%s).", folder, error.filename, error.strerror)


def _owner(folder: Path) -> dict[str, Any]:
    """Return what a folder says of its owner; nothing if nobody has claimed it."""
    path = folder / OWNER_FILE
    try:
        if not path.exists():
            return {}
        owner = read_json(path, error=StorageError, remedy="restore it, or remove it.")
        return {**owner, "study": owner["study"]}
    except (OSError, KeyError, TypeError):
        raise StorageError(f"Cannot read {path}, which says whose files these are; restore it, or remove it.") from None


def _write_owner(folder: Path, owner: dict[str, Any], noted: list[Claim]) -> None:
    atomic_write_json(folder / OWNER_FILE, {**owner, "used_by": [asdict(claim) for claim in noted]})


def _noted(owner: dict[str, Any]) -> list[Claim]:
    """Return the studies that a folder notes as using it; version 0.1.0 noted none."""
    return [Claim(**entry) for entry in owner.get("used_by", ())]


def _others(folder: Path, gone: Claim, noted: list[Claim]) -> Iterator[Claim]:
    """Find the studies that have the files of a folder.

    Asked are the SQLite files beside the usual database of the folder, and every one that the folder notes; one that is
    no longer there has none. A database that is no file cannot be asked, so what is noted of it holds.
    """
    real = folder.resolve()
    files = {Path(claim.database) for claim in noted if "://" not in claim.database}
    for beside in {folder.parent.parent, real.parent.parent}:
        files |= {path for path in beside.iterdir() if path.is_file()} if beside.is_dir() else set()
    for path in sorted({path.resolve() for path in files if is_sqlite(path)}):
        try:
            studies = studies_of(path)
        except (sqlite3.Error, ValueError):
            yield Claim("", folder.name, f"{path}, which cannot be read")
            continue
        for study in studies:
            attrs = study.user_attrs
            own = Path(attrs[RUN_DIR]) if attrs.get(RUN_DIR) else path.parent / "runs" / study.name
            used = DATA_FINGERPRINT in attrs or SUPERNET_HASH in attrs or attrs.get(STUDY_ID) == gone.study_id
            if STUDY_ID in attrs and used and own.resolve() == real:
                yield Claim(attrs[STUDY_ID], study.name, str(path))
    yield from (claim for claim in noted if "://" in claim.database)
