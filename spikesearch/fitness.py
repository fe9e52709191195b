"""Fitness of a spiking network as pure functions: F_AEB, the recommendation and the hypervolume.

F_AEB (accuracy and energy balance) is this package's own formula; it is named after, and inspired by, the fitness of
Auto-Spikformer (Che et al., 2024), whose published abstract does not state theirs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, overload

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@overload
def f_aeb(accuracy: float, energy: float, reference_energy: float, beta: float = 0.02) -> float: ...
@overload
def f_aeb(
    accuracy: ArrayLike, energy: ArrayLike, reference_energy: ArrayLike, beta: float = 0.02
) -> np.ndarray | float: ...
def f_aeb(
    accuracy: ArrayLike, energy: ArrayLike, reference_energy: ArrayLike, beta: float = 0.02
) -> np.ndarray | float:
    r"""Balance accuracy and energy in one number; larger is better.

    .. math:: F_{AEB} = accuracy \cdot (energy / reference\_energy)^{-\beta}

    It grows with accuracy and falls with energy. Over any set of trials with accuracy above 0 its maximum therefore
    lies on the set's Pareto front, whatever ``beta`` is: ``beta`` only says where. With the default, halving the energy
    is worth 1.4 % of the accuracy.

    Args:
        accuracy: Fraction (or percentage) of right answers, at least 0; a number or an array.
        energy: Energy per sample, above 0, in the unit of ``reference_energy``; broadcast against ``accuracy``.
        reference_energy: Energy per sample of the reference, above 0.
        beta: Weight of the energy, above 0.

    Returns:
        A float for numbers, else an array of the broadcast shape.

    Raises:
        ValueError: If an accuracy is negative, an energy or ``beta`` is not above 0, or a value is not finite.

    Example:
        >>> f_aeb(0.98, 2.0, 2.0)
        0.98
        >>> round(f_aeb(0.98, 1.0, 2.0) / 0.98, 4)
        1.014
        >>> f_aeb([0.9, 0.8], [1.0, 1.0], 1.0).tolist()
        [0.9, 0.8]
    """
    beta = _positive_number("beta", beta)
    accuracies = _numbers("accuracy", accuracy)
    energies = _numbers("energy", energy)
    references = _numbers("reference_energy", reference_energy)
    _demand("accuracy", accuracies, accuracies >= 0, "at least 0")
    _demand("energy", energies, energies > 0, "above 0")
    _demand("reference_energy", references, references > 0, "above 0")
    # The ratio itself may leave the range of floats for extreme but legal energies; its logarithm never does.
    fitness = accuracies * np.exp(-beta * (np.log(energies) - np.log(references)))
    return float(fitness) if fitness.ndim == 0 else fitness


def dead_below(num_classes: int, majority_share: float = 0.0) -> float:
    """Return the accuracy below which a subnet counts as dead: it does hardly better than guessing.

    Twice the accuracy of guessing. With two or three classes that would be all or most of what can be reached, so there
    it is a tenth of the way from guessing to perfection. Where classes differ in size, to guess is to answer the most
    frequent one always, and the smaller of the two counts, if it is more than without that.

    Args:
        num_classes: Number of classes, at least 2.
        majority_share: Share of the most frequent class; 0 where it is not known.

    Example:
        >>> dead_below(10), round(dead_below(2), 2), round(dead_below(2, 0.9), 2)
        (0.2, 0.55, 0.91)
    """
    even = (1 + 0.1 * (num_classes - 1)) / num_classes if num_classes < 4 else 2 / num_classes
    return max(even, min(2 * majority_share, majority_share + 0.1 * (1 - majority_share)))


def recommend(
    accuracy: ArrayLike,
    energy: ArrayLike,
    *,
    reference_accuracy: float,
    reference_energy: float,
    beta: float = 0.02,
    max_accuracy_drop: float = 0.01,
    feasible: ArrayLike | None = None,
) -> int | None:
    """Choose the row to recommend: the largest F_AEB among the feasible rows that are accurate enough.

    Args:
        accuracy: Accuracy per row on the search split, as a fraction; shape ``[n]``.
        energy: Energy per row; shape ``[n]``.
        reference_accuracy: Accuracy of the reference on the same split.
        reference_energy: Energy of the reference, above 0.
        beta: Weight of the energy in F_AEB, above 0.
        max_accuracy_drop: How far below the reference's accuracy a row may be; a fraction, at least 0.
        feasible: Which rows satisfy all constraints; shape ``[n]``. All by default.

    Returns:
        The row's index, the smallest one among equals, or None if no row qualifies. Rows that are not finite, or whose
        energy is not above 0, never qualify.

    Raises:
        ValueError: If the shapes differ or an option is out of range.

    Example:
        >>> recommend([0.98, 0.975, 0.90], [4.0, 1.0, 0.1], reference_accuracy=0.98, reference_energy=4.0)
        1
    """
    accuracies = np.atleast_1d(np.asarray(accuracy, dtype=float))
    energies = np.atleast_1d(np.asarray(energy, dtype=float))
    allowed = np.ones(accuracies.shape, bool) if feasible is None else np.atleast_1d(np.asarray(feasible, dtype=bool))
    if not accuracies.shape == energies.shape == allowed.shape or accuracies.ndim != 1:
        raise ValueError(
            "`accuracy`, `energy` and `feasible` must be one-dimensional and of one length, but got shapes "
            f"{accuracies.shape}, {energies.shape} and {allowed.shape}."
        )
    if not (math.isfinite(max_accuracy_drop) and max_accuracy_drop >= 0):
        raise ValueError(f"`max_accuracy_drop` must be at least 0, but got {max_accuracy_drop!r}.")
    # 1e-9: 0.97 must pass for a drop of 0.01 from 0.98, although 0.98 - 0.01 is above 0.97 in floating point.
    allowed = allowed & np.isfinite(accuracies) & np.isfinite(energies) & (energies > 0) & (accuracies >= 0)
    allowed &= accuracies >= reference_accuracy - max_accuracy_drop - 1e-9
    rows = np.flatnonzero(allowed)
    fitness = f_aeb(accuracies[rows], energies[rows], reference_energy, beta)
    return int(rows[np.argmax(fitness)]) if rows.size else None


def pareto_front(losses: ArrayLike) -> np.ndarray:
    """Tell which points no other point dominates.

    A point dominates another if it is nowhere larger and somewhere smaller; equal points do not dominate each other.

    Args:
        losses: Points to be minimised in every coordinate; shape ``[n, objectives]``.

    Returns:
        Boolean array of shape ``[n]``.

    Raises:
        ValueError: If ``losses`` is not two-dimensional.

    Example:
        >>> pareto_front([[1, 2], [2, 1], [2, 2], [1, 2]]).tolist()
        [True, True, False, True]
    """
    points = _points(losses)
    if not len(points):
        return np.zeros(0, dtype=bool)
    if points.shape[1] == 1:
        lowest: np.ndarray = points[:, 0] == points.min()
        return lowest
    if points.shape[1] == 2:
        unique, copies = np.unique(points, axis=0, return_inverse=True)
        best_before = np.minimum.accumulate(np.concatenate([[np.inf], unique[:, 1]]))[:-1]
        return (unique[:, 1] < best_before)[copies.reshape(-1)]
    front = np.zeros(len(points), dtype=bool)
    remaining = np.lexsort(points.T[::-1])  # by the first coordinate, then the second, ...
    while remaining.size:
        point = points[remaining[0]]  # nothing later in the order can dominate it
        equal = (points[remaining] == point).all(axis=1)
        front[remaining[equal]] = True
        remaining = remaining[(points[remaining] < point).any(axis=1)]
    return front


def hypervolume(losses: ArrayLike, reference_point: ArrayLike) -> float:
    """Measure the volume that the points dominate within the reference point; larger is better.

    Args:
        losses: Points to be minimised in every coordinate; shape ``[n, objectives]``. Points that do not lie strictly
            below the reference point in every coordinate add nothing.
        reference_point: The corner; shape ``[objectives]``.

    Returns:
        The volume in the product of the coordinates' units; 0 for no points.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> hypervolume([[0.0, 0.5], [0.5, 0.0]], [1.0, 1.0])
        0.75
    """
    points = _points(losses)
    corner = np.asarray(reference_point, dtype=float)
    if corner.shape != points.shape[1:]:
        raise ValueError(
            f"`reference_point` must hold {points.shape[1]} numbers, as the points do, but got shape {corner.shape}."
        )
    points = points[(points < corner).all(axis=1)]
    points = np.unique(points[pareto_front(points)], axis=0)
    return float(_front_volume(points, corner))


def _front_volume(points: np.ndarray, corner: np.ndarray) -> float:
    """Volume of unique non-dominated points in lexicographic order, by slices along the last coordinate."""
    if not len(points):
        return 0.0
    if points.shape[1] == 1:
        return float(corner[0] - points[:, 0].min())
    if points.shape[1] == 2:
        heights = np.concatenate([[corner[1]], points[:-1, 1]]) - points[:, 1]
        return float(np.sum((corner[0] - points[:, 0]) * heights))
    points = points[np.argsort(points[:, -1], kind="stable")]
    tops = np.append(points[1:, -1], corner[-1])
    volume = 0.0
    for count, (bottom, top) in enumerate(zip(points[:, -1], tops, strict=True), start=1):
        if top > bottom:
            slab = points[:count, :-1]
            slab = np.unique(slab[pareto_front(slab)], axis=0)
            volume += (top - bottom) * _front_volume(slab, corner[:-1])
    return volume


# --- checks
# ---------------------------------------------------------------------------------------------------------------


def _numbers(name: str, value: ArrayLike) -> np.ndarray:
    try:
        array = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        raise ValueError(f"`{name}` must hold numbers, but got {value!r}.") from None
    _demand(name, array, np.isfinite(array), "finite")
    return array


def _positive_number(name: str, value: float) -> float:
    number = _numbers(name, value)
    if number.ndim:
        raise ValueError(f"`{name}` must be one number, but got an array of shape {number.shape}.")
    _demand(name, number, number > 0, "above 0")
    return float(number)


def _demand(name: str, values: np.ndarray, good: np.ndarray, requirement: str) -> None:
    if not good.all():
        raise ValueError(
            f"`{name}` must be {requirement}, but got {float(np.atleast_1d(values)[~np.atleast_1d(good)][0])!r}."
        )


def _points(losses: ArrayLike) -> np.ndarray:
    points = np.asarray(losses, dtype=float)
    if points.ndim != 2:
        raise ValueError(f"The points must have shape [n, objectives], but got shape {points.shape}.")
    return points
