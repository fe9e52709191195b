"""Crossover, mutation and the domains that they work on."""

from __future__ import annotations

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from spikesearch.sampler import ArchitectureMutation, BlockCrossover, GeneMutation, SamplerError, UniformCrossover
from spikesearch.sampler.domain import ArchitectureDomain, DistributionDomain, SeenGenomes
from spikesearch.space import SearchSpace

MIXED = DistributionDomain(
    {
        "c": CategoricalDistribution(("a", "b", "c")),
        "f": FloatDistribution(0.0, 1.0),
        "i": IntDistribution(0, 3),
        "l": IntDistribution(1, 1000, log=True),
    }
)


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


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_mutation_changes_that_share_of_genes(probability: float) -> None:
    rng = np.random.default_rng(0)
    changed = []
    for _ in range(500):
        genome = MIXED.sample(rng)
        mutant = GeneMutation()(genome, MIXED, probability, rng)
        assert all(MIXED.distributions[name]._contains(value) for name, value in mutant.items())
        changed.append(np.mean([mutant[name] != genome[name] for name in genome]))
    assert np.mean(changed) == pytest.approx(probability, abs=0.04)


def test_depth_mutation_adds_and_drops_whole_blocks_at_the_end(space: SearchSpace) -> None:
    domain = ArchitectureDomain(space)
    rng = np.random.default_rng(0)
    mutation = ArchitectureMutation(depth_prob=1.0)
    copies = 0
    for _ in range(300):
        before = space.architecture(domain.params(genome := domain.sample(rng)))
        after = space.architecture(domain.params(mutation(genome, domain, 0.0, rng)))
        assert abs(space.depths.index(after.depth) - space.depths.index(before.depth)) == 1
        shared = min(before.depth, after.depth)
        assert after.blocks[:shared] == before.blocks[:shared]
        copies += after.depth > before.depth and after.blocks[-1] == before.blocks[-1]
    assert copies > 40


def test_every_gene_can_mutate(space: SearchSpace) -> None:
    domain = ArchitectureDomain(space)
    rng = np.random.default_rng(0)
    genome = domain.encode(space.params(space.largest))
    changed = set()
    for _ in range(500):
        mutant = ArchitectureMutation()(genome, domain, 0.2, rng)
        changed |= {name for name in mutant if mutant[name] != genome.get(name)}
    assert changed == set(domain.distributions)


def test_architecture_mutation_on_any_study() -> None:
    genome = {"c": 0.0, "f": 0.5, "i": 1.0, "l": 10.0}
    assert set(ArchitectureMutation()(genome, MIXED, 1.0, np.random.default_rng(0))) == set(genome)


@pytest.mark.parametrize(
    "make",
    [
        lambda: UniformCrossover(eta=-1.0),
        lambda: UniformCrossover(blend_prob=1.5),
        lambda: BlockCrossover(mix_prob=-0.1),
        lambda: GeneMutation(eta=-2.0),
        lambda: ArchitectureMutation(depth_prob=2.0),
    ],
)
def test_options_are_checked(make) -> None:
    with pytest.raises(SamplerError, match="must be"):
        make()


def test_domain_of_a_space_covers_exactly_its_architectures(tiny: SearchSpace) -> None:
    domain = ArchitectureDomain(tiny)
    genomes = [domain.at(i) for i in range(tiny.size)]
    assert {tiny.architecture(domain.params(genome)) for genome in genomes} == {tiny.at(i) for i in range(tiny.size)}
    for genome in genomes:
        arch = tiny.architecture(domain.params(genome))
        near = {tiny.architecture(domain.params(g)) for g in domain.neighbours(genome, np.random.default_rng(0))}
        assert near == set(tiny.neighbours(arch))


def test_learned_domain_enumerates_its_grid() -> None:
    domain = DistributionDomain({"c": CategoricalDistribution(("a", "b")), "i": IntDistribution(1, 3)})
    assert domain.size == 6
    assert len({tuple(domain.at(i).values()) for i in range(6)}) == 6
    assert MIXED.size is None


def test_a_genome_repeats_a_trial_that_agrees_in_all_its_genes() -> None:
    seen = SeenGenomes()
    seen.add({"kind": 0.0, "x": 1.0})
    seen.add({"kind": 1.0, "y": 2.0})
    assert {"kind": 0.0, "x": 1.0, "y": 7.0} in seen
    assert {"kind": 1.0, "x": 1.0, "y": 7.0} not in seen
    assert len(seen) == 2


def test_a_trial_stopped_early_does_not_forbid_what_begins_like_it() -> None:
    seen = SeenGenomes()
    seen.add({"kind": 0.0}, whole=False)
    assert {"kind": 0.0, "x": 1.0} not in seen
    seen.add({"kind": 1.0, "x": 1.0})
    seen.add({"kind": 0.0, "x": 2.0}, whole=False)
    assert {"kind": 0.0, "x": 2.0} in seen
