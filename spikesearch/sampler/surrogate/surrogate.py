"""Surrogate assistance: predict many children, propose the most promising one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr
from threadpoolctl import ThreadpoolController

from spikesearch.fitness import pareto_front
from spikesearch.sampler.domain import Domain, Genome
from spikesearch.sampler.errors import SamplerError
from spikesearch.sampler.surrogate.acquisition import expected_hypervolume_improvement, expected_improvement
from spikesearch.sampler.surrogate.forecast import LARGEST, Forecaster, winsorised

if TYPE_CHECKING:
    from spikesearch.sampler.archive import Population


@dataclass(frozen=True)
class Situation:
    """What a surrogate may base its choice on.

    Attributes:
        domain: The genes.
        feasible: All feasible trials.
        infeasible: All infeasible ones.
        pending: Genomes of running and waiting trials.
        make: Makes a child of the best trials.
        usable: Tells whether a genome is unseen and satisfies the known constraints.
        known: For the objective of each index, what computes its loss exactly.
        number: Number of the trial that is proposed for.
    """

    domain: Domain
    feasible: Population
    infeasible: Population
    pending: Sequence[Genome]
    make: Callable[[], Genome]
    usable: Callable[[Genome], bool]
    known: Mapping[int, Callable[[Genome], float]]
    number: int


class Surrogate(ABC):
    """Chooses among children by prediction."""

    @abstractmethod
    def __call__(self, situation: Situation, rng: np.random.Generator) -> Genome | None:
        """Return the genome to propose, or None to leave the choice to evolution alone.

        Args:
            situation: The study, and means to make children.
            rng: The only source of randomness.
        """


class GaussianProcessSurrogate(Surrogate):
    """Proposes what promises the largest expected hypervolume improvement under Gaussian processes.

    Every objective, and how far a trial is from breaking a measured constraint, has a model of its own; what is known
    is computed. Candidates are children of the best trials and random genomes, then neighbours of the best candidates.
    One objective uses expected improvement; three or more use it on a random scalarisation per proposal (Knowles,
    2006). Running trials count as if they had finished as predicted, so that parallel workers spread out.

    All costs are bounded by counts, never by a clock, so that a resumed study proposes the same: the rows of a model,
    the candidates, and how often a proposal is assisted at all. Kernels are chosen anew when the number of rows has
    grown by a fifth.

    Args:
        min_rows: From how many finished trials on it assists, at least 2.
        max_rows: How many rows a model has at most: half the best, half the latest trials.
        children: How many children compete, and a quarter as many random genomes.
        neighbours: How many neighbours of the best candidates compete, per round of two.
        exploration: Share of proposals that are left to evolution alone.
        every: With n finished trials, one in ``ceil(n / every)`` proposals is assisted, so that the cost of a long
            study grows slowly; evolution makes the others.

    Raises:
        SamplerError: If a number is out of range.
    """

    def __init__(
        self,
        *,
        min_rows: int = 10,
        max_rows: int = 200,
        children: int = 64,
        neighbours: int = 64,
        exploration: float = 0.05,
        every: int = 200,
    ) -> None:
        for name, value, least in (
            ("min_rows", min_rows, 2),
            ("max_rows", max_rows, 2),
            ("children", children, 1),
            ("neighbours", neighbours, 0),
            ("every", every, 1),
        ):
            if value < least:
                raise SamplerError(f"`{name}` must be at least {least}, but got {value!r}.")
        if not 0 <= exploration <= 1:
            raise SamplerError(f"`exploration` must be from 0 to 1, but got {exploration!r}.")
        self.min_rows = min_rows
        self.max_rows = max_rows
        self.children = children
        self.neighbours = neighbours
        self.exploration = exploration
        self.every = every
        self._forecaster = Forecaster(min_rows, max_rows)

    def __call__(self, situation: Situation, rng: np.random.Generator) -> Genome | None:
        count = len(situation.feasible) + len(situation.infeasible)
        if count < self.min_rows or situation.number % -(-count // self.every) or rng.random() < self.exploration:
            return None
        candidates = self._candidates(situation, rng)
        if not candidates:
            return None
        # The matrices are small: threads cost more than they bring, and their number would change the last digits.
        with _blas().limit(limits=1, user_api="blas"):
            return self._best(situation, candidates, rng)

    def _best(self, situation: Situation, candidates: list[Genome], rng: np.random.Generator) -> Genome:
        score = self._scorer(situation, rng)
        scores = score(candidates)
        for _ in range(2 if self.neighbours else 0):
            fresh = self._neighbours(situation, candidates, scores, rng)
            if not fresh:
                break
            candidates += fresh
            scores = np.concatenate([scores, score(fresh)])
        return candidates[int(np.argmax(scores))]

    # --- candidates ---------------------------------------------------------------------------------------------------

    def _candidates(self, situation: Situation, rng: np.random.Generator) -> list[Genome]:
        candidates: dict[tuple[float, ...], Genome] = {}
        for i in range(self.children + self.children // 4):
            genome = situation.make() if i < self.children else situation.domain.sample(rng)
            candidates.setdefault(tuple(genome.values()), genome)
        return [genome for genome in candidates.values() if situation.usable(genome)]

    def _neighbours(
        self, situation: Situation, candidates: list[Genome], scores: np.ndarray, rng: np.random.Generator
    ) -> list[Genome]:
        """Return unseen neighbours of the three best candidates; continuous genes are moved by mutation elsewhere."""
        known = {tuple(genome.values()) for genome in candidates}
        neighbours: dict[tuple[float, ...], Genome] = {}
        for i in np.argsort(-scores, kind="stable")[:3]:
            for genome in situation.domain.neighbours(candidates[i], rng):
                key = tuple(genome.values())
                if key not in known:
                    neighbours.setdefault(key, genome)
        fresh = list(neighbours.values())
        if len(fresh) > self.neighbours:
            fresh = [fresh[i] for i in np.sort(rng.choice(len(fresh), self.neighbours, replace=False))]
        return [genome for genome in fresh if situation.usable(genome)]

    # --- scores -------------------------------------------------------------------------------------------------------

    def _scorer(self, situation: Situation, rng: np.random.Generator) -> Callable[[Sequence[Genome]], np.ndarray]:
        """Return the function that scores candidates; larger is better."""
        predict = self._forecaster(situation.domain, situation.feasible, situation.infeasible, situation.known)
        losses = situation.feasible.losses
        targets = losses
        if len(losses) and situation.pending:
            targets = np.concatenate([losses, predict(situation.pending).mean])
        improvement = _improvement(losses, targets, rng) if len(losses) else None

        def score(genomes: Sequence[Genome]) -> np.ndarray:
            mean, std, margin = predict(genomes)
            if improvement is None:
                assert margin is not None
                return -margin[0]  # first of all, become feasible
            value = improvement(mean, std)
            if margin is not None:
                value = value * ndtr(-margin[0] / np.maximum(margin[1], 1e-12))
            return np.where(np.isnan(value), -np.inf, value)  # argmax would prefer what is not a number

        return score


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def _improvement(
    losses: np.ndarray, targets: np.ndarray, rng: np.random.Generator
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the acquisition function of predicted means and standard deviations.

    Args:
        losses: Losses of the feasible trials.
        targets: The same and the predicted ones of pending trials: what is to be improved upon.
        rng: Draws the scalarisation.
    """
    objectives = losses.shape[1]
    if objectives == 1:
        return lambda mean, std: expected_improvement(mean[:, 0], std[:, 0], targets.min())
    losses, targets = np.clip(losses, -LARGEST, LARGEST), np.clip(targets, -LARGEST, LARGEST)
    front = losses[pareto_front(losses)]
    ideal = front.min(axis=0)
    # Beyond everything seen (outliers apart): both ends of the front stay worth extending.
    worst = np.array([winsorised(column).max() for column in losses.T])
    span = np.where(worst > ideal, worst - ideal, 1.0)
    if objectives == 2:
        targets = targets[pareto_front(targets)]
        reference = worst + 0.1 * span
        return lambda mean, std: expected_hypervolume_improvement(mean, std, targets, reference)
    weights = rng.dirichlet(np.ones(objectives))
    noise = rng.normal(size=(32, 1, objectives))

    def scalar(points: np.ndarray) -> np.ndarray:
        scaled = weights * (points - ideal) / span
        values: np.ndarray = scaled.max(axis=-1) + 0.05 * scaled.sum(axis=-1)
        return values

    best = scalar(targets).min()
    return lambda mean, std: np.maximum(best - scalar(mean + noise * std), 0.0).mean(axis=0)
