"""idx files: read as their header says, refused when they are damaged."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spikesearch.config.data import ImageAugment
from spikesearch.data import load_data
from spikesearch.data.kinds.idx import IdxData, read_idx
from spikesearch.errors import DataError, DataNotFoundError


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def fill(folder: Path, counts: tuple[int, int] = (40, 10), classes: int = 4, pack: bool = True) -> Path:
    rng = np.random.default_rng(0)
    for name, count in zip(("train", "t10k"), counts, strict=True):
        for what, array in (
            ("images-idx3-ubyte", rng.integers(0, 256, (count, 6, 6))),
            ("labels-idx1-ubyte", np.arange(count) % classes),
        ):
            if count:
                data = idx(array)
                name_of_file = f"{name}-{what}" + (".gz" if pack else "")
                (folder / name_of_file).write_bytes(gzip.compress(data) if pack else data)
    return folder


def load(folder: Path, **keys: Any) -> Any:
    return load_data(IdxData(kind="idx", path=str(folder), **keys), seed=0)


@given(array=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=3, max_side=5)), pack=st.booleans())
def test_what_is_written_is_read(array: np.ndarray, pack: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("idx") / "x-idx"
    path.write_bytes(gzip.compress(idx(array)) if pack else idx(array))
    assert np.array_equal(read_idx(path), array)


@pytest.mark.parametrize("pack", [True, False])
def test_the_test_files_are_the_test_split(tmp_path: Path, pack: bool) -> None:
    data = load(fill(tmp_path, pack=pack), augment=ImageAugment(crop_padding=1))
    assert (len(data.train), len(data.search), len(data.test)) == (32, 8, 10)
    assert (data.in_channels, data.image_size, data.num_classes, data.frames) == (1, 6, 4, None)
    assert data.class_names == ("0", "1", "2", "3")
    images = read_idx(tmp_path / ("t10k-images-idx3-ubyte" + (".gz" if pack else "")))
    raw = data.test.store.raw(data.test.positions)[:, 0]
    assert sorted(raw.flatten(1).tolist()) == sorted(images.reshape(10, -1).tolist())
    assert data.train.augmented([0, 1], (1,)).shape == (2, 1, 6, 6)


def test_without_test_files_the_training_files_are_divided(tmp_path: Path) -> None:
    data = load(fill(tmp_path, counts=(40, 0)))
    assert (len(data.train), len(data.search), len(data.test)) == (24, 8, 8)


@pytest.mark.parametrize(
    ("move", "message"),
    [
        (("train-labels-idx1-ubyte", "train-letters-labels-idx1-ubyte"), "images and labels of two data sets"),
        (("train-labels-idx1-ubyte", "a-train-labels-idx1-ubyte"), "images and labels of two data sets"),
        (("t10k-images-idx3-ubyte", "test-images-idx3-ubyte"), "images and labels of two data sets"),
    ],
)
def test_images_and_labels_of_two_sets_are_refused(tmp_path: Path, move: tuple[str, str], message: str) -> None:
    fill(tmp_path, pack=False)
    (tmp_path / move[0]).rename(tmp_path / move[1])
    with pytest.raises(DataError, match=f"{tmp_path} holds .*: {message}"):
        load(tmp_path)


@pytest.mark.parametrize("copy", ["train-balanced-images-idx3-ubyte", "a-train-images-idx3-ubyte.gz"])
def test_one_of_several_sets_is_not_chosen(tmp_path: Path, copy: str) -> None:
    fill(tmp_path, pack=False)
    (tmp_path / copy).write_bytes((tmp_path / "train-images-idx3-ubyte").read_bytes())
    with pytest.raises(DataError, match=r"holds .* and .*: leave the images of one data set there"):
        load(tmp_path)


def test_plain_and_packed_files_must_agree(tmp_path: Path) -> None:
    fill(tmp_path, pack=True)
    before = load(tmp_path).fingerprint
    fill(tmp_path, pack=False)
    assert load(tmp_path).fingerprint == before
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(40)[::-1] % 4))
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte and train-labels-idx1-ubyte.gz differ"):
        load(tmp_path)


def test_names_with_dots_are_known_and_other_parts_are_said(tmp_path: Path) -> None:
    fill(tmp_path, pack=False)
    for file in list(tmp_path.iterdir()):
        file.rename(tmp_path / file.name.replace("-idx", ".idx"))
    assert load(tmp_path).notes == ()
    for what in ("images.idx3", "labels.idx1"):
        (tmp_path / f"val-{what}-ubyte").write_bytes((tmp_path / f"t10k-{what}-ubyte").read_bytes())
    assert load(tmp_path).notes == (
        f"2 files, such as {tmp_path / 'val-images.idx3-ubyte'}, are not used: only train, t10k, test are.",
    )


def test_labels_may_start_anywhere(tmp_path: Path) -> None:
    """EMNIST's letters are numbered from 1."""
    fill(tmp_path)
    for name, count in (("train", 40), ("t10k", 10)):
        labels = np.arange(count) % 4 + 1
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(idx(labels))  # plain in spite of its name
    data = load(tmp_path)
    assert data.class_names == ("1", "2", "3", "4")
    assert torch.bincount(data.test.labels).tolist() == [3, 3, 2, 2]


