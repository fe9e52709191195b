"""Batch-norm calibration: which images the statistics of a subnet are taken from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from spikesearch.streams import CALIBRATION

if TYPE_CHECKING:
    from spikesearch.config import ScoringConfig
    from spikesearch.data import DataBundle


def calibration_indices(labels: np.ndarray, count: int) -> np.ndarray:
    """Return a fixed, class-balanced choice of training images.

    Classes take turns, in an order that is shuffled once and for all, so that a small choice still shows all of them.

    Args:
        labels: Classes of the training split, shape ``[N]``.
        count: How many images to choose; all of them if there are fewer.

    Returns:
        Ascending positions, shape ``[min(count, N)]``.
    """
    order = CALIBRATION.generator().permutation(len(labels))
    turn = np.empty(len(labels), dtype=np.int64)  # the how-manieth of its class an image is
    seen: dict[int, int] = {}
    for position in order:
        label = int(labels[position])
        turn[position] = seen.get(label, 0)
        seen[label] = turn[position] + 1
    ranked = order[np.argsort(turn[order], kind="stable")]
    return np.sort(ranked[:count])


def calibration_images(data: DataBundle, config: ScoringConfig) -> Tensor:
    """Return the un-augmented training images ``[N, ...]`` that all networks of a data set are calibrated on."""
    return data.train.images(calibration_indices(data.train.labels.numpy(), config.calibration_images))
