"""The sampler as a whole: reproducible, without repetitions, fair to constraints, kind to bad input."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from spikesearch.sampler import (
    ESNNSampler,
    FAEBSelection,
    GaussianProcessSurrogate,
    SamplerError,
    SpaceExhaustedError,
    SpaceFillingDesign,
    UnseenOnly,
)
from spikesearch.space import SearchSpace

Objective = Callable[[optuna.Trial], tuple[float, float]]


def study_of(sampler: optuna.samplers.BaseSampler, **options: Any) -> optuna.Study:
    return optuna.create_study(directions=["maximize", "minimize"], sampler=sampler, **options)


def genomes(study: optuna.Study) -> list[tuple]:
    return [tuple(sorted(trial.params.items())) for trial in study.trials]


def conditional(trial: optuna.Trial) -> tuple[float, float]:
    kind = trial.suggest_categorical("kind", ("wide", "deep"))
    size = trial.suggest_int("width", 1, 8) if kind == "wide" else trial.suggest_int("layers", 1, 6)
    rate = trial.suggest_float("rate", 1e-3, 1.0, log=True)
    return 1 - abs(math.log10(rate) + 1.5) / 3 - 1 / (size + 1), size * (1.5 if kind == "deep" else 1.0)


# --- start ------------------------------------------------------------------------------------------------------------


def test_the_first_trials_are_largest_smallest_middle(space: SearchSpace, objective: Objective) -> None:
    study = study_of(ESNNSampler(space, seed=3))
    study.optimize(objective, n_trials=3)
    assert [space.architecture(t.params) for t in study.trials] == [space.largest, space.smallest, space.middle]


def test_the_design_spreads_every_gene(space: SearchSpace, objective: Objective) -> None:
    study = study_of(ESNNSampler(space, seed=3, initial_design=SpaceFillingDesign(size=15)))
    study.optimize(objective, n_trials=15)
    filling = [space.architecture(t.params) for t in study.trials[3:]]
    for choices, found in ((space.depths, [a.depth for a in filling]), (space.taus, [a.stem.tau for a in filling])):
        counts = [[*found].count(choice) for choice in choices]
        assert min(counts) >= 12 // len(choices) - 2


def test_the_design_goes_on_after_enqueued_trials(space: SearchSpace, objective: Objective) -> None:
    study = study_of(ESNNSampler(space, seed=3))
    study.enqueue_trial(space.params(space.smallest))
    study.optimize(objective, n_trials=3)
    assert [space.architecture(t.params) for t in study.trials] == [space.smallest, space.largest, space.middle]


# --- reproducible -----------------------------------------------------------------------------------------------------

SCRIPT = """
import json, sys, optuna
from spikesearch.sampler import ESNNSampler
from spikesearch.space import SearchSpace
space = SearchSpace((48, 96), (1, 2, 3), (2, 4), (2, 4), (0.6, 1.0, 1.4), (1.25, 2.0, 4.0), (2, 4))
study = optuna.load_study(study_name="s", storage=sys.argv[1])
print(json.dumps(ESNNSampler(space if sys.argv[2] == "space" else None, seed=5).propose(study, 40)))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("told", "hash_seed"), [("space", "0"), ("nothing", "123")])
def test_another_process_proposes_the_same(
    told: str, hash_seed: str, space: SearchSpace, objective: Objective, tmp_path: Path
) -> None:
    storage = f"sqlite:///{tmp_path / 's.db'}"
    memory = study_of(ESNNSampler(space, surrogate=False, seed=0))
    memory.optimize(objective, n_trials=40)
    study = study_of(ESNNSampler(), storage=storage, study_name="s")
    for trial in memory.trials:
        study.add_trial(trial)
    sampler = ESNNSampler(space if told == "space" else None, seed=5)
    here = sampler.propose(study, 40)
    assert sampler.surrogate is not None
    out = subprocess.run(
        [sys.executable, "-c", SCRIPT, storage, told],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert json.loads(out) == here


@pytest.mark.parametrize("with_space", [True, False])
def test_a_resumed_study_continues_as_if_never_stopped(
    with_space: bool, space: SearchSpace, objective: Objective
) -> None:
    def sampler() -> ESNNSampler:
        return ESNNSampler(space if with_space else None, seed=11)

    whole = study_of(sampler())
    whole.optimize(objective, n_trials=45)
    parts = study_of(sampler())
    for n_trials in (1, 20, 3, 21):
        parts.sampler = sampler()
        parts.optimize(objective, n_trials=n_trials)
    assert genomes(parts) == genomes(whole)
    assert len(set(genomes(whole))) == 45


def test_a_copied_study_continues_alike(space: SearchSpace, objective: Objective) -> None:
    storage = optuna.storages.InMemoryStorage()
    study_of(ESNNSampler(), storage=storage, study_name="other").enqueue_trial({"x": 1})  # shifts the trial ids
    study = study_of(ESNNSampler(space, surrogate=False, seed=1), storage=storage, study_name="from")
    study.optimize(objective, n_trials=30)
    optuna.copy_study(from_study_name="from", from_storage=storage, to_storage=storage, to_study_name="to")
    copy = optuna.load_study(study_name="to", storage=storage, sampler=ESNNSampler(space, surrogate=False, seed=1))
    assert copy.sampler.propose(copy, 30) == study.sampler.propose(study, 30)


def test_propose_equals_optimize(space: SearchSpace, objective: Objective) -> None:
    study = study_of(ESNNSampler(space, seed=2))
    study.optimize(objective, n_trials=25)
    following = ESNNSampler(space, seed=2).propose(study, 25)
    study.optimize(objective, n_trials=1)
    assert study.trials[-1].params == following


def test_failed_and_nan_trials_do_not_matter(space: SearchSpace, objective: Objective) -> None:
    def run(n_failed: int) -> dict[str, Any]:
        study = study_of(ESNNSampler(space, surrogate=False, seed=2))
        study.optimize(objective, n_trials=20)
        for _ in range(n_failed):
            study.add_trial(create_trial(state=TrialState.FAIL))
        return study.sampler.propose(study, 23)

    assert run(0) == run(3)


def test_samplers_can_be_pickled(space: SearchSpace, objective: Objective) -> None:
    study = study_of(ESNNSampler(space, seed=2))
    study.optimize(objective, n_trials=20)
    copy = pickle.loads(pickle.dumps(study.sampler))  # noqa: S301 - our own bytes
    assert copy.propose(study, 20) == study.sampler.propose(study, 20)


def test_nothing_is_stored_with_the_study(space: SearchSpace, objective: Objective) -> None:
    study = study_of(ESNNSampler(space, seed=2))
    study.optimize(objective, n_trials=15)
    assert study._storage.get_study_system_attrs(study._study_id) == {}
    assert all(trial.system_attrs == {} for trial in study.trials)


# --- repetitions ------------------------------------------------------------------------------------------------------


def test_a_space_is_used_up_without_repetition(tiny: SearchSpace) -> None:
    study = study_of(ESNNSampler(tiny, seed=1))
    found = set()
    for number in range(tiny.size):
        params = study.sampler.propose(study, number)
        arch = tiny.architecture(params)
        found.add(arch)
        trial = create_trial(
            params=params, distributions=dict(tiny.distributions(arch.depth)), values=[number * 0.01, number + 1.0]
        )
        study.add_trial(trial)
    assert len(found) == tiny.size
    with pytest.raises(SpaceExhaustedError, match="every point of its 24"):
        study.sampler.propose(study, tiny.size)


def test_plain_optimize_repeats_when_nothing_is_left(tiny: SearchSpace) -> None:
    study = study_of(ESNNSampler(tiny, surrogate=False, seed=1))
    study.optimize(lambda t: (0.5, float(tiny.suggest(t).depth)), n_trials=tiny.size + 4)
    assert len(set(genomes(study)[: tiny.size])) == tiny.size
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)


