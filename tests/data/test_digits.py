"""scikit-learn's digits: shapes, normalisation, augmentation, fingerprint."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from spikesearch.config.data import SplitConfig
from spikesearch.data import DataBundle, load_data
from spikesearch.data.bundle import ArrayStore
from spikesearch.data.kinds.digits import AffineAugmenter, DigitsAugment, DigitsData
from spikesearch.errors import DataError


@pytest.fixture(scope="module")
def digits() -> DataBundle:
    return load_data(DigitsData(kind="digits"), seed=0)


def test_facts(digits: DataBundle) -> None:
    assert (digits.num_classes, digits.in_channels, digits.image_size, digits.frames) == (10, 1, 8, None)
    assert len(digits.train) + len(digits.search) + len(digits.test) == 1797
    assert digits.train.images(range(3)).shape == (3, 1, 8, 8)
    assert digits.train.images(torch.tensor([2])).dtype == torch.float32
    assert digits.summary() == (
        f"1078 train, 362 search, 357 test 1x8x8 images, 10 classes, fingerprint {digits.fingerprint}"
    )
    assert len(digits.fingerprint) == 16


def test_images_are_the_real_ones_with_their_labels(digits: DataBundle) -> None:
    data = load_digits()
    known = {image.astype(np.uint8).tobytes(): label for image, label in zip(data.images, data.target, strict=True)}
    seen = 0
    for split in (digits.train, digits.search, digits.test):
        normalisation = split.normalisation  # type: ignore[attr-defined]
        raw = split.images(range(len(split))) * normalisation.std + normalisation.mean
        for image, label in zip(raw, split.labels, strict=True):
            seen += known[image.round().to(torch.uint8).numpy().tobytes()] == int(label)
    assert seen == 1797


def test_training_images_have_mean_zero_and_variance_one(digits: DataBundle) -> None:
    images = digits.train.images(range(len(digits.train)))
    assert abs(float(images.mean())) < 1e-5
    assert abs(float(images.std()) - 1) < 1e-3


def test_augmentation_depends_on_key_and_image_only(digits: DataBundle) -> None:
    together = digits.train.augmented(range(20), (5, 1, 2))
    assert torch.equal(digits.train.augmented([7, 3], (5, 1, 2)), together[[7, 3]])
    assert not torch.equal(digits.train.augmented(range(20), (5, 1, 3)), together)
    assert not torch.equal(digits.train.images(range(20)), together)


def test_augmentation_is_small(digits: DataBundle) -> None:
    """A shifted digit still resembles itself far more than any other digit."""
    images = digits.train.images(range(200)).flatten(1)
    changed = digits.train.augmented(range(200), (0,)).flatten(1)
    own = torch.cosine_similarity(images, changed)
    other = torch.cosine_similarity(images, changed.roll(1, 0))
    assert float(own.mean()) > 0.75
    assert float(other.mean()) < 0.5


def test_only_the_training_split_is_augmented(digits: DataBundle) -> None:
    with pytest.raises(DataError, match="Only the training split"):
        digits.search.augmented([0], (1,))


def test_without_augmentation_images_stay() -> None:
    data = load_data(DigitsData(kind="digits", augment=None), seed=0)
    assert torch.equal(data.train.augmented([4, 5], (1,)), data.train.images([4, 5]))


def test_zero_augmentation_is_the_identity() -> None:
    store = ArrayStore(np.random.default_rng(0).integers(0, 17, (5, 1, 8, 8), dtype=np.uint8))
    nothing = AffineAugmenter(DigitsAugment(shift=0, rotate=0, scale=0))
    assert torch.allclose(nothing.raw(store, np.arange(5), (1,)), store.raw(np.arange(5)).float(), atol=1e-4)


def test_shift_is_in_pixels() -> None:
    image = np.zeros((1, 1, 8, 8), np.uint8)
    image[0, 0, 4, 4] = 16
    shifted = AffineAugmenter(DigitsAugment(shift=2, rotate=0, scale=0))
    places = torch.arange(8.0)
    offsets = []
    for key in range(200):
        moved = shifted.raw(ArrayStore(image), np.array([0]), (key,))[0, 0]
        offsets.append([float((moved.sum(1) * places).sum() / 16) - 4, float((moved.sum(0) * places).sum() / 16) - 4])
    largest = np.abs(offsets).max(0)
    assert (largest <= 2 + 1e-4).all()
    assert (largest > 1.8).all()
    assert np.abs(np.mean(offsets, 0)).max() < 0.35


def test_the_fingerprint_tells_splits_apart_and_stays() -> None:
    def fingerprint(seed: int, splits: SplitConfig) -> str:
        return load_data(DigitsData(kind="digits", splits=splits), seed=seed).fingerprint

    assert fingerprint(0, SplitConfig()) == "9132128dbc18a8a0"  # studies that were made compare against it
    assert fingerprint(0, SplitConfig()) != fingerprint(1, SplitConfig())
    assert fingerprint(0, SplitConfig()) != fingerprint(0, SplitConfig(train=0.5))
    assert fingerprint(0, SplitConfig(seed=4)) == fingerprint(1, SplitConfig(seed=4))  # the section's own seed wins
