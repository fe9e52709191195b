"""Arithmetic on single genes: one Optuna distribution and one value of it.

A gene's value is Optuna's internal representation, a float: the number itself, or the index of a categorical choice.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution


def levels(distribution: BaseDistribution) -> int | None:
    """Return how many values a gene can take, or None for a continuous one.

    Example:
        >>> levels(IntDistribution(1, 7, step=3)), levels(FloatDistribution(0.0, 1.0))
        (3, None)
    """
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return (distribution.high - distribution.low) // distribution.step + 1
    if isinstance(distribution, FloatDistribution) and distribution.step is not None:
        return round(_distance(distribution.low, distribution.high, distribution.step)) + 1
    return None


def level(distribution: BaseDistribution, position: int) -> float:
    """Return the value at this position, counted from 0, of a gene that has :func:`levels`."""
    if isinstance(distribution, IntDistribution):
        return float(distribution.low + position * distribution.step)
    if isinstance(distribution, FloatDistribution) and distribution.step is not None:
        way = position * distribution.step
        if math.isinf(way):  # in halves it is not
            return min(2 * (distribution.low / 2 + position * (distribution.step / 2)), distribution.high)
        return min(distribution.low + way, distribution.high)
    return float(position)


def position(distribution: BaseDistribution, value: float) -> int:
    """Return the position of the level nearest to a value; the inverse of :func:`level`."""
    if isinstance(distribution, IntDistribution | FloatDistribution) and distribution.step is not None:
        return round(_distance(distribution.low, nearest(distribution, value), distribution.step))
    return round(value)


def is_ordered(distribution: BaseDistribution) -> bool:
    """Tell whether neighbouring values are alike: numbers, and categorical choices that are ascending numbers.

    Example:
        >>> is_ordered(CategoricalDistribution((1, 2, 4))), is_ordered(CategoricalDistribution(("a", "b")))
        (True, False)
    """
    if not isinstance(distribution, CategoricalDistribution):
        return True
    choices = distribution.choices
    for choice in choices:
        if isinstance(choice, bool) or not isinstance(choice, int | float):
            return False
        if isinstance(choice, float) and not math.isfinite(choice):  # which refuses integers above 1e308
            return False
    return all(a < b for a, b in pairwise(choices))  # type: ignore[operator]


def to_unit(distribution: BaseDistribution, value: float) -> float:
    """Map a value to [0, 1], on a logarithmic scale if the distribution has one; indices of choices evenly.

    Values outside of the distribution (its range may change during a study) are clipped.
    """
    low, high, log = _bounds(distribution)
    if high <= low:
        return 0.0
    if log:
        position = (math.log(max(value, low)) - math.log(low)) / (math.log(high) - math.log(low))
    else:
        scale = 1.0 if math.isfinite(high - low) else 0.5  # halves of the largest numbers have a difference
        position = (scale * value - scale * low) / (scale * high - scale * low)
    return min(max(position, 0.0), 1.0)


def to_units(distribution: BaseDistribution, values: np.ndarray) -> np.ndarray:
    """:func:`to_unit` of many values; NaN stays."""
    low, high, log = _bounds(distribution)
    if high <= low:
        return np.where(np.isnan(values), np.nan, 0.0)
    values = np.clip(values, low, high)
    if log:
        logarithms: np.ndarray = np.log(values)
        return (logarithms - math.log(low)) / (math.log(high) - math.log(low))
    scale = 1.0 if math.isfinite(high - low) else 0.5  # halves of the largest numbers have a difference
    return (scale * values - scale * low) / (scale * high - scale * low)


def from_unit(distribution: BaseDistribution, position: float) -> float:
    """Map [0, 1] back to a value; on a grid, every value owns an equally wide part (of the log scale, if there is one).

    Together with :func:`to_unit` it is the identity on values only for continuous genes.
    """
    position = min(max(position, 0.0), 1.0)
    if isinstance(distribution, CategoricalDistribution):
        choices = len(distribution.choices)
        return float(min(int(position * choices), choices - 1))
    count = levels(distribution)
    low, high, log = _bounds(distribution)
    if log:
        half = 0.5 if count is not None else 0.0
        start, stop = math.log(low - half), math.log(high + half)
        value = math.exp(start + position * (stop - start))
        return float(min(max(round(value) if count is not None else value, low), high))
    if count is None:
        span = high - low
        value = low + position * span if math.isfinite(span) else low * (1 - position) + high * position
        return float(min(max(value, low), high))
    return level(distribution, min(int(position * count), count - 1))


def nearest(distribution: BaseDistribution, value: float) -> float:
    """Return the value of the distribution that lies nearest."""
    low, high, _ = _bounds(distribution)
    value = min(max(value, low), high)
    if isinstance(distribution, IntDistribution | FloatDistribution) and distribution.step is not None:
        return level(distribution, round(_distance(low, value, distribution.step)))
    return float(round(value)) if isinstance(distribution, CategoricalDistribution) else value


def draw(distribution: BaseDistribution, rng: np.random.Generator) -> float:
    """Draw a value uniformly (on the log scale, if there is one)."""
    return from_unit(distribution, rng.random())


def external(distribution: BaseDistribution, value: float) -> object:
    """Return the value as the objective sees it: a plain int, float or choice."""
    return distribution.to_external_repr(value)


def _distance(low: float, value: float, unit: float) -> float:
    """Return how many units lie between two numbers, whose difference may be too large for a float."""
    difference = value - low
    return difference / unit if math.isfinite(difference) else value / unit - low / unit


def _bounds(distribution: BaseDistribution) -> tuple[float, float, bool]:
    if isinstance(distribution, CategoricalDistribution):
        return 0.0, float(len(distribution.choices) - 1), False
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return float(distribution.low), float(distribution.high), distribution.log
