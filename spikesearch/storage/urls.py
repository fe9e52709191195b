"""Opening Optuna storages: which URL is meant, SQLite set up for several processes, errors that say what to do."""

from __future__ import annotations

import os
import shlex
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikesearch.errors import MissingDependencyError, StorageError, StudyNotFoundError
from spikesearch.io import user_path
from spikesearch.storage.sqlite_files import content_of, tables_of

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage
    from sqlalchemy.engine import URL

DEFAULT_STORAGE = "sqlite:///spikesearch.db"
BUSY_TIMEOUT_S = 60
_CREATION_ATTEMPTS = 50
_EXAMPLES = "sqlite:///spikesearch.db or postgresql://user@host/database"


class WalConnection(sqlite3.Connection):
    """A SQLite connection whose readers do not block the writer.

    The write-ahead log stays switched on in the file; ``synchronous`` does not, so both are set per connection. NORMAL
    survives the death of a process without loss; after a power failure the last transactions may be missing, but the
    file is whole. Where the file system cannot do this, SQLite keeps its ordinary journal.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA journal_mode=WAL").close()
        self.execute("PRAGMA synchronous=NORMAL").close()


def resolve_url(storage: str | None = None, from_file: str | None = None) -> str:
    """Return the storage URL that is meant.

    Args:
        storage: Given by the user; wins.
        from_file: The study file's ``storage``.

    Returns:
        ``storage``, else ``$SPIKESEARCH_STORAGE``, else ``$OPTUNA_STORAGE``, else ``from_file``, else
        ``sqlite:///spikesearch.db``.
    """
    environment = os.environ.get("SPIKESEARCH_STORAGE") or os.environ.get("OPTUNA_STORAGE")
    return storage or environment or from_file or DEFAULT_STORAGE


def display_url(url: str) -> str:
    """Return the URL without its password."""
    return _parse(url).render_as_string(hide_password=True)


def storage_option(study: optuna.Study) -> str:
    """Return the ``--storage`` that a command on a study needs, with a space before it; nothing where none is needed.

    A password is left out.
    """
    url = url_of(study)
    return "" if url in (None, resolve_url()) else f" --storage {shlex.quote(display_url(url))}"


def sqlite_path(url: str) -> Path | None:
    """Return the absolute path of a SQLite URL's file, or ``None`` for any other database."""
    parsed = _parse(url)
    if parsed.get_backend_name() != "sqlite":
        return None
    if not parsed.database or parsed.database == ":memory:" or parsed.database.startswith("file:"):
        raise StorageError(f"`storage` must name a file, such as {DEFAULT_STORAGE}, but got {url!r}.")
    return user_path(parsed.database, "`storage`").resolve()


def study_folder(url: str, study_name: str) -> Path | None:
    """Return the usual folder of a study's files, ``runs/<study>`` beside its SQLite file; ``None`` elsewhere."""
    path = sqlite_path(url)
    return None if path is None else path.parent / "runs" / study_name


def storage_exists(url: str) -> bool:
    """Tell whether something can be read from the URL; only for SQLite a missing file is an ordinary thing.

    Raises:
        StorageError: If the URL is malformed, no such file could be created, or the file is another program's.
    """
    path = sqlite_path(url)
    if path is None:
        return True
    _check_sqlite_file(path, create=True)
    return path.exists() and content_of(path) != "nothing"


def open_storage(url: str, *, create: bool = True) -> BaseStorage:
    """Open a storage.

    Args:
        url: SQLite (with write-ahead log and a busy timeout of a minute) or PostgreSQL.
        create: Whether a SQLite file that is missing may be created.

    Returns:
        The storage, with Optuna's cache around it.

    Raises:
        StorageError: If the URL is malformed or cannot be opened.
        StudyNotFoundError: If the SQLite file is missing or empty and must not be created.
        MissingDependencyError: If the database driver is not installed.
    """
    from optuna.storages import get_storage

    path = sqlite_path(url)
    parsed = _parse(url)
    if path is not None:
        _check_sqlite_file(path, create=create)
        engine_kwargs: dict[str, Any] = {"connect_args": {"timeout": BUSY_TIMEOUT_S, "factory": WalConnection}}
        parsed = parsed.set(database=str(path))  # a worker may run elsewhere
    elif parsed.get_backend_name() == "postgresql":
        if parsed.drivername in {"postgresql", "postgres"}:
            parsed = parsed.set(drivername="postgresql+psycopg")
        engine_kwargs = {"pool_pre_ping": True}
    else:
        raise StorageError(f"`storage` must be a URL such as {_EXAMPLES}, but got {display_url(url)!r}.")
    return get_storage(_connect(parsed, engine_kwargs))


