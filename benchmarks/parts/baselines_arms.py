"""The ways to choose architectures that baselines.py compares: every one scores subnets of the same supernet."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from spikesearch.config import StudyConfig
from spikesearch.fitness import pareto_front
from spikesearch.io import atomic_write_json
from spikesearch.scoring import Score, Scorer
from spikesearch.space import Architecture, BlockSpec, SearchSpace, StemSpec
from spikesearch.study.results import TrialResult, choose, trials_hypervolume

_RANDOM, _UNIFORM = 5, 6  # streams of random numbers
_WRITE_EVERY = 50  # scores


@dataclass(frozen=True)
class Arm:
    """What one way to choose has found on the search split.

    Args:
        name: Of the way.
        config: The study file, which says how the recommended one is chosen.
        trials: Scored architectures, the reference among them.
        reference: The largest one.
    """

    name: str
    config: StudyConfig
    trials: Sequence[TrialResult]
    reference: TrialResult

    @property
    def hypervolume(self) -> float:
        return trials_hypervolume(self.trials, self.reference)

    @property
    def recommended(self) -> TrialResult:
        """By the study's rule; the reference if nothing else is accurate enough."""
        return choose(self.config, self.trials, self.reference) or self.reference

    def within(self, share: float) -> TrialResult | None:
        """Return the most accurate trial that needs at most this share of the reference's energy."""
        limit = share * self.reference.energy_uJ
        allowed = [trial for trial in self.trials if trial.feasible and trial.energy_uJ <= limit]
        return max(allowed, key=lambda trial: (trial.accuracy, -trial.energy_uJ), default=None)

    @property
    def front(self) -> list[tuple[float, float]]:
        """Energy over the reference's, and accuracy, of the feasible trials that no other one dominates."""
        points = [(t.energy_uJ / self.reference.energy_uJ, t.accuracy) for t in self.trials if t.feasible]
        best = pareto_front(np.array([(energy, -accuracy) for energy, accuracy in points]).reshape(-1, 2))
        return sorted({point for point, keep in zip(points, best, strict=True) if keep})


class InheritedScores:
    """Scores architectures with inherited weights, each once; they are kept in a file.

    Args:
        scorer: Scores them on the search split.
        constraints: Of the study file.
        path: Of the file; need not exist.
    """

    def __init__(self, scorer: Scorer, constraints: dict[str, float], path: Path) -> None:
        self.scorer = scorer
        self.constraints = constraints
        self.path = path
        self._known: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}

    def trials(self, archs: Sequence[Architecture]) -> list[TrialResult]:
        """Return one trial per architecture; scored in the given order, which decides how much can be reused."""
        unknown = [arch for arch in archs if arch.key not in self._known]
        for count, arch in enumerate(unknown, start=1):
            self._known[arch.key] = self.scorer.score(arch).to_dict()
            if count % _WRITE_EVERY == 0 or count == len(unknown):
                atomic_write_json(self.path, self._known)
        return [self._trial(number, arch) for number, arch in enumerate(archs)]

    def _trial(self, number: int, arch: Architecture) -> TrialResult:
        score = Score(**self._known[arch.key])
        feasible = not score.dead and all(getattr(score, key) <= bound for key, bound in self.constraints.items())
        return TrialResult(number, arch, score.accuracy, score.energy_uJ, None, feasible)


def search_arms(
    config: StudyConfig, esnn: Sequence[TrialResult], scores: InheritedScores, *, grid_limit: int
) -> list[Arm]:
    """Return the study's own search, and others with as many trials; every one knows the reference.

    Args:
        config: The study file of one seed.
        esnn: The trials of the study.
        scores: Scores the architectures of the others.
        grid_limit: Uniform architectures are all scored, too, if there are at most this many.
    """
    space, count = config.space.search_space(), len(esnn)
    grid = list(uniform_grid(space))
    chosen = {"random": random_architectures(space, config.seed, count)}
    if len(grid) <= grid_limit:
        scores.trials(grid)  # in an order in which neighbours share their first stages
    chosen["uniform"] = some_of(grid, space.largest, config.seed, count)
    if len(grid) <= grid_limit:
        chosen["uniform, all"] = grid
    found = {"ESNN": esnn, **{name: scores.trials(archs) for name, archs in chosen.items()}}
    return [
        Arm(name, config, trials, next(trial for trial in trials if trial.architecture == space.largest))
        for name, trials in found.items()
    ]


def uniform_grid(space: SearchSpace) -> Iterator[Architecture]:
    """Yield every architecture whose blocks are equal and whose stem has their threshold and time constant."""
    outer = product(space.embed_dims, space.time_steps, space.v_thresholds, space.taus)
    for width, steps, threshold, tau in outer:
        for heads, ratio, depth in product(space.num_heads, space.mlp_ratios, space.depths):
            block = BlockSpec(heads, ratio, threshold, tau)
            yield Architecture(width, steps, StemSpec(threshold, tau), (block,) * depth)


def is_uniform(arch: Architecture) -> bool:
    """Tell whether an architecture is in the grid."""
    first = arch.blocks[0]
    stem_fits = (arch.stem.v_threshold, arch.stem.tau) == (first.v_threshold, first.tau)
    return stem_fits and all(block == first for block in arch.blocks)


def random_architectures(space: SearchSpace, seed: int, count: int) -> list[Architecture]:
    """Return different architectures, the largest first, the others drawn gene by gene."""
    rng = np.random.default_rng([_RANDOM, seed])
    drawn = {space.largest: None}
    while len(drawn) < min(count, space.size):
        drawn[space.sample(rng)] = None
    return list(drawn)


def some_of(grid: Sequence[Architecture], largest: Architecture, seed: int, count: int) -> list[Architecture]:
    """Return different architectures of the grid, the largest first, the others drawn with equal chances."""
    others = [arch for arch in grid if arch != largest]
    order = np.random.default_rng([_UNIFORM, seed]).permutation(len(others))
    return [largest, *(others[i] for i in order[: count - 1])]
