"""Who survives, and who wins a tournament."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.study import StudyDirection
from optuna.study._multi_objective import _fast_non_domination_rank

from spikesearch.fitness import f_aeb
from spikesearch.sampler import CrowdingSelection, FAEBSelection, SamplerError, Selection
from spikesearch.sampler.archive import Population

MAX_MIN = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE)


def population(losses: np.ndarray, violations: np.ndarray | None = None, directions: tuple = MAX_MIN) -> Population:
    n = len(losses)
    violations = np.zeros(n) if violations is None else violations
    ranks = _fast_non_domination_rank(losses) if n else np.zeros(0, dtype=np.int64)
    return Population(
        np.arange(n), [{"x": float(i)} for i in range(n)], losses, violations, violations, ranks, directions
    )


NOBODY = population(np.empty((0, 2)))


def trials(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([-rng.uniform(0.1, 1.0, n), rng.uniform(0.1, 10.0, n)], axis=1)


@settings(deadline=None)
@given(
    st.sampled_from([CrowdingSelection(), FAEBSelection()]), st.integers(1, 60), st.integers(2, 20), st.integers(0, 999)
)
def test_better_ranks_always_survive(selection: Selection, n: int, size: int, seed: int) -> None:
    everyone = population(trials(n, seed))
    survivors, nobody = selection(everyone, NOBODY, size)
    assert len(survivors) == min(n, size)
    assert len(nobody) == 0
    assert len(set(survivors.numbers.tolist())) == len(survivors)
    dropped = np.setdiff1d(everyone.numbers, survivors.numbers)
    assert not len(dropped) or everyone.ranks[dropped].min() >= survivors.ranks.max()


@pytest.mark.parametrize("selection", [CrowdingSelection(), FAEBSelection()])
def test_order_of_arrival_does_not_matter(selection: Selection) -> None:
    everyone = population(trials(50, 3))
    shuffled = everyone.take(np.random.default_rng(0).permutation(50))
    assert selection(everyone, NOBODY, 12)[0].numbers.tolist() == selection(shuffled, NOBODY, 12)[0].numbers.tolist()


def front(n: int) -> np.ndarray:
    """A front on which nobody dominates, crowded at the accurate and dear end."""
    accuracy = 1 - np.linspace(0.01, 0.9, n) ** 3
    return np.stack([-accuracy, 1 / np.linspace(0.1, 1.0, n)], axis=1)


def test_f_aeb_changes_the_survivors() -> None:
    everyone = population(front(60))
    assert (everyone.ranks == 0).all()
    by_crowding = set(CrowdingSelection()(everyone, NOBODY, 10)[0].numbers.tolist())
    by_f_aeb = set(FAEBSelection()(everyone, NOBODY, 10)[0].numbers.tolist())
    narrow = set(FAEBSelection((0.02,))(everyone, NOBODY, 10)[0].numbers.tolist())
    assert by_crowding != by_f_aeb != narrow
    best = np.argsort(-f_aeb(-everyone.losses[:, 0], everyone.losses[:, 1], 1.0, 0.02), kind="stable")[:10]
    assert narrow == set(best.tolist())


def test_every_beta_keeps_its_best() -> None:
    everyone = population(front(60))
    betas = (0.001, 0.1, 0.5, 2.0)
    kept = set(FAEBSelection(betas)(everyone, NOBODY, 4)[0].numbers.tolist())
    for beta in betas:
        assert int(np.argmax(f_aeb(-everyone.losses[:, 0], everyone.losses[:, 1], 1.0, beta))) in kept


def test_f_aeb_in_tournaments() -> None:
    pair = population(np.array([[-0.9, 1.0], [-0.5, 0.5]]))
    rng = np.random.default_rng(0)
    assert FAEBSelection((0.01,)).prefer(pair, 0, 1, rng) == 0
    assert FAEBSelection((5.0,)).prefer(pair, 0, 1, rng) == 1


@pytest.mark.parametrize(
    ("losses", "directions"),
    [
        (front(30), (StudyDirection.MINIMIZE, StudyDirection.MINIMIZE)),
        (front(30) - np.array([0.0, 5.0]), MAX_MIN),  # energies below 0
        (front(30) + np.array([2.0, 0.0]), MAX_MIN),  # accuracies below 0
    ],
)
def test_crowding_decides_where_f_aeb_has_no_meaning(losses: np.ndarray, directions: tuple) -> None:
    everyone = population(losses, directions=directions)
    expected = CrowdingSelection()(everyone, NOBODY, 8)[0].numbers.tolist()
    assert FAEBSelection()(everyone, NOBODY, 8)[0].numbers.tolist() == expected


def test_feasible_beats_infeasible() -> None:
    feasible = population(np.array([[-0.1, 9.0], [-0.05, 9.5]]))
    infeasible = population(trials(5, 0), violations=np.array([3.0, 1.0, 2.0, 5.0, 4.0]))
    good, bad = CrowdingSelection()(feasible, infeasible, 5)
    assert good.numbers.tolist() == [0, 1]
    assert bad.violations.tolist() == [1.0, 2.0, 3.0]
    rng = np.random.default_rng(0)
    winners = [
        CrowdingSelection().tournament(feasible.take(np.array([0])), bad.take(np.array([0])), rng) for _ in range(200)
    ]
    lost = sum(winner == {"x": 1.0} for winner in winners)
    assert lost < 100  # the infeasible one wins only against itself: a quarter of the draws


def test_bad_betas() -> None:
    for betas in ((), (0.0,), (-1.0, 1.0), (float("nan"),)):
        with pytest.raises(SamplerError, match="`betas` must"):
            FAEBSelection(betas)
