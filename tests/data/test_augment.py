"""Augmentation: keyed, inside its limits, and leaving the global generators alone."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikesearch.config.data import EventAugment, ImageAugment
from spikesearch.data.augment import EventAugmenter, ImageAugmenter, image_augmenter
from spikesearch.data.bundle import ArrayStore, Normalisation
from spikesearch.errors import DataError

POSITIONS = np.arange(6)


def store(channels: int = 3, size: int = 16, count: int = 6) -> ArrayStore:
    return ArrayStore(np.random.default_rng(1).integers(1, 256, (count, channels, size, size), dtype=np.uint8))


def augmenter(channels: int = 3, **keys: Any) -> ImageAugmenter:
    return ImageAugmenter(ImageAugment(**keys), (120.0,) * channels)


EVERYTHING: dict[str, Any] = {"crop_padding": 2, "hflip": 0.5, "vflip": 0.3, "auto_augment": "rand-m9-n2-mstd0.5-inc1"}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", ["rand-m9-n2-mstd0.5-inc1", "v0r", "original"])
def test_policies_of_timm_keep_shape_and_type(channels: int, policy: str) -> None:
    many = store(channels, count=64)
    made = augmenter(channels, auto_augment=policy).raw(many, np.arange(64), (3,))
    assert made.shape == (64, channels, 16, 16)
    assert made.dtype == torch.uint8
    changed = (made != many.raw(np.arange(64))).flatten(1).any(1)
    assert 0.4 < float(changed.float().mean()) <= 1


@given(key=st.lists(st.integers(0, 10**6), min_size=1, max_size=3), subset=st.permutations(range(6)))
def test_an_image_does_not_depend_on_its_batch(key: list[int], subset: list[int]) -> None:
    made = augmenter(**EVERYTHING, erase_prob=0.5)
    together = made.raw(store(), POSITIONS, tuple(key))
    apart = made.raw(store(), np.array(subset[:3]), tuple(key))
    assert torch.equal(apart, together[subset[:3]])
    erased = made.normalised(together.float(), POSITIONS, tuple(key))
    again = made.normalised(apart.float(), np.array(subset[:3]), tuple(key))
    assert torch.equal(again, erased[subset[:3]])


def test_the_global_generators_stay_as_they_were() -> None:
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    before = random.random(), np.random.random(), torch.rand(1).item()
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    made = augmenter(**EVERYTHING, erase_prob=1.0)
    made.normalised(made.raw(store(), POSITIONS, (1,)).float(), POSITIONS, (1,))
    assert (random.random(), np.random.random(), torch.rand(1).item()) == before


def test_raw_data_is_not_changed_in_place() -> None:
    images = store()
    before = images.array.copy()
    made = augmenter(auto_augment="rand-m9-n2", erase_prob=1.0)
    made.normalised(made.raw(images, POSITIONS, (1,)).float(), POSITIONS, (1,))
    assert np.array_equal(images.array, before)


def test_a_crop_is_a_window_of_the_padded_image() -> None:
    images = store()
    made = augmenter(crop_padding=3).raw(images, POSITIONS, (2,)).numpy()
    padded = np.pad(images.array, ((0, 0), (0, 0), (3, 3), (3, 3)))
    for i in range(6):
        windows = [padded[i, :, y : y + 16, x : x + 16] for y in range(7) for x in range(7)]
        assert any(np.array_equal(window, made[i]) for window in windows)


def test_every_crop_occurs() -> None:
    images = ArrayStore(np.zeros((2000, 1, 8, 8), np.uint8))
    images.array[:, 0, 4, 4] = 1
    made = augmenter(1, crop_padding=2).raw(images, np.arange(2000), (0,))
    places = made[:, 0].flatten(1).argmax(1)
    counts = torch.bincount(places, minlength=64)
    assert int((counts > 0).sum()) == 25
    assert int(counts[counts > 0].min()) > 40


def test_flips_are_as_likely_as_asked() -> None:
    images = store(1, 8, 400)
    positions = np.arange(400)
    assert torch.equal(augmenter(1, hflip=1.0).raw(images, positions, (1,)), images.raw(positions).flip(-1))
    assert torch.equal(augmenter(1, vflip=1.0).raw(images, positions, (1,)), images.raw(positions).flip(-2))
    some = augmenter(1, hflip=0.3).raw(images, positions, (1,))
    flipped = (some == images.raw(positions).flip(-1)).flatten(1).all(1).float().mean()
    assert 0.2 < float(flipped) < 0.4


def test_a_resized_crop_has_colours_of_the_image() -> None:
    """Left half black, right half white: a small crop is often of one colour, a whole one never."""
    images = ArrayStore(np.zeros((100, 1, 16, 16), np.uint8))
    images.array[..., 8:] = 255
    small = augmenter(1, crop_scale=(0.1, 0.1)).raw(images, np.arange(100), (1,)).float().flatten(1)
    assert small.shape == (100, 256)
    assert 0.3 < float((small.std(1) < 1).float().mean()) < 0.9
    whole = augmenter(1, crop_scale=(1.0, 1.0)).raw(images, np.arange(100), (1,)).float().flatten(1)
    assert float(whole.std(1).min()) > 100
    with_color = augmenter(crop_scale=(0.5, 1.0)).raw(store(), POSITIONS, (1,))
    assert with_color.shape == (6, 3, 16, 16)
    assert with_color.dtype == torch.uint8


def test_erasing_sets_a_rectangle_to_zero() -> None:
    samples = torch.ones(50, 3, 16, 16)
    erased = augmenter(erase_prob=1.0).normalised(samples.clone(), np.arange(50), (1,))
    holes = (erased == 0).flatten(2)
    assert torch.equal(holes[:, 0], holes[:, 2])
    share = holes[:, 0].float().mean(1)
    assert 0.01 < float(share.mean()) < 0.34
    for hole in (erased[:, 0] == 0)[:10]:
        rows, columns = torch.nonzero(hole.any(1)).flatten(), torch.nonzero(hole.any(0)).flatten()
        assert int(hole.sum()) == len(rows) * len(columns)
    assert torch.equal(augmenter().normalised(samples, np.arange(50), (1,)), samples)


@pytest.mark.parametrize("policy", ["rand-m10-n8-p1-inc1", "rand-m1-n8-p1", "v0"])
def test_posterize_at_the_end_of_its_range_works(policy: str) -> None:
    """timm asks Pillow for 0 bits there, which Pillow refuses."""
    made = augmenter(auto_augment=policy).raw(store(count=200), np.arange(200), (1,))
    assert made.flatten(1).any(1).float().mean() > 0.5


def test_an_unknown_policy_is_named() -> None:
    with pytest.raises(DataError, match=r"`data.augment.auto_augment` must be a policy of timm .* but got 'rand-z9'"):
        image_augmenter(ImageAugment(auto_augment="rand-z9"))
    made = image_augmenter(ImageAugment(auto_augment="rand-m5"))(Normalisation(torch.tensor([9.0]), torch.ones(1)))
    assert isinstance(made, ImageAugmenter)
    assert made.mean == (9.0,)


# --- events -----------------------------------------------------------------------------------------------------------


def recordings(count: int = 40, steps: int = 5) -> ArrayStore:
    return ArrayStore(np.random.default_rng(2).integers(1, 9, (count, steps, 2, 7, 7), dtype=np.uint16))


def test_events_keep_their_number_when_rolled_and_flipped() -> None:
    frames = recordings()
    made = EventAugmenter(EventAugment(hflip=0.5, roll=3)).raw(frames, np.arange(40), (1,))
    original = frames.raw(np.arange(40))
    assert torch.equal(made.sum((-1, -2)), original.sum((-1, -2)))
    for i in range(40):
        candidates = [
            torch.roll(image, (y, x), (-2, -1))
            for image in (original[i], original[i].flip(-1))
            for y in range(-3, 4)
            for x in range(-3, 4)
        ]
        assert any(torch.equal(candidate, made[i]) for candidate in candidates)  # all frames and polarities together
    assert not torch.equal(made, original)


def test_dropped_frames_are_empty_and_one_always_stays() -> None:
    frames = recordings(400)
    made = EventAugmenter(EventAugment(drop_frames=0.4)).raw(frames, np.arange(400), (1,))
    original = frames.raw(np.arange(400))
    empty = made.flatten(2).sum(-1) == 0
    assert 0.3 < float(empty.float().mean()) < 0.45
    assert torch.equal(made[~empty], original[~empty])
    assert not bool(
        EventAugmenter(EventAugment(drop_frames=0.99)).raw(frames, np.arange(400), (1,)).flatten(1).sum(1).eq(0).any()
    )


@given(subset=st.permutations(range(8)), key=st.integers(0, 10**9))
def test_a_recording_does_not_depend_on_its_batch(subset: list[int], key: int) -> None:
    made = EventAugmenter(EventAugment(hflip=0.5, roll=2, drop_frames=0.3))
    frames = recordings(8)
    together = made.raw(frames, np.arange(8), (key,))
    assert torch.equal(made.raw(frames, np.array(subset[:3]), (key,)), together[subset[:3]])
    assert made.normalised(together, np.arange(8), (key,)) is together


def test_no_augmentation_changes_nothing() -> None:
    frames = recordings(8)
    assert torch.equal(EventAugmenter(EventAugment()).raw(frames, np.arange(8), (1,)), frames.raw(np.arange(8)))
    assert torch.equal(augmenter().raw(store(), POSITIONS, (1,)), store().raw(POSITIONS))