def backend_of(storage: BaseStorage) -> BaseStorage:
    """Return a storage without the cache that Optuna puts around a database."""
    backend: BaseStorage = getattr(storage, "_backend", storage)
    return backend


def url_of(study: optuna.Study) -> str | None:
    """Return the URL of the storage that a study is in; ``None`` if it has none, as memory has."""
    url: str | None = getattr(backend_of(study._storage), "url", None)
    return url


def _connect(parsed: URL, engine_kwargs: dict[str, Any]) -> BaseStorage:
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    shown = parsed.render_as_string(hide_password=True)
    try:
        return _with_tables(parsed.render_as_string(hide_password=False), engine_kwargs)
    except ImportError as error:
        raise MissingDependencyError(
            f"The database driver of {shown} is not installed; try pip install 'spikesearch[postgres]'."
        ) from error
    except (SQLAlchemyError, StorageInternalError) as error:
        reason = getattr(error, "orig", None) or getattr(error.__cause__, "orig", None) or error
        raise StorageError(f"Cannot open the storage {shown}: {_first_line(reason)}. Check the URL.") from error
    except RuntimeError as error:  # Optuna: the tables are of another version
        raise StorageError(f"Cannot use the storage {shown}: {_first_line(error)}") from error


def _with_tables(url: str, engine_kwargs: dict[str, Any]) -> BaseStorage:
    """Connect, and create what tables are missing, though other processes may be doing just that."""
    from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

    from spikesearch.storage.genome_storage import storage_class

    for _ in range(_CREATION_ATTEMPTS):
        try:
            return storage_class()(url, engine_kwargs=engine_kwargs)
        except IntegrityError:  # another process was faster, and so it was below
            pass
        except (OperationalError, ProgrammingError) as error:
            if not any(reason in str(error.orig) for reason in ("already exists", "database is locked")):
                raise
        time.sleep(0.1)
    return storage_class()(url, engine_kwargs=engine_kwargs)


def _check_sqlite_file(path: Path, *, create: bool) -> None:
    # SQLite's own message for all of these is "unable to open database file".
    if not path.parent.is_dir():
        raise StorageError(f"Cannot open the storage {path}: there is no folder {path.parent}. Create it first.")
    if path.is_dir():
        raise StorageError(f"Cannot open the storage {path}: it is a folder. Name a file.")
    if not path.exists():
        if not create:
            raise StudyNotFoundError(f"There is no storage {path}; say which one with --storage.")
        if not os.access(path.parent, os.W_OK):
            raise StorageError(f"Cannot create the storage {path}: the folder {path.parent} is not writable.")
    elif not os.access(path, os.R_OK | os.W_OK):
        raise StorageError(f"Cannot open the storage {path}: the file is not readable and writable.")
    else:
        content = content_of(path)
        if content == "something else":  # Optuna would put its tables beside them, even to list its studies
            tables = tables_of(path)
            named = ", ".join(tables[:3]) + (", ..." if len(tables) > 3 else "")
            raise StorageError(
                f"Cannot use the storage {path}: it is the database of another program (tables {named}), and nothing "
                "was written to it. Name another file with --storage."
            )
        if content == "nothing" and not create:
            raise StudyNotFoundError(f"The storage {path} is empty; say which one with --storage.")


def _parse(url: str) -> URL:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url)
    except (ArgumentError, ValueError, TypeError):
        raise StorageError(f"`storage` must be a URL such as {_EXAMPLES}, but got {url!r}.") from None


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
