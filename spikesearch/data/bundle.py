"""What the rest of spikesearch sees of data: a :class:`DataBundle` of three :class:`Split`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from PIL import Image

from spikesearch._moved import moved_names
from spikesearch.data.splits import SplitIndices
from spikesearch.errors import DataError

Indices = Sequence[int] | np.ndarray | torch.Tensor


class Split(Protocol):
    """Some labelled samples; static images [C, H, W] or event frames [T, C, H, W]."""

    @property
    def labels(self) -> torch.Tensor:
        """Classes, int64 [N]."""

    def __len__(self) -> int: ...

    def images(self, indices: Indices) -> torch.Tensor:
        """Return samples, never augmented: float32 [n, C, H, W] or [n, T, C, H, W], normalised, the same every time."""

    def augmented(self, indices: Indices, key: tuple[int, ...]) -> torch.Tensor:
        """Return augmented training samples, same shapes; sample ``i`` depends on ``key`` and ``indices[i]`` only."""

    def batches(self, size: int) -> Iterator[tuple[range, torch.Tensor, torch.Tensor]]:
        """Yield positions, :meth:`images` and labels, ``size`` samples at a time, in order; the last may be fewer."""


class SampleStore(Protocol):
    """Raw samples by position, before normalisation."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample: (C, H, W) or (T, C, H, W)."""

    def __len__(self) -> int: ...

    def stored(self, positions: np.ndarray) -> np.ndarray:
        """Return samples [n, *shape] in the type that they are kept in: uint8 images, or uint16 event counts."""

    def raw(self, positions: np.ndarray) -> torch.Tensor:
        """Return samples [n, *shape] to compute with: uint8 images, or float32 event counts."""


class ImageStore(SampleStore, Protocol):
    """Raw samples that were made of images."""

    def image(self, position: int) -> Image.Image:
        """Return one image, whole and in its own size."""


class Augmenter(Protocol):
    """Random changes of raw or normalised samples."""

    def raw(self, store: SampleStore, positions: np.ndarray, key: tuple[int, ...]) -> torch.Tensor:
        """Return augmented raw samples."""

    def normalised(self, samples: torch.Tensor, positions: np.ndarray, key: tuple[int, ...]) -> torch.Tensor:
        """Return the samples after what augmentation does behind normalisation."""


