"""The ``data`` section of a study file: one pydantic model per kind of data, told apart by ``kind``.

Kept apart from :mod:`spikesearch.config` because every kind has its own keys; nothing here reads data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Fraction = Annotated[float, Field(gt=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
PathText = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """Base of every section of a study file: unknown keys are refused, and so is ``true`` where a number is meant."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_boolean_numbers(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for name, value in data.items():
                field = cls.model_fields.get(name)
                if field is not None and _is_number(field.annotation):
                    for place, number in _leaves(value):
                        if isinstance(number, bool) and (place or not _is_collection(field.annotation)):
                            raise ValueError(f"`{name}{place}` must be a number, but got {number!r}.")
        return data


def _is_number(annotation: Any) -> bool:
    # int, Annotated[float, ...], int | None, tuple[int, ...], dict[str, float]; not bool | None, not Literal
    return annotation in (int, float) or (
        get_origin(annotation) is not Literal and any(_is_number(part) for part in get_args(annotation))
    )


def _is_collection(annotation: Any) -> bool:
    return get_origin(annotation) in (tuple, list, dict) or any(_is_collection(part) for part in get_args(annotation))


def _leaves(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what lists and mappings hold, and where."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from ((f".{key}{place}", leaf) for place, leaf in _leaves(part))
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from ((f"[{index}]{place}", leaf) for place, leaf in _leaves(part))
    else:
        yield "", value


class SplitConfig(Section):
    """How images are divided: three disjoint stratified splits.

    ``train``, ``search`` and ``test`` are fractions of every class; what is left is not used. Where the data set comes
    with a test split, that one is kept and only the rest is divided, in the proportion ``train : search``. With
    ``folds`` all images are pooled, whatever the data set defines, and fold number ``fold`` is the test split
    (cross-validation).

    Args:
        train: Share of the training split (weights, batch-norm statistics), above 0.
        search: Share of the search split (scores of the trials), above 0.
        test: Share of the test split (final report), above 0.
        max_train: At most this many training images, stratified; ``None`` keeps all.
        folds: Number of cross-validation folds, at least 2; ``None`` divides by fractions.
        fold: Which fold is the test split, from 0.
        seed: Seed of the division; ``None`` uses the seed of the study.
    """

    train: Fraction = 0.6
    search: Fraction = 0.2
    test: Fraction = 0.2
    max_train: Annotated[int, Field(ge=1)] | None = None
    folds: Annotated[int, Field(ge=2)] | None = None
    fold: Annotated[int, Field(ge=0)] = 0
    seed: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _check(self) -> SplitConfig:
        # `test` joins the sum where it is used: split_indices knows whether the data set has a test split of its own
        if self.train + self.search > 1 + 1e-9:
            raise ValueError(f"`train` and `search` must add up to at most 1, but got {self.train + self.search:g}.")
        if self.fold and self.fold >= (self.folds or 1):
            raise ValueError(f"`fold` must be below `folds`, but got fold {self.fold} of {self.folds or 'no'} folds.")
        return self


class DigitsAugment(Section):
    """Small random affine maps, suited to 8x8 images.

    Args:
        shift: Largest shift in pixels, each way.
        rotate: Largest rotation in degrees, each way.
        scale: Largest relative change of size, each way.
    """

    shift: Annotated[float, Field(ge=0, le=4)] = 0.8
    rotate: Annotated[float, Field(ge=0, le=45)] = 10.0
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.1


class ImageAugment(Section):
    """Augmentation of images, in this order: crop, flips, timm's RandAugment/AutoAugment, normalisation, erasing.

    Mixup and cutmix belong to the training loop (``train.mixup``, ``train.cutmix``).

    Args:
        crop_padding: Pad by this many pixels (black) on every side, then cut a random window of the image's size.
        crop_scale: Random resized crop of this range of the area instead, such as ``[0.08, 1.0]`` for ImageNet; from
            the whole image in its file, which is decoded for every crop.
        hflip: Probability of a left-right flip (0 for digits and letters).
        vflip: Probability of an upside-down flip.
        auto_augment: A policy of timm such as ``rand-m9-n1-mstd0.4-inc1``, or ``None``.
        erase_prob: Probability that a random rectangle is erased (timm's RandomErasing, constant fill).
    """

    crop_padding: Annotated[int, Field(ge=0, le=64)] = 0
    crop_scale: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] | None = None
    hflip: Probability = 0.0
    vflip: Probability = 0.0
    auto_augment: str | None = None
    erase_prob: Probability = 0.0

    @field_validator("auto_augment")
    @classmethod
    def _policy(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"rand-|original|v0|3a", value):
            raise ValueError(f"must be a policy of timm such as 'rand-m9-n1-mstd0.4-inc1', but got {value!r}.")
        return value

    @model_validator(mode="after")
    def _one_crop(self) -> ImageAugment:
        if self.crop_scale is not None:
            if self.crop_padding:
                raise ValueError("`crop_padding` and `crop_scale` exclude each other, but got both.")
            if self.crop_scale[0] > self.crop_scale[1]:
                raise ValueError(f"`crop_scale` must be [smallest, largest], but got {list(self.crop_scale)}.")
        return self


class EventAugment(Section):
    """Augmentation of event frames; every frame of a sample gets the same flip and roll.

    Args:
        hflip: Probability of a left-right flip (0 for digits and for left/right gestures).
        roll: Largest roll in pixels, each way and in both directions; what leaves on one side enters on the other.
        drop_frames: Probability that a frame is emptied (time deletion; the number of frames stays).
    """

    hflip: Probability = 0.0
    roll: Annotated[int, Field(ge=0)] = 0
    drop_frames: Annotated[float, Field(ge=0, lt=1)] = 0.0