def test_conditional_studies_without_a_space_do_not_repeat() -> None:
    study = study_of(ESNNSampler(seed=1))

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        kind = trial.suggest_categorical("kind", ("wide", "deep"))
        return 0.5, trial.suggest_int("width", 1, 8) if kind == "wide" else trial.suggest_int("layers", 1, 6)

    study.optimize(objective, n_trials=14)
    assert len(set(genomes(study)[4:])) == 10  # the first ones are drawn before anything is known


def test_running_and_waiting_trials_are_not_repeated(space: SearchSpace) -> None:
    study = study_of(ESNNSampler(space, seed=1))
    running = [study.ask() for _ in range(40)]
    archs = [space.suggest(trial) for trial in running]
    assert len(set(archs)) == 40


def test_threads_share_a_sampler(space: SearchSpace, objective: Objective) -> None:
    study = study_of(ESNNSampler(space, surrogate=False, seed=1))
    study.optimize(objective, n_trials=60, n_jobs=4)
    assert len(study.trials) == 60


# --- what it finds ----------------------------------------------------------------------------------------------------


def test_late_and_added_trials_become_parents(space: SearchSpace, objective: Objective) -> None:
    """One added trial that dominates all others must soon have children that resemble it."""
    sampler = ESNNSampler(space, surrogate=False, seed=0, crossover_prob=0.0, population_size=2)
    study = study_of(sampler)
    study.optimize(objective, n_trials=20)
    star = space.at(12_345)
    study.add_trial(
        create_trial(params=space.params(star), distributions=dict(space.distributions(star.depth)), values=[2.0, 1e-9])
    )
    children = [sampler.propose(study, number) for number in range(21, 41)]
    alike = [np.mean([child.get(k) == v for k, v in space.params(star).items()]) > 0.6 for child in children]
    assert sum(alike) >= 10  # it wins three of four tournaments


