"""Domains that several tests of the sampler use."""

from __future__ import annotations

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from spikesearch.sampler.domain import DistributionDomain, Genome

MIXED = DistributionDomain(
    {
        "c": CategoricalDistribution(("a", "b", "c")),
        "f": FloatDistribution(0.0, 1.0),
        "i": IntDistribution(0, 3),
        "l": IntDistribution(1, 1000, log=True),
    }
)
LETTERS = DistributionDomain({f"g{i}": CategoricalDistribution(("a", "b", "c", "d")) for i in range(5)})


def letters(n: int, seed: int) -> list[Genome]:
    rng = np.random.default_rng(seed)
    return [LETTERS.sample(rng) for _ in range(n)]


def additive(genomes: list[Genome]) -> np.ndarray:
    weights = np.random.default_rng(1).random((5, 4))
    return np.array([sum(weights[i, int(g[f"g{i}"])] for i in range(5)) for g in genomes])
