"""The Gaussian process: what it learns, what it knows that it does not know, and that it is scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct

from spikesearch.sampler.surrogate.features import Encoder
from spikesearch.sampler.surrogate.gaussian_process import OFFSET, GaussianProcess, KernelChoice, Rows, choose_kernel
from tests.sampler.domains import LETTERS, MIXED, additive, letters


@pytest.mark.parametrize("linear", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("length", [0.5, 2.0])
@pytest.mark.parametrize("noise", [1e-4, 1e-1])
def test_agrees_with_scikit_learn(linear: float, length: float, noise: float) -> None:
    rng = np.random.default_rng(0)
    encode = Encoder(MIXED)
    train, test = (encode([MIXED.sample(rng) for _ in range(n)]) for n in (50, 20))
    target = rng.normal(size=50)
    spread = np.sqrt(np.mean(np.sum((train[:, None] - train[None]) ** 2, axis=-1)))
    size = np.mean(np.sum(train**2, axis=1))
    kernel = ConstantKernel(1 - linear) * RBF(length * spread)
    if linear:
        kernel += ConstantKernel(linear / size) * DotProduct(np.sqrt(OFFSET * size))
    oracle = GaussianProcessRegressor(kernel, alpha=noise, optimizer=None, normalize_y=True).fit(train, target)

    rows = Rows(train)
    model = GaussianProcess(KernelChoice(linear=linear, length=length, noise=noise)).fit(rows, target)
    assert model.log_likelihood == pytest.approx(oracle.log_marginal_likelihood())
    for points in (train, test):
        for ours, theirs in zip(
            model.predict(rows.compare(points)), oracle.predict(points, return_std=True), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("logarithm", [False, True])
def test_sums_and_products_of_effects_are_recognised(logarithm: bool) -> None:
    encode = Encoder(LETTERS)
    train, test = letters(60, 0), letters(100, 1)
    target = (lambda g: np.exp(2 * additive(g))) if logarithm else additive
    rows = Rows(encode(train))
    choice = choose_kernel(rows, target(train))
    assert choice.logarithm is logarithm
    mean, std = GaussianProcess(choice).fit(rows, target(train)).predict(rows.compare(encode(test)))
    truth = target(test)
    assert np.mean((mean - truth) ** 2) < 0.02 * np.var(truth)
    assert np.mean(np.abs(mean - truth) < 4 * std + 1e-3 * np.ptp(truth)) > 0.9


def test_certainty_grows_near_the_rows() -> None:
    encode = Encoder(LETTERS)
    train = letters(40, 0)
    rows = Rows(encode(train))
    model = GaussianProcess(KernelChoice(linear=0.0)).fit(rows, additive(train))
    _, near = model.predict(rows.likeness)
    _, far = model.predict(rows.compare(encode([g for g in letters(60, 5) if g not in train])))
    assert near.max() < far.mean()


def test_constant_targets() -> None:
    rows = Rows(Encoder(LETTERS)(letters(12, 0)))
    choice = choose_kernel(rows, np.ones(12))
    mean, _ = GaussianProcess(choice).fit(rows, np.ones(12)).predict(rows.likeness)
    np.testing.assert_allclose(mean, 1.0)