@pytest.mark.parametrize("surrogate", [False, True])
def test_better_than_random(surrogate: bool, space: SearchSpace, objective: Objective) -> None:
    from spikesearch.fitness import hypervolume

    def volume(sampler: optuna.samplers.BaseSampler) -> float:
        study = study_of(sampler)
        study.optimize(objective, n_trials=60)
        return hypervolume([(-t.values[0], t.values[1] / 5) for t in study.trials], (0.0, 1.0))

    ours = np.mean([volume(ESNNSampler(space, surrogate=surrogate, seed=seed)) for seed in range(3)])
    random = np.mean([volume(optuna.samplers.RandomSampler(seed=seed)) for seed in range(3)])
    assert ours > random


def test_one_objective() -> None:
    study = optuna.create_study(sampler=ESNNSampler(seed=0))
    study.optimize(lambda t: (t.suggest_float("x", -5, 5) - 1) ** 2 + t.suggest_int("n", 0, 9), n_trials=50)
    assert study.best_value < 0.1


def test_three_objectives() -> None:
    study = optuna.create_study(directions=["minimize"] * 3, sampler=ESNNSampler(seed=0))
    study.optimize(
        lambda t: (x := t.suggest_float("x", 0, 1), y := t.suggest_float("y", 0, 1), (x - y) ** 2), n_trials=30
    )
    assert len(study.trials) == 30


def test_conditional_study_without_a_space() -> None:
    study = study_of(ESNNSampler(seed=0))
    study.optimize(conditional, n_trials=40)
    assert max(value for value, _ in (t.values for t in study.trials)) > 0.75


# --- constraints ------------------------------------------------------------------------------------------------------


def too_deep(params: dict[str, Any]) -> float:
    return params["depth"] - 2.0


def test_known_constraints_hold_before_a_trial_is_spent_and_are_recorded(
    space: SearchSpace, objective: Objective
) -> None:
    study = study_of(ESNNSampler(space, known_constraints={"depth": too_deep}, seed=0))
    study.optimize(objective, n_trials=40)
    assert max(trial.params["depth"] for trial in study.trials) == 2
    assert all(trial.constraints == {"depth": trial.params["depth"] - 2.0} for trial in study.trials)


def test_measured_constraints_are_learned(space: SearchSpace, objective: Objective) -> None:
    def constrained(trial: optuna.Trial) -> tuple[float, float]:
        values = objective(trial)
        trial.set_constraint("energy", values[1] - 1.5)
        return values

    shares = []
    for sampler in (ESNNSampler(space, seed=0), optuna.samplers.RandomSampler(seed=0)):
        study = study_of(sampler)
        study.optimize(constrained, n_trials=50)
        shares.append(np.mean([t.constraints["energy"] <= 0 for t in study.trials[12:]]))
        assert all(t.constraints["energy"] <= 0 for t in study.best_trials)
    assert shares[0] > shares[1] + 0.2


