"""Random numbers that depend on a key and on an image, and on nothing else.

Augmentation must give the same image for the same (seed, epoch, step, image), whatever the batch, the process or the
number of restarts. A generator object cannot do that for a whole batch at once; a counter-based hash can.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniforms(key: Sequence[int], indices: Sequence[int] | np.ndarray | torch.Tensor, count: int) -> torch.Tensor:
    """Return ``count`` uniform numbers in [0, 1) per index.

    splitmix64 (Steele, Lea, Flood 2014) over key, index and position: row ``i`` depends on ``key`` and ``indices[i]``
    only, not on the other indices.

    Args:
        key: Whole numbers.
        indices: Whole numbers, shape [n].
        count: Numbers per index.

    Returns:
        float64, shape [n, count].
    """
    state = np.uint64(0)
    with np.errstate(over="ignore"):
        for part in key:
            state = _mix(state + np.uint64(int(part) & 0xFFFFFFFFFFFFFFFF) + _GOLDEN)
        rows = np.asarray(indices).astype(np.uint64).reshape(-1, 1)
        rows = _mix(rows * _GOLDEN + state + _GOLDEN)
        columns = np.arange(1, count + 1, dtype=np.uint64).reshape(1, -1)
        bits = _mix(rows + columns * _GOLDEN)
    return torch.from_numpy((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _mix(z: Any) -> Any:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
