"""Mutation: how much changes, and that everything can."""

from __future__ import annotations

import numpy as np
import pytest

from spikesearch.config import find_study_file, load_study_file
from spikesearch.sampler import ArchitectureMutation, GeneMutation, SamplerError
from spikesearch.sampler.domain import ArchitectureDomain
from spikesearch.space import SearchSpace
from tests.sampler.domains import MIXED


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


@pytest.mark.parametrize("study", ["digits", "digits-spikformer", "nmnist-small"])
def test_genes_appear_and_vanish_with_those_that_they_depend_on(study: str) -> None:
    space = load_study_file(find_study_file(study)).space.search_space()
    domain, rng = ArchitectureDomain(space), np.random.default_rng(3)
    depths = set()
    for _ in range(60):
        arch = space.architecture(domain.params(mutant := GeneMutation()(domain.sample(rng), domain, 0.5, rng)))
        assert set(mutant) == set(space.params(arch))
        depths.add(arch.depth)
    assert len(depths) > 1


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


@pytest.mark.parametrize("make", [lambda: GeneMutation(eta=-2.0), lambda: ArchitectureMutation(depth_prob=2.0)])
def test_options_are_checked(make) -> None:
    with pytest.raises(SamplerError, match="must be"):
        make()
