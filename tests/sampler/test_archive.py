"""The archive says the same however a study was read, and tells apart what may be a parent."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from spikesearch.sampler.archive import Archive
from spikesearch.sampler.domain import DistributionDomain
from spikesearch.sampler.errors import SamplerError
from spikesearch.space import SearchSpace

DIRECTIONS = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE)


def numbered(rows: list[tuple[dict[str, int], tuple[float, float]]]) -> list[FrozenTrial]:
    trials = []
    for number, (params, values) in enumerate(rows):
        trial = create_trial(
            params=params, distributions={name: IntDistribution(0, 9) for name in params}, values=values
        )
        trial.number = number
        trials.append(trial)
    return trials


def archive(space: SearchSpace | None = None, **options: object) -> Archive:
    return Archive(space, DIRECTIONS, keep=5, **options)  # type: ignore[arg-type]


def test_losses_are_minimised_and_infinite_values_only_seen() -> None:
    kept = archive()
    kept.update(numbered([({"x": 1}, (0.5, 2.0)), ({"x": 2}, (math.inf, 1.0)), ({"x": 3}, (0.25, -math.inf))]))
    assert kept.feasible.losses.tolist() == [[-0.5, 2.0]]
    assert all({"x": float(x)} in kept.seen for x in (1, 2, 3))


def test_order_of_arrival_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    rows = [({"x": int(x)}, (float(a), float(b))) for x, a, b in rng.integers(0, 9, (60, 3))]
    done = numbered(rows)
    at_once = archive()
    at_once.update(done)
    in_turn = archive()
    state: list[FrozenTrial] = [create_trial(state=TrialState.WAITING) for _ in done]
    for number, trial in enumerate(state):
        trial.number = number
    in_turn.update(state)
    for number in rng.permutation(len(done)):
        state[number] = done[number]
        assert in_turn.update(state)
    order = np.argsort(in_turn.feasible.numbers)
    again = in_turn.feasible.take(order)
    assert again.numbers.tolist() == at_once.feasible.numbers.tolist()
    assert again.losses.tolist() == at_once.feasible.losses.tolist()
    assert list(again.genomes) == list(at_once.feasible.genomes)
    best = at_once.feasible.ranks < 2
    assert (again.ranks[best] == at_once.feasible.ranks[best]).all()
    assert in_turn.pending == {}


def test_another_study_in_the_same_place_is_noticed() -> None:
    kept = archive()
    assert kept.update(numbered([({"x": 1}, (0.5, 2.0)), ({"x": 2}, (0.5, 2.0))]))
    assert not kept.update(numbered([({"x": 1}, (0.5, 2.0))]))
    other = archive()
    assert other.update(numbered([({"x": 1}, (0.5, 2.0))]))
    assert not other.update(numbered([({"x": 7}, (0.5, 2.0)), ({"x": 2}, (0.5, 2.0))]))


def test_pending_genomes_and_enqueued_parameters() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.add_trial(numbered([({"x": 1}, (0.5, 2.0))])[0])
    study.enqueue_trial({"x": 4})
    kept = archive()
    kept.update(study.get_trials(deepcopy=False))
    assert kept.pending == {1: {"x": 4.0}}
    assert {"x": 4.0} in kept.seen_with_pending(2)
    assert {"x": 4.0} not in kept.seen_with_pending(1)


def test_latest_distribution_counts_whatever_the_order() -> None:
    trials = numbered([({"x": 1}, (0.5, 2.0)), ({"x": 1}, (0.5, 2.0))])
    trials[1] = create_trial(params={"x": 3}, distributions={"x": IntDistribution(0, 99)}, values=[0.1, 0.2])
    trials[1].number = 1
    kept = archive()
    kept.update(trials)
    assert isinstance(kept.domain, DistributionDomain)
    assert kept.domain.distributions["x"] == IntDistribution(0, 99)


def test_foreign_distribution_is_named(space: SearchSpace) -> None:
    trial = create_trial(
        params={"depth": 2}, distributions={"depth": CategoricalDistribution((2, 5))}, values=[1.0, 1.0]
    )
    trial.number = 0
    with pytest.raises(SamplerError, match=r"`depth` has the choices \[2, 5\] in the study, but \[1, 2, 3\]"):
        archive(space).update([trial])


def test_failed_trials_are_seen_but_no_parents(space: SearchSpace) -> None:
    arch = space.smallest
    failed = create_trial(
        state=TrialState.FAIL, params=space.params(arch), distributions=dict(space.distributions(arch.depth))
    )
    failed.number = 0
    kept = archive(space)
    kept.update([failed])
    assert len(kept.feasible) == len(kept.infeasible) == 0
    assert len(kept.seen) == 1


def test_constraints_recorded_and_known() -> None:
    trials = numbered([({"x": x}, (0.5, float(x))) for x in range(4)])
    constrained = create_trial(
        params={"x": 9},
        distributions={"x": IntDistribution(0, 9)},
        values=[1.0, 0.0],
        constraints={"size": 3.0, "b": 1.0},
    )
    constrained.number = 4
    kept = archive(known_constraints={"size": lambda params: params["x"] - 2.0})
    kept.update([*trials, constrained])
    assert kept.feasible.numbers.tolist() == [0, 1, 2]
    assert kept.infeasible.numbers.tolist() == [3, 4]
    assert kept.infeasible.violations.tolist() == [1.0, 4.0]
    assert kept.infeasible.margins.tolist() == [1.0, 3.0]
    assert kept.feasible.margins.tolist() == [-2.0, -1.0, 0.0]


def test_a_constraint_that_is_not_a_number_is_broken() -> None:
    kept = archive(known_constraints={"bad": lambda params: math.nan})
    kept.update(numbered([({"x": 1}, (0.5, 2.0))]))
    assert kept.infeasible.violations.tolist() == [math.inf]
