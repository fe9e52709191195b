"""Crossover: what a child has of its parents."""

from __future__ import annotations

import numpy as np
import pytest

from spikesearch.sampler import BlockCrossover, SamplerError, UniformCrossover
from spikesearch.sampler.domain import ArchitectureDomain
from spikesearch.space import SearchSpace
from tests.sampler.domains import MIXED


def test_blocks_are_inherited_whole(space: SearchSpace) -> None:
    domain = ArchitectureDomain(space)
    rng = np.random.default_rng(0)
    for _ in range(200):
        mother, father = domain.sample(rng), domain.sample(rng)
        child = domain.complete(BlockCrossover(mix_prob=0.0)(mother, father, domain, rng), rng)
        arch = space.architecture(domain.params(child))
        candidates = [space.architecture(domain.params(parent)) for parent in (mother, father)]
        assert arch.depth in {p.depth for p in candidates}
        for i, block in enumerate(arch.blocks):
            assert block in [p.blocks[i] for p in candidates if i < p.depth]
        assert arch.stem in [p.stem for p in candidates]


def test_mixing_draws_gene_by_gene(space: SearchSpace) -> None:
    domain = ArchitectureDomain(space)
    rng = np.random.default_rng(0)
    whole = True
    for _ in range(100):
        mother, father = domain.sample(rng), domain.sample(rng)
        child = BlockCrossover(mix_prob=1.0)(mother, father, domain, rng)
        assert all(value in (mother.get(name), father.get(name)) for name, value in child.items())
        block = [name for name in child if name.startswith("block0.")]
        whole &= any(all(child[n] == p[n] for n in block) for p in (mother, father))
    assert not whole


def test_uniform_crossover_keeps_what_one_parent_has() -> None:
    child = UniformCrossover()({"c": 1.0}, {"f": 0.5}, MIXED, np.random.default_rng(0))
    assert child == {"c": 1.0, "f": 0.5}


def test_blend_is_symmetric_and_near_the_parents() -> None:
    rng = np.random.default_rng(0)
    crossover = UniformCrossover(blend_prob=1.0)
    children = [crossover({"f": 0.4}, {"f": 0.6}, MIXED, rng)["f"] for _ in range(2000)]
    assert np.mean(children) == pytest.approx(0.5, abs=0.01)
    assert len(set(children)) > 1000
    assert min(children) > 0.2
    assert max(children) < 0.8


@pytest.mark.parametrize(
    "make",
    [
        lambda: UniformCrossover(eta=-1.0),
        lambda: UniformCrossover(blend_prob=1.5),
        lambda: BlockCrossover(mix_prob=-0.1),
    ],
)
def test_options_are_checked(make) -> None:
    with pytest.raises(SamplerError, match="must be"):
        make()
