"""The errors that spikesearch raises for a user's mistake.

Every one of them is a :class:`SpikesearchError`, and also the built-in error that a Python programmer would expect in
its place, so that both ``except SpikesearchError`` and ``except ValueError`` work. The command line prints the message
of a :class:`SpikesearchError` as one line and exits with status 2; any other exception is a defect of spikesearch.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SpikesearchError(Exception):
    """Base of all errors that name a user's mistake and its remedy."""


class SpaceError(SpikesearchError, ValueError):
    """An impossible search space, or an architecture that does not belong to its space."""


class ConfigError(SpikesearchError, ValueError):
    """A malformed study file: which key, what was got, what was expected."""


class ConfigNotFoundError(SpikesearchError, FileNotFoundError):
    """A study file that does not exist."""


class DataError(SpikesearchError, ValueError):
    """Data that cannot be used: wrong shape, unreadable file, empty class."""


class DataNotFoundError(SpikesearchError, FileNotFoundError):
    """A data folder or file that does not exist."""


class CheckpointError(SpikesearchError, ValueError):
    """A checkpoint that is corrupt, of another version or of another model."""


class TrainingError(SpikesearchError, FloatingPointError):
    """A training that diverged."""


class TeamError(SpikesearchError, RuntimeError):
    """Processes that cannot train a network together, or one that has lost the others."""


class StudyError(SpikesearchError, ValueError):
    """A study that cannot be created, resumed or used as asked."""


class StudyNotFoundError(SpikesearchError, KeyError):
    """A study, trial or run that does not exist."""

    def __str__(self) -> str:  # KeyError would show the repr of the message
        return str(self.args[0]) if self.args else ""


class StorageError(SpikesearchError, OSError):
    """A storage URL that cannot be opened, or a folder that cannot be written."""


class ExportError(SpikesearchError, ValueError):
    """A network that the wanted format cannot hold."""


class MissingDependencyError(SpikesearchError, ImportError):
    """An optional dependency that is not installed."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known name, or an empty string.

    Args:
        name: What the user typed.
        known: The names that exist.

    Returns:
        A suffix for an error message.
    """
    nearest = nearest_name(name, known)
    return "" if nearest is None else f"; did you mean {nearest!r}?"


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is nearest to what the user typed; ``None`` if none is near."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)
