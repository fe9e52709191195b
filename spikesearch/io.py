"""Paths that users give, reading JSON, and writing files so that a crash never leaves half of one."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from spikesearch.errors import CheckpointError, SpikesearchError, StorageError


def user_path(path: str | os.PathLike[str], what: str, error: type[SpikesearchError] = StorageError) -> Path:
    """Return a path that a user gave, with ``~`` expanded; a file that is merely missing is none of its concern.

    Args:
        path: As it was given.
        what: What it is, for the message, such as ``--output``.
        error: Raised if the operating system refuses the path.

    Raises:
        SpikesearchError: As ``error``, for a name that is too long, an unknown user, a folder that is closed to us.
    """
    try:
        expanded = Path(path).expanduser()
        for name in expanded.parts:  # below a folder that is missing, nobody would look at the length of a name
            with suppress(FileNotFoundError):
                Path(name).lstat()
        with suppress(FileNotFoundError, NotADirectoryError):
            expanded.stat()
    except (OSError, RuntimeError, ValueError) as problem:
        shown = repr(os.fspath(path))
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        reason = str(getattr(problem, "strerror", None) or problem).rstrip(".")
        raise error(f"{what} {shown} cannot be used as a path: {reason}.") from None
    return expanded


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``: afterwards the file holds all of it, or what it held before.

    Args:
        path: The file; its folder is created if it is missing.
        data: The whole content.

    Raises:
        StorageError: If the folder cannot be created or written.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = file.name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # temporary files are private by default
        os.replace(temporary, path)
        temporary = None
        sync_folder(path.parent)
    except OSError as error:
        raise not_writable(path, error) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def atomic_write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with :func:`atomic_write_bytes`."""
    atomic_write_bytes(path, text.encode())


def atomic_write_json(path: Path, data: Any) -> None:
    """Write indented JSON with :func:`atomic_write_bytes`; NaN and infinity are refused, JSON has no word for them."""
    atomic_write_text(path, json.dumps(data, indent=2, sort_keys=False, allow_nan=False) + "\n")


def read_json(path: Path, *, error: type[SpikesearchError], remedy: str, missing: str | None = None) -> Any:
    """Return what a JSON file holds.

    Args:
        path: The file.
        error: Raised if it is missing or corrupt.
        remedy: What to do then, for the message.
        missing: The whole message if it is missing, instead of one with the remedy.

    Raises:
        SpikesearchError: As ``error``.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(missing or f"{path} is missing; {remedy}") from None
    except (OSError, ValueError) as problem:
        raise error(f"{path} is corrupt ({problem}); {remedy}") from None


def read_described(
    path: Path, what: str, format_and_version: tuple[str, int], *, remedy: str, missing: str
) -> dict[str, Any]:
    """Return what a JSON file holds that names its format and version.

    Args:
        path: The file.
        what: What it describes, such as ``a network``.
        format_and_version: Its format, and the newest version of it that is understood.
        remedy: See :func:`read_json`.
        missing: See :func:`read_json`.

    Raises:
        CheckpointError: If it is missing, corrupt, of a newer version or of something else.
    """
    known, newest = format_and_version
    facts = read_json(path, error=CheckpointError, remedy=remedy, missing=missing)
    if not isinstance(facts, dict) or facts.get("format") != known:
        raise CheckpointError(f"{path} does not describe {what} of spikesearch.")
    version = facts.get("format_version")
    if not isinstance(version, int) or version > newest:
        raise CheckpointError(
            f"{path} has format version {version}, newer than this spikesearch understands ({newest}); "
            "upgrade spikesearch."
        )
    return facts


def not_writable(path: Path, error: OSError) -> StorageError:
    """Return the error that says that ``path`` cannot be written, and why."""
    return StorageError(f"Cannot write {path}: {error.strerror or error}. Choose a folder that is writable.")


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power failure, where the system can do that."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
