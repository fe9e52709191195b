"""Studies in a storage: what they hold from the start, who may continue them, what a mistake says."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from spikesearch import ESNNSampler
from spikesearch.errors import ConfigError, MissingDependencyError, StorageError, StudyError, StudyNotFoundError
from spikesearch.storage.urls import display_url, resolve_url, sqlite_path
from spikesearch.study import create_study, load_study
from spikesearch.study.checks import check_folder
from spikesearch.study.folder import claim, is_foreign, run_folder
from spikesearch.study.store import (
    check_name,
    delete_study,
    expect_study,
    list_studies,
    open_store,
    storage_name,
    summary,
)
from tests.study.helpers import check_study, new_study, search, tiny_config


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/a.db"


# --- create and load --------------------------------------------------------------------------------------------------


def test_a_new_study_holds_where_it_comes_from(url: str) -> None:
    config = tiny_config(seed=3)
    study = create_study(config, storage=url)
    assert type(study) is optuna.Study
    assert isinstance(study.sampler, ESNNSampler)
    assert study.sampler.space == config.space.search_space()
    assert study.sampler.seed == 3
    plain = optuna.load_study(study_name="tiny", storage=RDBStorage(url))
    assert [d.name for d in plain.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert plain.metric_names == ["accuracy", "energy_uJ"]
    assert plain.user_attrs["study_file"] == config.to_dict()
    assert plain.user_attrs["sampler"]["name"] == "ESNNSampler"
    assert plain.user_attrs["sampler"]["arguments"]["seed"] == 3
    assert plain.user_attrs["schema_version"] == 1
    assert plain.user_attrs["versions"]["optuna"] == optuna.__version__
    (reference,) = plain.trials
    assert reference.state == TrialState.WAITING
    assert config.space.search_space().architecture(reference.params) == config.space.search_space().largest
    again = load_study("tiny", storage=url)
    assert isinstance(again.sampler, ESNNSampler)
    assert again.sampler.seed == 3


def test_a_study_is_created_once(url: str) -> None:
    create_study(tiny_config(), storage=url)
    with pytest.raises(StudyError, match=r"'tiny' exists in .*--skip-if-exists"):
        create_study(tiny_config(), storage=url)
    study = create_study(tiny_config(search__n_trials=99), storage=url, load_if_exists=True)
    assert len(study.trials) == 1
    assert study.user_attrs["study_file"]["search"]["n_trials"] == 99
    create_study(tiny_config(), storage=url, study_name="second")
    assert open_store(url).study_names() == ["tiny", "second"]


@pytest.mark.parametrize("steps", range(9))
def test_an_interrupted_creation_is_completed(url: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = 0

    def limited(name: str) -> None:
        original = getattr(optuna.storages._CachedStorage, name)

        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal writes
            writes += 1
            if writes > steps:
                raise KeyboardInterrupt
            return original(self, *args, **kwargs)

        patch.setattr(optuna.storages._CachedStorage, name, method)

    with monkeypatch.context() as patch:
        for name in ("create_new_study", "create_new_trial", "set_study_user_attr", "set_study_system_attr"):
            limited(name)
        try:
            create_study(tiny_config(), storage=url)
        except KeyboardInterrupt:
            assert steps < 8
    study = create_study(tiny_config(), storage=url, load_if_exists=True)
    assert study.metric_names == ["accuracy", "energy_uJ"]
    search(study, url=url, total=2)
    check_study(study)


def test_a_foreign_study_is_left_alone(url: str) -> None:
    foreign = optuna.create_study(storage=url, study_name="tiny", directions=["maximize", "minimize"])
    foreign.optimize(lambda trial: (1.0, trial.suggest_float("x", 0, 1)), n_trials=1)
    for act in (
        lambda: load_study("tiny", storage=url),
        lambda: create_study(tiny_config(), storage=url, load_if_exists=True),
    ):
        with pytest.raises(StudyError, match="not made by spikesearch"):
            act()
    optuna.create_study(storage=url, study_name="other")
    with pytest.raises(StudyError, match="other directions"):
        create_study(tiny_config(), storage=url, study_name="other", load_if_exists=True)
    assert [summary(study)["made_by"] for study in list_studies(url)] == ["Optuna", "Optuna"]


def test_a_study_that_does_not_exist_suggests_the_nearest(url: str, tmp_path: Path) -> None:
    create_study(tiny_config(), storage=url)
    with pytest.raises(StudyNotFoundError, match="did you mean 'tiny'"):
        load_study("tinny", storage=url)
    with pytest.raises(StudyNotFoundError, match="known studies: tiny"):
        load_study("zzz", storage=url)
    with pytest.raises(StudyNotFoundError, match="no storage"):
        load_study("tiny", storage=f"sqlite:///{tmp_path}/missing.db")
    assert not (tmp_path / "missing.db").exists()


# --- who may continue it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("space__taus", [2.0, 4.0]),
        ("seed", 1),
        ("data__splits__search", 0.2),
        ("scoring__convention", "strict"),
        ("scoring__mac_pj", 3.7),
        ("scoring__calibration_images", 32),
        ("train__epochs", 4),
        ("model__pool_stages", [3]),
        ("model__residual", "membrane"),
        ("search__population_size", 6),
        ("constraints__energy_uJ", 5.0),
    ],
)
def test_what_makes_scores_incomparable_is_refused(url: str, key: str, value: object) -> None:
    before = create_study(tiny_config(), storage=url).user_attrs
    dotted = key.replace("__", ".")
    with pytest.raises(StudyError, match=rf"`{dotted}`.*not be comparable.*--study-name"):
        create_study(tiny_config(**{key: value}), storage=url, load_if_exists=True)
    assert load_study("tiny", storage=url).user_attrs == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("search__n_trials", 50),
        ("report__beta", 0.5),
        ("report__max_accuracy_drop", 0.2),
        ("storage", "sqlite:///elsewhere.db"),
        ("train__checkpoint_every_epochs", 7),
        ("train__compile", True),
    ],
)
def test_what_is_free_may_change(url: str, key: str, value: object) -> None:
    create_study(tiny_config(), storage=url)
    config = tiny_config(**{key: value})
    study = create_study(config, storage=url, load_if_exists=True)
    assert study.user_attrs["study_file"] == config.to_dict()


def test_a_key_that_a_stored_study_file_leaves_out_has_its_default(url: str) -> None:
    study = create_study(tiny_config(), storage=url)
    stored = study.user_attrs["study_file"]
    assert stored["model"].pop("residual") == "add"
    study.set_user_attr("study_file", stored)
    create_study(tiny_config(), storage=url, load_if_exists=True)
    study.set_user_attr("study_file", stored)
    with pytest.raises(StudyError, match=r"`model.residual` 'add', but got 'membrane'"):
        create_study(tiny_config(model__residual="membrane"), storage=url, load_if_exists=True)


def test_a_newer_schema_is_refused(url: str) -> None:
    study = create_study(tiny_config(), storage=url)
    study.set_user_attr("schema_version", 2)
    with pytest.raises(StudyError, match=r"`schema_version` 2, newer .* upgrade spikesearch"):
        load_study("tiny", storage=url)
    with pytest.raises(ConfigError, match="`schema_version` 2 is newer"):
        tiny_config(schema_version=2)


def test_other_versions_warn(url: str, caplog: pytest.LogCaptureFixture) -> None:
    study = create_study(tiny_config(), storage=url)
    study.set_user_attr("versions", {**study.user_attrs["versions"], "torch": "1.0"})
    logging.getLogger("spikesearch").propagate = True
    with caplog.at_level(logging.WARNING):
        create_study(tiny_config(), storage=url, load_if_exists=True)
    assert any("torch 1.0" in message for message in caplog.messages)


# --- storages ---------------------------------------------------------------------------------------------------------


def test_which_storage_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_url() == "sqlite:///spikesearch.db"
    assert resolve_url(None, "sqlite:///file.db") == "sqlite:///file.db"
    monkeypatch.setenv("OPTUNA_STORAGE", "sqlite:///optuna.db")
    assert resolve_url(None, "sqlite:///file.db") == "sqlite:///optuna.db"
    monkeypatch.setenv("SPIKESEARCH_STORAGE", "sqlite:///spike.db")
    assert resolve_url() == "sqlite:///spike.db"
    assert resolve_url("sqlite:///mine.db") == "sqlite:///mine.db"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nonsense", "must be a URL such as"),
        ("mysql://u@h/d", "must be a URL such as"),
        ("sqlite:///:memory:", "must name a file"),
        ("sqlite:////no/such/folder/a.db", "no folder /no/such/folder"),
        ("postgresql://user:secret@127.0.0.1:1/x", r"Cannot open the storage postgresql\+psycopg://user:\*\*\*@"),
    ],
)
def test_a_storage_that_cannot_be_opened_says_why(given: str, message: str) -> None:
    if given.startswith("postgresql"):
        pytest.importorskip("psycopg")
    with pytest.raises(StorageError, match=message):
        open_store(given)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("hello, this is not a database, just some text that is long enough " * 20)
    with pytest.raises(StorageError, match="not a database"):
        open_store(f"sqlite:///{tmp_path}/text.db")
    with pytest.raises(StorageError, match="it is a folder"):
        open_store(f"sqlite:///{tmp_path}")


def test_a_driver_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingDependencyError, match=r"spikesearch\[postgres\]"):
        open_store("postgresql://u@127.0.0.1/x")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no folder here that even root cannot write to")
def test_a_folder_that_is_not_writable() -> None:
    with pytest.raises(StorageError, match=r"Cannot (open|create) the storage .*/proc/a.db"):
        open_store("sqlite:////proc/a.db")
    with pytest.raises(StorageError, match=r"Cannot write to /proc/runs.*--run-dir"):
        check_folder(Path("/proc/runs/x"))


def test_open_storages_are_taken_as_they_are(url: str, tmp_path: Path) -> None:
    study = new_study(InMemoryStorage())
    assert storage_name(study) == "memory"
    assert open_store(study._storage).has("tiny")
    study = new_study(RDBStorage(url))
    assert storage_name(study) == url
    search(study, url=url, total=2)
    check_study(study)
    with pytest.raises(StorageError, match="JournalStorage"):
        open_store(JournalStorage(JournalFileBackend(f"{tmp_path}/journal.log")))


def test_passwords_are_not_shown() -> None:
    assert "secret" not in display_url("postgresql://user:secret@host/db")


def test_a_relative_file_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    new_study("sqlite:///a.db")
    monkeypatch.chdir("/")
    assert [study.study_name for study in list_studies(f"sqlite:///{tmp_path}/a.db")] == ["tiny"]
    assert sqlite_path(f"sqlite:///{tmp_path}/a.db") == (tmp_path / "a.db").resolve()


# --- names, folders, deleting -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "a b", "-x", "x" * 101])
def test_a_name_must_make_a_folder(name: str) -> None:
    with pytest.raises(StudyError, match="`study_name` must start with"):
        check_name(name)


def test_where_the_files_are(url: str, tmp_path: Path) -> None:
    assert run_folder(url, "tiny") == tmp_path / "runs" / "tiny"
    assert run_folder(url, "tiny", "/x") == Path("/x")
    assert run_folder(url, "tiny", None, "/before") == Path("/before")
    assert run_folder("postgresql://h/d", "tiny", tmp_path) == tmp_path
    for elsewhere in ("postgresql://h/d", None):
        with pytest.raises(StudyError, match="--run-dir"):
            run_folder(elsewhere, "tiny")


def test_deleting_takes_our_files_only(url: str, tmp_path: Path) -> None:
    new_study(url)
    create_study(tiny_config(), storage=url, study_name="other")
    folder = tmp_path / "runs" / "tiny"
    ours = ("supernet.safetensors", "checkpoints/epoch-000003/state.json", "retrained/1-scratch-0a/model.json")
    fidelity = ("alone-0a-1-0b.json", "networks-0c.json", "report.json", "scatter.png")
    for name in (*ours, *(f"fidelity/{file}" for file in fidelity), "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    delete_study("tiny", storage=url)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert open_store(url).study_names() == ["other"]
    delete_study("other", storage=url)
    assert not (tmp_path / "runs" / "other").exists()
    with pytest.raises(StudyNotFoundError):
        delete_study("tiny", storage=url)


def test_a_study_at_work_is_not_deleted(url: str) -> None:
    study = new_study(url)

    def try_to_delete(arch: object) -> None:
        delete_study("tiny", storage=url)

    with pytest.raises(StudyError, match=rf"Process {os.getpid()} on .* works on the study 'tiny'"):
        search(study, url=url, score=try_to_delete)
    assert open_store(url).has("tiny")


@pytest.mark.parametrize(("purpose", "what"), [("train", "the supernet"), ("retrain-7-inherited", "a network")])
def test_a_study_in_training_is_not_deleted(url: str, purpose: str, what: str) -> None:
    new_study(url)
    with (
        open_store(url).lock("tiny", purpose),
        pytest.raises(StudyError, match=f"Another process trains {what} of the study 'tiny'; end it"),
    ):
        delete_study("tiny", storage=url)
    assert open_store(url).has("tiny")
    delete_study("tiny", storage=url)


def test_a_study_that_vanishes_is_one_line(url: str) -> None:
    study, store = new_study(url), open_store(url)
    with pytest.raises(KeyError, match="x"), expect_study(store, "tiny"):
        raise KeyError("x")  # a defect, the study is there
    optuna.delete_study(study_name="tiny", storage=url)
    with pytest.raises(StudyNotFoundError, match="'tiny' was deleted from"), expect_study(store, "tiny"):
        study.set_user_attr("a", 1)


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_an_owner_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "owner.json").write_text(text)
    with pytest.raises(StorageError, match="says whose files these are"):
        is_foreign(tmp_path, new_study(InMemoryStorage()))


def test_a_folder_belongs_to_the_first_study_that_claims_it(url: str, tmp_path: Path) -> None:
    first, second = new_study(url), create_study(tiny_config(), storage=url, study_name="second")
    assert not is_foreign(tmp_path / "files", second)
    claim(tmp_path / "files", first)
    claim(tmp_path / "files", second)
    assert not is_foreign(tmp_path / "files", first)
    assert is_foreign(tmp_path / "files", second)


def test_listing_nothing(tmp_path: Path) -> None:
    assert list_studies(f"sqlite:///{tmp_path}/missing.db") == []
    assert not (tmp_path / "missing.db").exists()
