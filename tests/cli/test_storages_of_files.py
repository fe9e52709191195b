"""Commands that are given a name find the study where its study file says that it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from spikesearch.study import create_study, load_study
from tests.commands import Result
from tests.study.helpers import TINY, tiny_config

Cli = Callable[..., Result]


@pytest.fixture
def elsewhere(finished: Path) -> Path:
    """The finished study, in the storage that its file names."""
    (finished / "spikesearch.db").rename(finished / "elsewhere.db")
    write(finished, "tiny.yaml")
    return finished


def write(folder: Path, file: str, name: str = "tiny", url: str = "sqlite:///elsewhere.db") -> None:
    (folder / file).write_text(yaml.safe_dump({**TINY, "name": name, "storage": url}))


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "study show tiny",
        "study best tiny",
        "study run tiny",
        "study verify tiny",
        "study report tiny",
        "supernet info tiny",
        "supernet train tiny",
        "subnet extract tiny",
        "subnet evaluate tiny",
        "doctor tiny",
        "study delete tiny --yes",
        "study create tiny --kind recipe --trial 0",
    ],
)
def test_a_name_is_enough(elsewhere: Path, cli: Cli, command: str) -> None:
    result = cli(*command.split())
    assert result.status == 0, result.err
    assert "is in sqlite:///elsewhere.db, the storage that tiny.yaml names" in result.err
    assert not (elsewhere / "spikesearch.db").exists()


def new(folder: Path, database: str) -> None:
    create_study(tiny_config(), storage=f"sqlite:///{folder}/{database}")


def test_what_is_said_goes_first(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "tiny.yaml")
    new(tmp_path, "elsewhere.db")
    assert "There is no storage" in cli("study", "show", "tiny", "--storage", "sqlite:///other.db").complaint
    new(tmp_path, "spikesearch.db")
    assert "sqlite:///spikesearch.db" in cli("study", "show", "tiny").out
    (tmp_path / "spikesearch.db").unlink()
    assert "sqlite:///elsewhere.db" in cli("study", "show", "tiny").out
    monkeypatch.setenv("SPIKESEARCH_STORAGE", "sqlite:///env.db")
    assert "There is no storage" in cli("study", "show", "tiny").complaint


def test_a_study_that_several_storages_have_is_asked_for(tmp_path: Path, cli: Cli) -> None:
    for letter in "ab":
        new(tmp_path, f"{letter}.db")
        write(tmp_path, f"{letter}.yaml", url=f"sqlite:///{letter}.db")
    complaint = cli("study", "show", "tiny").complaint
    assert "in sqlite:///a.db and in sqlite:///b.db; give --storage" in complaint


def test_other_files_are_passed_over(tmp_path: Path, cli: Cli) -> None:
    for number, text in enumerate(
        ("[", "- 1", "storage: 3", "\0", "storage: sqlite:///no.db", "{storage: x, name: y}")
    ):
        (tmp_path / f"{number}.yaml").write_text(text)
    (tmp_path / "bytes.yml").write_bytes(b"\xff\xfe\x00")
    write(tmp_path, "server.yaml", "other", "postgresql://nobody@127.0.0.1:1/x")
    assert "There is no storage" in cli("study", "show", "tiny").complaint
    new(tmp_path, "elsewhere.db")
    write(tmp_path, "named-otherwise.yaml", name="first")
    assert "sqlite:///elsewhere.db" in cli("study", "show", "tiny").out
    assert sorted(path.name for path in tmp_path.glob("*.db")) == ["elsewhere.db"]


def test_a_storage_that_cannot_be_asked_is_said(tmp_path: Path, cli: Cli) -> None:
    write(tmp_path, "tiny.yaml", url="sqlite:////no/such/folder/a.db")
    result = cli("study", "show", "tiny")
    assert result.status == 2
    assert "tiny.yaml names a storage that cannot be asked for the study 'tiny'" in result.err


def test_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    new(tmp_path, "elsewhere.db")
    write(tmp_path, "tiny.yaml")
    assert load_study("tiny").study_name == "tiny"
