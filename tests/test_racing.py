"""The bounds of a race: exact where they claim to be, and together wrong at most once in a hundred times."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikesearch.racing import Dominated, Race, Rival, least_mean, looks, most_correct


@given(st.data())
def test_the_bound_of_right_answers_is_the_exact_one(data):
    total = data.draw(st.integers(2, 60))
    seen = data.draw(st.integers(1, total))
    correct = data.draw(st.integers(0, seen))
    alpha = data.draw(st.sampled_from([0.3, 0.05, 0.00125]))

    def at_most(number: int) -> Fraction:
        """Probability of so few right answers among the seen ones if there are `number` altogether."""
        ways = sum(comb(number, k) * comb(total - number, seen - k) for k in range(correct + 1))
        return Fraction(ways, comb(total, seen))

    likely = [number for number in range(correct, total - seen + correct + 1) if at_most(number) >= alpha]
    assert most_correct(correct, seen, total, alpha) == max(likely)


def test_the_bound_is_the_truth_once_everything_is_seen():
    assert most_correct(37, 50, 50, 0.001) == 37
    assert least_mean([1.0, 2.0, 3.0], 1.0, 0.001) == 2.0


@pytest.mark.parametrize("alpha", [0.01, 0.1])
@pytest.mark.parametrize("skewed", [False, True])
def test_the_bound_of_an_energy_holds_as_often_as_it_says(alpha, skewed):
    rng = np.random.default_rng(0)
    values = rng.lognormal(0, 0.3, 640) if skewed else rng.normal(5, 1, 640)
    orders = np.array([rng.permutation(values).reshape(-1, 32).mean(1)[:5] for _ in range(4000)])
    wrong = np.mean([least_mean(row, 5 / 20, alpha) > values.mean() for row in orders])
    assert wrong <= alpha + 3 * (alpha / len(orders)) ** 0.5
    assert wrong >= alpha / 3  # nor is it needlessly far away


@pytest.mark.parametrize("accuracy", [0.3, 0.97])
def test_a_candidate_that_belongs_to_the_front_is_stopped_at_most_once_in_a_hundred_times(accuracy):
    n_images, batch_size = 600, 30
    rng = np.random.default_rng(1)
    right = np.arange(n_images) < accuracy * n_images
    energies = rng.lognormal(0, 0.2, n_images)
    # Either rival is a hair's breadth from dominating it: one by accuracy, one by energy.
    rivals = [Rival(1, right.mean() - 1 / n_images, 0.0), Rival(2, 1.0, energies.mean() + 1e-9)]
    stopped = 0
    for _ in range(300):
        order = rng.permutation(n_images)
        stopped += outcome(rivals, right[order], energies[order], batch_size) is not None
    assert stopped <= 0.01 * 300 + 3 * (0.01 * 300) ** 0.5


def test_every_look_gets_its_share_of_one_percent():
    n_images, batch_size = 600, 30
    numbers = looks(n_images, batch_size)
    for number in numbers:
        seen = number * batch_size
        bound = most_correct(seen // 2, seen, n_images, 0.01 / (2 * len(numbers))) / n_images
        Race([Rival(0, bound - 1e-9, 0.0)], n_images, batch_size).look(seen // 2, [1.0] * number)
        with pytest.raises(Dominated):
            Race([Rival(0, bound, 0.0)], n_images, batch_size).look(seen // 2, [1.0] * number)


def test_a_hopeless_candidate_is_stopped_early_and_a_good_one_never():
    rng = np.random.default_rng(2)
    energies = rng.normal(5, 0.2, 2000)
    rivals = [Rival(4, 0.99, 3.0), Rival(7, 0.95, 1.0)]
    lost = outcome(rivals, rng.random(2000) < 0.8, energies, 64)
    assert lost.images_seen == looks(2000, 64)[0] * 64 == 256
    assert lost.dominated_by == 4
    assert 0.8 < lost.accuracy_bound < 0.9
    assert 4.5 < lost.energy_bound_uJ < 5
    assert lost.to_dict().keys() == {"accuracy_bound", "energy_bound_uJ", "images_seen", "dominated_by"}
    assert outcome(rivals, np.ones(2000, bool), energies, 64) is None
    assert outcome(rivals, np.zeros(2000, bool), energies / 10, 64) is None  # cheaper than all of them
    assert outcome([], np.zeros(2000, bool), energies, 64) is None


def test_looks_come_after_whole_batches_and_never_after_the_last():
    for n_images, batch_size in [(2000, 64), (2000, 256), (10_000, 256), (100, 1), (4, 1), (100, 33), (362, 256)]:
        found = looks(n_images, batch_size)
        assert found == sorted(set(found))
        assert all(number >= 3 and number * batch_size < n_images for number in found)
    assert looks(2000, 64) == [4, 8, 16, 24]
    assert looks(300, 100) == looks(10, 256) == []


def test_equal_values_do_not_dominate():
    rival = Rival(0, 0.5, 2.0)
    assert not rival.dominates(0.5, 2.0)
    assert rival.dominates(0.5, 2.1)
    assert rival.dominates(0.4, 2.0)
    assert not rival.dominates(0.6, 9.0)
    assert not rival.dominates(0.1, 1.9)


def outcome(rivals, right, energies, batch_size):
    race = Race(rivals, len(right), batch_size)
    means = [energies[start : start + batch_size].mean() for start in range(0, len(right), batch_size)]
    try:
        for number in range(1, len(means) + 1):
            race.look(int(right[: number * batch_size].sum()), means[:number])
    except Dominated as lost:
        return lost
    return None