class DigitsData(Section):
    """scikit-learn's 1,797 handwritten digits, 8x8, grey. Needs no file and no download."""

    kind: Literal["digits"]
    splits: SplitConfig = SplitConfig()
    augment: DigitsAugment | None = DigitsAugment()


class _ImageData(Section):
    """Keys that every kind of images has."""

    splits: SplitConfig = SplitConfig()
    augment: ImageAugment | None = None


class ImageFolderData(_ImageData):
    """A folder (or tar file) with one sub-folder per class, read through timm's readers.

    Args:
        path: ``path/<class>/*.png``; or ``path/train/<class>/...`` and ``path/test/<class>/...`` (``val`` or
            ``validation`` also count as test), which is kept. A ``.tar`` file of either, a folder that holds
            ``train.tar`` and ``test.tar``, or one with a ``.tar`` file per class is read as well (not compressed).
        image_size: Height and width after resizing (shorter side) and centre crop; ``None`` takes the images' own size,
            which must then be square and one for all.
        color: ``auto`` infers it and refuses a mixture; ``rgb`` and ``grey`` convert.
        skip_unreadable: Leave out images that cannot be read or have more than 8 bits per value (they are reported)
            instead of stopping.
        memory_mb: Images above this size in all stay on disk and are decoded on demand, with the same result. The
            data's fingerprint is of all pixels, whatever is kept in memory; above 2 GiB of them, of the files' names
            and sizes.
    """

    kind: Literal["image-folder"]
    path: PathText
    image_size: Annotated[int, Field(ge=4)] | None = None
    color: Literal["auto", "rgb", "grey"] = "auto"
    skip_unreadable: bool = False
    memory_mb: Annotated[int, Field(ge=0)] = 2048


class IdxData(_ImageData):
    """MNIST-like idx files: ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-...``, plain or ``.gz``.

    Args:
        path: The folder that holds the four files; without ``t10k-...`` the training files are divided in three.
    """

    kind: Literal["idx"]
    path: PathText


class TorchvisionData(_ImageData):
    """CIFAR-10 or CIFAR-100 as torchvision stores them.

    Args:
        path: torchvision's ``root``, which holds ``cifar-10-batches-py`` or ``cifar-100-python``.
        download: Fetch the files when they are missing. Nothing is downloaded unless this is set.
    """

    kind: Literal["cifar10", "cifar100"]
    path: PathText
    download: bool = False


class _EventData(Section):
    """Keys that every kind of event data has.

    Args:
        path: Folder of the data set.
        frames: Number of frames T that every recording is cut into.
        split_by: ``number``: equally many events per frame; ``time``: equally long frames.
        frame_ms: Instead of dividing the whole recording: ``frames`` consecutive windows of this many milliseconds from
            its start (``split_by`` is then not used). Events after the last window are not used.
        downsample: Sums blocks of this many pixels squared, at most 64.
        memory_mb: Frames above this size in all are not held in memory. The data's fingerprint is of all frames,
            wherever they are kept; above 2 GiB of them, of the recordings' names and sizes.
        cache: File in which frames that do not fit in memory are kept; ``None`` integrates them on demand.
        skip_unreadable: Leave out recordings that cannot be used (they are reported) instead of stopping.
    """

    path: PathText
    frames: Annotated[int, Field(ge=1, le=256)]
    split_by: Literal["number", "time"] = "number"
    frame_ms: Annotated[float, Field(gt=0)] | None = None
    downsample: Annotated[int, Field(ge=1, le=64)] = 1
    memory_mb: Annotated[int, Field(ge=0)] = 2048
    cache: PathText | None = None
    skip_unreadable: bool = False
    splits: SplitConfig = SplitConfig()
    augment: EventAugment | None = None


class EventFolderData(_EventData):
    """A folder of event recordings: ``path/<class>/*.npz``, or ``path/{train,test}/<class>/*.npz``, which is kept.

    Every file holds four arrays of one length: ``t`` (microseconds), ``x``, ``y`` and ``p`` (0 or 1).

    Args:
        sensor: Height and width of the sensor in pixels; ``None`` infers it from the largest coordinate
            (up to 4095).
    """

    kind: Literal["events"]
    sensor: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None


class SpikingJellyData(_EventData):
    """N-MNIST, CIFAR10-DVS or DVS128 Gesture through SpikingJelly's dataset classes.

    Args:
        download: Let SpikingJelly fetch the files where it can (CIFAR10-DVS). Nothing is downloaded unless this is set.
    """

    kind: Literal["nmnist", "cifar10-dvs", "dvs128-gesture"]
    download: bool = False


DataConfig = Annotated[
    DigitsData | ImageFolderData | IdxData | TorchvisionData | EventFolderData | SpikingJellyData,
    Field(discriminator="kind"),
]
"""Any of the kinds of data; the key ``kind`` tells which."""

DATA_MODELS: tuple[type[Section], ...] = (
    DigitsData,
    ImageFolderData,
    IdxData,
    TorchvisionData,
    EventFolderData,
    SpikingJellyData,
)


def kinds() -> dict[str, type[Section]]:
    """Return every kind of data and the model of its keys."""
    return {kind: model for model in DATA_MODELS for kind in model.model_fields["kind"].annotation.__args__}  # type: ignore[union-attr]
