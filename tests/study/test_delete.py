"""Which files go with a study: its own, and none that another database can still ask for."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from pathlib import Path

import optuna
import pytest
from optuna.storages import InMemoryStorage

from spikesearch.study import create_study
from spikesearch.study.folder import claim, is_foreign
from spikesearch.study.store import delete_study, open_store
from tests.study.helpers import new_study, tiny_config


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def trained(folder: Path, name: str = "tiny", database: str = "a.db", files: Path | None = None) -> Path:
    """Make a study that has been trained, as far as its folder tells, and return its weights."""
    study = create_study(tiny_config(), storage=url_of(folder / database), study_name=name)
    files = files or folder / "runs" / name
    claim(files, study)
    study.set_user_attr("data_fingerprint", "f")
    study.set_user_attr("supernet_hash", "h")
    if files != folder / "runs" / name:
        study.set_user_attr("run_dir", str(files))
    (files / "supernet.safetensors").touch()
    with sqlite3.connect(folder / database) as settled:  # as if the process that made it had ended
        settled.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return files / "supernet.safetensors"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return trained(tmp_path)


def copied(folder: Path, how: str) -> str:
    copy = url_of(folder / "copy.db")
    if how == "cp":
        shutil.copy(folder / "a.db", folder / "copy.db")
    elif how == "backup":
        with sqlite3.connect(folder / "a.db") as source, sqlite3.connect(folder / "copy.db") as target:
            source.backup(target)
    else:
        optuna.copy_study(
            from_study_name="tiny", from_storage=url_of(folder / "a.db"), to_storage=copy, to_study_name="tiny"
        )
    return copy


@pytest.mark.parametrize("noted", [True, False], ids=["now", "0.1.0"])
@pytest.mark.parametrize("first", ["copy", "original"])
@pytest.mark.parametrize("how", ["cp", "backup", "copy_study"])
def test_files_go_with_the_last_database_that_has_them(
    tmp_path: Path, weights: Path, how: str, first: str, noted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if not noted:
        owner = open_store(url_of(tmp_path / "a.db")).storage.get_all_studies()[0].user_attrs["identity"]
        (weights.parent / "owner.json").write_text(f'{{"study": "{owner}", "name": "tiny"}}')
    copy = copied(tmp_path, how)
    order = [copy, url_of(tmp_path / "a.db")]
    if first == "original":
        order.reverse()
    delete_study("tiny", storage=order[0])
    assert weights.exists()
    message = caplog.messages[-1]
    assert f"The files in {weights.parent} stay" in message
    assert f"study 'tiny' in {order[1].removeprefix('sqlite:///')}" in message
    delete_study("tiny", storage=order[1])
    assert not weights.parent.exists()


def test_a_copy_elsewhere_has_other_files(tmp_path: Path, weights: Path) -> None:
    (tmp_path / "backup").mkdir()
    shutil.copy(tmp_path / "a.db", tmp_path / "backup/a.db")
    delete_study("tiny", storage=url_of(tmp_path / "backup/a.db"))
    assert weights.exists()
    delete_study("tiny", storage=url_of(tmp_path / "a.db"))
    assert not weights.parent.exists()


def test_a_copied_folder_is_deleted_alone(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    original = trained(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    delete_study("tiny", storage=url_of(tmp_path / "there/a.db"))
    assert not (tmp_path / "there/runs/tiny").exists()
    assert original.exists()


@pytest.mark.parametrize("where", ["a.db", "b.db"])
def test_a_moved_study_takes_its_files_along(tmp_path: Path, where: str) -> None:
    (tmp_path / "here").mkdir()
    trained(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    (tmp_path / "there/a.db").rename(tmp_path / "there" / where)
    delete_study("tiny", storage=url_of(tmp_path / "there" / where))
    assert not (tmp_path / "there/runs/tiny").exists()


def test_a_linked_folder_of_files_is_the_original(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "disk").mkdir()
    (tmp_path / "here/runs").symlink_to(tmp_path / "disk")
    weights = trained(tmp_path / "here")
    shutil.copy(tmp_path / "here/a.db", tmp_path / "there/a.db")
    (tmp_path / "there/runs").symlink_to(tmp_path / "disk")
    (tmp_path / "there/link.db").symlink_to(tmp_path / "there/a.db")
    delete_study("tiny", storage=url_of(tmp_path / "there/a.db"))
    assert weights.exists()
    assert f"study 'tiny' in {tmp_path}/here/a.db" in caplog.text


def test_two_studies_that_share_a_folder(tmp_path: Path, weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "elsewhere").mkdir()
    trained(tmp_path / "elsewhere", "second", files=weights.parent)
    trained(tmp_path, "third", files=weights.parent)
    caplog.clear()
    delete_study("tiny", storage=url_of(tmp_path / "a.db"))
    assert weights.exists()
    assert f"study 'third' in {tmp_path}/a.db and study 'second' in {tmp_path}/elsewhere/a.db" in caplog.text
    caplog.clear()
    for folder, name in (("elsewhere", "second"), (".", "third")):
        delete_study(name, storage=url_of((tmp_path / folder / "a.db").resolve()))
        assert weights.exists(), "the user named the folder"
        assert f"The files in {weights.parent} stay, because the folder was named with --run-dir" in caplog.text
        caplog.clear()


def test_the_folder_is_handed_over(tmp_path: Path, weights: Path) -> None:
    trained(tmp_path, "tiny", "b.db")
    delete_study("tiny", storage=url_of(tmp_path / "a.db"))
    assert weights.exists()
    delete_study("tiny", storage=url_of(tmp_path / "b.db"))
    assert not weights.parent.exists()


def test_a_study_of_the_same_name_that_has_no_files_claims_none(tmp_path: Path, weights: Path) -> None:
    new_study(url_of(tmp_path / "b.db"))
    optuna.create_study(storage=url_of(tmp_path / "c.db"), study_name="tiny")
    with sqlite3.connect(tmp_path / "places.db") as other:
        other.execute("CREATE TABLE studies (title TEXT)")
    delete_study("tiny", storage=url_of(tmp_path / "c.db"))
    assert weights.exists(), "a study of plain Optuna has no files here"
    delete_study("tiny", storage=url_of(tmp_path / "a.db"))
    assert not weights.parent.exists()


def test_a_renamed_study_leaves_its_old_folder_and_says_so(
    tmp_path: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with sqlite3.connect(tmp_path / "a.db") as database:
        database.execute("UPDATE studies SET study_name = 'renamed'")
    delete_study("renamed", storage=url_of(tmp_path / "a.db"))
    assert weights.exists()
    assert f"The files in {weights.parent} were this study's under another name; they stay." in caplog.messages
    assert not (tmp_path / "runs/renamed").exists()


def test_a_copy_under_another_name_in_the_same_database(tmp_path: Path, weights: Path) -> None:
    url = url_of(tmp_path / "a.db")
    optuna.copy_study(from_study_name="tiny", from_storage=url, to_storage=url, to_study_name="copy")
    delete_study("copy", storage=url)
    assert weights.exists()
    delete_study("tiny", storage=url)
    assert not weights.parent.exists()


def test_a_database_that_cannot_be_asked_may_have_the_files(
    tmp_path: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = (tmp_path / "a.db").read_bytes()
    (tmp_path / "b.db").write_bytes(content[:100] + os.urandom(len(content) - 100))
    delete_study("tiny", storage=url_of(tmp_path / "a.db"))
    assert weights.exists()
    assert f"{tmp_path}/b.db, which cannot be read" in caplog.text


def test_a_server_that_used_the_folder_may_have_the_files(
    tmp_path: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    owner = (weights.parent / "owner.json").read_text()
    server = '{"study_id": "s", "name": "remote", "database": "postgresql://u@h/d"},'
    (weights.parent / "owner.json").write_text(owner.replace('"used_by": [', f'"used_by": [{server}'))
    delete_study("tiny", storage=url_of(tmp_path / "a.db"))
    assert weights.exists()
    assert "study 'remote' in postgresql://u@h/d" in caplog.text


@pytest.mark.parametrize("link", ["runs/tiny", "runs/tiny/retrained", "runs/tiny/retrained/3"])
def test_what_lies_behind_a_link_stays_and_is_said(
    tmp_path: Path, weights: Path, link: str, caplog: pytest.LogCaptureFixture
) -> None:
    network = weights.parent / "retrained/3/model.safetensors"
    network.parent.mkdir(parents=True)
    network.touch()
    elsewhere = tmp_path / "disk"
    (tmp_path / link).rename(elsewhere)
    (tmp_path / link).symlink_to(elsewhere)
    delete_study("tiny", storage=url_of(tmp_path / "a.db"))
    assert f"The files in {tmp_path / link} stay, because that is a link to {elsewhere}." in caplog.messages
    assert network.exists()
    assert weights.exists() == (link == "runs/tiny")


def test_files_that_cannot_be_deleted_are_named(
    tmp_path: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (weights.parent / "supernet.json").touch()
    weights.parent.chmod(0o500)
    try:
        if os.access(weights.parent, os.W_OK):
            pytest.skip("this user may delete everything")
        delete_study("tiny", storage=url_of(tmp_path / "a.db"))
    finally:
        weights.parent.chmod(0o700)
    assert f"Other files in {weights.parent} stay: {weights} cannot be deleted (Permission denied)." in caplog.messages


@pytest.mark.parametrize("database", ["a.db", "copy.db"])
def test_the_usual_folder_stays_if_the_user_named_it(
    tmp_path: Path, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    files = tmp_path / "runs/tiny"
    weights = trained(tmp_path)
    open_store(url_of(tmp_path / "a.db")).storage.set_study_user_attr(1, "run_dir", str(files))
    with sqlite3.connect(tmp_path / "a.db") as settled:
        settled.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(tmp_path / "a.db", tmp_path / "copy.db")
    for name in (database, "copy.db" if database == "a.db" else "a.db"):
        delete_study("tiny", storage=url_of(tmp_path / name))
        assert weights.exists()
    assert f"The files in {files} stay, because the folder was named with --run-dir." in caplog.messages


def test_what_a_study_in_memory_leaves_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = new_study(InMemoryStorage())
    study.set_user_attr("run_dir", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        delete_study("tiny", storage=study._storage)
    assert f"The files in {tmp_path} stay" in caplog.text


def test_an_owner_is_remembered_with_those_who_share(tmp_path: Path, weights: Path) -> None:
    second = create_study(tiny_config(), storage=url_of(tmp_path / "b.db"), study_name="second")
    claim(weights.parent, second)
    claim(weights.parent, second)
    assert is_foreign(weights.parent, second)
    assert (weights.parent / "owner.json").read_text().count("b.db") == 1
