"""How well a ranking agrees with the truth: rank correlations with bootstrap intervals, as pure functions.

Every coefficient is that of its textbook (and of ``scipy.stats``), but for thousands of resamples at once and, where
bins are given, over pairs of one bin only. A resample is a row of counts: how often each item was drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spikesearch.streams import BOOTSTRAP

RESAMPLES = 2000
CONFIDENCE = 0.95
MIN_MEMBERS = 4  # with fewer there are so few different resamples that an interval says nothing


@dataclass(frozen=True)
class Estimate:
    """A figure and its bootstrap interval; all ``None`` where it is not defined.

    Args:
        value: Of the items themselves.
        low: Lower end of the 95 % percentile interval; ``None`` beside a value where it has none.
        high: Upper end, likewise.
    """

    value: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.value is None:
            return "-"
        low = "-inf" if self.low is None else f"{self.low:.3f}"
        high = "inf" if self.high is None else f"{self.high:.3f}"
        return f"{self.value:.3f} [{low} {high}]"


@dataclass(frozen=True)
class Agreement:
    """Two rank correlations, or two differences of them.

    Args:
        tau: Kendall's tau-b.
        spearman: Spearman's rho.
    """

    tau: Estimate
    spearman: Estimate


@dataclass(frozen=True)
class Comparison:
    """How well several rankings of the same items agree with the truth.

    Args:
        n: Number of items.
        rankings: Agreement of each ranking with the truth.
        lead: Agreement of the first ranking minus that of each of the others, on the same resamples.
    """

    n: int
    rankings: dict[str, Agreement]
    lead: dict[str, Agreement]


@dataclass(frozen=True)
class Retest:
    """How well a ranking agrees with two measurements of one truth, and they with each other; Kendall's tau-b.

    The ceiling is what one more measurement tells of the ranking. It is no bound: both measurements have noise, and a
    ranking without any agrees better with each of them. If truth and noise are normal, its correlation with a
    measurement is the square root of that of the two, so that a ceiling of 0.52 allows it a tau of 0.65.

    Args:
        tau: Of the ranking with the one and the other measurement, the mean.
        ceiling: Of one measurement with the other.
        share: ``tau`` over ``ceiling``; not defined where that is not above 0. The interval has no upper end where
            that is so in too many resamples.
    """

    tau: Estimate
    ceiling: Estimate
    share: Estimate


def compare(
    rankings: Mapping[str, np.ndarray], truth: np.ndarray, *, bins: np.ndarray | None = None, seed: int = 0
) -> Comparison:
    """Correlate rankings with the truth; intervals and differences come from the same resamples of the items.

    Args:
        rankings: Scores by name, each of shape ``[n]``; larger means better.
        truth: Shape ``[n]``; larger is better.
        bins: Bin of every item, shape ``[n]``: only pairs of one bin are compared. By default all are.
        seed: Of the resamples.
    """
    n = len(truth)
    counts = resample(n, seed=seed)
    both = {name: correlations(np.asarray(scores), truth, counts, bins=bins) for name, scores in rankings.items()}
    first = next(iter(both))
    return Comparison(
        n=n,
        rankings={name: _agreement(n, *values) for name, values in both.items()},
        lead={
            name: _agreement(n, *(ours - theirs for ours, theirs in zip(both[first], values, strict=True)))
            for name, values in both.items()
            if name != first
        },
    )


def retest(scores: np.ndarray, first: np.ndarray, second: np.ndarray, *, seed: int = 0) -> Retest:
    """Compare a ranking with two measurements of the truth; everything is taken on the same resamples of the items.

    Args:
        scores: The ranking, shape ``[n]``; larger means better.
        first: One measurement, shape ``[n]``; larger is better.
        second: The other.
        seed: Of the resamples.
    """
    n = len(scores)
    counts = resample(n, seed=seed)
    tau = (correlations(scores, first, counts)[0] + correlations(scores, second, counts)[0]) / 2
    ceiling = correlations(second, first, counts)[0]
    return Retest(_estimate(n, tau), _estimate(n, ceiling), _quotient(n, tau, ceiling))


def correlations(
    x: np.ndarray, y: np.ndarray, counts: np.ndarray, *, bins: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    r"""Return Kendall's tau-b and Spearman's rho of every resample.

    Both are Daniels' general coefficient (Biometrika 33, 1944),
    :math:`\sum a_{ij} b_{ij} / \sqrt{\sum a_{ij}^2 \sum b_{ij}^2}` over the pairs of one bin, where :math:`a_{ij}` is
    the sign of :math:`x_i - x_j` for tau-b and the difference of the mid-ranks within the bin for rho.

    Args:
        x: Shape ``[n]``.
        y: Shape ``[n]``.
        counts: How often each item occurs in each resample, shape ``[resamples, n]``.
        bins: Bin of every item, shape ``[n]``; all in one by default.

    Returns:
        Two arrays of shape ``[resamples]``; NaN where ``x`` or ``y`` is constant in every bin.
    """
    labels = np.zeros(len(x)) if bins is None else np.asarray(bins)
    same = labels[:, None] == labels[None, :]
    a = np.sign(x[:, None] - x[None, :]) * same
    b = np.sign(y[:, None] - y[None, :]) * same

    def items(values: np.ndarray) -> np.ndarray:
        total: np.ndarray = (values * counts).sum(-1)
        return total

    def pairs(values: np.ndarray) -> np.ndarray:
        return items(counts @ values)

    # twice the mid-rank within the bin, less its mean, with the sign turned
    rank_x, rank_y = counts @ a, counts @ b

    with np.errstate(invalid="ignore"):
        tau = pairs(a * b) / np.sqrt(pairs(a * a) * pairs(b * b))
        rho = items(rank_x * rank_y) / np.sqrt(items(rank_x**2) * items(rank_y**2))
    return tau, rho


def resample(n: int, *, seed: int) -> np.ndarray:
    """Return counts of shape ``[1 + RESAMPLES, n]``: the items themselves, then resamples with replacement."""
    shares = np.full(n, 1 / max(n, 1))
    drawn = BOOTSTRAP.generator(n, seed).multinomial(n, shares, size=RESAMPLES) if n else np.empty((0, 0))
    return np.concatenate([np.ones((1, n)), drawn])


def quantile_bins(values: np.ndarray, count: int) -> np.ndarray:
    """Return the bin, from 0, of every value; bins are as equal in size as possible, smallest values first.

    Args:
        values: Shape ``[n]``.
        count: Number of bins.

    Example:
        >>> quantile_bins(np.array([0.3, 9.0, 0.1, 4.0]), 2).tolist()
        [0, 1, 0, 1]
    """
    bins = np.empty(len(values), dtype=int)
    bins[np.argsort(values, kind="stable")] = np.arange(len(values)) * count // max(1, len(values))
    return bins


def _agreement(n: int, tau: np.ndarray, rho: np.ndarray) -> Agreement:
    return Agreement(_estimate(n, tau), _estimate(n, rho))


def _estimate(n: int, values: np.ndarray) -> Estimate:
    resampled = values[1:][np.isfinite(values[1:])]
    if n < MIN_MEMBERS or not np.isfinite(values[0]) or not len(resampled):
        return Estimate(None, None, None)
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(float(values[0]), float(low), float(high))


def _quotient(n: int, over: np.ndarray, under: np.ndarray) -> Estimate:
    # The interval is that of the angle: in its order, resamples with ``under`` at or below 0 lie beyond every quotient,
    # while the quotient itself would come back from the other side.
    if not under[0] > 0:
        return Estimate(None, None, None)
    angle = _estimate(n, np.arctan2(over, under))
    return Estimate(_tangent(angle.value), _tangent(angle.low), _tangent(angle.high))


def _tangent(angle: float | None) -> float | None:
    return None if angle is None or abs(angle) >= np.pi / 2 else float(np.tan(angle))
