"""`data list` and `data check`: everything is read, nothing is hidden."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spikesearch.data import KINDS, check_data, list_kinds, load_data
from spikesearch.data.kinds.digits import DigitsData
from spikesearch.data.kinds.events import EventFolderData
from spikesearch.data.kinds.image_folder import ImageFolderData
from spikesearch.errors import DataError, DataNotFoundError


def fill(folder: Path, counts: dict[str, int]) -> Path:
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / name / f"{i:03}.png")
    return folder


def config(path: Path, **keys: Any) -> ImageFolderData:
    return ImageFolderData(kind="image-folder", path=str(path), **keys)


def test_every_kind_of_the_study_file_is_listed() -> None:
    rows = list_kinds()
    assert {row["kind"] for row in rows} == set(KINDS)
    assert all(row["title"] and row["needs"] for row in rows)


def test_digits_are_fine() -> None:
    report = check_data(DigitsData(kind="digits"))
    assert json.loads(json.dumps(report)) == report
    assert report["warnings"] == report["notes"] == []
    assert report["value_range"] == [0.0, 16.0]
    assert sum(split["images"] for split in report["splits"].values()) == 1797
    assert sum(report["splits"]["test"]["per_class"].values()) == report["splits"]["test"]["images"]
    assert report["num_classes"] == 10
    assert report["frames"] is None


def test_bad_files_are_all_listed_without_stopping(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 20, "b": 20})
    for name in ("a/003.png", "b/007.png"):
        (tmp_path / name).write_bytes(b"oops")
    report = check_data(config(tmp_path))
    assert "003.png cannot be read" in report["skipped"][0]
    assert "007.png cannot be read" in report["skipped"][1]
    assert report["warnings"] == ["2 unusable files: a study stops at the first unless `data.skip_unreadable` is true."]
    assert "2 unusable files left out" in report["summary"]
    tolerant = check_data(config(tmp_path, skip_unreadable=True))
    assert tolerant["warnings"] == []
    assert len(tolerant["skipped"]) == 2


def test_notes_that_are_no_defect_stay_notes(tmp_path: Path) -> None:
    for name in ("train", "test", "val"):
        fill(tmp_path / name, {"a": 5, "b": 5})
    report = check_data(config(tmp_path))
    assert "val is not used" in report["notes"][0]


def test_images_in_two_splits_are_counted(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"a": 10, "b": 10})
    for name in ("a", "b"):
        (tmp_path / "test" / name).mkdir(parents=True)
        for i in range(3):
            shutil.copy(tmp_path / "train" / name / f"{i:03}.png", tmp_path / "test" / name)
    warnings = " ".join(check_data(config(tmp_path))["warnings"])
    assert "test samples are also in train, pixel for pixel: accuracy on test flatters" in warnings


def test_rare_classes_are_named(tmp_path: Path) -> None:
    report = check_data(config(fill(tmp_path, {"a": 100, "b": 5})))
    assert any("Rare classes" in warning and ": b." in warning for warning in report["warnings"])


def test_what_a_guess_would_score_is_said(tmp_path: Path) -> None:
    data = config(fill(tmp_path, {"a": 90, "b": 15}))
    assert load_data(data, seed=0).majority_share == 18 / 21
    (warning,) = check_data(data)["warnings"]
    assert warning == "Always answering 'a', the most frequent class, would score 85.7% on the search split."


def test_recordings_are_checked_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(5):
            np.savez(
                tmp_path / name / f"{i}.npz",
                t=np.arange(20),
                x=rng.integers(0, 5, 20),
                y=rng.integers(0, 5, 20),
                p=np.ones(20),
            )
    np.savez(tmp_path / "a" / "9.npz", t=np.arange(20), x=np.arange(20), y=np.arange(20), p=np.ones(20))
    report = check_data(EventFolderData(kind="events", path=str(tmp_path), frames=2, sensor=(5, 5)))
    assert "9.npz: event 5 lies at x=5" in report["skipped"][0]
    assert report["frames"] == 2


def test_useless_data_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError):
        check_data(config(tmp_path / "nowhere"))
    broken = fill(tmp_path / "broken", {"a": 3, "b": 3})
    for file in broken.rglob("*.png"):
        file.write_bytes(b"oops")
    with pytest.raises(DataError, match=r"broken holds no image that can be used: .*000.png cannot be read"):
        check_data(config(broken))
    shutil.rmtree(broken)
    with pytest.raises(DataError, match="Class 'b' has 1 image"):
        check_data(config(fill(tmp_path, {"a": 9, "b": 1})))
