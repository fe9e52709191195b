"""Rank correlations and their intervals against scipy, brute force and what can be said without counting."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau, pearsonr, rankdata, spearmanr

from spikesearch.audit import rank_statistics as fidelity_stats
from spikesearch.audit.rank_statistics import Estimate, compare, correlations, quantile_bins, resample, retest

NOTHING = Estimate(None, None, None)


def data(n: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two rankings that agree somewhat, with ties."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 8, n).astype(float)
    return x, x + rng.integers(-3, 4, n)


def test_by_hand() -> None:
    x, y = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 4.0])
    tau, rho = correlations(x, y, np.ones((1, 4)))
    assert tau[0] == pytest.approx(4 / 6)  # five concordant pairs, one discordant
    assert rho[0] == pytest.approx(1 - 6 * 2 / (4 * 15))
    tau, _ = correlations(x, np.array([1.0, 1.0, 2.0, 3.0]), np.ones((1, 4)))
    assert tau[0] == pytest.approx(5 / np.sqrt(6 * 5))  # one pair is tied in y


@pytest.mark.parametrize("seed", range(5))
def test_every_resample_has_the_coefficients_of_scipy(seed: int) -> None:
    x, y = data(seed=seed)
    counts = resample(len(x), seed=seed)[:60]
    assert (counts.sum(1) == len(x)).all()
    assert (counts[0] == 1).all()
    tau, rho = correlations(x, y, counts)
    for row, found_tau, found_rho in zip(counts.astype(int), tau, rho, strict=True):
        here = np.repeat(x, row), np.repeat(y, row)
        assert found_tau == pytest.approx(kendalltau(*here).statistic, abs=1e-12)
        assert found_rho == pytest.approx(spearmanr(*here).statistic, abs=1e-12)


def test_only_pairs_of_one_bin_count() -> None:
    x, y = data(15, seed=3)
    bins = np.arange(15) % 3
    row = resample(15, seed=1)[1].astype(int)
    (tau,), (rho,) = correlations(x, y, row[None, :].astype(float), bins=bins)
    items = [(x[i], y[i], bins[i]) for i in range(15) for _ in range(row[i])]
    agree = untied_x = untied_y = 0
    for i, (xi, yi, bi) in enumerate(items):
        for xj, yj, bj in items[:i]:
            if bi == bj:
                agree += np.sign(xi - xj) * np.sign(yi - yj)
                untied_x += xi != xj
                untied_y += yi != yj
    assert tau == pytest.approx(agree / np.sqrt(untied_x * untied_y))
    columns = np.array(items)
    ranks = np.empty((len(items), 2))
    for label in range(3):
        here = columns[:, 2] == label
        for axis in (0, 1):
            centred = rankdata(columns[here, axis])
            ranks[here, axis] = centred - centred.mean()
    assert rho == pytest.approx(pearsonr(ranks[:, 0], ranks[:, 1]).statistic)


def test_bins_take_away_what_energy_alone_explains() -> None:
    energy = np.repeat([1.0, 2.0, 3.0], 10)
    within = np.tile(np.arange(10.0), 3)
    rankings = {"both": 100 * energy + within, "cost": energy + 0.001 * within[::-1]}
    found = compare(rankings, 100 * energy + within, bins=quantile_bins(energy, 3))
    assert found.rankings["cost"].tau == Estimate(-1, -1, -1)
    assert found.rankings["both"].spearman == Estimate(1, 1, 1)
    assert found.lead["cost"].tau == Estimate(2, 2, 2)


def test_differences_are_paired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity_stats, "RESAMPLES", 200)
    x, truth = data(10, seed=1)
    other = data(10, seed=2)[1]
    found = compare({"x": x, "other": other}, truth, seed=5)
    taus = np.array(
        [
            [kendalltau(np.repeat(ranking, row), np.repeat(truth, row)).statistic for ranking in (x, other)]
            for row in resample(10, seed=5).astype(int)
        ]
    )
    for estimate, values in (
        (found.rankings["x"].tau, taus[:, 0]),
        (found.rankings["other"].tau, taus[:, 1]),
        (found.lead["other"].tau, taus[:, 0] - taus[:, 1]),
    ):
        expected = [values[0], *np.percentile(values[1:], [2.5, 97.5])]
        assert [estimate.value, estimate.low, estimate.high] == pytest.approx(expected)
    assert list(found.lead) == ["other"]


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Of a bivariate normal with correlation r, tau is 2 / pi * asin(r)."""
    rng = np.random.default_rng(0)
    true = 2 / np.pi * np.arcsin(0.8)
    inside = 0
    for _ in range(100):
        x, noise = rng.standard_normal((2, 40))
        tau = compare({"x": x}, 0.8 * x + 0.6 * noise).rankings["x"].tau
        inside += tau.low <= true <= tau.high
    assert 85 <= inside <= 100


