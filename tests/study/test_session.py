"""One session per command: what it holds is read once, verified then, and shared by all who ask."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from spikesearch.errors import StudyError, StudyNotFoundError
from spikesearch.study.resolve import resolve
from spikesearch.study.session import Session, open_session, open_study, open_trained

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
