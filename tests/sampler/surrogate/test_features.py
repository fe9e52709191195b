"""Features: what a model sees of a genome, and which genes are active."""

from __future__ import annotations

import math

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from spikesearch.sampler.domain import ArchitectureDomain, DistributionDomain, Genome
from spikesearch.sampler.surrogate.features import ActivityModel, Encoder
from spikesearch.space import SearchSpace


def test_choices_have_equal_distances_and_ascending_ones_an_order() -> None:
    domain = DistributionDomain(
        {
            "c": CategoricalDistribution(("a", "b", "c")),
            "n": CategoricalDistribution((1, 2, 8)),
            "f": FloatDistribution(0, 2),
        }
    )
    rows = Encoder(domain)([{"c": float(c), "n": float(n), "f": 1.0} for c in range(3) for n in range(3)])
    distance = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
    assert distance[0, 3] == pytest.approx(1.0)  # another letter
    assert distance[0, 3] == pytest.approx(distance[0, 6])
    assert distance[0, 1] < distance[0, 2]  # 1 is nearer to 2 than to 8


def test_inactive_genes_add_nothing(space: SearchSpace) -> None:
    domain = ArchitectureDomain(space)
    shallow, deep = (domain.encode(space.params(arch)) for arch in (space.smallest, space.largest))
    rows = Encoder(domain)([shallow, deep])
    assert np.count_nonzero(rows[0]) < np.count_nonzero(rows[1])
    assert rows[1, -2:].tolist() == pytest.approx([0.0, 0.0])  # the largest has the most parameters and operations
    assert (rows[0, -2:] < 0).all()


def test_the_largest_numbers_and_genes_that_no_finished_trial_had() -> None:
    encode = Encoder(
        DistributionDomain({"c": CategoricalDistribution(("a", "b")), "f": FloatDistribution(-1e308, 1e308)})
    )
    rows = encode([{"new": 7.0, "f": 1e308, "c": 1.0}, {"f": -1e308}])
    assert rows.tolist() == [[0.0, math.sqrt(0.5), 1.0], [0.0, 0.0, 0.0]]


def test_sizes_are_those_of_the_blocks(space: SearchSpace) -> None:
    domain = ArchitectureDomain(space)
    archs = [space.at(i) for i in range(0, space.size, space.size // 20)]
    stem = 9 * (1 / 32 + 1 / 8 + 1 / 2 + 1)
    parameters = np.array([a.embed_dim**2 * (sum(4 + 2 * b.mlp_ratio for b in a.blocks) + stem) for a in archs])
    operations = parameters * [a.time_steps for a in archs]
    rows = Encoder(domain)([domain.encode(space.params(a)) for a in archs])
    largest = space.largest
    most = largest.embed_dim**2 * (sum(4 + 2 * b.mlp_ratio for b in largest.blocks) + stem)
    np.testing.assert_allclose(rows[:, -2], np.log(parameters / most))
    np.testing.assert_allclose(rows[:, -1], np.log(operations / most / largest.time_steps), atol=1e-12)


def test_activity_is_learned_from_trials() -> None:
    rng = np.random.default_rng(0)

    def genome(full: Genome) -> Genome:
        inactive = "deep" if full["kind"] == 0.0 else "wide"
        return {name: value for name, value in full.items() if name != inactive}

    full = [
        {"kind": float(rng.integers(2)), "wide": rng.random(), "deep": rng.random(), "x": rng.random()}
        for _ in range(60)
    ]
    model = ActivityModel([genome(g) for g in full[:40]])
    assert list(model(full[40:])) == [genome(g) for g in full[40:]]
