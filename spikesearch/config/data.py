"""The ``data`` section of a study file, told apart by ``kind``: what all kinds of data, and several, have in common.

Every kind has a model of its own, beside what reads it; see :mod:`spikesearch.data.kinds`. Nothing here reads data.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails

from spikesearch.extensions import DATA_KINDS

Fraction = Annotated[float, Field(gt=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
PathText = Annotated[str, Field(min_length=1)]


class NoNumber(str):
    """What stands where a number is meant and is none; pydantic refuses it, and ``reason`` is what the user reads."""

    def __new__(cls, reason: str) -> NoNumber:
        """Return one for a reason."""
        return super().__new__(cls, "no number")

    def __init__(self, reason: str) -> None:
        self.reason = reason


class Section(BaseModel):
    """Base of every section of a study file.

    Unknown keys are refused, and so is, where a number is meant, ``true`` and what YAML 1.1 and 1.2 read differently.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _numbers(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        fields = {name: cls.model_fields[name].annotation for name in data if name in cls.model_fields}
        numbers = {name: annotation for name, annotation in fields.items() if _is_number(annotation)}
        return data | {
            name: _read_numbers(data[name], name, inside=not _is_collection(annotation))
            for name, annotation in numbers.items()
        }


def _is_number(annotation: Any) -> bool:
    # int, Annotated[float, ...], int | None, tuple[int, ...], dict[str, float]; not bool | None, not Literal
    return annotation in (int, float) or (
        get_origin(annotation) is not Literal and any(_is_number(part) for part in get_args(annotation))
    )


def _is_collection(annotation: Any) -> bool:
    return get_origin(annotation) in (tuple, list, dict) or any(_is_collection(part) for part in get_args(annotation))


def _read_numbers(value: Any, place: str, *, inside: bool) -> Any:
    """Return a value with its numbers as they are meant, and what is none as a :class:`NoNumber`.

    Args:
        value: What a key holds.
        place: The key, for messages.
        inside: Whether the value itself should be a number, rather than hold numbers.
    """
    if isinstance(value, dict):
        return {key: _read_numbers(part, f"{place}.{key}", inside=True) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_read_numbers(part, f"{place}[{index}]", inside=True) for index, part in enumerate(value)]
    if inside and isinstance(value, bool):
        return NoNumber(f"`{place}` must be a number, but got {value!r}.")
    if not inside or not isinstance(value, str):
        return value
    text = value.strip()
    if re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", text):  # YAML 1.1 wants a dot and a sign
        return float(text)
    if re.fullmatch(r"[-+]?0[0-7]+", text) and int(text, 8) != int(text):
        return NoNumber(
            f"`{place}` must be one number, but got {text}, which is {int(text, 8)} in YAML 1.1 and {int(text)} in "
            f"YAML 1.2; write {int(text)} or {int(text, 8)}."
        )
    if re.fullmatch(r"\d+(:[0-5]?\d)+", text):
        seconds = functools.reduce(lambda total, part: 60 * total + int(part), text.split(":"), 0)
        return NoNumber(f"`{place}` must be one number, but got {text}; write {seconds} if it counts in sixties.")
    return value


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


class DataSection(Section):
    """Base of the ``data`` section of every kind.

    A kind that reads files names them by ``path``; what it can fetch it fetches where ``download`` is true; where there
    are ``frames``, every sample is that many of them, one per time step; and with ``skip_unreadable`` it leaves out
    what cannot be used. The rest of spikesearch asks for these keys, if there are any.

    Args:
        kind: Which kind of data; a kind narrows it to ``Literal["its-name"]``.
        splits: How samples are divided.
    """

    kind: str
    splits: SplitConfig = SplitConfig()


class ImageSection(DataSection):
    """Keys that every kind of images has.

    Args:
        augment: Changes of training images; ``None`` leaves them as they are.
    """

    augment: ImageAugment | None = None


class EventSection(DataSection):
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
    augment: EventAugment | None = None


def _of_its_kind(value: object) -> DataSection:
    """Check a section with the model that is registered for its kind."""
    if isinstance(value, DataSection) or not isinstance(value, Mapping):
        return DataSection.model_validate(value)
    kind = value.get("kind")
    if isinstance(kind, str) and kind in DATA_KINDS:
        model: type[DataSection] = DATA_KINDS[kind].model
        return model.model_validate(value)
    problem = (
        DATA_KINDS.expected(kind) if "kind" in value else f"is missing; it must be one of {', '.join(DATA_KINDS)}."
    )
    detail = InitErrorDetails(type="value_error", loc=("kind",), input=kind, ctx={"error": ValueError(problem)})
    raise ValidationError.from_exception_data("data", [detail])


DataConfig = Annotated[SerializeAsAny[DataSection], BeforeValidator(_of_its_kind)]
"""Any registered kind of data; the key ``kind`` tells which."""