@dataclass(frozen=True)
class Normalisation:
    """``(raw - mean) / std`` per channel.

    Args:
        mean: float32 [C]; zero for event counts, so that "no event" stays exactly zero.
        std: float32 [C].
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __call__(self, raw: torch.Tensor) -> torch.Tensor:
        """Return normalised float32 samples; ``raw`` is [..., C, H, W]."""
        return (raw.float() - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)


@dataclass(frozen=True)
class StoredSplit:
    """A :class:`Split` over some positions of a store."""

    store: SampleStore
    positions: np.ndarray
    labels: torch.Tensor
    normalisation: Normalisation
    augmenter: Augmenter | None = None
    may_augment: bool = False

    def __len__(self) -> int:
        return len(self.positions)

    def images(self, indices: Indices) -> torch.Tensor:
        """See :meth:`Split.images`."""
        return self.normalisation(self.store.raw(self._positions(indices)))

    def augmented(self, indices: Indices, key: tuple[int, ...]) -> torch.Tensor:
        """See :meth:`Split.augmented`.

        Raises:
            DataError: If this is not the training split.
        """
        if not self.may_augment:
            raise DataError("Only the training split may be augmented.")
        if self.augmenter is None:
            return self.images(indices)
        positions = self._positions(indices)
        raw = self.augmenter.raw(self.store, positions, key)
        return self.augmenter.normalised(self.normalisation(raw), positions, key)

    def batches(self, size: int) -> Iterator[tuple[range, torch.Tensor, torch.Tensor]]:
        """See :meth:`Split.batches`."""
        for start in range(0, len(self), size):
            positions = range(start, min(start + size, len(self)))
            yield positions, self.images(positions), self.labels[start : positions.stop]

    def whole(self, index: int) -> Image.Image:
        """Return the image that a sample was made of, in its own size; not of event recordings."""
        return cast("ImageStore", self.store).image(int(self.positions[index]))

    def _positions(self, indices: Indices) -> np.ndarray:
        return self.positions[np.asarray(indices, dtype=np.int64)]


def count_unusable(skipped: Sequence[str]) -> str:
    """Say how many files were left out."""
    return f"{len(skipped)} unusable {'file' if len(skipped) == 1 else 'files'}"


@dataclass(frozen=True)
class DataBundle:
    """Three disjoint splits of one data set and the facts that a network needs.

    Args:
        train: Weights and batch-norm statistics.
        search: Scores of the trials.
        test: Final report only.
        num_classes: Number of classes.
        in_channels: Channels of one image or event frame.
        image_size: Height and width in pixels.
        frames: Stored frames per sample of event data; ``None`` for static images.
        class_names: One name per class.
        fingerprint: Hash of content and splits, 16 hexadecimal digits.
        notes: What a reader should know, such as a folder that is not used.
        rereads: What spikesearch 0.1.0 read in another way, one sentence each.
        skipped: One message for every unusable file that was left out because that was asked for.
    """

    train: Split
    search: Split
    test: Split
    num_classes: int
    in_channels: int
    image_size: int
    frames: int | None
    class_names: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()
    rereads: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def majority_share(self) -> float:
        """Share of the most frequent class of the search split: what always answering it scores."""
        return float(torch.bincount(self.search.labels).max()) / len(self.search)

    def summary(self) -> str:
        """Return one line: counts, shape, classes, files left out, fingerprint."""
        size = f"{self.in_channels}x{self.image_size}x{self.image_size}"
        named = f", {count_unusable(self.skipped)} left out (`spikesearch data check` names them)"
        left_out = named if self.skipped else ""
        shape = f"{size} images" if self.frames is None else f"recordings of {self.frames} frames {size}"
        return (
            f"{len(self.train)} train, {len(self.search)} search, {len(self.test)} test {shape}, "
            f"{self.num_classes} classes{left_out}, fingerprint {self.fingerprint}"
        )


@dataclass(frozen=True)
class Source:
    """What a kind of data delivers before it is divided.

    Args:
        store: Raw samples.
        labels: int64 [N].
        class_names: One name per class.
        defined_test: bool [N], true for the data set's own test samples; ``None`` where it has no split.
        augment: Makes the augmenter of the training split, once the normalisation is known.
        events: Whether samples are event frames [T, C, H, W].
        notes: See :class:`DataBundle`.
        rereads: See :class:`DataBundle`.
        skipped: See :class:`DataBundle`.
        files_hash: Returns a hash of the names and sizes of the files behind the samples; ``None`` where the samples
            always fit in memory.
    """

    store: SampleStore
    labels: np.ndarray
    class_names: tuple[str, ...]
    defined_test: np.ndarray | None = None
    augment: Callable[[Normalisation], Augmenter] | None = None
    events: bool = False
    notes: tuple[str, ...] = ()
    rereads: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    files_hash: Callable[[], str] | None = None


STATISTICS_SAMPLES = 10_000
HASHED_BYTES = 2 * 2**30  # of samples; reading more at every start would take too long


def check_square(shape: tuple[int, ...]) -> None:
    """Refuse samples that are not square.

    Raises:
        DataError: If height and width differ. Image folders, which can be resized, never come this far.
    """
    if shape[-1] != shape[-2]:
        raise DataError(
            f"Images must be square, but got {shape[-2]}x{shape[-1]} pixels. Make them square, or write them as files "
            "into class folders and set `data.image_size`."
        )


def bundle(source: Source, indices: SplitIndices) -> DataBundle:
    """Make a :class:`DataBundle` of a source and its division."""
    shape = source.store.shape
    check_square(shape)
    normalisation = _statistics(source, indices.train)
    augmenter = None if source.augment is None else source.augment(normalisation)
    labels = torch.from_numpy(source.labels.astype(np.int64))

    def split(positions: np.ndarray, train: bool = False) -> StoredSplit:
        return StoredSplit(source.store, positions, labels[positions], normalisation, augmenter, train)

    return DataBundle(
        train=split(indices.train, train=True),
        search=split(indices.search),
        test=split(indices.test),
        num_classes=len(source.class_names),
        in_channels=shape[-3],
        image_size=shape[-1],
        frames=shape[0] if source.events else None,
        class_names=source.class_names,
        fingerprint=_fingerprint(source, indices),
        notes=source.notes,
        rereads=source.rereads,
        skipped=source.skipped,
    )


def _statistics(source: Source, train: np.ndarray) -> Normalisation:
    """Mean and standard deviation per channel of at most 10,000 evenly spaced training images.

    Event counts are divided by the root mean square of the non-zero counts (one number for both polarities).
    """
    chosen = train[np.linspace(0, len(train) - 1, min(len(train), STATISTICS_SAMPLES)).astype(np.int64)]
    channels = source.store.shape[-3]
    count = 0
    total, squares = np.zeros(channels), np.zeros(channels)
    axes = (0, 1, 3, 4) if source.events else (0, 2, 3)
    for start in range(0, len(chosen), 256):
        raw = source.store.raw(chosen[start : start + 256]).double().numpy()
        count += int(np.count_nonzero(raw)) if source.events else raw.size // channels
        total += raw.sum(axis=axes)
        squares += (raw**2).sum(axis=axes)
    if source.events:
        rms = np.sqrt(squares.sum() / max(count, 1))
        mean, std = np.zeros(channels), np.full(channels, rms if rms > 0 else 1.0)
    else:
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
        std[std == 0] = 1.0
    return Normalisation(torch.from_numpy(mean).float(), torch.from_numpy(std).float())


def _fingerprint(source: Source, indices: SplitIndices) -> str:
    digest = hashlib.sha256()
    digest.update(repr((source.store.shape, source.class_names)).encode())
    digest.update(_content_hash(source).encode())
    digest.update(np.ascontiguousarray(source.labels, dtype="<i8").tobytes())
    for positions in (indices.train, indices.search, indices.test):
        digest.update(len(positions).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(positions, dtype="<i8").tobytes())
    return digest.hexdigest()[:16]


def _content_hash(source: Source) -> str:
    """Return a hash that is the same wherever the samples are kept: in memory, in a cache or in their files.

    It is of the samples themselves, which checks that each can be read; of very many samples it is of their files.
    """
    store = source.store
    first = store.stored(np.arange(1))
    if source.files_hash is not None and len(store) * first.nbytes > HASHED_BYTES:
        return source.files_hash()
    digest = hashlib.sha256(repr(((len(store), *store.shape), first.dtype.str)).encode())
    for start in range(0, len(store), 128):
        digest.update(store.stored(np.arange(start, min(start + 128, len(store)))).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class ArrayStore:
    """Samples held in memory (or in a memory-mapped file), in the type they came in.

    Args:
        array: [N, *shape].
        whole: Returns the image that a sample was cut from, by its position; ``None`` where samples are whole.
    """

    array: np.ndarray
    whole: Callable[[int], Image.Image] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """See :attr:`SampleStore.shape`."""
        return tuple(self.array.shape[1:])

    def __len__(self) -> int:
        return len(self.array)

    def stored(self, positions: np.ndarray) -> np.ndarray:
        """See :meth:`SampleStore.stored`."""
        return np.ascontiguousarray(self.array[positions])

    def raw(self, positions: np.ndarray) -> torch.Tensor:
        """See :meth:`SampleStore.raw`."""
        chosen = self.stored(positions)
        return torch.from_numpy(chosen.astype(np.float32) if chosen.dtype == np.uint16 else chosen)

    def image(self, position: int) -> Image.Image:
        """Return one 8-bit image [C, H, W] as a PIL image, whole and in its own size."""
        if self.whole is not None:
            return self.whole(position)
        array = self.array[position]
        return Image.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0))


__getattr__ = moved_names(__name__)
