"""Which images lie in a folder or in tar files, of which class they are, and how one is opened."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import IO, TypeVar

import numpy as np
from PIL import Image

from spikesearch.data.class_folders import Files, Placed, Placing, list_files, natural, notes_on, place
from spikesearch.errors import DataError

ENDINGS = (".png", ".jpg", ".jpeg")
LEAVE_OUT = (
    "Before a study is made, you may also remove it, or set `data.skip_unreadable: true` to leave such images out."
)
LARGE_FILE = 20_000  # bytes; decoding smaller ones is mostly Python, which threads only slow down

T = TypeVar("T")


@dataclass(frozen=True)
class ImageFile:
    """One image and its place.

    Args:
        file: The image, or the tar file that holds it.
        members: The way to it in a tar file: its entry there, or a tar file's entry and its entry in that.
        name: What to call it.
        key: Its name in its part of the data set.
        test: Whether the data set says that it is for testing.
    """

    file: Path
    members: tuple[tarfile.TarInfo, ...]
    name: str
    key: str
    test: bool

    def size(self) -> int:
        """Return its size in bytes; 0 if it cannot be told, as of a link that leads nowhere."""
        if self.members:
            return self.members[-1].size
        try:
            return self.file.stat().st_size
        except OSError:
            return 0


class ImageFiles:
    """All images below a folder or in tar files, with their classes.

    Args:
        path: See :class:`spikesearch.data.kinds.image_folder.ImageFolderData`.

    Raises:
        DataError: If no image is there, their classes cannot be told, or those of the parts differ.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.skipped: list[str] = []
        self._tars: dict[tuple[Path, str], tarfile.TarFile] = {}
        self._lock = Lock()  # a tar file has one position
        places, files, placing = _find(path)
        self.notes = [*notes_on(files, placing.homes, path, "images", ENDINGS), *placing.notes]
        self.rereads = placing.nested
        listed = [(_file(path, places.get(placed.path), placed), placed.label) for placed in placing.files]
        # as timm's readers order them: part by part, and in tar files by the name in the file
        listed.sort(key=lambda item: (item[0].test and not path.is_file(), natural(item[0].key)))
        self.files = [file for file, _ in listed]
        self.class_names = tuple(sorted({label for _, label in listed}, key=natural))
        numbers = {name: number for number, name in enumerate(self.class_names)}
        self.labels = np.array([numbers[label] for _, label in listed], dtype=np.int64)
        sizes = [file.size() for file in self.files[:: max(1, len(self.files) // 100)]]
        self.workers = min(8, os.cpu_count() or 1) if sum(sizes) > LARGE_FILE * len(sizes) else 1

    @property
    def defined_test(self) -> np.ndarray | None:
        """Bool [N], or ``None`` where the data set has no test part."""
        test = np.array([file.test for file in self.files])
        return test if test.any() else None

    def read(self, position: int, look: Callable[[Image.Image, str], T]) -> T:
        """Open an image and return what a function of it and its name makes of it.

        Raises:
            DataError: If it cannot be read or used; the message names the file.
        """
        file = self.files[position]
        try:
            with self._open(file) as stream, Image.open(stream) as image:
                return look(image, file.name)
        except DataError as error:
            raise DataError(f"{error} {LEAVE_OUT}") from None
        except Exception as error:  # what the many decoders of Pillow raise for a damaged file is anybody's guess
            raise DataError(f"{file.name} cannot be read as an image ({error}). Repair it. {LEAVE_OUT}") from None

    def map(self, function: Callable[[int], T], positions: Sequence[int]) -> list[T]:
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

    def _open(self, file: ImageFile) -> IO[bytes]:
        if not file.members:
            return file.file.open("rb")
        with self._lock:
            *outer, member = file.members
            key = (file.file, "")
            if key not in self._tars:
                self._tars[key] = tarfile.open(file.file, "r:")  # noqa: SIM115 - kept open for the next image
            for inner in outer:
                key = (file.file, inner.name)
                if key not in self._tars:
                    whole = self._tars[file.file, ""]
                    self._tars[key] = tarfile.open(fileobj=whole.extractfile(inner), mode="r:")  # noqa: SIM115
            stream = self._tars[key].extractfile(member)
            assert stream is not None  # only files are listed
            return io.BytesIO(stream.read())


def holds_images(path: Path) -> bool:
    """Whether this is a folder with images or tar files somewhere in it, or an archive."""
    if path.is_file():
        return path.suffix in (".zip", ".tgz") or ".tar" in path.suffixes
    return bool(list_files(path, (*ENDINGS, ".tar")).usable)


Members = dict[str, tuple[Path, tuple[tarfile.TarInfo, ...]]]
"""Images in tar files, by their place in the data set: the tar file and the way to the image in it."""


def _find(path: Path) -> tuple[Members, Files, Placing]:
    if path.is_file() and path.suffix != ".tar":
        raise DataError(f"{path} must be a folder or an uncompressed .tar file. Unpack it and give the folder.")
    files = Files(others=[""]) if path.is_file() else list_files(path, ENDINGS)
    members: Members = {}
    tars = [name for name in files.others if _is_read(path, name)]
    files.others = [name for name in files.others if name not in tars]
    for name in tars:
        file, prefix = path / name, f"{name.removesuffix('.tar')}/" if name else ""
        try:
            with tarfile.open(file, "r:") as tar:
                members |= {place: (file, way) for place, way in _in_tar(tar, prefix, files)}
        except (OSError, tarfile.TarError) as error:
            raise DataError(
                f"{file} holds no images that can be used ({error}). Put them in one sub-folder per class."
            ) from None
    if not files.usable:
        raise DataError(
            f"{path} holds no images that can be used (none ends in {', '.join(ENDINGS)}). Put them in one sub-folder "
            "per class."
        )
    return members, files, place(files.usable, path, "images", files.empty)


def _is_read(root: Path, name: str) -> bool:
    """Whether a tar file lies where classes and parts do, without folders beside it."""
    file = root / name
    in_place = not name or (name.count("/") < 2 and not any(entry.is_dir() for entry in file.parent.iterdir()))
    return file.suffix == ".tar" and in_place


def _in_tar(
    tar: tarfile.TarFile, prefix: str, files: Files, outer: tuple[tarfile.TarInfo, ...] = ()
) -> Iterator[tuple[str, tuple[tarfile.TarInfo, ...]]]:
    """Yield the images in a tar file, and in tar files in it; whatever is in it is added to ``files``."""
    for member in tar:
        place = prefix + member.name.removeprefix("./")
        if member.isfile() and place.endswith(".tar") and not outer:
            with tarfile.open(fileobj=tar.extractfile(member), mode="r:") as inner:
                yield from _in_tar(inner, f"{prefix}{Path(member.name).stem}/", files, (member,))
        elif not member.isdir() and files.add(place, ENDINGS if member.isfile() else ()):
            yield place, (*outer, member)


def _file(root: Path, member: tuple[Path, tuple[tarfile.TarInfo, ...]] | None, placed: Placed) -> ImageFile:
    if member is None:
        return ImageFile(root / placed.path, (), str(root / placed.path), placed.inner, placed.test)
    file, way = member
    name = way[-1].name
    return ImageFile(file, way, f"{file}:{name}", name, placed.test)
