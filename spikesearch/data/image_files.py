"""Which images lie in a folder or in tar files, read through timm's readers, and of which class they are."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image

from spikesearch.errors import DataError

TEST_NAMES = ("test", "val", "validation", "valid")
GREY_MODES = ("1", "L", "LA")
COLOR_MODES = ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr", "HSV", "LAB", "RGBX")
_LEAVE_OUT = (
    "Before a study is made, you may also remove it, or set `data.skip_unreadable: true` to leave such images out."
)
LARGE_FILE = 20_000  # bytes; decoding smaller ones is mostly Python, which threads only slow down


@dataclass(frozen=True)
class ImageFile:
    """One image of a reader: what to open, what to call it, and whether the data set says that it is for testing."""

    reader: Any
    index: int
    name: str
    test: bool


class ImageFiles:
    """All images below a folder or in tar files, with their classes.

    Args:
        path: See :class:`spikesearch.config.data.ImageFolderData`.

    Raises:
        DataError: If no image is found, or the classes of the training and test parts differ.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        self.skipped: list[str] = []
        self.files: list[ImageFile] = []
        labels: list[int] = []
        names: dict[bool, list[str]] = {}
        for part, test in self._parts(path):
            reader, classes = _open_reader(part)
            names[test] = classes
            if not hasattr(reader, "targets"):  # not of tar files
                self.notes += _doubts(part)
            for i in range(len(reader)):
                name = reader.filename(i)
                in_test = test or (part.suffix == ".tar" and _is_test_member(name))
                shown = str(part / name) if part.is_dir() else f"{part}:{name}"
                self.files.append(ImageFile(reader, i, shown, in_test))
            labels += _targets(reader)
        _check_same_classes(path, names)
        self.labels = np.asarray(labels, dtype=np.int64)
        self.class_names = tuple(names[False])
        sizes = [file_size(file) for file in self.files[:: max(1, len(self.files) // 100)]]
        self.workers = min(8, os.cpu_count() or 1) if sum(sizes) > LARGE_FILE * len(sizes) else 1
        self._lock = Lock()  # a tar file has one position

    @property
    def defined_test(self) -> np.ndarray | None:
        """Bool [N], or ``None`` where the data set has no test part."""
        test = np.array([file.test for file in self.files])
        return test if test.any() else None

    def open(self, position: int, *, decode: bool = True) -> Image.Image:
        """Return an image, or only its header's facts.

        Raises:
            DataError: If it cannot be read or has more than 8 bits per value; the message names the file.
        """
        file = self.files[position]
        try:
            with self._lock if file.reader.__class__.__name__ == "ReaderImageInTar" else _NO_LOCK:
                stream, _ = file.reader[file.index]
                with stream, Image.open(stream) as image:
                    if decode:
                        image.load()
        except (OSError, ValueError, SyntaxError, tarfile.TarError, Image.DecompressionBombError) as error:
            raise DataError(f"{file.name} cannot be read as an image ({error}). Repair it. {_LEAVE_OUT}") from None
        if image.mode not in GREY_MODES + COLOR_MODES:
            # Pillow would clip their values at 255
            raise DataError(
                f"{file.name} has pixels of mode {image.mode!r}, but 8-bit grey or colour images are expected. Convert "
                f"it. {_LEAVE_OUT}"
            )
        return image

    def map(self, function: Callable[[int], Any], positions: Sequence[int]) -> list[Any]:
        """Apply a function to positions, in several threads where decoding is what takes the time; order is kept."""
        if len(positions) < 2 or self.workers == 1:
            return [function(position) for position in positions]
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(function, positions))

    def without(self, positions: Iterable[int]) -> None:
        """Forget some images."""
        gone = set(positions)
        kept = [i for i in range(len(self.files)) if i not in gone]
        self.files = [self.files[i] for i in kept]
        self.labels = self.labels[kept]

    def _parts(self, path: Path) -> list[tuple[Path, bool]]:
        if path.is_file():
            return [(path, False)]
        for train in (path / "train", path / "train.tar"):
            if is_part(train):
                tests = [path / f"{name}{train.suffix}" for name in TEST_NAMES]
                tests = [test for test in tests if test.exists()]
                self.notes += [f"{unused} is not used: {tests[0].name} is the test split." for unused in tests[1:]]
                return [(train, False), *((test, True) for test in tests[:1])]
        return [(path, False)]


def is_part(path: Path) -> bool:
    """Whether this is a part of a data set, with classes in it, and not a class that happens to be called so."""
    return path.is_file() or (
        path.is_dir() and any(entry.is_dir() or entry.suffix == ".tar" for entry in path.iterdir())
    )


def holds_images(path: Path) -> bool:
    """Whether this is a folder with images or tar files somewhere in it, or an archive."""
    from timm.data.readers.img_extensions import get_img_extensions

    if path.is_file():
        return path.suffix in (".zip", ".tgz") or ".tar" in path.suffixes
    endings = (*get_img_extensions(), ".tar")
    return any(name.lower().endswith(endings) for _, _, names in os.walk(path, followlinks=True) for name in names)


class _NoLock:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


_NO_LOCK = _NoLock()


def _open_reader(path: Path) -> tuple[Any, list[str]]:
    from timm.data.readers.reader_image_folder import ReaderImageFolder
    from timm.data.readers.reader_image_in_tar import ReaderImageInTar

    if path.is_file() and path.suffix != ".tar":
        raise DataError(f"{path} must be a folder or an uncompressed .tar file. Unpack it and give the folder.")
    tars = path.is_file() or (any(path.glob("*.tar")) and not any(entry.is_dir() for entry in path.iterdir()))
    try:
        if tars:
            # no tarinfo cache: it would be a pickle written into the user's folder
            reader: Any = ReaderImageInTar(str(path), cache_tarinfo=False)
            classes = reader.class_name_to_idx
        else:
            reader = ReaderImageFolder(str(path))
            classes = reader.class_to_idx
    except (RuntimeError, AssertionError, ValueError, OSError, tarfile.TarError) as error:
        raise DataError(
            f"{path} holds no images that can be used ({str(error).splitlines()[0]}). Put them in one "
            "sub-folder per class."
        ) from None
    names = sorted(classes, key=classes.__getitem__)
    if "" in names:
        raise DataError(f"{path} holds images outside of class folders. Put every image in its class's sub-folder.")
    hidden = next((name for name in names if name.startswith(".")), None)
    if hidden is not None:
        raise DataError(
            f"{path} has images in the hidden folder {hidden!r}, which would be a class. Remove that folder."
        )
    if len(names) < 2:
        raise DataError(f"{path} has the single class {names[0]!r}, but at least two class folders are needed.")
    return reader, names


def _doubts(part: Path) -> list[str]:
    """Return what the owner of a folder may not expect: what is of no class, and a class of several folders."""
    from timm.data.readers.img_extensions import get_img_extensions

    endings = get_img_extensions()
    others: list[Path] = []
    homes: dict[str, list[Path]] = {}
    for folder, _, names in os.walk(part, followlinks=True):
        home = Path(folder)
        unused = [name for name in names if not name.lower().endswith(endings)]
        others += [home / name for name in unused if not name.startswith(".")]
        if len(unused) < len(names):
            homes.setdefault(home.name, []).append(home)
    notes = []
    if others:
        which = f"{min(others)} is" if len(others) == 1 else f"{len(others)} files, such as {min(others)}, are"
        notes.append(f"{which} not used: images end in {', '.join(endings)}.")
    full = {home.relative_to(part).parts[0] for folders in homes.values() for home in folders if home != part}
    empty = sorted(entry.name for entry in part.iterdir() if entry.is_dir() and entry.name not in full)
    if empty:
        notes.append(f"No class without images: {', '.join(empty)} in {part} holds none.")
    for name, folders in sorted(homes.items()):
        if len(folders) > 1:
            notes.append(f"{' and '.join(map(str, sorted(folders)))} are one class, {name!r}.")
    return notes


def _targets(reader: Any) -> list[int]:
    return [int(k) for k in reader.targets] if hasattr(reader, "targets") else [int(k) for _, k in reader.samples]


def _is_test_member(name: str) -> bool:
    return any(part in TEST_NAMES for part in name.split("/")[:-2])


def _check_same_classes(path: Path, names: dict[bool, list[str]]) -> None:
    if len(names) < 2 or names[False] == names[True]:
        return
    only_train = sorted(set(names[False]) - set(names[True]))
    only_test = sorted(set(names[True]) - set(names[False]))
    raise DataError(
        f"The classes of the training and test images in {path} differ: only in training {only_train or 'none'}, only "
        f"in test {only_test or 'none'}. Make the class folders the same."
    )


def file_size(file: ImageFile) -> int:
    """Return the size of an image's file in bytes.

    Raises:
        DataError: If there is no such file, as with a link that leads nowhere.
    """
    if hasattr(file.reader, "targets"):
        return int(file.reader.samples[file.index][0].size)
    try:
        return Path(file.reader.samples[file.index][0]).stat().st_size
    except OSError as error:
        raise DataError(f"{file.name} cannot be read ({error.strerror}). Remove it, or repair it.") from None
