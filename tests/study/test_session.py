"""One session per command: what it holds is read once, verified then, and shared by all who ask."""

from __future__ import annotations

import logging
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spikesearch.errors import CheckpointError, StudyError, StudyNotFoundError, TrainingError
from spikesearch.study import create_study, run_study
from spikesearch.study.resolve import resolve
from spikesearch.study.session import Session, open_session, open_study, open_trained
from spikesearch.train.strategies import SandwichStrategy
from tests.interruptions import interruption
from tests.study.helpers import tiny_config

FROZEN = Path(__file__).parents[1] / "data" / "v0.1.0"


@pytest.fixture
def url(tmp_path: Path) -> str:
    shutil.copy(FROZEN / "study.sqlite3", tmp_path / "spikesearch.db")
    shutil.copytree(FROZEN / "files", tmp_path / "runs")
    return f"sqlite:///{tmp_path}/spikesearch.db"


def test_data_supernet_and_scorer_are_read_once(url: str, tmp_path: Path) -> None:
    session = open_study("tiny", storage=url)
    assert session.folder == tmp_path / "runs" / "tiny"
    data, supernet, scorer = session.data, session.supernet(), session.scorer()
    for path in (tmp_path / "runs" / "tiny").glob("supernet.*"):
        path.unlink()
    session.study.set_user_attr("data_fingerprint", "other")
    assert session.data is data
    assert session.supernet() is session.train() is supernet
    assert session.scorer() is scorer
    assert (scorer.data, scorer.supernet) == (data, supernet)


def test_what_is_not_the_studys_is_refused_when_it_is_read(url: str) -> None:
    session = open_study("tiny", storage=url)
    session.study.set_user_attr("data_fingerprint", "other")
    session.study.set_user_attr("supernet_hash", "other")
    with pytest.raises(StudyError, match="`data_fingerprint` other, but got"):
        _ = session.data
    with pytest.raises(StudyError, match="`supernet_hash` other, but got"):
        session.supernet()


@pytest.mark.parametrize("open_it", [open_study, open_trained, open_session])
def test_a_study_that_was_found_is_not_looked_for_again(url: str, open_it) -> None:
    target = resolve("tiny", storage=url)
    session: Session = open_it(target)
    assert session.study.study_name == "tiny"
    assert session.store is target.store
    assert session.config == target.config


def test_a_session_needs_a_study(url: str) -> None:
    with pytest.raises(StudyNotFoundError, match="did you mean 'tiny'"):
        open_study("tinny", storage=url)


def test_the_test_split_is_scored_once(url: str) -> None:
    session = open_study("tiny", storage=url)
    arch = session.space.smallest
    score = session.final_score(arch)
    assert session.study.user_attrs[f"test:{arch.key}"] == score
    session.study.set_user_attr(f"test:{arch.key}", {"accuracy": 0.5})
    assert session.final_score(arch) == {"accuracy": 0.5}


# --- a training that diverges -----------------------------------------------------------------------------------------


BAD: dict[str, Any] = {"train__lr": 5.0}


def diverged(url: str, epoch: int = 3) -> None:
    """Leave a study whose training has diverged in an epoch, from 1."""
    original = SandwichStrategy.__call__

    def call(self: SandwichStrategy, *args: Any, **options: Any) -> Any:
        result = original(self, *args, **options)
        return replace(result, loss=math.nan) if options["epoch"] + 1 == epoch else result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SandwichStrategy, "__call__", call)
        with pytest.raises(TrainingError, match=rf"diverged in epoch {epoch}; .* accepts another `train` section"):
            run_study(tiny_config(**BAD), storage=url, progress=False)


@pytest.fixture
def new_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/spikesearch.db"


@pytest.mark.parametrize("epoch", [1, 3], ids=["at once", "after checkpoints"])
def test_a_study_whose_training_diverged_accepts_another_recipe(
    new_url: str, tmp_path: Path, epoch: int, caplog: pytest.LogCaptureFixture
) -> None:
    diverged(new_url, epoch)
    config = tiny_config(train__lr=0.01, train__epochs=2, search__n_trials=2)
    with caplog.at_level(logging.INFO):
        study = run_study(config, storage=new_url, progress=False)
    assert study.user_attrs["study_file"] == config.to_dict()
    assert ("checkpoints of the one that diverged are deleted" in caplog.text) == (epoch == 3)
    other = run_study(config, storage=f"sqlite:///{tmp_path}/b.db", run_dir=tmp_path / "b", progress=False)
    assert study.user_attrs["supernet_hash"] == other.user_attrs["supernet_hash"], "as if it had never diverged"
    bad = config.train.model_copy(update={"lr": 5.0})
    with pytest.raises(StudyError, match=r"`train.lr` 0.01, but got 5.0; its trials would not be comparable"):
        run_study(config.model_copy(update={"train": bad}), storage=new_url, progress=False)


@pytest.mark.parametrize("change", [{"seed": 1}, {"space__taus": [2.0]}, {"scoring__convention": "strict"}])
def test_nothing_but_the_recipe_may_change_then(new_url: str, change: dict[str, Any]) -> None:
    diverged(new_url)
    with pytest.raises(StudyError, match="would not be comparable"):
        run_study(tiny_config(train__lr=0.01, **change), storage=new_url, progress=False)


def test_a_file_that_was_accepted_before_the_run_is_trained_too(new_url: str) -> None:
    diverged(new_url)
    create_study(tiny_config(search__n_trials=1), storage=new_url, load_if_exists=True)
    study = run_study("tiny", storage=new_url, progress=False)
    assert study.user_attrs["study_file"]["train"]["lr"] == 0.01


def test_what_another_study_trains_is_not_discarded(new_url: str, tmp_path: Path) -> None:
    with interruption(1):
        run_study(tiny_config(train__epochs=4), storage=new_url, study_name="first", progress=False)
    url = f"sqlite:///{tmp_path}/b.db"
    study = create_study(tiny_config(), storage=url)
    study.set_user_attr("diverged", True)
    before = sorted((tmp_path / "runs/first").rglob("*"))
    with pytest.raises(CheckpointError, match="belongs to another training"):
        run_study(tiny_config(), storage=url, run_dir=tmp_path / "runs/first", progress=False)
    assert sorted((tmp_path / "runs/first").rglob("*")) == before
