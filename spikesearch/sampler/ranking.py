"""Non-domination ranks that grow with a study, and crowding distance.

Ranks are those of non-dominated sorting (Deb et al., 2002): 0 for points that nothing dominates, 1 for points that only
points of rank 0 dominate, and so on. A point that arrives moves only the points that it dominates, level by level (Li
et al., 2014), so that a trial costs a few vector operations instead of a new sort, and the order of arrival does not
matter.
"""

from __future__ import annotations

import numpy as np

from spikesearch.fitness import pareto_front


def dominates(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Tell whether points dominate others: nowhere larger, somewhere smaller; all axes but the last broadcast.

    Example:
        >>> dominates(np.array([1.0, 2.0]), np.array([[1.0, 2.0], [1.0, 3.0]])).tolist()
        [False, True]
    """
    answers: np.ndarray = np.all(first <= second, axis=-1) & np.any(first < second, axis=-1)
    return answers


class Ranks:
    """Ranks of a growing set of points, all coordinates minimised.

    Only the best levels are kept exact: those that hold at least ``keep`` points. Anything worse has the rank
    ``Ranks.worst`` until it is needed again.

    Args:
        keep: How many of the best points need an exact rank.
    """

    worst = np.iinfo(np.int64).max

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._depth: int = self.worst  # ranks below this are exact
        self._exact_limit = 16 * keep  # forget levels when this many points are exact
        self._losses = np.empty((0, 1))
        self._ranks = np.empty(0, dtype=np.int64)
        self._count = 0
        self._exact = np.empty(0, dtype=np.int64)  # places of the points whose rank is exact

    def __len__(self) -> int:
        return self._count

    @property
    def losses(self) -> np.ndarray:
        """The points in order of arrival; shape ``[n, objectives]``."""
        return self._losses[: self._count]

    @property
    def ranks(self) -> np.ndarray:
        """Their ranks, exact for at least the ``keep`` best; shape ``[n]``."""
        return self._ranks[: self._count]

    def add(self, point: np.ndarray) -> None:
        """Add a point of finite coordinates.

        Args:
            point: Shape ``[objectives]``.
        """
        if self._count == len(self._ranks):
            self._grow(len(point))
        # A point that is dominated by one of no exact rank is dominated by one of each exact rank too, so that the
        # exact ones tell all: the cost of a point does not grow with the study.
        above = self._ranks[self._exact[dominates(self._losses[self._exact], point)]]
        rank = int(above.max()) + 1 if len(above) else 0
        exact = rank < self._depth
        self._losses[self._count] = point
        self._ranks[self._count] = rank if exact else self.worst
        self._count += 1
        if exact:
            self._exact = np.append(self._exact, self._count - 1)
            self._sink(self._exact[-1:], rank)
        if len(self._exact) < min(self._keep, self._count):
            self._rebuild()
        elif len(self._exact) > self._exact_limit:
            self._forget()

    def _sink(self, moved: np.ndarray, rank: int) -> None:
        """Move what the points ``moved``, new on level ``rank``, dominate there one level down, and so on."""
        losses, ranks = self._losses, self._ranks
        while moved.size and rank < self._depth:
            level = self._exact[ranks[self._exact] == rank]
            fallen = level[dominates(losses[moved][:, None], losses[level][None]).any(axis=0)]
            rank += 1
            ranks[fallen] = rank if rank < self._depth else self.worst
            moved = fallen
        if rank >= self._depth:
            self._exact = self._exact[ranks[self._exact] < self._depth]

    def _forget(self) -> None:
        """Keep exact only the best levels that together hold eight times the wanted number of points."""
        ranks = self._ranks
        sizes = np.cumsum(np.bincount(ranks[self._exact]))
        self._depth = int(np.searchsorted(sizes, 8 * self._keep)) + 1
        lost = self._exact[ranks[self._exact] >= self._depth]
        ranks[lost] = self.worst
        self._exact = self._exact[ranks[self._exact] < self._depth]
        self._exact_limit = 2 * max(len(self._exact), 8 * self._keep)

    def _rebuild(self) -> None:
        """Sort anew, down to the level at which eight times the wanted number of points is exact."""
        losses, ranks = self.losses, self.ranks
        ranks[:] = self.worst
        remaining = np.arange(self._count)
        rank = 0
        while remaining.size and self._count - remaining.size < 8 * self._keep:
            front = pareto_front(losses[remaining])
            ranks[remaining[front]] = rank
            remaining = remaining[~front]
            rank += 1
        self._depth = rank if remaining.size else self.worst
        self._exact = np.flatnonzero(ranks != self.worst)

    def _grow(self, objectives: int) -> None:
        capacity = max(64, 2 * len(self._ranks))
        losses = np.empty((capacity, objectives))
        ranks = np.empty(capacity, dtype=np.int64)
        if self._count:
            losses[: self._count] = self.losses
            ranks[: self._count] = self.ranks
        self._losses, self._ranks = losses, ranks


def crowding_distance(losses: np.ndarray) -> np.ndarray:
    """Return the crowding distance of every point of one front (Deb et al., 2002); larger is lonelier.

    Args:
        losses: Shape ``[n, objectives]``.

    Returns:
        Shape ``[n]``; infinite for the extremes of any objective. An objective that is constant adds nothing.

    Example:
        >>> crowding_distance(np.array([[0.0, 2.0], [1.0, 1.0], [2.0, 0.0]])).tolist()
        [inf, 2.0, inf]
    """
    distance = np.zeros(len(losses))
    for column in losses.T:
        order = np.argsort(column, kind="stable")
        span = column[order[-1]] - column[order[0]] if len(order) else 0.0
        if span <= 0:
            continue
        distance[order[[0, -1]]] = np.inf
        distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return distance
