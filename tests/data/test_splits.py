"""Splits: disjoint, stratified, seeded; the data set's own test split is kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikesearch.config.data import SplitConfig
from spikesearch.data.splits import split_indices
from spikesearch.errors import DataError


@st.composite
def labelled(draw: st.DrawFn) -> np.ndarray:
    counts = draw(st.lists(st.integers(5, 40), min_size=2, max_size=5))
    labels = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(draw(st.integers(0, 9))).permutation(labels)


@given(labels=labelled(), seed=st.integers(0, 1000), train=st.floats(0.1, 0.7), search=st.floats(0.05, 0.2))
def test_splits_are_disjoint_and_stratified(labels: np.ndarray, seed: int, train: float, search: float) -> None:
    test = 0.1
    split = split_indices(labels, SplitConfig(train=train, search=search, test=test), seed=seed)
    together = np.concatenate([split.train, split.search, split.test])
    assert len(set(together.tolist())) == len(together)
    for k in np.unique(labels):
        size = int((labels == k).sum())
        for part, share in ((split.train, train), (split.search, search), (split.test, test)):
            count = int((labels[part] == k).sum())
            assert count >= 1
            assert abs(count - share * size) <= 2  # rounding, and the one image that every split is owed


@given(labels=labelled(), seed=st.integers(0, 1000))
def test_fractions_that_add_up_to_one_use_everything(labels: np.ndarray, seed: int) -> None:
    split = split_indices(labels, SplitConfig(), seed=seed)
    assert sorted(np.concatenate([split.train, split.search, split.test])) == list(range(len(labels)))


@given(labels=labelled(), seed=st.integers(0, 1000))
def test_a_defined_test_split_is_kept(labels: np.ndarray, seed: int) -> None:
    defined = np.zeros(len(labels), bool)
    for k in np.unique(labels):
        defined[np.flatnonzero(labels == k)[:2]] = True
    split = split_indices(labels, SplitConfig(train=0.9, search=0.1), seed=seed, defined_test=defined)
    assert set(split.test) == set(np.flatnonzero(defined))
    assert set(split.train) | set(split.search) == set(np.flatnonzero(~defined))


@given(labels=labelled(), folds=st.integers(2, 5), seed=st.integers(0, 50))
def test_folds_cover_everything_once(labels: np.ndarray, folds: int, seed: int) -> None:
    defined = np.arange(len(labels)) % 2 == 0  # pooled: not kept
    tests = []
    for fold in range(folds):
        config = SplitConfig(folds=folds, fold=fold)
        split = split_indices(labels, config, seed=seed, defined_test=defined)
        assert sorted(np.concatenate([split.train, split.search, split.test])) == list(range(len(labels)))
        assert len(split.search) < len(split.train)
        tests.append(split.test)
    assert sorted(np.concatenate(tests)) == list(range(len(labels)))
    sizes = [len(test) for test in tests]
    assert max(sizes) - min(sizes) <= len(np.unique(labels))


def test_the_seed_decides() -> None:
    labels = np.repeat([0, 1], 50)
    first, again, other = (split_indices(labels, SplitConfig(), seed=seed) for seed in (3, 3, 4))
    assert first.train.tolist() == again.train.tolist()
    assert set(first.train) != set(other.train)


def test_the_first_images_of_a_split_are_of_all_classes() -> None:
    split = split_indices(np.repeat(np.arange(5), 100), SplitConfig(), seed=0)
    assert len(np.unique(np.repeat(np.arange(5), 100)[split.train[:40]])) == 5


def test_max_train_keeps_the_shares_of_the_classes() -> None:
    labels = np.repeat([0, 1], [300, 100])
    full = split_indices(labels, SplitConfig(), seed=0)
    split = split_indices(labels, SplitConfig(max_train=40), seed=0)
    assert np.bincount(labels[split.train]).tolist() == [30, 10]
    assert set(split.train) < set(full.train)
    assert set(split.search) == set(full.search)
    assert set(split_indices(labels, SplitConfig(max_train=10_000), seed=0).train) == set(full.train)
    with pytest.raises(DataError, match=r"`data.splits.max_train` must be at least 2, one per class, but got 1"):
        split_indices(labels, SplitConfig(max_train=1), seed=0)


@pytest.mark.parametrize(("count", "text"), [(1, "1 image to divide, but at least 3"), (2, "2 images to divide")])
def test_a_class_with_too_few_images_is_named(count: int, text: str) -> None:
    with pytest.raises(DataError, match=f"Class 'cat' has {text}"):
        split_indices(np.repeat([0, 1], [count, 10]), SplitConfig(), seed=0, class_names=["cat", "dog"])


def test_fractions_above_one_are_refused_unless_the_test_split_is_given() -> None:
    labels = np.repeat([0, 1], 10)
    config = SplitConfig(train=0.8, search=0.2)
    with pytest.raises(DataError, match=r"must add up to at most 1, but got 0.8 \+ 0.2 \+ 0.2"):
        split_indices(labels, config, seed=0)
    assert len(split_indices(labels, config, seed=0, defined_test=np.arange(20) % 2 == 0).train) == 8