def test_from_infeasible_to_feasible(space: SearchSpace, objective: Objective) -> None:
    def constrained(trial: optuna.Trial) -> tuple[float, float]:
        values = objective(trial)
        trial.set_constraint("narrow", abs(values[1] - 3.1) - 0.1)
        return values

    study = study_of(ESNNSampler(space, seed=0))
    study.optimize(constrained, n_trials=60)
    assert any(t.constraints["narrow"] <= 0 for t in study.trials)


def test_constraints_that_nothing_satisfies(tiny: SearchSpace) -> None:
    sampler = ESNNSampler(tiny, known_constraints={"never": lambda params: 1.0})
    study = study_of(sampler)
    with pytest.raises(SpaceExhaustedError):
        sampler.propose(study, 0)
    endless = ESNNSampler(known_constraints={"never": lambda params: 1.0})
    study = study_of(endless)
    study.optimize(lambda t: (t.suggest_float("x", 0, 1), 1.0), n_trials=15)
    with pytest.raises(SpaceExhaustedError, match="known constraints"):
        endless.propose(study, 15)


def test_known_objectives_are_used(space: SearchSpace, objective: Objective) -> None:
    asked = []

    def energy(params: dict[str, Any]) -> float:
        asked.append(params)
        return float(params["embed_dim"])

    study = study_of(ESNNSampler(space, known_objectives={1: energy}, seed=0))
    study.optimize(objective, n_trials=20)
    assert asked
    with pytest.raises(SamplerError, match="from 0 to 1, but got 7"):
        study_of(ESNNSampler(space, known_objectives={7: energy})).optimize(objective, n_trials=1)


def branches(trial: optuna.Trial) -> tuple[float, float]:
    x = trial.suggest_float("x", 0, 1) if trial.suggest_categorical("kind", ("a", "b")) == "a" else 1.0
    return x, trial.suggest_int("n", 1, 50) - x + trial.suggest_int("one", 1, 1)


def test_a_known_constraint_on_a_conditional_parameter_says_what_is_wrong() -> None:
    study = study_of(ESNNSampler(known_constraints={"k": lambda p: p["x"] - 0.5}, seed=0))
    with pytest.raises(SamplerError, match=r"constraint `k` must cope with parameters that are absent.*KeyError 'x'"):
        study.optimize(branches, n_trials=30)
    # A fresh sampler reads the same trials and says the same, every time.
    elsewhere = study_of(ESNNSampler(known_constraints={"k": lambda p: p["x"] - 0.5}, seed=0))
    elsewhere.add_trials([trial for trial in study.trials if "x" not in trial.params])
    for _ in range(2):
        with pytest.raises(SamplerError, match="constraint `k`"):
            elsewhere.sampler.propose(elsewhere, len(elsewhere.trials))


def test_known_functions_see_every_parameter_of_plain_and_none_too_many_of_conditional_studies() -> None:
    asked = []

    def limit(params: dict[str, Any]) -> float:
        asked.append(params)
        return params.get("x", 0.0) - 0.5 + 0 * params["one"]

    sampler = ESNNSampler(known_constraints={"k": limit}, known_objectives={1: lambda p: p["n"] + p["one"]}, seed=0)
    study = study_of(sampler)
    study.optimize(branches, n_trials=40)
    assert all(t.constraints["k"] == t.params.get("x", 0.0) - 0.5 for t in study.trials)
    assert sum(t.constraints["k"] > 0 for t in study.trials[12:]) == 0
    assert all(set(params) <= {"x", "kind", "n", "one"} for params in asked)
    study.ask().suggest_int("n", 1, 50)  # running: the others are not known yet
    study.optimize(branches, n_trials=5)


@pytest.mark.parametrize("bad", [math.nan, "much", None])
def test_known_functions_must_return_numbers(bad: Any, space: SearchSpace, objective: Objective) -> None:
    with pytest.raises(SamplerError, match=r"known objective 1 must return a number, but got"):
        study_of(ESNNSampler(space, known_objectives={1: lambda p: bad}, seed=0)).optimize(objective, n_trials=30)
    with pytest.raises(SamplerError, match=r"known constraint `c` must return a number, but got"):
        study_of(ESNNSampler(space, known_constraints={"c": lambda p: bad}, seed=0)).optimize(objective, n_trials=30)


