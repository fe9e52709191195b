"""Arithmetic on single genes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from spikesearch.sampler import genes

DISTRIBUTIONS = [
    FloatDistribution(-2.0, 3.0),
    FloatDistribution(1e-5, 10.0, log=True),
    FloatDistribution(0.0, 1.0, step=0.1),
    IntDistribution(-3, 9),
    IntDistribution(1, 10, step=3),
    IntDistribution(1, 1000, log=True),
    CategoricalDistribution(("a", "b", "c")),
    CategoricalDistribution((1, 2, 8)),
]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=str)
def test_every_position_gives_a_legal_plain_value(distribution: BaseDistribution) -> None:
    for position in [-0.5, 0.0, *np.linspace(0, 1, 101).tolist(), 1.5]:
        value = genes.from_unit(distribution, position)
        assert distribution._contains(value)
        assert type(genes.external(distribution, value)) in (int, float, str)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=str)
def test_levels_are_all_values(distribution: BaseDistribution) -> None:
    count = genes.levels(distribution)
    if count is None:
        assert isinstance(distribution, FloatDistribution)
        return
    values = [genes.level(distribution, i) for i in range(count)]
    assert len(set(values)) == count
    assert all(distribution._contains(value) for value in values)
    assert [genes.position(distribution, value) for value in values] == list(range(count))
    assert [genes.nearest(distribution, value) for value in values] == values
    if not getattr(distribution, "log", False):
        drawn = {genes.from_unit(distribution, (i + 0.5) / count) for i in range(count)}
        assert drawn == set(values)


@pytest.mark.parametrize("distribution", [*DISTRIBUTIONS, FloatDistribution(-1e308, 1e308)], ids=str)
def test_many_values_map_like_one(distribution: BaseDistribution) -> None:
    values = [genes.from_unit(distribution, position) for position in np.linspace(0, 1, 21)] + [-1e5, 1e5]
    expected = [genes.to_unit(distribution, value) for value in values]
    found = genes.to_units(distribution, np.array([*values, math.nan]))
    np.testing.assert_allclose(found[:-1], expected, rtol=1e-12, atol=1e-15)
    assert math.isnan(found[-1])


def test_log_scale() -> None:
    distribution = FloatDistribution(1e-4, 1.0, log=True)
    assert genes.from_unit(distribution, 0.5) == pytest.approx(1e-2)
    assert genes.to_unit(distribution, 1e-2) == pytest.approx(0.5)


def test_values_of_an_older_range_are_clipped() -> None:
    assert genes.to_unit(IntDistribution(0, 10), 50.0) == 1.0
    assert genes.nearest(IntDistribution(0, 10), -7.0) == 0.0


@pytest.mark.parametrize(
    ("choices", "ordered"),
    [((1, 2, 3), True), ((1.5, 2, 3), True), ((3, 2, 1), False), (("a", "b"), False), ((True, False), False), ((1,
    None), False), ((1, math.inf), False), ((1, 10**400), True), ((10**400, 1.5), False)],
)  # fmt: skip
def test_ordered_choices(choices: tuple, ordered: bool) -> None:
    assert genes.is_ordered(CategoricalDistribution(choices)) is ordered


def test_single_values_do_not_divide_by_zero() -> None:
    assert genes.to_unit(IntDistribution(3, 3), 3.0) == 0.0
    assert genes.from_unit(CategoricalDistribution(("only",)), 0.7) == 0.0


@pytest.mark.parametrize("step", [None, 1e307])
def test_ranges_too_wide_for_a_float(step: float | None) -> None:
    distribution = FloatDistribution(-1e308, 1e308, step=step)
    places = np.linspace(0, 1, 11).tolist()
    values = [genes.from_unit(distribution, place) for place in places]
    assert values == sorted(values)
    assert values[0] == -1e308
    assert values[-1] == pytest.approx(1e308)
    assert [genes.nearest(distribution, value) for value in values] == pytest.approx(values)
    if step is None:
        assert [genes.to_unit(distribution, value) for value in values] == pytest.approx(places)
    else:
        assert genes.levels(distribution) == 21
        assert [genes.position(distribution, genes.level(distribution, i)) for i in range(21)] == list(range(21))
