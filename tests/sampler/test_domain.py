"""Domains: which genomes there are, and which have been seen."""

from __future__ import annotations

import numpy as np
from optuna.distributions import CategoricalDistribution, IntDistribution

from spikesearch.sampler.domain import ArchitectureDomain, DistributionDomain, SeenGenomes
from spikesearch.space import SearchSpace
from tests.sampler.domains import MIXED


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
