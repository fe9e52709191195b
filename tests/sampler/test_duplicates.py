"""Duplicate handling, step by step."""

from __future__ import annotations

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from spikesearch.sampler import SpaceExhaustedError, UnseenOnly
from spikesearch.sampler.domain import DistributionDomain, Genome, SeenGenomes

GRID = DistributionDomain({name: CategoricalDistribution(("a", "b", "c", "d")) for name in "xyz"})  # 64 points


def handle(seen: list[Genome], make: Genome, *, allowed=lambda genome: True, domain=GRID, **options) -> Genome:
    known = SeenGenomes()
    for genome in seen:
        known.add(genome)
    rng = np.random.default_rng(0)
    return UnseenOnly(**options)(lambda: dict(make), domain, known, allowed, rng)


def test_a_new_proposal_is_taken_as_it_is() -> None:
    assert handle([], GRID.at(5)) == GRID.at(5)


def test_a_repetition_becomes_an_unseen_neighbour() -> None:
    found = handle([GRID.at(5)], GRID.at(5))
    assert sum(found[name] != GRID.at(5)[name] for name in "xyz") == 1


def test_without_unseen_neighbours_anything_unseen_will_do() -> None:
    near = [g for g in map(GRID.at, range(64)) if sum(g[n] != GRID.at(0)[n] for n in "xyz") <= 1]
    found = handle(near, GRID.at(0))
    assert sum(found[name] != GRID.at(0)[name] for name in "xyz") >= 2


@pytest.mark.parametrize("last", [0, 31, 63])
def test_the_last_point_is_found(last: int) -> None:
    seen = [GRID.at(i) for i in range(64) if i != last]
    assert handle(seen, GRID.at((last + 7) % 64), attempts=1, max_scan=1) == GRID.at(last)


def test_what_is_not_allowed_is_not_proposed() -> None:
    assert handle([], GRID.at(0), allowed=lambda genome: genome == GRID.at(42)) == GRID.at(42)


def test_nothing_left() -> None:
    with pytest.raises(SpaceExhaustedError, match="every point of its 64"):
        handle([GRID.at(i) for i in range(64)], GRID.at(0))


def test_a_scan_that_is_cut_short_says_so() -> None:
    with pytest.raises(SpaceExhaustedError, match="each of 10 points looked at"):
        handle([], GRID.at(0), allowed=lambda genome: False, max_scan=10)


def test_infinite_domains_end_with_a_hint() -> None:
    domain = DistributionDomain({"x": FloatDistribution(0.0, 1.0)})
    with pytest.raises(SpaceExhaustedError, match="Loosen them"):
        handle([], {"x": 0.5}, allowed=lambda genome: False, domain=domain)