@pytest.mark.parametrize("n", [0, 1, 3])
def test_few_items_give_no_figure(n: int) -> None:
    values = np.arange(n, dtype=float)
    found = compare({"a": values, "b": values}, values)
    assert found.n == n
    assert found.rankings["a"].tau == found.rankings["a"].spearman == found.lead["b"].tau == NOTHING


def test_a_constant_ranking_gives_no_figure() -> None:
    values = np.arange(6.0)
    found = compare({"a": values, "constant": np.ones(6)}, values)
    assert found.rankings["constant"].tau == found.lead["constant"].spearman == NOTHING
    assert found.rankings["a"].tau == Estimate(1, 1, 1)


def test_a_perfect_ranking_exceeds_the_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of normal truth and noise of equal size, measurements correlate with 1/2, the truth with each with its root."""
    monkeypatch.setattr(fidelity_stats, "RESAMPLES", 50)
    truth, *noise = np.random.default_rng(0).standard_normal((3, 1500))
    found = retest(truth, *(truth + each for each in noise))
    ceiling, perfect = (2 / np.pi * np.arcsin(r) for r in (0.5, np.sqrt(0.5)))  # 1/3 and 1/2
    assert found.ceiling.value == pytest.approx(ceiling, abs=0.03)
    assert found.tau.value == pytest.approx(perfect, abs=0.03)
    assert found.share.value == pytest.approx(perfect / ceiling, abs=0.1)
    assert 1 < found.share.low < found.share.value < found.share.high


def test_the_share_of_the_ceiling_is_paired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity_stats, "RESAMPLES", 201)  # the percentiles are resamples, not something between two
    monkeypatch.setattr(fidelity_stats, "CONFIDENCE", 0.9)
    (scores, first), (_, second) = data(30, seed=1), data(30, seed=1)
    second = second + np.random.default_rng(2).integers(-2, 3, 30)
    found = retest(scores, first, second, seed=5)
    taus = []
    for row in resample(30, seed=5).astype(int):
        x, one, two = (np.repeat(values, row) for values in (scores, first, second))
        pairs = ((x, one), (x, two), (one, two))
        taus.append([kendalltau(*pair).statistic for pair in pairs])
    a, b, ceiling = np.array(taus).T
    for estimate, values in ((found.tau, (a + b) / 2), (found.ceiling, ceiling), (found.share, (a + b) / 2 / ceiling)):
        expected = [values[0], *np.percentile(values[1:], [5, 95])]
        assert [estimate.value, estimate.low, estimate.high] == pytest.approx(expected)


def test_a_share_of_nothing_is_not_defined_and_of_next_to_nothing_unbounded() -> None:
    first = np.arange(10.0)
    unlike = retest(first, first, -first)
    assert unlike.share == NOTHING
    assert unlike.ceiling.value == -1
    weak = first[[5, 2, 8, 0, 1, 6, 9, 3, 7, 4]]
    found = retest(first, first, weak)
    assert found.ceiling.low < 0 < found.ceiling.value
    assert found.share.value == pytest.approx(found.tau.value / found.ceiling.value)
    assert 0 < found.share.low < found.share.value, "resamples of a negative ceiling lie above, not below"
    assert found.share.high is None
    assert str(found.share).endswith(" inf]")


def test_bins_are_of_one_size_and_in_order() -> None:
    values = np.random.default_rng(0).random(31)
    bins = quantile_bins(values, 3)
    assert np.bincount(bins).tolist() == [11, 10, 10]
    assert values[bins == 0].max() < values[bins == 1].min() < values[bins == 1].max() < values[bins == 2].min()
