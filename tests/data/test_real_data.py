"""The kinds of data on real files; skipped where they are absent."""

from __future__ import annotations

import importlib
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from spikesearch.config.data import ImageAugment, SplitConfig
from spikesearch.data import load_data
from spikesearch.data.kinds.idx import IdxData
from spikesearch.data.kinds.image_folder import ImageFolderData
from spikesearch.data.kinds.spikingjelly import SpikingJellyData, importable_datasets

pytestmark = pytest.mark.usefixtures("real_data")


@pytest.fixture(scope="module")
def nmnist(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nmnist")
    with tarfile.open(real_data / "n-mnist-small" / "nmnist_small_events_np.tar.xz") as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def cifar(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 30 test images of every class, as a folder."""
    folder = tmp_path_factory.mktemp("cifar")
    counts: dict[str, int] = {}
    with tarfile.open(real_data / "cifar10-jpeg" / "test.tar.xz") as tar:
        for member in tar:
            name = Path(member.name).parent.name
            counts[name] = counts.get(name, 0) + member.isfile()
            if member.isfile() and counts[name] <= 30:
                tar.extract(member, folder, filter="data")
    return folder / "test"


def test_fashion_mnist(real_data: Path) -> None:
    data = load_data(
        IdxData(kind="idx", path=str(real_data / "fashion-mnist"), splits=SplitConfig(train=0.95, search=0.05)), seed=0
    )
    assert (len(data.train), len(data.search), len(data.test)) == (57_000, 3_000, 10_000)
    assert torch.bincount(data.test.labels).tolist() == [1000] * 10
    # published mean and standard deviation of the training images: 0.2860 and 0.3530
    normalisation = data.train.normalisation  # type: ignore[attr-defined]
    assert abs(float(normalisation.mean) / 255 - 0.2860) < 0.005
    assert abs(float(normalisation.std) / 255 - 0.3530) < 0.005


def test_cifar_10_as_jpeg(cifar: Path) -> None:
    augment = ImageAugment(crop_padding=4, hflip=0.5, auto_augment="rand-m9-n1-mstd0.4-inc1", erase_prob=0.25)
    data = load_data(ImageFolderData(kind="image-folder", path=str(cifar), augment=augment), seed=0)
    assert (data.in_channels, data.image_size, data.num_classes) == (3, 32, 10)
    assert data.class_names[0] == "airplane"
    assert (len(data.train), len(data.search), len(data.test)) == (180, 60, 60)
    changed = data.train.augmented(range(180), (0, 0))
    assert bool(torch.isfinite(changed).all())
    assert torch.equal(data.train.augmented([9], (0, 0)), changed[9:10])


@pytest.mark.parametrize("split_by", ["number", "time"])
def test_n_mnist_frames_are_those_of_spikingjelly(nmnist: Path, split_by: str) -> None:
    config = SpikingJellyData(kind="nmnist", path=str(nmnist), frames=4, split_by=split_by)
    data = load_data(config, seed=0)
    assert (len(data.train) + len(data.search), len(data.test), data.image_size) == (1000, 100, 34)
    assert torch.bincount(data.test.labels).tolist() == [8, 14, 8, 11, 14, 7, 10, 15, 2, 11]
    with importable_datasets():
        utils = importlib.import_module("spikingjelly.datasets.utils")
    files = sorted((nmnist / "events_np" / "test").rglob("*.npz"))[::9]
    mine = {frames.numpy().tobytes() for frames in data.test.store.raw(data.test.positions)}  # type: ignore[attr-defined]
    for file in files:
        theirs = utils.integrate_events_by_fixed_frames_number(dict(np.load(file)), split_by, 4, 34, 34)
        assert theirs.astype(np.float32).tobytes() in mine


def test_folds_of_n_mnist_pool_both_parts(nmnist: Path) -> None:
    tests = []
    for fold in (0, 4):
        config = SpikingJellyData(kind="nmnist", path=str(nmnist), frames=2, splits=SplitConfig(folds=5, fold=fold))
        data = load_data(config, seed=0)
        tests += data.test.positions.tolist()  # type: ignore[attr-defined]
        assert 215 <= len(data.test) <= 225
        assert len(data.train) + len(data.search) + len(data.test) == 1100
    assert len(set(tests)) == len(tests)
