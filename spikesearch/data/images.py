"""Images as arrays: kept in memory as 8 bits per value, or decoded from their files on demand."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from spikesearch.data.appearance import GROUNDS, PIXELS, SENTENCES, Appearance, Ground, appearance, as_seen, check_mode
from spikesearch.data.bundle import ArrayStore
from spikesearch.data.class_folders import listed
from spikesearch.data.image_files import LEAVE_OUT, ImageFiles
from spikesearch.errors import DataError

CUT = "cut"  # what was done to an image that 0.1.0 resized or cut otherwise


@dataclass(frozen=True)
class FileStore:
    """Images that stay on disk; every access decodes.

    Args:
        files: Where they are.
        size: Height and width after resizing the shorter side and cutting the centre.
        channels: 1 or 3.
        ground: What transparent pixels are laid on.
        seen: What every image looks like.
    """

    files: ImageFiles
    size: int
    channels: int
    ground: Ground = "white"
    seen: tuple[Appearance, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """See :attr:`spikesearch.data.bundle.Store.shape`."""
        return (self.channels, self.size, self.size)

    def __len__(self) -> int:
        return len(self.files.files)

    def image(self, position: int) -> Image.Image:
        """Return the whole image as it is seen, in the right mode and in its own size."""

        def decode(image: Image.Image, name: str) -> Image.Image:
            check_mode(image, name)
            return as_seen(image, self.ground).convert("L" if self.channels == 1 else "RGB")

        return self.files.read(position, decode)

    def stored(self, positions: np.ndarray) -> np.ndarray:
        """See :meth:`spikesearch.data.bundle.Store.stored`."""
        return np.stack(self.files.map(lambda i: to_array(fit(self.image(i), self.size)), positions.tolist()))

    def raw(self, positions: np.ndarray) -> torch.Tensor:
        """See :meth:`spikesearch.data.bundle.Store.raw`."""
        return torch.from_numpy(self.stored(positions))

    def files_hash(self) -> str:
        """Return a hash of the files' names and sizes, and of what is done to their pixels."""
        digest = hashlib.sha256()
        for file, seen in zip(self.files.files, self.seen, strict=True):
            digest.update(f"{file.test}/{file.key}:{file.size()}\n".encode())
            if reread := sorted({*PIXELS, CUT} & seen.changes):  # with other pixels than in 0.1.0
                digest.update(f"{reread} on {self.ground}\n".encode())
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


def cut_anew(shown: tuple[int, int], size: int) -> bool:
    """Tell whether spikesearch 0.1.0 resized or cut an image in another way than :func:`fit`.

    Args:
        shown: Its width and height.
        size: Height and width to which it is resized and cut.
    """
    now = [size * side // min(shown) for side in shown]
    before = [max(size, round(size / min(shown) * side)) for side in shown]
    return any(new != old or round((new - size) / 2) != (old - size) // 2 for new, old in zip(now, before, strict=True))


def to_array(image: Image.Image) -> np.ndarray:
    """Return uint8 [C, H, W]."""
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def inspect(files: ImageFiles, ground: Ground | None, *, skip_unreadable: bool) -> tuple[Ground, list[Appearance]]:
    """Look at every image, so that one that cannot be used is known before anything is trained.

    What is done to images beside decoding joins the notes of ``files``.

    Args:
        files: The images.
        ground: What transparent pixels are laid on; ``None`` chooses what shows the most images.
        skip_unreadable: Decode every image and leave out those that cannot be used; otherwise little more than headers
            is read.

    Returns:
        The ground, and what every image that is left looks like.

    Raises:
        DataError: If an image cannot be used and none may be left out, or if none is left.
    """

    def look(image: Image.Image, name: str) -> Appearance:
        seen = appearance(image, name)
        if skip_unreadable:
            image.load()
        return seen

    def attempt(position: int) -> Appearance | DataError:
        try:
            return files.read(position, look)
        except DataError as error:
            return error

    looks = files.map(attempt, range(len(files.files)))

    def unseen_on(ground: Ground) -> int:
        return sum(isinstance(seen, Appearance) and ground in seen.unseen_on for seen in looks)

    chosen: Ground = min(GROUNDS, key=unseen_on) if ground is None else ground
    problems = {i: problem for i, seen in enumerate(looks) if (problem := _problem(files.files[i].name, seen, chosen))}
    if problems and not skip_unreadable:
        first, *more = problems.values()
        others = f" {len(more)} more cannot be used, either; `spikesearch data check` names them." if more else ""
        raise DataError(first + others)
    files.skipped += problems.values()
    files.without(problems)
    seen = [look for i, look in enumerate(looks) if isinstance(look, Appearance) and i not in problems]
    if not seen:
        raise DataError(f"{files.path} holds no image that can be used: {files.skipped[0]}")
    for change, sentence in SENTENCES.items():
        names = [file.name for file, each in zip(files.files, seen, strict=True) if change in each.changes]
        if names:
            files.notes.append(sentence.format(listed(names, "images"), ground=chosen))
            files.rereads += files.notes[-1:] if change in PIXELS else []
    return chosen, seen


def _problem(name: str, seen: Appearance | DataError, ground: Ground) -> str | None:
    if isinstance(seen, DataError):
        return str(seen)
    if ground in seen.unseen_on:
        better = next(other for other in GROUNDS if other not in seen.unseen_on)
        return (
            f"{name} has transparent pixels, and nothing can be seen of it on a {ground} ground. Set `data.background` "
            f"to {better}. {LEAVE_OUT}"
        )
    return None


def in_memory(store: FileStore) -> ArrayStore:
    """Return the same images, all decoded."""
    array = np.empty((len(store), *store.shape), np.uint8)

    def decode(position: int) -> None:
        array[position] = to_array(fit(store.image(position), store.size))

    store.files.map(decode, range(len(array)))
    return ArrayStore(array, whole=store.image)
