"""The initial design."""

from __future__ import annotations

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from spikesearch.sampler import SamplerError, SpaceFillingDesign
from spikesearch.sampler.domain import ArchitectureDomain, DistributionDomain
from spikesearch.space import SearchSpace

DOMAIN = DistributionDomain(
    {"c": CategoricalDistribution(("a", "b", "c")), "f": FloatDistribution(0.0, 1.0), "i": IntDistribution(1, 4)}
)


def test_every_stratum_of_every_gene_once() -> None:
    design = SpaceFillingDesign(size=12)
    points = [design(DOMAIN, index, 7) for index in range(12)]
    assert sorted(int(point["f"] * 12) for point in points) == list(range(12))
    assert sorted(point["c"] for point in points) == [0.0] * 4 + [1.0] * 4 + [2.0] * 4
    assert sorted(point["i"] for point in points) == [1.0] * 3 + [2.0] * 3 + [3.0] * 3 + [4.0] * 3


def test_a_function_of_the_seed() -> None:
    design = SpaceFillingDesign(size=12)
    assert design(DOMAIN, 5, 7) == SpaceFillingDesign(size=12)(DOMAIN, 5, 7)
    assert design(DOMAIN, 5, 7) != design(DOMAIN, 5, 8)


def test_single_genes_agree_with_the_whole_point() -> None:
    """Parameters asked for before anything is known belong to the same design."""
    design = SpaceFillingDesign(size=9)
    for index in range(9):
        point = design(DOMAIN, index, 1)
        assert point == {name: design.gene(name, d, index, 1) for name, d in DOMAIN.distributions.items()}


def test_architectures_are_whole_and_start_with_the_corners(space: SearchSpace) -> None:
    domain = ArchitectureDomain(space)
    archs = [space.architecture(domain.params(SpaceFillingDesign()(domain, index, 3))) for index in range(12)]
    assert archs[:3] == [space.largest, space.smallest, space.middle]
    assert len(set(archs)) == 12
    assert {arch.depth for arch in archs[3:]} == set(space.depths)


def test_size_is_checked() -> None:
    with pytest.raises(SamplerError, match="`size` must be at least 1, but got 0"):
        SpaceFillingDesign(size=0)
