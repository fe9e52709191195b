"""MNIST-like idx files, plain or gzipped (http://yann.lecun.com/exdb/mnist, "file formats")."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from spikesearch.config.data import ImageSection, PathText
from spikesearch.data.class_folders import listed
from spikesearch.data.kind import Inference, Kind, register
from spikesearch.errors import DataError, DataNotFoundError

if TYPE_CHECKING:
    from spikesearch.data.bundle import Source

_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_PARTS = (("train",), ("t10k", "test"))  # how names of files tell the part; the second may be missing
_UNSIGNED_BYTE = 8


class IdxData(ImageSection):
    """MNIST-like idx files: ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-...``, plain or ``.gz``.

    Args:
        path: The folder that holds the four files; without ``t10k-...`` the training files are divided in three.
    """

    kind: Literal["idx"]
    path: PathText


def read_idx(path: Path) -> np.ndarray:
    """Return the array of an idx file of unsigned bytes.

    Raises:
        DataError: If the file is not idx, of another type, or shorter or longer than its header says.
    """
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}). Fetch it again.") from None
    if len(data) < 4 or data[:2] != b"\0\0" or not 1 <= data[3] <= 4:
        raise DataError(f"{path} is not an idx file: its first bytes are {data[:4].hex()}.")
    if data[2] != _UNSIGNED_BYTE:
        raise DataError(f"{path} must hold unsigned bytes (type 0x08), but got type 0x{data[2]:02x}.")
    header = 4 + 4 * data[3]
    if len(data) < header:
        raise DataError(f"{path} should begin with {header} bytes of header, but holds {len(data)}. Fetch it again.")
    shape = tuple(int(side) for side in np.frombuffer(data[:header], ">u4")[1:])
    size = math.prod(shape)
    if len(data) != header + size:
        raise DataError(f"{path} should hold {size} bytes ({shape}), but holds {len(data) - header}. Fetch it again.")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def load(config: IdxData) -> Source:
    """Read the training files and, if there are any, the test files of a folder.

    Raises:
        DataNotFoundError: If the training files are not there.
        DataError: If a file is damaged or images and labels do not belong together.
    """
    from spikesearch.data.augment import image_augmenter
    from spikesearch.data.bundle import ArrayStore, Source

    folder = Path(config.path)
    parts = [_pair(folder, names, required=names == _PARTS[0]) for names in _PARTS]
    images, labels, test = [], [], []
    for is_test, pair in enumerate(parts):
        if pair is not None:
            images.append(pair[0])
            labels.append(pair[1])
            test.append(np.full(len(pair[1]), bool(is_test)))
    if len({part.shape[1:] for part in images}) > 1:
        raise DataError(f"Training and test images in {folder} differ in size: {[part.shape[1:] for part in images]}.")
    classes = [set(np.unique(part).tolist()) for part in labels]
    if classes[0] != classes[-1]:
        raise DataError(
            f"The classes of the training and test labels in {folder} differ: {sorted(classes[0] ^ classes[-1])} are "
            "in one of them only."
        )
    values = sorted(classes[0])
    words = [word for names in _PARTS for word in names]
    others = sorted(
        file
        for file in folder.iterdir()
        if file.is_file() and "idx" in file.name and not any(word in file.name for word in words)
    )
    return Source(
        ArrayStore(np.concatenate(images)[:, None]),
        np.searchsorted(values, np.concatenate(labels)).astype(np.int64),
        tuple(str(value) for value in values),
        defined_test=np.concatenate(test) if len(test) > 1 else None,
        augment=None if config.augment is None else image_augmenter(config.augment),
        notes=(f"{listed(others, 'files')} not used: only {', '.join(words)} are.",) if others else (),
    )


def infer(folder: Path) -> Inference | None:
    """See :class:`spikesearch.data.Kind`."""
    if not folder.is_dir() or _find(folder, ("train",), "images") is None:
        return None
    from spikesearch.data.infer import of_images

    return of_images(load(IdxData(kind="idx", path=str(folder))))


def _find(folder: Path, names: tuple[str, ...], what: str) -> Path | None:
    """Return the file of a folder whose name holds one of ``names``, ``what`` and ``idx``, if there is one.

    Raises:
        DataError: If there are several, but for one that is there plain and packed.
    """
    matching = sorted(
        file
        for file in folder.iterdir()
        if file.is_file() and what in file.name and "idx" in file.name and any(name in file.name for name in names)
    )
    if len({file.name.removesuffix(".gz") for file in matching}) > 1:
        raise DataError(
            f"{folder} holds {' and '.join(file.name for file in matching)}: leave the {what} of one data set there."
        )
    if len(matching) > 1 and not np.array_equal(read_idx(matching[0]), read_idx(matching[1])):
        raise DataError(f"{matching[0]} and {matching[1].name} differ; remove one of them.")
    return matching[0] if matching else None


def _set_of(file: Path) -> str:
    """Return what the names of images and labels have in common."""
    name = re.sub("images|labels", "", file.name.removesuffix(".gz"))
    return re.sub("[^A-Za-z0-9]+", "-", re.sub("idx[13]", "idx", name))


def _pair(folder: Path, names: tuple[str, ...], *, required: bool) -> tuple[np.ndarray, np.ndarray] | None:
    if not folder.is_dir():
        raise DataNotFoundError(f"`data.path` must be a folder of idx files, but {folder} is none.")
    images_file, labels_file = _find(folder, names, "images"), _find(folder, names, "labels")
    if images_file is None and labels_file is None and not required:
        return None
    if images_file is None or labels_file is None:
        missing = f"{names[0]}-{'images-idx3' if images_file is None else 'labels-idx1'}-ubyte"
        raise DataNotFoundError(f"{folder} holds no {missing} (or {missing}.gz). Put it there or change `data.path`.")
    if _set_of(images_file) != _set_of(labels_file):
        raise DataError(
            f"{folder} holds {images_file.name} and {labels_file.name}: images and labels of two data sets. Put the "
            "other half of one of them there."
        )
    images, labels = read_idx(images_file), read_idx(labels_file)
    if images.ndim != 3:
        raise DataError(f"{images_file} must hold images in 3 dimensions, but got {images.shape}.")
    if labels.ndim != 1 or len(labels) != len(images):
        raise DataError(f"{labels_file} must hold one label per image ({len(images)}), but got {labels.shape}.")
    return images, labels


register(
    Kind(
        "idx",
        IdxData,
        "MNIST-like idx files (MNIST, Fashion-MNIST, KMNIST)",
        f"{', '.join(_FILES)}, plain or .gz",
        load,
        infer,
    )
)
