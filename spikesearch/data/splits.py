"""Three disjoint stratified splits: train (weights), search (scores), test (final report)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spikesearch.config.data import SplitConfig
from spikesearch.errors import DataError
from spikesearch.streams import SPLIT_ORDER, SPLITS


@dataclass(frozen=True)
class SplitIndices:
    """Positions of the images of each split: int64 arrays without common elements, in a seeded random order.

    Data sets are stored class by class; in random order the first images of a split represent it.
    """

    train: np.ndarray
    search: np.ndarray
    test: np.ndarray


def split_indices(
    labels: np.ndarray,
    config: SplitConfig,
    *,
    seed: int,
    defined_test: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
) -> SplitIndices:
    """Divide images into train, search and test, class by class.

    Every class is shuffled with its own generator, seeded by (seed, class), and divided by the fractions, rounded so
    that every split gets at least one image of every class.

    Args:
        labels: Class of every image, int64 [N].
        config: Fractions or folds.
        seed: Seed of the shuffle.
        defined_test: bool [N], true where the data set itself says that the image is for testing; it is kept.
        class_names: Used in error messages.

    Raises:
        DataError: If there is a single class or a class has too few images for the splits, or if the fractions add up
            to more than 1.
    """
    names = list(class_names) if class_names is not None else [str(k) for k in range(int(labels.max()) + 1)]
    if len(names) < 2:
        raise DataError(f"The data set has the single class {names[0]!r}, but at least two are needed.")
    if config.folds is None and defined_test is None and config.train + config.search + config.test > 1 + 1e-9:
        raise DataError(
            "`data.splits`: `train`, `search` and `test` must add up to at most 1, but got "
            f"{config.train} + {config.search} + {config.test}."
        )
    parts: dict[str, list[np.ndarray]] = {"train": [], "search": [], "test": []}
    if config.folds is not None:
        defined_test = None
    for k, name in enumerate(names):
        members = np.flatnonzero(labels == k)
        if defined_test is not None:
            parts["test"].append(members[defined_test[members]])
            members = members[~defined_test[members]]
        needed = 3 if defined_test is None else 2
        if config.folds is not None:
            needed = max(config.folds, 4 if config.folds == 2 else 3)  # two must be left beside the fold
        if len(members) < needed:
            raise DataError(
                f"Class {name!r} has {len(members)} {'image' if len(members) == 1 else 'images'} to divide, but at "
                f"least {needed} are needed, one for every split. Add images or remove the class."
            )
        members = SPLITS.generator(seed, k).permutation(members)
        if config.folds is not None:
            # folds of every class start at another one, so that small classes do not all fill the first fold
            fold_of = (np.arange(len(members)) + k) % config.folds
            parts["test"].append(members[fold_of == config.fold])
            members = members[fold_of != config.fold]
        if defined_test is None and config.folds is None:
            fractions = [config.train, config.search, config.test]
        else:
            fractions = [config.train, config.search]
        scale = sum(fractions) if len(fractions) == 2 else 1.0
        counts = _round([fraction / scale * len(members) for fraction in fractions])
        edges = np.cumsum([0, *counts])
        for part, first, last in zip(parts, edges[:-1], edges[1:], strict=False):
            parts[part].append(members[first:last])
    if config.max_train is not None:
        parts["train"] = _limit(parts["train"], config.max_train)
    order = SPLIT_ORDER.generator(seed, len(names))
    train, search, test = (order.permutation(np.concatenate(arrays)).astype(np.int64) for arrays in parts.values())
    return SplitIndices(train, search, test)


def _round(wanted: list[float]) -> list[int]:
    """Round shares to whole numbers of at least 1 whose sum is the rounded sum of the shares.

    Largest remainder; ties go to the first, whatever the last bits of the shares are.
    """
    total = max(round(sum(wanted)), len(wanted))
    counts = [max(int(share + 1e-9), 1) for share in wanted]
    while sum(counts) < total:
        counts[max(range(len(wanted)), key=lambda i: round(wanted[i] - counts[i], 9))] += 1
    while sum(counts) > total:
        counts[max((i for i in range(len(wanted)) if counts[i] > 1), key=lambda i: counts[i] - wanted[i])] -= 1
    return counts


def _limit(classes: list[np.ndarray], limit: int) -> list[np.ndarray]:
    """Keep at most ``limit`` images, the same share of every class, never fewer than one."""
    total = sum(len(members) for members in classes)
    if total <= limit:
        return classes
    if limit < len(classes):
        raise DataError(f"`data.splits.max_train` must be at least {len(classes)}, one per class, but got {limit}.")
    counts = _round([len(members) * limit / total for members in classes])
    return [members[:count] for members, count in zip(classes, counts, strict=True)]