# --- odd input --------------------------------------------------------------------------------------------------------


def test_infinite_values_stay_complete_and_harmless(space: SearchSpace, objective: Objective) -> None:
    study = study_of(ESNNSampler(space, seed=0))

    def odd(trial: optuna.Trial) -> tuple[float, float]:
        values = objective(trial)
        return (
            (math.inf, values[1]) if trial.number % 5 == 3 else (values[0], -math.inf) if trial.number == 9 else values
        )

    study.optimize(odd, n_trials=40)
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)


def test_equal_and_huge_values_do_not_crash_the_surrogate() -> None:
    surrogate = GaussianProcessSurrogate(min_rows=2, exploration=0.0)
    for values in ((1.0, 1.0), (1e300, -1e300)):
        study = study_of(ESNNSampler(surrogate=surrogate, seed=0))

        def equal(trial: optuna.Trial, values: tuple[float, float] = values) -> tuple[float, float]:
            return values[0] * trial.suggest_int("x", 0, 1) or values[0], values[1]

        study.optimize(equal, n_trials=6)
    study = study_of(ESNNSampler(surrogate=surrogate, seed=0))
    study.optimize(lambda t: (10.0 ** (10 * t.suggest_int("x", -30, 30)), t.suggest_float("y", 0, 1)), n_trials=15)
    assert len(study.trials) == 15


def test_parameters_outside_the_space_are_sampled_independently(space: SearchSpace, objective: Objective) -> None:
    study = study_of(ESNNSampler(space, seed=0))
    study.optimize(lambda t: (objective(t)[0], t.suggest_float("rate", 0.0, 1.0)), n_trials=30)
    rates = [trial.params["rate"] for trial in study.trials]
    assert len(set(rates)) == 30
    assert min(rates) < 0.2 < 0.8 < max(rates)


def test_a_parameter_with_another_distribution_is_an_error(space: SearchSpace, objective: Objective) -> None:
    for distribution in (CategoricalDistribution((1, 2, 5)), IntDistribution(1, 3)):
        study = study_of(ESNNSampler(space))
        study.add_trial(create_trial(params={"depth": 1}, distributions={"depth": distribution}, values=[0.5, 1.0]))
        with pytest.raises(SamplerError, match=r"Trial 0 does not fit the search space: `depth`"):
            study.optimize(objective, n_trials=1)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"population_size": 1}, "population_size"),
        ({"population_size": 2.5}, "population_size"),
        ({"crossover_prob": 1.1}, "crossover_prob"),
        ({"mutation_prob": -0.1}, "mutation_prob"),
        ({"mutation_prob": "often"}, "mutation_prob"),
        ({"seed": -1}, "seed"),
        ({"surrogate": "forest"}, "surrogate"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], name: str) -> None:
    with pytest.raises(SamplerError, match=f"`{name}` must be"):
        ESNNSampler(**options)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SpaceFillingDesign(size=0),
        lambda: UnseenOnly(attempts=0),
        lambda: UnseenOnly(max_scan=0),
        lambda: GaussianProcessSurrogate(min_rows=1),
        lambda: GaussianProcessSurrogate(exploration=2.0),
    ],
)
def test_bad_strategy_options(make: Callable[[], object]) -> None:
    with pytest.raises(SamplerError, match="must be"):
        make()


def test_arguments_are_json_and_name_functions(space: SearchSpace) -> None:
    sampler = ESNNSampler(space, seed=4, known_constraints={"depth": too_deep}, selection=FAEBSelection((0.1, 1.0)))
    record = json.loads(json.dumps(sampler.arguments()))
    assert record["seed"] == 4
    assert record["space"] == space.to_dict()
    assert record["known_constraints"]["depth"].endswith(":too_deep")
    assert record["selection"] == {"name": "spikesearch.sampler.selection:FAEBSelection", "betas": [0.1, 1.0]}


def test_hidden_trials_of_a_pruner_with_brackets() -> None:
    study = optuna.create_study(
        sampler=ESNNSampler(surrogate=False, seed=0), pruner=optuna.pruners.HyperbandPruner(1, 4)
    )

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0, 1)
        trial.report(x, 1)
        if trial.should_prune():
            raise optuna.TrialPruned
        return x

    study.optimize(objective, n_trials=20)
    assert len(study.trials) == 20


