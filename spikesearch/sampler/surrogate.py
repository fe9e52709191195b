"""Surrogate assistance: predict many children, propose the most promising one."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr  # type: ignore[import-untyped]
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from spikesearch.fitness import pareto_front
from spikesearch.sampler.acquisition import expected_hypervolume_improvement, expected_improvement
from spikesearch.sampler.domain import ArchitectureDomain, Domain, Genome
from spikesearch.sampler.errors import SamplerError
from spikesearch.sampler.features import ActivityModel, Encoder
from spikesearch.sampler.model import GaussianProcess, KernelChoice, choose_kernel
from spikesearch.sampler.ranking import Ranks

if TYPE_CHECKING:
    from spikesearch.sampler.archive import Population


LARGEST = 1e100  # larger losses count as this, so that squares and products stay finite


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
        self._choices: dict[bytes, KernelChoice] = {}  # a cache of a pure function

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
        found: dict[tuple[float, ...], Genome] = {}
        for i in range(self.children + self.children // 4):
            genome = situation.make() if i < self.children else situation.domain.sample(rng)
            found.setdefault(tuple(genome.values()), genome)
        return [genome for genome in found.values() if situation.usable(genome)]

    def _neighbours(
        self, situation: Situation, candidates: list[Genome], scores: np.ndarray, rng: np.random.Generator
    ) -> list[Genome]:
        """Return unseen neighbours of the three best candidates; continuous genes are moved by mutation elsewhere."""
        known = {tuple(genome.values()) for genome in candidates}
        found: dict[tuple[float, ...], Genome] = {}
        for i in np.argsort(-scores, kind="stable")[:3]:
            for genome in situation.domain.neighbours(candidates[i], rng):
                key = tuple(genome.values())
                if key not in known:
                    found.setdefault(key, genome)
        fresh = list(found.values())
        if len(fresh) > self.neighbours:
            fresh = [fresh[i] for i in np.sort(rng.choice(len(fresh), self.neighbours, replace=False))]
        return [genome for genome in fresh if situation.usable(genome)]

    # --- scores -------------------------------------------------------------------------------------------------------

    def _scorer(self, situation: Situation, rng: np.random.Generator) -> Callable[[Sequence[Genome]], np.ndarray]:
        """Return the function that scores candidates; larger is better."""
        predict = self._predictor(situation)
        margins = self._margins(situation)
        losses = situation.feasible.losses
        if not len(losses):
            assert margins is not None
            return lambda genomes: -margins(genomes)[0]  # first of all, become feasible
        targets = losses
        if situation.pending:
            targets = np.concatenate([losses, predict(situation.pending)[0]])
        improvement = _improvement(losses, targets, rng)

        def score(genomes: Sequence[Genome]) -> np.ndarray:
            value = improvement(*predict(genomes))
            if margins is not None:
                mean, std = margins(genomes)
                value = value * ndtr(-mean / np.maximum(std, 1e-12))
            return np.where(np.isnan(value), -np.inf, value)  # argmax would prefer what is not a number

        return score

    def _predictor(self, situation: Situation) -> Callable[[Sequence[Genome]], tuple[np.ndarray, np.ndarray]]:
        """Return what predicts losses and their standard deviations; shapes ``[n, objectives]``."""
        genomes, losses, _ = self._rows(situation)
        encode, features = _encoder(situation.domain, genomes)
        models = {
            objective: self._fit(features, losses[:, objective])
            for objective in range(losses.shape[1])
            if objective not in situation.known
        }

        def predict(candidates: Sequence[Genome]) -> tuple[np.ndarray, np.ndarray]:
            mean = np.empty((len(candidates), losses.shape[1]))
            std = np.zeros_like(mean)
            encoded = encode(candidates) if models else np.empty(0)
            for objective in range(losses.shape[1]):
                if objective in models:
                    mean[:, objective], std[:, objective] = models[objective].predict(encoded)
                else:
                    exact = [situation.known[objective](genome) for genome in candidates]
                    mean[:, objective] = np.clip(exact, -LARGEST, LARGEST)
            return mean, std

        return predict

    def _margins(self, situation: Situation) -> Callable[[Sequence[Genome]], tuple[np.ndarray, np.ndarray]] | None:
        """Return what predicts the largest constraint value, or None if no trial has broken a constraint."""
        if not len(situation.infeasible):
            return None
        genomes, _, margins = self._rows(situation)
        encode, features = _encoder(situation.domain, genomes)
        model = self._fit(features, _winsorised(margins))
        return lambda candidates: model.predict(encode(candidates))

    def _rows(self, situation: Situation) -> tuple[list[Genome], np.ndarray, np.ndarray]:
        """Return genomes, losses and margins of the trials to learn from, sorted by number."""
        feasible, infeasible = situation.feasible, situation.infeasible
        numbers = np.concatenate([feasible.numbers, infeasible.numbers])
        if len(numbers) > self.max_rows:
            ranks = _exact_ranks(feasible, self.max_rows // 2)
            worth = np.concatenate([ranks, np.full(len(infeasible), Ranks.worst)])
            best = np.lexsort((-numbers, worth))[: self.max_rows // 2]
            latest = np.argsort(-np.where(np.isin(np.arange(len(numbers)), best), -1, numbers))
            chosen = np.concatenate([best, latest[: self.max_rows - len(best)]])
        else:
            chosen = np.arange(len(numbers))
        chosen = chosen[np.argsort(numbers[chosen])]
        count = len(feasible)
        genomes = [feasible.genomes[i] if i < count else infeasible.genomes[i - count] for i in chosen]
        losses = (
            np.concatenate([feasible.losses, infeasible.losses])[chosen] if len(infeasible) else feasible.losses[chosen]
        )
        margins = np.concatenate([feasible.margins, infeasible.margins])[chosen]
        return genomes, losses, margins

    def _fit(self, features: np.ndarray, target: np.ndarray) -> GaussianProcess:
        target = _winsorised(target)
        # Chosen on the first rows only, so that the choice is made anew only when they are a fifth more.
        count = len(target)
        first = features[: _scheduled(count, self.min_rows)]
        key = hashlib.blake2b(first.tobytes() + target[: len(first)].tobytes(), digest_size=16).digest()
        choice = self._choices.get(key)
        if choice is None:
            choice = choose_kernel(first, target[: len(first)])
            while len(self._choices) >= 16:
                del self._choices[next(iter(self._choices))]
            self._choices[key] = choice
        if choice.logarithm and target.min() <= 0:
            choice = KernelChoice(False, choice.linear, choice.length, choice.noise)
        return GaussianProcess(choice).fit(features, target)


def _exact_ranks(population: Population, count: int) -> np.ndarray:
    """Return ranks that are exact for at least the ``count`` best trials, and ``Ranks.worst`` for the others.

    Those of a population may be exact for fewer, and for how many depends on the order of arrival.
    """
    ranks = population.ranks.copy()
    rest = np.flatnonzero(ranks == Ranks.worst)
    rank = int(ranks[ranks != Ranks.worst].max(initial=-1))
    while len(rest) and len(ranks) - len(rest) < count:
        front = pareto_front(population.losses[rest])
        rank += 1
        ranks[rest[front]] = rank
        rest = rest[~front]
    return ranks


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def _scheduled(count: int, first: int) -> int:
    """Return the largest of first, 1.2 * first, 1.44 * first, ... that is at most count."""
    rows = first
    while int(rows * 1.2) + 1 <= count:
        rows = int(rows * 1.2) + 1
    return rows


def _encoder(domain: Domain, genomes: Sequence[Genome]) -> tuple[Callable[[Sequence[Genome]], np.ndarray], np.ndarray]:
    """Return a function that encodes candidates, and the encoded rows."""
    encoder = Encoder(domain)
    if isinstance(domain, ArchitectureDomain):
        return encoder, encoder(genomes)
    activity = ActivityModel(genomes)
    return (lambda candidates: encoder(activity(candidates))), encoder(genomes)


def _winsorised(target: np.ndarray) -> np.ndarray:
    """Pull in losses far above the others: how bad the worst are must not shape the model of the best."""
    target = np.clip(target, -LARGEST, LARGEST)
    low, middle, high = np.quantile(target, [0.0, 0.5, 0.75])
    return np.minimum(target, high + 3 * max(high - low, high - middle))


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
    worst = np.array([_winsorised(column).max() for column in losses.T])
    span = np.where(worst > ideal, worst - ideal, 1.0)
    if objectives == 2:
        reference = worst + 0.1 * span
        return lambda mean, std: expected_hypervolume_improvement(mean, std, targets, reference)
    weights = rng.dirichlet(np.ones(objectives))
    noise = rng.normal(size=(32, 1, objectives))

    def scalar(points: np.ndarray) -> np.ndarray:
        scaled = weights * (points - ideal) / span
        return scaled.max(axis=-1) + 0.05 * scaled.sum(axis=-1)

    best = scalar(targets).min()
    return lambda mean, std: np.maximum(best - scalar(mean + noise * std), 0.0).mean(axis=0)
