"""The Gaussian process: what it learns, and what it knows that it does not know."""

from __future__ import annotations

import numpy as np
import pytest

from spikesearch.sampler.features import Encoder
from spikesearch.sampler.model import GaussianProcess, KernelChoice, choose_kernel
from tests.sampler.domains import LETTERS, additive, letters


@pytest.mark.parametrize("logarithm", [False, True])
def test_sums_and_products_of_effects_are_recognised(logarithm: bool) -> None:
    encode = Encoder(LETTERS)
    train, test = letters(60, 0), letters(100, 1)
    target = (lambda g: np.exp(2 * additive(g))) if logarithm else additive
    choice = choose_kernel(encode(train), target(train))
    assert choice.logarithm is logarithm
    mean, std = GaussianProcess(choice).fit(encode(train), target(train)).predict(encode(test))
    truth = target(test)
    assert np.mean((mean - truth) ** 2) < 0.02 * np.var(truth)
    assert np.mean(np.abs(mean - truth) < 4 * std + 1e-3 * np.ptp(truth)) > 0.9


def test_certainty_grows_near_the_rows() -> None:
    encode = Encoder(LETTERS)
    train = letters(40, 0)
    model = GaussianProcess(KernelChoice(linear=0.0)).fit(encode(train), additive(train))
    _, near = model.predict(encode(train))
    _, far = model.predict(encode([g for g in letters(60, 5) if g not in train]))
    assert near.max() < far.mean()


def test_constant_targets() -> None:
    rows = Encoder(LETTERS)(letters(12, 0))
    choice = choose_kernel(rows, np.ones(12))
    mean, _ = GaussianProcess(choice).fit(rows, np.ones(12)).predict(rows)
    np.testing.assert_allclose(mean, 1.0)
