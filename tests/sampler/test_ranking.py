"""Ranks that grow point by point equal a full sort, whatever the order of arrival."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.study._multi_objective import _fast_non_domination_rank

from spikesearch.sampler.ranking import Ranks, crowding_distance, dominates


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 150), st.integers(1, 8), st.integers(2, 30))
def test_growing_ranks_equal_a_full_sort(seed: int, m: int, n: int, keep: int, values: int) -> None:
    losses = np.random.default_rng(seed).integers(0, values, (n, m)).astype(float)
    ranks = Ranks(keep)
    for point in losses:
        ranks.add(point)
    expected = _fast_non_domination_rank(losses)
    exact = ranks.ranks != Ranks.worst
    assert (ranks.ranks[exact] == expected[exact]).all()
    assert exact.sum() >= min(keep, n)
    assert exact.all() or expected[~exact].min() > expected[exact].max()


def test_ever_better_points_need_a_rebuild() -> None:
    """Every point dominates all before it, so that what was forgotten must be sorted again."""
    ranks = Ranks(4)
    for i in range(300):
        ranks.add(np.array([-float(i), -float(i)]))
    exact = ranks.ranks != Ranks.worst
    assert exact.sum() >= 4
    assert (ranks.ranks[exact] == (299 - np.arange(300))[exact]).all()
    assert len(ranks) == 300


def test_dominance_needs_one_strict_coordinate() -> None:
    assert dominates(np.array([1.0, 1.0]), np.array([1.0, 2.0]))
    assert not dominates(np.array([1.0, 1.0]), np.array([1.0, 1.0]))
    assert not dominates(np.array([0.0, 2.0]), np.array([1.0, 1.0]))


def test_crowding_distance_by_hand() -> None:
    distance = crowding_distance(np.array([[0.0, 10.0], [1.0, 6.0], [3.0, 5.0], [10.0, 0.0]]))
    assert np.isinf(distance[[0, 3]]).all()
    np.testing.assert_allclose(distance[1:3], [3 / 10 + 5 / 10, 9 / 10 + 6 / 10])


def test_constant_objective_adds_nothing_to_crowding() -> None:
    assert crowding_distance(np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])).tolist() == [0.0, 0.0, 0.0]