def test_no_torch_and_no_study_code() -> None:
    code = "import sys, spikesearch.sampler; print([m for m in sys.modules if m in ('torch', 'spikesearch.study')])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


@pytest.mark.parametrize("wish", [{"c": "zzz"}, {"n": "many"}, {"n": None}, {"c": [1]}, {"f": 10**400}, {"new": 1}])
@pytest.mark.parametrize("waiting", [True, False])
def test_a_bad_enqueued_trial_costs_only_itself(wish: dict[str, Any], waiting: bool) -> None:
    def objective(trial: optuna.Trial) -> tuple[float, float]:
        f = trial.suggest_float("f", 0, 1)
        return f, trial.suggest_int("n", 1, 9) - f + (trial.suggest_categorical("c", ("a", "b")) == "a")

    study = study_of(ESNNSampler(seed=0))
    study.optimize(objective, n_trials=12)
    state = TrialState.WAITING if waiting else TrialState.FAIL
    study.add_trial(create_trial(state=state, system_attrs={"fixed_params": wish}))
    for _ in range(2):
        assert set(ESNNSampler(seed=1).propose(study, 13)) == {"f", "n", "c"}
    study.sampler = ESNNSampler(seed=2)
    with contextlib.suppress(ValueError, OverflowError, TypeError):
        study.optimize(objective, n_trials=1)  # the bad one: Optuna refuses it
    study.optimize(objective, n_trials=8, catch=(ValueError, OverflowError, TypeError))
    assert sum(trial.state == TrialState.COMPLETE for trial in study.trials) >= 20


@pytest.mark.parametrize("wish", [{"a": 77}, {"a": -1, "b": "x"}, {"c": 0.3}, {"c": 1.25, "a": 1}, {"a": 77, "c": 9.0}])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.filterwarnings("ignore:Fixed parameter")
def test_an_enqueued_value_out_of_range_makes_nothing_repeat(wish: dict[str, Any], seed: int) -> None:
    def objective(trial: optuna.Trial) -> tuple[float, float]:
        a, b = trial.suggest_int("a", 0, 3), trial.suggest_categorical("b", ("x", "y", "z"))
        c = trial.suggest_float("c", 0, 1, step=0.25)
        return a + c, "zyx".index(b) * (1 + c)

    study = study_of(ESNNSampler(seed=seed))
    study.enqueue_trial(wish)
    study.optimize(objective, n_trials=50)  # the space has 60 points
    points = [tuple(sorted(trial.params.items())) for trial in study.trials]
    assert len(set(points)) == 50


def test_bad_wishes_do_not_matter_with_a_space(space: SearchSpace, objective: Objective) -> None:
    study = study_of(ESNNSampler(space, seed=0))
    for wish in ({"depth": [1]}, {"depth": 99}, {"depth": 1, "embed_dim": {}}):
        study.add_trial(create_trial(state=TrialState.FAIL, system_attrs={"fixed_params": wish}))
    study.optimize(objective, n_trials=15)
    assert len(study.trials) == 18


def test_an_error_while_reading_is_raised_again(space: SearchSpace, objective: Objective) -> None:
    study = study_of(ESNNSampler(space, seed=0))
    study.optimize(objective, n_trials=3)
    sampler = ESNNSampler(space, seed=0)
    sampler.propose(study, 3)
    study.add_trial(
        create_trial(params={"depth": 2}, distributions={"depth": CategoricalDistribution((2, 5))}, values=[1.0, 1.0])
    )
    for _ in range(3):
        with pytest.raises(SamplerError, match="does not fit the search space"):
            sampler.propose(study, 4)


@pytest.mark.parametrize("surrogate", [True, False])
def test_huge_ranges_and_choices(surrogate: bool) -> None:
    study = study_of(ESNNSampler(surrogate=surrogate, seed=0))

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        x = trial.suggest_float("x", -1e308, 1e308)
        return x / 1e308, float(trial.suggest_categorical("c", (1, 10**300)) > 1) - x / 1e308

    study.optimize(objective, n_trials=30)
    assert len(set(genomes(study))) == 30
    assert {trial.params["x"] > 0 for trial in study.trials} == {True, False}
