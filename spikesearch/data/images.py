"""Images as arrays: kept in memory as 8 bits per value, or decoded from their files on demand."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from spikesearch.data.bundle import ArrayStore
from spikesearch.data.image_files import GREY_MODES, ImageFiles, file_size
from spikesearch.errors import DataError


@dataclass(frozen=True)
class FileStore:
    """Images that stay on disk; every access decodes.

    Args:
        files: Where they are.
        size: Height and width after resizing the shorter side and cutting the centre.
        channels: 1 or 3.
    """

    files: ImageFiles
    size: int
    channels: int

    @property
    def shape(self) -> tuple[int, ...]:
        """See :attr:`spikesearch.data.bundle.Store.shape`."""
        return (self.channels, self.size, self.size)

    def __len__(self) -> int:
        return len(self.files.files)

    def image(self, position: int) -> Image.Image:
        """Return the whole image in the right mode, in its own size."""
        return self.files.open(position).convert("L" if self.channels == 1 else "RGB")

    def stored(self, positions: np.ndarray) -> np.ndarray:
        """See :meth:`spikesearch.data.bundle.Store.stored`."""
        return np.stack(self.files.map(lambda i: to_array(fit(self.image(i), self.size)), positions.tolist()))

    def raw(self, positions: np.ndarray) -> torch.Tensor:
        """See :meth:`spikesearch.data.bundle.Store.raw`."""
        return torch.from_numpy(self.stored(positions))

    def files_hash(self) -> str:
        """Return a hash of the files' names and sizes."""
        digest = hashlib.sha256()
        for file in self.files.files:
            name = file.reader.filename(file.index)
            digest.update(f"{file.test}/{name}:{file_size(file)}\n".encode())
        return digest.hexdigest()


def fit(image: Image.Image, size: int) -> Image.Image:
    """Resize the shorter side to ``size`` (bicubic) and cut the central square.

    The arithmetic is that of torchvision's ``Resize`` and ``CenterCrop``, so that timm, which is told of them, prepares
    images in the same way.
    """
    if image.size == (size, size):
        return image
    width, height = (size * side // min(image.size) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + size, top + size))


def to_array(image: Image.Image) -> np.ndarray:
    """Return uint8 [C, H, W]."""
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


@dataclass(frozen=True)
class Headers:
    """What the headers of images say.

    Args:
        sizes: Width and height of every image.
        grey: Whether an image is grey, for every image.
    """

    sizes: list[tuple[int, int]]
    grey: list[bool]


def inspect(files: ImageFiles, *, skip_unreadable: bool) -> Headers:
    """Look at every image, so that one that cannot be used is known before anything is trained.

    Args:
        files: The images.
        skip_unreadable: Decode every image and leave out those that cannot be used; otherwise only headers are read.

    Raises:
        DataError: If an image cannot be used and none may be left out, or if none is left.
    """

    def look(position: int) -> tuple[tuple[int, int], bool] | DataError:
        try:
            image = files.open(position, decode=skip_unreadable)
        except DataError as error:
            if skip_unreadable:
                return error
            raise
        return image.size, image.mode in GREY_MODES

    looks = files.map(look, range(len(files.files)))
    broken = {i: str(seen) for i, seen in enumerate(looks) if isinstance(seen, DataError)}
    if broken:
        files.skipped += broken.values()
        looks = [seen for seen in looks if not isinstance(seen, DataError)]
        files.without(broken)
    if not looks:
        raise DataError(f"{files.path} holds no image that can be used: {files.skipped[0]}")
    return Headers([size for size, _ in looks], [grey for _, grey in looks])


def in_memory(store: FileStore) -> ArrayStore:
    """Return the same images, all decoded."""
    array = np.empty((len(store), *store.shape), np.uint8)

    def decode(position: int) -> None:
        array[position] = to_array(fit(store.image(position), store.size))

    store.files.map(decode, range(len(array)))
    return ArrayStore(array, whole=store.image)
