"""CIFAR through torchvision, on files of torchvision's own format."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from spikesearch.data import load_data
from spikesearch.data.kinds.cifar import TorchvisionData
from spikesearch.errors import DataError, DataNotFoundError


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small files in torchvision's format; their checksums are not those of the real ones, so none are asked for."""
    rng = np.random.default_rng(0)
    for dataset, key, names_key in (
        (datasets.CIFAR10, "labels", "label_names"),
        (datasets.CIFAR100, "fine_labels", "fine_label_names"),
    ):
        folder = tmp_path / dataset.base_folder
        folder.mkdir()
        monkeypatch.setattr(dataset, "train_list", [["train", None]])
        monkeypatch.setattr(dataset, "test_list", [["test", None]])
        monkeypatch.setattr(dataset, "meta", {"filename": "meta", "key": names_key, "md5": None})
        for name, count in (("train", 40), ("test", 8)):
            content = {"data": rng.integers(0, 256, (count, 3072), dtype=np.uint8), key: [i % 4 for i in range(count)]}
            (folder / name).write_bytes(pickle.dumps(content))
        (folder / "meta").write_bytes(pickle.dumps({names_key: ["a", "b", "c", "d"]}))
    return tmp_path


@pytest.mark.parametrize("kind", ["cifar10", "cifar100"])
def test_both_are_read(cifar: Path, kind: str) -> None:
    data = load_data(TorchvisionData.model_validate({"kind": kind, "path": str(cifar)}), seed=0)
    assert (len(data.train), len(data.search), len(data.test)) == (32, 8, 8)
    assert (data.in_channels, data.image_size, data.class_names) == (3, 32, ("a", "b", "c", "d"))
    dataset = datasets.CIFAR10 if kind == "cifar10" else datasets.CIFAR100
    stored = pickle.loads((cifar / dataset.base_folder / "test").read_bytes())["data"]  # noqa: S301 - written above
    raw = data.test.store.raw(data.test.positions).flatten(1)  # type: ignore[attr-defined]
    assert sorted(raw.tolist()) == sorted(stored.tolist())


def test_nothing_is_downloaded_unless_asked(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"cifar-10-batches-py is missing or damaged.*run with --download"):
        load_data(TorchvisionData(kind="cifar10", path=str(tmp_path)), seed=0)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataNotFoundError, match="there is no such file or folder"):
        load_data(TorchvisionData(kind="cifar10", path="nowhere"), seed=0, base_dir=tmp_path)


def test_a_download_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.CIFAR10, "url", (tmp_path / "missing.tar.gz").as_uri())
    config = TorchvisionData(kind="cifar10", path="new", download=True)
    with pytest.raises(DataError, match="cifar10 could not be downloaded into"):
        load_data(config, seed=0, base_dir=tmp_path)