def write(name: str, content: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / f"{name}.gz"
        path.write_bytes(content(gzip.decompress(path.read_bytes())))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (write("train-images-idx3-ubyte", lambda data: data[:-5]), r"train-images.* should hold 1440 bytes"),
        (
            write("train-images-idx3-ubyte", lambda data: b"text" + data),
            r"is not an idx file: its first bytes are 74657874",
        ),
        (write("train-images-idx3-ubyte", lambda data: b""), r"is not an idx file"),
        (write("train-images-idx3-ubyte", lambda data: data[:6]), r"should begin with 16 bytes of header, but holds 6"),
        (
            write("train-images-idx3-ubyte", lambda data: data[:4] + b"\xff" * 12),  # no 64-bit number holds this size
            r"should hold 79228162458924105385300197375 bytes",
        ),
        (write("train-images-idx3-ubyte", lambda data: b"\0\0\x0d" + data[3:]), r"must hold unsigned bytes .*0x0d"),
        (write("t10k-labels-idx1-ubyte", lambda data: gzip.compress(data)[:-9]), r"t10k-labels.*cannot be read"),
        (
            write("t10k-labels-idx1-ubyte", lambda _: idx(np.zeros(9))),
            r"must hold one label per image \(10\), but got \(9,\)",
        ),
        (
            write("t10k-labels-idx1-ubyte", lambda _: idx(np.arange(10) % 3)),
            r"labels .* differ: \[3\] are in one of them",
        ),
        (write("train-images-idx3-ubyte", lambda _: idx(np.zeros((40, 36)))), r"must hold images in 3 dimensions"),
        (
            write("t10k-images-idx3-ubyte", lambda _: idx(np.zeros((10, 7, 7)))),
            r"differ in size: \[\(6, 6\), \(7, 7\)\]",
        ),
        (lambda folder: (folder / "t10k-labels-idx1-ubyte.gz").unlink(), r"holds no t10k-labels-idx1-ubyte"),
        (lambda folder: [file.unlink() for file in folder.iterdir()], r"holds no train-images-idx3-ubyte"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, change: Callable[[Path], None], message: str) -> None:
    change(fill(tmp_path))
    with pytest.raises((DataError, DataNotFoundError), match=message) as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_images_that_are_not_square_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, counts=(40, 0))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(idx(np.zeros((40, 6, 8))))
    with pytest.raises(DataError, match="Images must be square, but got 6x8 pixels"):
        load(tmp_path)


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has the single class '0', but at least two are needed") as caught:
        load(fill(tmp_path, classes=1))
    assert str(tmp_path) in str(caught.value)


def test_a_file_is_no_folder_of_files(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"`data.path` must be a folder of idx files"):
        load(fill(tmp_path) / "train-images-idx3-ubyte.gz")
