"""The storage that writes trials whole is an Optuna storage: Optuna's own suite runs on it."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.testing.pytest_storages import StorageTestCase
from optuna.trial import TrialState, create_trial

from spikesearch.storage import genome_storage
from spikesearch.storage.genome_storage import GenomeStorage, storage_class
from spikesearch.storage.urls import open_storage


class TestContract(StorageTestCase):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> BaseStorage:
        return open_storage(f"sqlite:///{tmp_path}/contract.db")


def backend(url: str) -> GenomeStorage:
    storage = open_storage(url)._backend  # type: ignore[attr-defined]
    assert isinstance(storage, GenomeStorage)
    return storage


def new_study(storage: BaseStorage) -> int:
    return storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE], "s")


def genome(state: TrialState = TrialState.RUNNING) -> optuna.trial.FrozenTrial:
    return create_trial(
        state=state,
        params={"a": 2, "b": 0.5},
        distributions={"a": CategoricalDistribution((1, 2)), "b": FloatDistribution(0, 1)},
        user_attrs={"arch": "x"},
    )


def test_the_file_is_shared_by_processes(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    with backend(url).engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1  # NORMAL
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 60_000


def test_a_trial_is_created_in_one_transaction(tmp_path: Path) -> None:
    from sqlalchemy import event

    storage = backend(f"sqlite:///{tmp_path}/a.db")
    study_id = new_study(storage)
    commits: list[object] = []
    event.listen(storage.engine, "commit", commits.append)
    trial_id = storage.create_new_trial(study_id, genome())
    assert len(commits) == 1
    assert storage.finish_trial(trial_id, TrialState.COMPLETE, [0.9, 1.5], {"f_aeb": 0.8}, {"constraints:dead": -0.1})
    assert len(commits) == 2
    # an independent reader, Optuna's own class, sees an ordinary trial
    trial = RDBStorage(f"sqlite:///{tmp_path}/a.db").get_trial(trial_id)
    assert trial.params == {"a": 2, "b": 0.5}
    assert trial.values == [0.9, 1.5]
    assert trial.user_attrs == {"arch": "x", "f_aeb": 0.8}
    assert trial.constraints == {"dead": -0.1}
    assert trial.datetime_complete is not None
    assert trial.datetime_start is not None
    assert abs((trial.datetime_complete - trial.datetime_start).total_seconds()) < 60


def test_a_finished_trial_stays_as_it_is(tmp_path: Path) -> None:
    storage = backend(f"sqlite:///{tmp_path}/a.db")
    study_id = new_study(storage)
    trial_id = storage.create_new_trial(study_id, genome())
    assert storage.finish_trial(trial_id, TrialState.FAIL, None, {}, {})
    before = storage.get_trial(trial_id)
    assert not storage.finish_trial(trial_id, TrialState.COMPLETE, [1.0, 1.0], {"f_aeb": 1.0}, {})
    assert not storage.claim_trial(trial_id, {"worker": 1})
    assert storage.get_trial(trial_id) == before


def test_incompatible_choices_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    storage = backend(f"sqlite:///{tmp_path}/a.db")
    study_id = new_study(storage)
    storage.create_new_trial(study_id, genome())
    storage.create_new_trial(study_id, genome())  # now the distributions are remembered
    other = create_trial(
        state=TrialState.RUNNING,
        params={"b": 0.1, "a": 3},
        distributions={"b": FloatDistribution(0, 1), "a": CategoricalDistribution((1, 3))},
    )
    with pytest.raises(ValueError, match="dynamic value space"):
        storage.create_new_trial(study_id, other)
    assert [trial.number for trial in storage.get_all_trials(study_id)] == [0, 1]


def test_a_deleted_study_leaves_no_choices_behind(tmp_path: Path) -> None:
    storage = backend(f"sqlite:///{tmp_path}/a.db")
    study_id = new_study(storage)
    for _ in range(2):
        storage.create_new_trial(study_id, genome())
    storage.delete_study(study_id)
    again = new_study(storage)
    other = create_trial(
        state=TrialState.RUNNING, params={"a": 3}, distributions={"a": CategoricalDistribution((1, 3))}
    )
    assert storage.get_trial(storage.create_new_trial(again, other)).params == {"a": 3}


def _claim(url: str, trial_ids: list[int], me: int) -> list[int]:
    storage = backend(url)
    return [trial_id for trial_id in trial_ids if storage.claim_trial(trial_id, {"worker": me})]


def test_a_waiting_trial_is_claimed_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    storage = backend(url)
    study_id = new_study(storage)
    trial_ids = [storage.create_new_trial(study_id, genome(TrialState.WAITING)) for _ in range(30)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.starmap(_claim, [(url, trial_ids, 1), (url, trial_ids, 2)])
    assert sorted(first + second) == trial_ids
    for trial in storage.get_all_trials(study_id):
        assert trial.state == TrialState.RUNNING
        assert (trial._trial_id in first) == (trial.user_attrs["worker"] == 1)


def test_another_optuna_gets_its_own_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    assert storage_class() is GenomeStorage
    monkeypatch.setitem(genome_storage.NEEDED, "TrialModel", ("trial_id", "a_column_of_the_future"))
    assert storage_class() is RDBStorage
    monkeypatch.setattr(genome_storage, "models", None)
    assert storage_class() is RDBStorage
