"""Forecasts: which trials the models of a study learn from, and what they predict for genomes that were not tried."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from spikesearch.fitness import pareto_front
from spikesearch.sampler.domain import Domain, Genome
from spikesearch.sampler.ranking import Ranks
from spikesearch.sampler.surrogate.features import ActivityModel, Encoder
from spikesearch.sampler.surrogate.gaussian_process import GaussianProcess, KernelChoice, Rows, choose_kernel

if TYPE_CHECKING:
    from spikesearch.sampler.archive import Population


LARGEST = 1e100  # larger losses count as this, so that squares and products stay finite


class Prediction(NamedTuple):
    """What is expected of some genomes.

    Attributes:
        mean: Losses; shape ``[genomes, objectives]``.
        std: Their standard deviations, 0 where a loss is known; same shape.
        margin: Mean and standard deviation of the largest constraint value, each of shape ``[genomes]``; None if no
            trial has broken a constraint.
    """

    mean: np.ndarray
    std: np.ndarray
    margin: tuple[np.ndarray, np.ndarray] | None


class Trials(NamedTuple):
    """Trials to learn from, by number: genomes, losses ``[trials, objectives]`` and margins ``[trials]``."""

    genomes: list[Genome]
    losses: np.ndarray
    margins: np.ndarray


class Forecaster:
    """Fits a model to every objective, and one to how far a trial is from breaking a measured constraint.

    Kernels are chosen on the first trials by number; how many are looked at grows by a fifth each time. So a choice is
    made anew only then, and is a function of the finished trials all the same.

    Args:
        min_rows: The first such count.
        max_rows: How many rows a model has at most: half the best, half the latest trials.
    """

    def __init__(self, min_rows: int, max_rows: int) -> None:
        self._min_rows = min_rows
        self._max_rows = max_rows
        self._choices: dict[bytes, KernelChoice] = {}  # a cache of a pure function

    def __call__(
        self,
        domain: Domain,
        feasible: Population,
        infeasible: Population,
        known: Mapping[int, Callable[[Genome], float]],
    ) -> Callable[[Sequence[Genome]], Prediction]:
        """Return what predicts.

        Args:
            domain: The genes.
            feasible: All feasible trials.
            infeasible: All infeasible ones.
            known: For the objective of each index, what computes its loss exactly.
        """
        count = len(feasible) + len(infeasible)
        trials = choose_trials(feasible, infeasible, count, self._max_rows)
        first = choose_trials(feasible, infeasible, scheduled(count, self._min_rows), self._max_rows)
        encode = _encoder(domain)
        rows, first_features = Rows(encode(trials.genomes)), encode(first.genomes)
        digest = hashlib.blake2b(first_features.tobytes(), digest_size=16)

        def fit(target: np.ndarray, first_target: np.ndarray) -> GaussianProcess:
            target, first_target = winsorised(target), winsorised(first_target)
            key = digest.copy()
            key.update(first_target.tobytes())
            choice = self._choice(key.digest(), first_features, first_target)
            if choice.logarithm and target.min() <= 0:
                choice = replace(choice, logarithm=False)
            return GaussianProcess(choice).fit(rows, target)

        objectives = trials.losses.shape[1]
        models = {i: fit(trials.losses[:, i], first.losses[:, i]) for i in range(objectives) if i not in known}
        margins = fit(trials.margins, first.margins) if len(infeasible) else None
        active = (lambda genomes: genomes) if domain.knows_activity else ActivityModel(trials.genomes)

        def predict(genomes: Sequence[Genome]) -> Prediction:
            likeness = rows.compare(encode(active(genomes)))
            mean, std = np.empty((2, len(genomes), objectives))
            for i in range(objectives):
                if i in models:
                    mean[:, i], std[:, i] = models[i].predict(likeness)
                else:
                    mean[:, i] = np.clip([known[i](genome) for genome in genomes], -LARGEST, LARGEST)
                    std[:, i] = 0.0
            return Prediction(mean, std, margins.predict(likeness) if margins is not None else None)

        return predict

    def _choice(self, key: bytes, features: np.ndarray, target: np.ndarray) -> KernelChoice:
        choice = self._choices.get(key)
        if choice is None:
            choice = choose_kernel(Rows(features), target)
            while len(self._choices) >= 16:
                del self._choices[next(iter(self._choices))]
            self._choices[key] = choice
        return choice


@lru_cache(maxsize=8)
def _encoder(domain: Domain) -> Encoder:
    return Encoder(domain)


def choose_trials(feasible: Population, infeasible: Population, count: int, max_rows: int) -> Trials:
    """Choose whom to learn from among the first trials: if they are too many, half the best and half the latest.

    Args:
        feasible: All feasible trials, in any order.
        infeasible: All infeasible ones.
        count: How many trials, by number, are looked at.
        max_rows: How many may be chosen.
    """
    numbers = np.concatenate([feasible.numbers, infeasible.numbers])
    chosen = np.argsort(numbers)[:count]
    if count > max_rows:
        able = chosen[chosen < len(feasible)]
        ranks = np.full(len(numbers), Ranks.worst)
        ranks[able] = _best_ranks(feasible.losses[able], max_rows // 2)
        by_worth = chosen[np.lexsort((-numbers[chosen], ranks[chosen]))]
        best, others = by_worth[: max_rows // 2], by_worth[max_rows // 2 :]
        latest = others[np.argsort(-numbers[others])][: max_rows - len(best)]
        chosen = np.concatenate([best, latest])
        chosen = chosen[np.argsort(numbers[chosen])]
    genomes = [feasible.genomes[i] if i < len(feasible) else infeasible.genomes[i - len(feasible)] for i in chosen]
    # An empty population does not know the number of objectives.
    losses = np.concatenate([population.losses for population in (feasible, infeasible) if len(population)])
    margins = np.concatenate([feasible.margins, infeasible.margins])
    return Trials(genomes, losses[chosen], margins[chosen])


def _best_ranks(losses: np.ndarray, count: int) -> np.ndarray:
    """Return ranks that are exact for at least the ``count`` best trials, and ``Ranks.worst`` for the others.

    Those of a population may be exact for fewer, and for how many depends on the order of arrival.
    """
    ranks = np.full(len(losses), Ranks.worst)
    rest = np.arange(len(losses))
    rank = 0
    while len(rest) and len(ranks) - len(rest) < count:
        front = pareto_front(losses[rest])
        ranks[rest[front]] = rank
        rest = rest[~front]
        rank += 1
    return ranks


def scheduled(count: int, first: int) -> int:
    """Return the largest of first, 1.2 * first, 1.44 * first, ... that is at most count."""
    rows = first
    while int(rows * 1.2) + 1 <= count:
        rows = int(rows * 1.2) + 1
    return rows


def winsorised(target: np.ndarray) -> np.ndarray:
    """Pull in losses far above the others: how bad the worst are must not shape the model of the best."""
    target = np.clip(target, -LARGEST, LARGEST)
    low, middle, high = np.quantile(target, [0.0, 0.5, 0.75])
    bounded: np.ndarray = np.minimum(target, high + 3 * max(high - low, high - middle))
    return bounded
