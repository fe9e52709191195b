"""Augmentation of images and of event frames; every draw depends on (key, image) only.

Crops and flips are done for the whole batch at once; RandAugment and random erasing are timm's, whose randomness comes
from the global generators of Python and NumPy: these are seeded per image and put back afterwards.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import Image

from spikesearch.config.data import EventAugment, ImageAugment
from spikesearch.data.bundle import Augmenter, Normalisation, SampleStore
from spikesearch.data.keyed import uniforms
from spikesearch.errors import DataError
from spikesearch.streams import CROP, ERASE, EVENTS, POLICY

_global_generators = Lock()


def image_augmenter(config: ImageAugment) -> Callable[[Normalisation], Augmenter]:
    """Return what makes an :class:`ImageAugmenter` once the mean of the images is known.

    Raises:
        DataError: If timm does not know the policy.
    """
    _policy(config.auto_augment, [0.0])
    return lambda normalisation: ImageAugmenter(config, tuple(normalisation.mean.tolist()))


@dataclass(frozen=True)
class ImageAugmenter:
    """See :class:`spikesearch.config.data.ImageAugment`.

    Args:
        config: What is done.
        mean: Mean of the raw values per channel; fills what a rotation or shear of RandAugment uncovers.
    """

    config: ImageAugment
    mean: tuple[float, ...]

    def raw(self, store: SampleStore, positions: np.ndarray, key: tuple[int, ...]) -> torch.Tensor:
        """See :class:`spikesearch.data.bundle.Augmenter`."""
        draws = uniforms(CROP.key(*key), positions, 6)
        if self.config.crop_scale is not None:
            images = self._resized_crops(store, positions, draws)
        else:
            images = store.raw(positions)
            if self.config.crop_padding:
                images = _pad_and_crop(images, self.config.crop_padding, draws[:, 0], draws[:, 1])
        images = _flip(images, draws[:, 4] < self.config.hflip, dim=-1)
        images = _flip(images, draws[:, 5] < self.config.vflip, dim=-2)
        policy = _policy(self.config.auto_augment, self.mean)
        if policy is not None:
            images = images.clone()
            with _seeding(POLICY.key(*key), positions) as seed:
                for i in range(len(images)):
                    seed(i)
                    images[i] = _from_pil(policy(_to_pil(images[i])))
        return images

    def normalised(self, samples: torch.Tensor, positions: np.ndarray, key: tuple[int, ...]) -> torch.Tensor:
        """Erase rectangles."""
        if not self.config.erase_prob:
            return samples
        from timm.data.random_erasing import RandomErasing

        erase = RandomErasing(self.config.erase_prob, mode="const", device="cpu")
        with _seeding(ERASE.key(*key), positions) as seed:
            for i in range(len(samples)):
                seed(i)
                erase(samples[i])
        return samples

    def _resized_crops(self, store: Any, positions: np.ndarray, draws: torch.Tensor) -> torch.Tensor:
        assert self.config.crop_scale is not None
        smallest, largest = self.config.crop_scale
        size = store.shape[-1]
        crops = []
        for position, draw in zip(positions.tolist(), draws.tolist(), strict=True):
            image = store.image(position)
            width, height = image.size
            area = (smallest + (largest - smallest) * draw[2]) * width * height
            aspect = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * draw[3])
            w, h = min(math.sqrt(area * aspect), width), min(math.sqrt(area / aspect), height)
            left, top = draw[0] * (width - w), draw[1] * (height - h)
            box = (left, top, left + w, top + h)
            crops.append(_from_pil(image.resize((size, size), Image.Resampling.BICUBIC, box=box)))
        return torch.stack(crops)


@dataclass(frozen=True)
class EventAugmenter:
    """See :class:`spikesearch.config.data.EventAugment`; all frames of a recording move together."""

    config: EventAugment

    def raw(self, store: SampleStore, positions: np.ndarray, key: tuple[int, ...]) -> torch.Tensor:
        """See :class:`spikesearch.data.bundle.Augmenter`; frames are [n, T, C, H, W]."""
        frames = store.raw(positions)
        count, steps = frames.shape[:2]
        draws = uniforms(EVENTS.key(*key), positions, 4 + steps)
        frames = _flip(frames, draws[:, 0] < self.config.hflip, dim=-1)
        if self.config.roll:
            shifts = (draws[:, 1:3] * (2 * self.config.roll + 1)).long() - self.config.roll
            frames = _gather(frames, shifts[:, 0], dim=-2)
            frames = _gather(frames, shifts[:, 1], dim=-1)
        if self.config.drop_frames:
            kept = draws[:, 4:] >= self.config.drop_frames
            # a recording without any frame says nothing: one frame always stays
            kept[torch.arange(count), (draws[:, 3] * steps).long()] = True
            frames = frames * kept.view(count, steps, 1, 1, 1).to(frames.dtype)
        return frames

    def normalised(self, samples: torch.Tensor, positions: np.ndarray, key: tuple[int, ...]) -> torch.Tensor:
        """Return the samples as they are."""
        return samples


def _policy(name: str | None, mean: Any) -> Callable[[Image.Image], Image.Image] | None:
    if name is None:
        return None
    from timm.data.auto_augment import auto_augment_transform, rand_augment_transform

    fill = tuple(min(255, round(value)) for value in mean)
    hparams = {"img_mean": fill if len(fill) > 1 else fill[0]}
    make = rand_augment_transform if name.startswith("rand") else auto_augment_transform
    try:
        policy: Callable[[Image.Image], Image.Image] = make(name, hparams)
    except (AssertionError, ValueError, KeyError) as error:
        raise DataError(
            f"`data.augment.auto_augment` must be a policy of timm such as 'rand-m9-n1-mstd0.4-inc1', but got {name!r} "
            f"({error})."
        ) from None
    _keep_one_bit(policy)
    return policy


def _keep_one_bit(policy: Any) -> None:
    """Keep at least one bit per pixel in timm's posterize.

    At the ends of its range timm keeps none, which made a black image once and is an error with recent versions of
    Pillow.
    """
    operations = policy.ops if hasattr(policy, "ops") else [op for ops in policy.policy for op in ops]
    for operation in operations:
        if operation.name.startswith("Posterize"):
            operation.level_fn = _at_least_one(operation.level_fn)


def _at_least_one(level_fn: Callable[..., tuple[int]]) -> Callable[..., tuple[int]]:
    return lambda level, hparams: (max(1, level_fn(level, hparams)[0]),)


def _pad_and_crop(images: torch.Tensor, padding: int, top: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
    height, width = images.shape[-2:]
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    rows = (top * (2 * padding + 1)).long().view(-1, 1, 1) + torch.arange(height).view(1, -1, 1)
    columns = (left * (2 * padding + 1)).long().view(-1, 1, 1) + torch.arange(width).view(1, 1, -1)
    which = torch.arange(len(images)).view(-1, 1, 1)
    return padded.permute(0, 2, 3, 1)[which, rows, columns].permute(0, 3, 1, 2).contiguous()


def _flip(images: torch.Tensor, chosen: torch.Tensor, *, dim: int) -> torch.Tensor:
    if not chosen.any():
        return images
    return torch.where(chosen.view(-1, *[1] * (images.ndim - 1)), images.flip(dim), images)


def _gather(frames: torch.Tensor, shifts: torch.Tensor, *, dim: int) -> torch.Tensor:
    """Roll every sample by its own shift along one of the last two dimensions."""
    size = frames.shape[dim]
    source = (torch.arange(size).view(1, -1) - shifts.view(-1, 1)) % size
    shape = [len(frames)] + [1] * (frames.ndim - 1)
    shape[dim] = size
    return frames.gather(dim, source.view(shape).expand_as(frames))


def _to_pil(image: torch.Tensor) -> Image.Image:
    array = image.numpy()
    return Image.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0))


def _from_pil(image: Image.Image) -> torch.Tensor:
    array = np.array(image)
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())


@contextmanager
def _seeding(key: list[int], positions: np.ndarray) -> Iterator[Callable[[int], None]]:
    """Give a function that seeds Python's and NumPy's global generators for one image; put both back at the end."""
    seeds = (uniforms(key, positions, 1)[:, 0] * 2**32).long().tolist()

    def seed(i: int) -> None:
        random.seed(seeds[i])
        np.random.seed(seeds[i])

    with _global_generators:
        python, numpy = random.getstate(), np.random.get_state()
        try:
            yield seed
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
