"""Acquisition: how much a trial with an uncertain outcome is worth."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

from spikesearch.fitness import pareto_front


def expected_improvement(mean: np.ndarray, std: np.ndarray, best: float | np.ndarray) -> np.ndarray:
    r"""Return :math:`E[\max(best - Y, 0)]` for normal :math:`Y` (Mockus, 1978); arrays broadcast.

    Args:
        mean: Means of what is to be minimised.
        std: Standard deviations, at least 0.
        best: Values to improve upon.

    Example:
        >>> round(float(expected_improvement(np.array(0.0), np.array(1.0), 0.0)), 6)
        0.398942
        >>> float(expected_improvement(np.array(1.0), np.array(0.0), 3.0))
        2.0
    """
    safe = np.maximum(std, 1e-12)
    z = (best - mean) / safe
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return np.where(std > 1e-12, safe * (z * ndtr(z) + density), np.maximum(best - mean, 0.0))


def expected_hypervolume_improvement(
    mean: np.ndarray, std: np.ndarray, front: np.ndarray, reference_point: np.ndarray
) -> np.ndarray:
    """Return the expected growth of the hypervolume of two objectives by one more point; exact.

    The region that the front does not dominate is cut into strips along the first objective; in each, the expected gain
    is a product of two one-dimensional expected improvements, because the objectives are predicted independently
    (Emmerich et al., 2011; this form as in Yang et al., 2019).

    Args:
        mean: Predicted losses; shape ``[n, 2]``.
        std: Their standard deviations, at least 0; shape ``[n, 2]``.
        front: Losses to improve upon, dominated ones allowed; shape ``[m, 2]``.
        reference_point: Shape ``[2]``.

    Returns:
        Shape ``[n]``.

    Example:
        >>> expected_hypervolume_improvement(
        ...     np.array([[0.25, 0.25]]), np.zeros((1, 2)), np.array([[0.5, 0.5]]), np.array([1.0, 1.0])
        ... ).tolist()
        [0.3125]
    """
    front = front[(front < reference_point).all(axis=1)]
    front = np.unique(front[pareto_front(front)], axis=0)  # ascending in the first, descending in the second
    edges = np.append(front[:, 0], reference_point[0])
    heights = np.concatenate([[reference_point[1]], front[:, 1]])
    reach = expected_improvement(mean[:, :1], std[:, :1], edges)  # expected length left of each edge
    widths = np.diff(reach, axis=1, prepend=0.0)
    total: np.ndarray = np.sum(widths * expected_improvement(mean[:, 1:], std[:, 1:], heights), axis=1)
    return total
