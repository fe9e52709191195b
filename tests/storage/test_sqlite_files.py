"""A SQLite file of another program: no command writes to it, and what it is is said."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.storages import RDBStorage

from spikesearch.errors import StorageError, StudyNotFoundError
from spikesearch.storage.sqlite_files import content_of, studies_of
from spikesearch.study.store import list_studies, open_store
from tests.commands import Result
from tests.study.helpers import TINY, new_study

Cli = Callable[..., Result]


def places(path: Path, statement: str = "CREATE TABLE moz_places (id INTEGER PRIMARY KEY, url TEXT)") -> Path:
    with sqlite3.connect(path) as database:
        database.execute(statement)
    database.close()
    return path


@pytest.mark.parametrize(
    "command",
    [
        "study list",
        "study show tiny",
        "study best tiny",
        "study run tiny",
        "study run mine.yaml",
        "study create mine.yaml",
        "study verify tiny",
        "study report tiny",
        "study delete tiny --yes",
        "supernet info tiny",
        "supernet train mine.yaml",
        "subnet extract tiny",
        "subnet evaluate tiny",
        "subnet export tiny",
        "doctor tiny",
        "dashboard",
    ],
)
def test_no_command_writes_to_the_database_of_another_program(tmp_path: Path, cli: Cli, command: str) -> None:
    path = places(tmp_path / "places.sqlite")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(TINY))
    before = path.read_bytes(), sorted(tmp_path.iterdir())
    complaint = cli(*command.split(), "--storage", "sqlite:///places.sqlite").complaint
    assert f"{path}: it is the database of another program (tables moz_places)" in complaint
    assert "--storage" in complaint
    assert (path.read_bytes(), sorted(tmp_path.iterdir())) == before


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE studies (title TEXT)",
        "CREATE TABLE trials (patient TEXT)",
        "CREATE TABLE version_info (version TEXT)",
        "CREATE TABLE trials (trial_id INTEGER PRIMARY KEY, subject TEXT)",
        "CREATE TABLE studies (study_id INTEGER PRIMARY KEY, study_name TEXT, pi TEXT)",
        "CREATE TABLE alembic_version (version_num TEXT)",
    ],
)
def test_tables_that_are_only_called_like_optunas(tmp_path: Path, statement: str) -> None:
    path = places(tmp_path / "a.db", statement)
    before = path.read_bytes()
    with pytest.raises(StorageError, match="another program"):
        open_store(f"sqlite:///{path}")
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["empty file", "no tables"])
def test_a_database_without_tables_is_read_without_writing_and_may_be_used(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.db"
    path.touch()
    if content == "no tables":
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA user_version = 3")
        database.close()
    before = path.read_bytes()
    assert list_studies(f"sqlite:///{path}") == []
    with pytest.raises(StudyNotFoundError, match="is empty"):
        open_store(f"sqlite:///{path}", create=False)
    assert path.read_bytes() == before
    assert [other.name for other in tmp_path.iterdir()] == ["a.db"]
    new_study(f"sqlite:///{path}")
    assert [study.study_name for study in list_studies(f"sqlite:///{path}")] == ["tiny"]


def test_optunas_tables_beside_others_are_optunas(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    optuna.create_study(storage=RDBStorage(f"sqlite:///{path}"), study_name="plain").set_user_attr("a", [1, "b"])
    places(path)
    assert content_of(path) == "studies"
    assert [(study.name, study.user_attrs) for study in studies_of(path)] == [("plain", {"a": [1, "b"]})]
    assert [study.study_name for study in list_studies(f"sqlite:///{path}")] == ["plain"]


def test_a_database_that_optuna_has_not_finished_creating_is_optunas(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    RDBStorage(f"sqlite:///{path}").engine.dispose()
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE alembic_version")
        database.execute("DROP TABLE version_info")
    database.close()
    new_study(f"sqlite:///{path}")
    assert [study.study_name for study in list_studies(f"sqlite:///{path}")] == ["tiny"]
