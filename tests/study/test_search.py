"""One worker's loop: order, results, budgets, the queue, interruptions."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from spikesearch.fitness import f_aeb
from spikesearch.storage.locks import NullLock
from spikesearch.study.search.ledger import Ledger
from spikesearch.study.search.trials import MAX_DEATHS, give_up
from spikesearch.study.worker import Worker, running_here
from tests.study.helpers import check_study, formula, new_study, search, space_of


@pytest.fixture
def study() -> optuna.Study:
    return new_study(InMemoryStorage())


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.get_trials(deepcopy=False)]


def keys(study: optuna.Study, state: TrialState = TrialState.COMPLETE) -> list[str]:
    space = space_of(study)
    return [space.architecture(t.params).key for t in study.get_trials(deepcopy=False) if t.state == state]


def test_the_reference_is_trial_0_and_its_energy_is_known_before_it_finishes(study: optuna.Study) -> None:
    seen = []

    def score(arch):
        trials = study.get_trials(deepcopy=False)
        seen.append((len(trials), study.user_attrs.get("reference_energy_uJ"), states(study)))
        return formula(arch)

    assert search(study, score=score, total=3) == "done"
    reference = study.trials[0]
    assert space_of(study).architecture(reference.params) == space_of(study).largest
    assert seen[0] == (1, None, ["RUNNING"])
    assert [energy for _, energy, _ in seen[1:]] == [reference.values[1]] * 2
    check_study(study)


def test_a_trial_holds_what_the_score_says(study: optuna.Study) -> None:
    search(study, constraints={"energy_uJ": 20.0, "params": 400})
    energy = study.user_attrs["reference_energy_uJ"]
    for trial in study.trials:
        score = formula(space_of(study).architecture(trial.params))
        assert trial.values == [score.accuracy, score.energy_uJ]
        assert trial.constraints == pytest.approx(
            {"dead": 0.2 - score.accuracy, "energy_uJ": score.energy_uJ - 20.0, "params": score.params - 400.0}
        )
        assert trial.user_attrs["f_aeb"] == f_aeb(score.accuracy, score.energy_uJ, energy, 0.02)
        assert trial.user_attrs["feasible"] == int(score.energy_uJ <= 20.0 and score.params <= 400)
        for name in ("params", "macs", "acs", "mean_firing_rate"):
            assert trial.user_attrs[name] == getattr(score, name)
        assert trial.user_attrs["arch"] == space_of(study).architecture(trial.params).key
    assert {trial.number for trial in study.best_trials} <= {
        trial.number for trial in study.trials if trial.user_attrs["feasible"]
    }


def test_a_dead_subnet_is_infeasible(study: optuna.Study) -> None:
    from dataclasses import replace

    search(study, score=lambda arch: replace(formula(arch), accuracy=0.19), total=1)
    assert study.trials[0].user_attrs["feasible"] == 0
    assert study.trials[0].constraints["dead"] == pytest.approx(0.01)


def test_total_is_reached_and_not_exceeded(study: optuna.Study) -> None:
    assert search(study, total=4) == "done"
    assert states(study) == ["COMPLETE"] * 4
    assert search(study, total=4, run="again") == "done"
    assert states(study) == ["COMPLETE"] * 4
    assert search(study, total=7, run="more") == "done"
    assert states(study) == ["COMPLETE"] * 7
    check_study(study)


def test_further_trials_are_counted_from_here(study: optuna.Study) -> None:
    search(study, total=4)
    assert search(study, further=3, total=4, run="b") == "done"
    assert states(study) == ["COMPLETE"] * 7


def test_both_ways_propose_the_same() -> None:
    ours, plain = new_study(InMemoryStorage()), new_study(InMemoryStorage())
    search(ours, total=30)

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        score = formula(space_of(plain).suggest(trial))
        return score.accuracy, score.energy_uJ

    plain.optimize(objective, n_trials=30)
    assert [trial.params for trial in ours.trials] == [trial.params for trial in plain.trials]


def test_a_resumed_study_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    from spikesearch.study import load_study

    whole = new_study(InMemoryStorage())
    search(whole, total=20)
    url = f"sqlite:///{tmp_path}/a.db"
    new_study(url)
    for total in (1, 2, 9, 20):
        search(load_study("tiny", storage=url), total=total, url=url, run=str(total))
    resumed = load_study("tiny", storage=url)
    assert [t.params for t in resumed.trials] == [t.params for t in whole.trials]
    assert [t.values for t in resumed.trials] == [t.values for t in whole.trials]


def test_an_exhausted_space_ends_the_search() -> None:
    study = new_study(InMemoryStorage(), space__depths=[1], space__taus=[2.0])
    space = space_of(study)
    assert search(study, total=10_000) == "exhausted"
    assert sorted(keys(study)) == sorted(space.at(i).key for i in range(space.size))
    check_study(study)
    assert search(study, total=10_000, run="again") == "exhausted"
    assert len(study.trials) == space.size


def test_time_that_is_over_starts_nothing(study: optuna.Study) -> None:
    from spikesearch.study.search.loop import Budget, Search

    loop = Search(
        study,
        space_of(study),
        formula,
        lock=NullLock(),
        worker=Worker.here("run"),
        budget=Budget("run", None, 5, deadline=0.0),
        num_classes=10,
    )
    assert loop.run() == "timeout"
    assert states(study) == ["WAITING"]


# --- the queue --------------------------------------------------------------------------------------------------------


def test_what_a_user_enqueues_runs_before_proposals_and_after_the_reference(study: optuna.Study) -> None:
    space = space_of(study)
    wanted = space.at(17)
    study.enqueue_trial(space.params(wanted), user_attrs={"note": "mine"})
    study.enqueue_trial({"embed_dim": 16, "depth": 2})  # the sampler completes it
    search(study, total=4)
    assert states(study) == ["COMPLETE"] * 4
    trials = study.trials
    assert space.architecture(trials[0].params) == space.largest
    assert space.architecture(trials[1].params) == wanted
    assert trials[1].user_attrs["note"] == "mine"
    assert trials[2].params["embed_dim"] == 16
    assert trials[2].params["depth"] == 2
    check_study(study)


def test_an_enqueued_architecture_is_not_scored_twice(study: optuna.Study) -> None:
    search(study, total=3)
    study.enqueue_trial(study.trials[1].params)
    search(study, total=5)
    assert study.trials[3].state == TrialState.PRUNED
    assert study.trials[3].user_attrs["duplicate_of"] == 1
    assert states(study).count("COMPLETE") == 5
    check_study(study)


@pytest.mark.parametrize("params", [{"embed_dim": 12}, {"depth": 9}, {"stem.tau": "two"}])
def test_an_impossible_enqueued_architecture_fails_alone(study: optuna.Study, params: dict[str, object]) -> None:
    study.enqueue_trial(params)
    assert search(study, total=3) == "done"
    assert study.trials[1].state == TrialState.FAIL
    assert study.trials[1].user_attrs["reason"]
    assert states(study).count("COMPLETE") == 3
    check_study(study)


# --- interruptions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", [1, 3])
def test_an_interrupted_trial_fails_and_is_run_again(study: optuna.Study, when: int) -> None:
    calls = count(1)

    def interrupted(arch):
        if next(calls) == when:
            raise KeyboardInterrupt
        return formula(arch)

    with pytest.raises(KeyboardInterrupt):
        search(study, score=interrupted)
    assert states(study) == ["COMPLETE"] * (when - 1) + ["FAIL", "WAITING"]
    failed, again = study.trials[when - 1], study.trials[when]
    assert failed.user_attrs["retried_by"] == again.number
    assert again.user_attrs["retry_of"] == failed.number
    assert again.params == failed.params
    search(study, run="again")
    assert states(study).count("COMPLETE") == 6
    check_study(study)


def test_interrupting_is_no_death(study: optuna.Study) -> None:
    for run in range(5):
        with pytest.raises(KeyboardInterrupt):
            search(study, score=_interrupt, run=str(run))
    search(study)
    check_study(study)
    assert states(study).count("FAIL") == 5


def test_an_error_of_scoring_fails_the_trial_and_ends_the_run(study: optuna.Study) -> None:
    def broken(arch):
        raise RuntimeError("no more memory\nsecond line")

    with pytest.raises(RuntimeError, match="no more memory"):
        search(study, score=broken)
    assert states(study) == ["FAIL"]
    assert study.trials[0].user_attrs["reason"] == "RuntimeError: no more memory"
    search(study)  # the reference is scored nevertheless
    check_study(study)


def test_a_trial_abandoned_in_a_living_process_is_run_again(study: optuna.Study) -> None:
    # a notebook: the process lives, but the run that started the trial has ended
    ghost = Worker.here("an-earlier-run")
    study.add_trial(_running(study, 5, ghost))
    search(study)
    assert study.trials[1].state == TrialState.FAIL
    assert study.trials[1].user_attrs["retried_by"] == 2
    check_study(study)


@pytest.mark.parametrize("host", ["here", "elsewhere"])
def test_a_trial_of_a_living_process_is_never_touched(study: optuna.Study, host: str) -> None:
    me = Worker.here("other-run")
    alive = me if host == "here" else Worker("another-host", 1, "boot:1", "other-run")
    study.add_trial(_running(study, 5, alive))
    before = study.trials[1]
    with running_here("other-run"):
        search(study, further=5, run="mine")
    assert study.trials[1] == before
    assert states(study).count("COMPLETE") == 5
    space = space_of(study)
    assert space.at(5).key not in keys(study)


def test_a_plain_users_running_trial_is_never_touched(study: optuna.Study) -> None:
    plain = optuna.load_study(study_name="tiny", storage=study._storage, sampler=optuna.samplers.RandomSampler(seed=0))
    search(study, total=2)
    theirs = plain.ask()
    theirs.suggest_categorical("depth", (1, 2))
    search(study, total=6, run="b")
    assert study.trials[theirs.number].state == TrialState.RUNNING
    plain.tell(theirs, [0.5, 0.5])
    assert study.trials[theirs.number].values == [0.5, 0.5]
    assert states(study).count("COMPLETE") == 7


def test_an_architecture_that_kills_its_processes_is_given_up(study: optuna.Study) -> None:
    search(study, total=2)
    study.add_trial(_running(study, 5, _dead()))
    for attempt in range(MAX_DEATHS):
        ledger = Ledger(study, space_of(study))
        ledger.refresh()
        (running,) = ledger.running
        again = give_up(study, ledger, running, died=True)
        assert (again is None) == (attempt == MAX_DEATHS - 1)
        if again is not None:  # the next process takes it, and dies as well
            trial_id = study.trials[again]._trial_id
            study._storage.set_trial_user_attr(trial_id, "worker", _dead().to_dict())
            study._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
    failed = [trial for trial in study.trials if trial.state == TrialState.FAIL]
    assert [trial.user_attrs.get("deaths") for trial in failed] == [None, 1, 2]
    assert ["retried_by" in trial.user_attrs for trial in failed] == [True, True, False]
    check_study(study)


def _interrupt(arch: object) -> None:
    raise KeyboardInterrupt


def _dead() -> Worker:
    from dataclasses import replace

    return replace(Worker.here("dead"), start="another time")


def _running(study: optuna.Study, index: int, worker: Worker) -> optuna.trial.FrozenTrial:
    space = space_of(study)
    arch = space.at(index)
    return optuna.trial.create_trial(
        state=TrialState.RUNNING,
        params=space.params(arch),
        distributions=dict(space.distributions(arch.depth)),
        user_attrs={"arch": arch.key, "worker": worker.to_dict()},
    )
