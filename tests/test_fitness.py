"""F_AEB, the recommendation, Pareto fronts and hypervolumes against independent oracles."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from optuna._hypervolume import compute_hypervolume

from spikesearch.fitness import f_aeb, hypervolume, pareto_front, recommend

fractions = st.floats(0.01, 1.0)
energies = st.floats(1e-6, 1e6)


def test_formula() -> None:
    assert f_aeb(0.9, 1.0, 4.0, 0.5) == pytest.approx(0.9 * 2.0)
    assert f_aeb(0.9, 4.0, 4.0) == 0.9
    assert isinstance(f_aeb(0.9, 1.0, 2.0), float)


def test_halving_the_energy_is_worth_1_4_percent() -> None:
    assert f_aeb(1.0, 0.5, 1.0) == pytest.approx(1.014, abs=1e-4)


def test_arrays_broadcast() -> None:
    assert f_aeb([[0.5], [0.6]], [1.0, 2.0, 4.0], 1.0).shape == (2, 3)


def test_extreme_energies_stay_finite() -> None:
    assert math.isfinite(f_aeb(0.5, 1e300, 1e-300))


@given(fractions, energies, energies, st.floats(1.001, 10.0), st.floats(0.01, 2.0))
def test_monotone_in_both_objectives(
    accuracy: float, energy: float, reference: float, factor: float, beta: float
) -> None:
    assert f_aeb(accuracy * factor, energy, reference, beta) > f_aeb(accuracy, energy, reference, beta)
    assert f_aeb(accuracy, energy * factor, reference, beta) < f_aeb(accuracy, energy, reference, beta)


@given(st.lists(st.tuples(fractions, st.floats(0.01, 100.0)), min_size=1, max_size=30), st.floats(0.001, 5.0))
def test_maximum_lies_on_the_front(trials: list[tuple[float, float]], beta: float) -> None:
    accuracy, energy = np.array(trials).T
    fitness = f_aeb(accuracy, energy, 1.0, beta)
    front = pareto_front(np.stack([-accuracy, energy], axis=1))
    assert fitness[front].max() >= fitness.max() * (1 - 1e-12)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((-0.1, 1.0, 1.0), "accuracy"),
        ((math.nan, 1.0, 1.0), "accuracy"),
        ((0.5, 0.0, 1.0), "energy"),
        ((0.5, -1.0, 1.0), "energy"),
        ((0.5, math.inf, 1.0), "energy"),
        ((0.5, 1.0, 0.0), "reference_energy"),
        ((0.5, 1.0, 1.0, 0.0), "beta"),
        ((0.5, 1.0, 1.0, [0.1, 0.2]), "beta"),
        (("high", 1.0, 1.0), "accuracy"),
        (([0.5, 0.6], [1.0, 0.0], 1.0), "energy"),
    ],
)
def test_impossible_values_are_named(arguments: tuple, name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must"):
        f_aeb(*arguments)


class TestRecommend:
    def choose(self, accuracy: list[float], energy: list[float], **options: object) -> int | None:
        return recommend(accuracy, energy, **{"reference_accuracy": 0.98, "reference_energy": 4.0, **options})  # type: ignore[arg-type]

    def test_cap_on_the_accuracy_drop(self) -> None:
        # The third row has by far the largest F_AEB at this beta, but is too inaccurate.
        assert self.choose([0.98, 0.975, 0.90], [4.0, 2.0, 0.01], beta=0.1) == 1
        assert self.choose([0.98, 0.975, 0.90], [4.0, 2.0, 0.01], beta=0.1, max_accuracy_drop=0.1) == 2

    def test_the_cap_itself_is_allowed_in_floating_point(self) -> None:
        assert self.choose([0.97], [1.0]) == 0

    def test_infeasible_and_broken_rows_never_qualify(self) -> None:
        assert self.choose([0.98, 0.99, math.nan, 0.99], [4.0, 1.0, 1.0, 0.0], feasible=[True, False, True, True]) == 0

    def test_nothing_qualifies(self) -> None:
        assert self.choose([0.5], [1.0]) is None
        assert self.choose([], []) is None

    def test_first_of_equals(self) -> None:
        assert self.choose([0.98, 0.98], [1.0, 1.0]) == 0

    def test_bad_options(self) -> None:
        with pytest.raises(ValueError, match="one length"):
            self.choose([0.9, 0.8], [1.0])
        with pytest.raises(ValueError, match="max_accuracy_drop"):
            self.choose([0.9], [1.0], max_accuracy_drop=-0.1)


points = st.integers(1, 3).flatmap(
    lambda m: arrays(float, st.tuples(st.integers(0, 25), st.just(m)), elements=st.integers(0, 6).map(float))
)


@given(points)
def test_front_against_all_pairs(losses: np.ndarray) -> None:
    expected = [not any(np.all(b <= a) and np.any(b < a) for b in losses) for a in losses]
    assert pareto_front(losses).tolist() == expected


@given(points)
def test_hypervolume_against_counting_cells(losses: np.ndarray) -> None:
    m = losses.shape[1]
    # Integer points: the volume is the number of unit cells whose lower corner some point weakly dominates.
    cells = np.array(list(product(range(5), repeat=m)), dtype=float)
    expected = sum(any(np.all(point <= cell) for point in losses) for cell in cells)
    assert hypervolume(losses, [5.0] * m) == expected


@given(st.integers(2, 4), st.integers(1, 20), st.integers(0, 1000))
def test_hypervolume_against_optuna(m: int, n: int, seed: int) -> None:
    losses = np.random.default_rng(seed).random((n, m))
    assert hypervolume(losses, np.ones(m)) == pytest.approx(compute_hypervolume(losses, np.ones(m)))


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="shape"):
        hypervolume([1.0, 2.0], [3.0])
    with pytest.raises(ValueError, match="`reference_point` must hold 2"):
        hypervolume([[1.0, 2.0]], [3.0])
