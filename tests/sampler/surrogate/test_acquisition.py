"""Expected improvements against numerical integration."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from spikesearch.fitness import hypervolume
from spikesearch.sampler.surrogate.acquisition import expected_hypervolume_improvement, expected_improvement


@pytest.mark.parametrize(("mean", "std", "best"), [(0.0, 1.0, 0.5), (2.0, 0.3, 1.0), (-1.0, 2.0, 0.0)])
def test_expected_improvement_against_quadrature(mean: float, std: float, best: float) -> None:
    expected = quad(lambda y: (best - y) * norm.pdf(y, mean, std), mean - 12 * std, best)[0]
    assert float(expected_improvement(np.array(mean), np.array(std), best)) == pytest.approx(
        expected, rel=1e-6, abs=1e-12
    )


def test_certain_predictions_give_the_plain_improvement() -> None:
    front = np.array([[0.2, 0.6], [0.5, 0.5], [0.5, 0.5], [0.7, 0.1], [0.9, 0.9]])
    candidates = np.random.default_rng(0).random((50, 2)) * 1.2
    reference = np.array([1.0, 1.0])
    gains = [hypervolume(np.vstack([front, c]), reference) - hypervolume(front, reference) for c in candidates]
    found = expected_hypervolume_improvement(candidates, np.zeros((50, 2)), front, reference)
    np.testing.assert_allclose(found, gains, atol=1e-12)


def test_uncertain_predictions_against_sampling() -> None:
    rng = np.random.default_rng(1)
    front = np.array([[0.2, 0.6], [0.5, 0.5], [0.7, 0.1]])
    reference = np.array([1.0, 1.0])
    mean, std = np.array([[0.4, 0.4]]), np.array([[0.2, 0.3]])
    draws = mean + std * rng.normal(size=(4000, 2))
    gains = [hypervolume(np.vstack([front, draw]), reference) - hypervolume(front, reference) for draw in draws]
    found = expected_hypervolume_improvement(mean, std, front, reference)[0]
    assert found == pytest.approx(np.mean(gains), abs=4 * np.std(gains) / np.sqrt(4000))


def test_no_front_within_the_reference_point() -> None:
    found = expected_hypervolume_improvement(
        np.array([[0.5, 0.5]]), np.zeros((1, 2)), np.array([[2.0, 2.0]]), np.ones(2)
    )
    assert found[0] == pytest.approx(0.25)
