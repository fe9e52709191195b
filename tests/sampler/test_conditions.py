"""Genes that not every genome has: the sampler keeps to what the space says of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikesearch.sampler import ArchitectureMutation, BlockCrossover, ESNNSampler, UniformCrossover
from spikesearch.sampler.domain import ArchitectureDomain, Domain, Genome, group_of
from spikesearch.sampler.surrogate.features import Encoder
from spikesearch.space import Architecture, SearchSpace
from tests.mixers import registered, spaces
from tests.sampler.conftest import score, two_objectives

seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module", autouse=True)
def _mixers() -> Iterator[None]:
    with registered():
        yield


def whole(genome: Genome, domain: Domain, space: SearchSpace) -> Architecture:
    """The architecture of a genome that has exactly the genes of that architecture, in the fixed order."""
    arch = space.architecture(domain.params(genome))
    assert list(genome) == list(space.params(arch))
    return arch


@given(spaces())
def test_domain_and_space_have_the_same_points_and_neighbours(space: SearchSpace) -> None:
    domain = ArchitectureDomain(space)
    for index in range(0, space.size, max(1, space.size // 10)):
        genome = domain.at(index)
        arch = whole(genome, domain, space)
        assert arch == space.at(index)
        neighbours = [whole(other, domain, space) for other in domain.neighbours(genome, np.random.default_rng(0))]
        assert neighbours == list(space.neighbours(arch))


@given(spaces(), seeds)
def test_children_are_whole(space: SearchSpace, seed: int) -> None:
    domain, rng = ArchitectureDomain(space), np.random.default_rng(seed)
    mutation = ArchitectureMutation(depth_prob=0.5)
    for crossover in (BlockCrossover(mix_prob=0.5), UniformCrossover()):
        mother, father = domain.sample(rng), domain.sample(rng)
        child = domain.complete(crossover(mother, father, domain, rng), rng)
        whole(child, domain, space)
        whole(mutation(child, domain, 0.5, rng), domain, space)


@given(spaces(), seeds)
def test_blocks_are_inherited_whole(space: SearchSpace, seed: int) -> None:
    domain, rng = ArchitectureDomain(space), np.random.default_rng(seed)
    mother, father = domain.sample(rng), domain.sample(rng)
    child = BlockCrossover(mix_prob=0.0)(mother, father, domain, rng)
    for group in set(map(group_of, child)):
        ours, *theirs = ({n: g[n] for n in g if group_of(n) == group} for g in (child, mother, father))
        assert ours in theirs


@given(spaces())
def test_the_largest_sizes_are_those_of_the_largest_of_its_mixer(space: SearchSpace) -> None:
    domain = ArchitectureDomain(space)
    rows = Encoder(domain)([domain.at(index) for index in range(0, space.size, max(1, space.size // 50))])
    assert np.isfinite(rows).all()
    largest = Encoder(domain)([domain.corners[0]])
    assert largest[0, -2:].tolist() == pytest.approx([0.0, 0.0])


@settings(max_examples=8)
@given(spaces(), seeds)
def test_thirty_trials_without_a_repetition(space: SearchSpace, seed: int) -> None:
    study = two_objectives(ESNNSampler(space, seed=seed))
    n_trials = min(30, space.size)
    study.optimize(lambda trial: score(space.suggest(trial)), n_trials=n_trials)
    assert all(trial.state == optuna.trial.TrialState.COMPLETE for trial in study.trials)
    archs = [space.architecture(trial.params) for trial in study.trials]
    assert len(set(archs)) == n_trials
    assert archs[0] == space.largest
    assert [space.params(arch) for arch in archs] == [trial.params for trial in study.trials]
