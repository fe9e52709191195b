"""Selection: who of everything finished so far survives as a parent, and who wins a tournament.

There are no generations. Parents are chosen anew for every proposal from all finished trials, in whatever order they
arrived: feasible trials by non-domination rank, then infeasible ones by how far they are from feasible.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from optuna.study import StudyDirection

from spikesearch.fitness import f_aeb
from spikesearch.sampler.errors import SamplerError
from spikesearch.sampler.ranking import Ranks, crowding_distance

if TYPE_CHECKING:
    from spikesearch.sampler.archive import Population


class Selection(ABC):
    """Chooses the parents of the next trial; subclasses say what decides between trials of one front."""

    def __call__(self, feasible: Population, infeasible: Population, size: int) -> tuple[Population, Population]:
        """Return the survivors, feasible and infeasible, best rank first.

        Args:
            feasible: All feasible trials of the study.
            infeasible: All infeasible trials of the study; they survive only where feasible ones are too few.
            size: How many survive at most.

        Returns:
            Two populations whose sizes add up to ``size``, or to the number of trials if there are fewer.
        """
        ranked = np.flatnonzero(feasible.ranks != Ranks.worst)
        # By rank, then by number: the order of arrival must not matter.
        ranked = ranked[np.lexsort((feasible.numbers[ranked], feasible.ranks[ranked]))]
        if len(ranked) > size:
            last = feasible.ranks[ranked[size - 1]]
            better = ranked[feasible.ranks[ranked] < last]
            front = ranked[feasible.ranks[ranked] == last]
            chosen = self.truncate(feasible.take(front), size - len(better))
            ranked = np.concatenate([better, front[np.sort(chosen)]])
        missing = size - len(ranked)
        nearest = np.lexsort((infeasible.numbers, infeasible.violations))[:missing]
        return feasible.take(ranked), infeasible.take(nearest)

    def tournament(self, feasible: Population, infeasible: Population, rng: np.random.Generator) -> dict[str, float]:
        """Return the genome of the better of two survivors drawn at random.

        A feasible trial beats an infeasible one; of two infeasible ones the nearer to feasible wins; of two feasible
        ones the better rank, and between equal ranks :meth:`prefer` decides.

        Args:
            feasible: Feasible survivors.
            infeasible: Infeasible survivors.
            rng: The only source of randomness.
        """
        count = len(feasible)
        first, second = (int(rng.integers(count + len(infeasible))) for _ in range(2))
        if first >= count or second >= count:
            better = min(first, second)  # feasible before infeasible, and those sorted by violation
            return feasible.genomes[better] if better < count else infeasible.genomes[better - count]
        if feasible.ranks[first] != feasible.ranks[second]:
            return feasible.genomes[first if feasible.ranks[first] < feasible.ranks[second] else second]
        return feasible.genomes[self.prefer(feasible, first, second, rng)]

    @abstractmethod
    def truncate(self, front: Population, count: int) -> np.ndarray:
        """Return the indices of ``count`` trials of a front; deterministic.

        Args:
            front: Trials of equal rank, sorted by number.
            count: How many fit, from 1 to ``len(front)``.
        """

    @abstractmethod
    def prefer(self, population: Population, first: int, second: int, rng: np.random.Generator) -> int:
        """Return the index of the winner of a tournament between two feasible trials of equal rank."""


class CrowdingSelection(Selection):
    """NSGA-II's choice within a front: the lonelier trial, by crowding distance (Deb et al., 2002)."""

    def truncate(self, front: Population, count: int) -> np.ndarray:
        return np.argsort(-crowding_distance(front.losses), kind="stable")[:count]

    def prefer(self, population: Population, first: int, second: int, rng: np.random.Generator) -> int:
        level = np.flatnonzero(population.ranks == population.ranks[first])
        distance = dict(zip(level.tolist(), crowding_distance(population.losses[level]).tolist(), strict=True))
        return first if distance[first] >= distance[second] else second


class FAEBSelection(Selection):
    """The choice within a front by F_AEB, for studies that maximise accuracy and minimise energy, in either order.

    One weight of the energy would gather all parents in one place of the front. So several are used: when a front must
    be truncated, every ``beta`` in turn takes the best trial that is still there, and a tournament draws its ``beta``.
    Where F_AEB has no meaning (other directions, an energy that is not above 0, a negative accuracy) crowding decides.

    Args:
        betas: Weights of the energy, each above 0. The extremes of a front are the best of a very small and of a very
            large weight.

    Raises:
        SamplerError: If there is no ``beta`` or one is not above 0.
    """

    def __init__(self, betas: Sequence[float] = tuple(np.geomspace(0.001, 10.0, 21).tolist())) -> None:
        values = np.asarray(betas, dtype=float)
        if values.ndim != 1 or not len(values) or not (np.isfinite(values) & (values > 0)).all():
            raise SamplerError(f"`betas` must be numbers above 0, at least one, but got {betas!r}.")
        self.betas = tuple(values.tolist())
        self._crowding = CrowdingSelection()

    def truncate(self, front: Population, count: int) -> np.ndarray:
        fitness = self._fitness(front, self.betas)
        if fitness is None:
            return self._crowding.truncate(front, count)
        # Both ends of the spread come first, so that a front cut to two keeps its most accurate and its cheapest trial.
        turns = _from_both_ends(len(self.betas))
        chosen: list[int] = []
        while len(chosen) < count:
            for turn in turns[: count - len(chosen)]:
                best = int(np.argmax(fitness[turn]))
                chosen.append(best)
                fitness[:, best] = -np.inf
        return np.array(chosen)

    def prefer(self, population: Population, first: int, second: int, rng: np.random.Generator) -> int:
        beta = self.betas[int(rng.integers(len(self.betas)))]
        fitness = [_log_fitness(population, index, beta) for index in (first, second)]
        if fitness[0] is None or fitness[1] is None:
            return self._crowding.prefer(population, first, second, rng)
        return first if fitness[0] >= fitness[1] else second

    @staticmethod
    def _fitness(population: Population, betas: Sequence[float]) -> np.ndarray | None:
        """F_AEB per beta and trial; None where it is not defined."""
        maximised = _maximised(population.directions)
        if maximised is None:
            return None
        accuracy, energy = -population.losses[:, maximised], population.losses[:, 1 - maximised]
        if (accuracy < 0).any() or (energy <= 0).any():
            return None
        # The reference energy is a common factor and decides nothing.
        return np.stack([f_aeb(accuracy, energy, 1.0, beta) for beta in betas])


def _log_fitness(population: Population, index: int, beta: float) -> float | None:
    """Logarithm of one trial's F_AEB, None where it is not defined; a tournament is too short for arrays."""
    maximised = _maximised(population.directions)
    if maximised is None:
        return None
    losses = population.losses[index].tolist()
    accuracy, energy = -losses[maximised], losses[1 - maximised]
    if accuracy < 0 or energy <= 0:
        return None
    return (math.log(accuracy) if accuracy > 0 else -math.inf) - beta * math.log(energy)


@lru_cache(maxsize=64)
def _maximised(directions: tuple[StudyDirection, ...]) -> int | None:
    """Return which of two objectives is maximised, None unless the other one is minimised."""
    both = sorted(directions) == [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE]
    return directions.index(StudyDirection.MAXIMIZE) if both else None


def _from_both_ends(count: int) -> list[int]:
    """Return 0, count - 1, 1, count - 2, ..."""
    return [i // 2 if i % 2 == 0 else count - 1 - i // 2 for i in range(count)]
