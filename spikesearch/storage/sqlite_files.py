"""SQLite files that are looked at without writing to them: whose they are, and which studies they hold."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

_MAGIC = b"SQLite format 3\0"
_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class StoredStudy:
    """What a SQLite file says of a study.

    Args:
        name: Its name.
        user_attrs: Its user attributes.
    """

    name: str
    user_attrs: dict[str, Any]


def is_sqlite(path: Path) -> bool:
    """Tell whether a file is a SQLite database that is not empty."""
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def content_of(path: Path) -> Literal["nothing", "studies", "something else"]:
    """Say what a file that may be a SQLite database holds.

    Args:
        path: A file that exists.

    Returns:
        ``studies`` also for one that cannot be read now, or is no database: opening it says why.
    """
    if path.stat().st_size == 0:
        return "nothing"
    try:
        with _reading(path) as database:
            tables = _tables(database)
            ours = _ours(database, tables)
    except sqlite3.Error:
        return "studies"
    if not tables:
        return "nothing"
    return "studies" if ours else "something else"


def tables_of(path: Path) -> list[str]:
    """Return the names of a SQLite file's tables.

    Raises:
        sqlite3.Error: If they cannot be read.
    """
    with _reading(path) as database:
        return _tables(database)


def studies_of(path: Path) -> list[StoredStudy]:
    """Return the studies of a SQLite file; none if it belongs to another program.

    Raises:
        sqlite3.Error: If it cannot be read.
        ValueError: If it holds what Optuna did not write.
    """
    with _reading(path) as database:
        tables = _tables(database)
        if not _ours(database, tables) or "study_user_attributes" not in tables:
            return []
        studies = database.execute("SELECT study_id, study_name FROM studies ORDER BY study_id").fetchall()
        values = database.execute("SELECT study_id, key, value_json FROM study_user_attributes").fetchall()
    attrs: dict[int, dict[str, Any]] = {number: {} for number, _ in studies}
    for number, key, value in values:
        attrs.setdefault(number, {})[key] = json.loads(value)
    return [StoredStudy(name, attrs[number]) for number, name in studies]


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    # Without a log beside it the file is whole and nobody writes. SQLite must be told, or it would leave a log there.
    busy = any(Path(f"{path}{ending}").exists() for ending in ("-wal", "-journal"))
    address = f"{path.resolve().as_uri()}?mode=ro{'' if busy else '&immutable=1'}"
    with closing(sqlite3.connect(address, uri=True, timeout=_TIMEOUT_S)) as database:
        yield database


def _tables(database: sqlite3.Connection) -> list[str]:
    rows = database.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    )
    return [name for (name,) in rows]


def _ours(database: sqlite3.Connection, tables: list[str]) -> bool:
    """Tell whether tables are Optuna's, perhaps with others beside them, or those that it has created so far."""
    known, whole = _optuna_tables(), _optuna_columns()
    complete = True
    for table in known.keys() & set(tables):
        columns = {column for (column,) in database.execute("SELECT name FROM pragma_table_info(?)", (table,))}
        if not known[table] <= columns:
            return False
        complete &= whole.get(table, columns) == columns
    if {"studies", "version_info"} <= set(tables):
        return True
    # Optuna creates its tables first, and says last which version of them there is
    return complete and set(tables) <= known.keys() and tables != ["alembic_version"]


def _optuna_columns() -> dict[str, set[str]]:
    """Return all columns of Optuna's tables."""
    try:
        from optuna.storages._rdb.models import BaseModel
    except ImportError:  # another Optuna
        return {}
    return {name: set(table.columns.keys()) for name, table in BaseModel.metadata.tables.items()}


def _optuna_tables() -> dict[str, set[str]]:
    """Return the columns that tell Optuna's tables from others of the same name."""
    fallback = {"studies": {"study_id", "study_name"}, "version_info": {"version_info_id", "schema_version"}}
    try:
        from optuna.storages._rdb.models import BaseModel  # a while, and not needed by whoever only asks for --help
    except ImportError:  # another Optuna
        return fallback
    keys = {name: set(table.primary_key.columns.keys()) for name, table in BaseModel.metadata.tables.items()}
    return keys | fallback | {"alembic_version": {"version_num"}}
