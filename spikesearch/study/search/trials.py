"""The steps of a trial's life, each safe against a crash right after it.

    created  -> RUNNING, with its whole genome and the worker's identity, in one transaction
    claimed  -> RUNNING, with the worker's identity, from WAITING (enqueued by a user, or the repetition of a trial)
    finished -> COMPLETE, with values, attributes and constraints, in one transaction
    stopped  -> PRUNED, with the bounds that stopped it, in one transaction
    given up -> FAIL, after its repetition has been put into the queue

A process may be killed between any two of them: what it leaves is a RUNNING trial with a complete genome that names a
dead process, and :func:`give_up` brings that into order, from wherever an earlier attempt at it was interrupted.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from spikesearch.errors import SpaceError
from spikesearch.racing import Dominated
from spikesearch.storage.genome_storage import GenomeStorage
from spikesearch.storage.urls import backend_of
from spikesearch.study import attributes
from spikesearch.study.search.ledger import Ledger, fixed_params
from spikesearch.study.worker import Worker

if TYPE_CHECKING:
    import optuna

    from spikesearch.space import SearchSpace

_log = logging.getLogger(__name__)

MAX_DEATHS = 3  # an architecture that kills its process this often, for want of memory say, is not tried again


def create(study: optuna.Study, space: SearchSpace, params: Mapping[str, Any], worker: Worker) -> FrozenTrial:
    """Create a running trial with its whole genome, in one transaction.

    Args:
        study: A study that is locked by the caller.
        space: Its search space.
        params: Optuna parameters of the architecture.
        worker: Who runs it.
    """
    arch, distributions = space.architecture(params), space.distributions()
    params = space.params(arch)
    template = create_trial(
        state=TrialState.RUNNING,
        params=params,
        distributions={name: distributions[name] for name in params},
        user_attrs={attributes.ARCH: arch.key, attributes.WORKER: worker.to_dict()},
    )
    return study._storage.get_trial(study._storage.create_new_trial(study._study_id, template_trial=template))


def claim(study: optuna.Study, space: SearchSpace, trial: FrozenTrial, worker: Worker) -> FrozenTrial | None:
    """Take a waiting trial and complete its genome.

    Genes that the user left open are drawn by the study's sampler.

    Returns:
        The running trial; ``None`` if somebody else took it, or if its genes are impossible: then it is FAIL and its
        attribute ``reason`` says why.
    """
    if not _claim(study, trial._trial_id, {attributes.WORKER: worker.to_dict()}):
        return None
    try:
        if trial.system_attrs.get("fixed_params") is not None or not trial.params:
            arch = space.suggest(Trial(study, trial._trial_id))
        else:
            arch = space.architecture(trial.params)
    except (ValueError, KeyError) as error:  # SpaceError, or Optuna on a choice that the list does not hold
        reason = str(error) if isinstance(error, SpaceError) else f"a gene is not one of its choices: {error}"
        _log.warning("Trial %d was enqueued with genes that are not of this space: %s", trial.number, reason)
        _finish(study, trial._trial_id, TrialState.FAIL, None, {attributes.REASON: reason}, {})
        return None
    if trial.user_attrs.get(attributes.ARCH) != arch.key:
        study._storage.set_trial_user_attr(trial._trial_id, attributes.ARCH, arch.key)
    return study._storage.get_trial(trial._trial_id)


def skip(study: optuna.Study, trial: FrozenTrial, duplicate_of: int) -> None:
    """Prune a claimed trial whose architecture another trial has scored, or is scoring."""
    _log.info("Trial %d is pruned: trial %d has the same architecture.", trial.number, duplicate_of)
    _finish(study, trial._trial_id, TrialState.PRUNED, None, {attributes.DUPLICATE_OF: duplicate_of}, {})


def finish(
    study: optuna.Study,
    trial: FrozenTrial,
    values: tuple[float, float],
    user_attrs: Mapping[str, Any],
    constraints: Mapping[str, float],
) -> bool:
    """Store all results of a trial and make it COMPLETE, in one transaction.

    Args:
        study: The study.
        trial: A trial that this process runs.
        values: Accuracy and energy.
        user_attrs: Attributes to add.
        constraints: Feasible where 0 or less.

    Returns:
        False if somebody else has finished the trial in the meantime; nothing is changed then.
    """
    study.sampler.after_trial(study, trial, TrialState.COMPLETE, list(values))
    return _finish(study, trial._trial_id, TrialState.COMPLETE, list(values), user_attrs, constraints)


def stop(study: optuna.Study, trial: FrozenTrial, lost: Dominated) -> None:
    """Prune a running trial that lost a race; its attributes say after how many images, by which bounds, against whom.

    If somebody else has finished the trial in the meantime, nothing is changed.
    """
    _log.debug("Trial %d is stopped: %s.", trial.number, lost)
    _finish(study, trial._trial_id, TrialState.PRUNED, None, lost.to_dict(), {})


def fail(study: optuna.Study, trial: FrozenTrial, reason: str) -> bool:
    """Make a trial FAIL for good: its architecture is not put into the queue again."""
    return _finish(study, trial._trial_id, TrialState.FAIL, None, {attributes.REASON: reason}, {})


def give_up(study: optuna.Study, ledger: Ledger, trial: FrozenTrial, *, died: bool) -> int | None:
    """Make an interrupted trial FAIL and put its architecture into the queue again; both name each other.

    The caller holds the study's lock. The order makes every crash harmless: (1) the repetition is created, naming the
    trial; (2) the trial names the repetition; (3) the trial becomes FAIL and thereby immutable. After a crash behind
    (1) or (2) the trial is still RUNNING by a dead process, so this function is called again; it finds the repetition
    by its ``retry_of``, whatever has become of it meanwhile, and goes on from there.

    Args:
        study: The study, locked.
        ledger: A refreshed view of it.
        trial: The interrupted trial.
        died: Whether its process died, rather than being asked to stop.

    Returns:
        The number of the repetition; ``None`` if there is none, because the architecture is known already or has killed
        too many processes.
    """
    again = ledger.retry_of.get(trial.number)
    deaths = int(trial.user_attrs.get(attributes.DEATHS, 0)) + int(died)
    reason = "its process died" if died else "interrupted"
    key = ledger.arch_key(trial)
    if again is None and key is not None and key in ledger.complete:
        fail(study, trial, f"{reason}; trial {ledger.complete[key]} has the same architecture")
        return None
    if again is None and deaths >= MAX_DEATHS:
        _log.warning("Trial %d is not repeated: its architecture was lost with %d processes.", trial.number, deaths)
        fail(study, trial, f"{reason}, {deaths} times with this architecture")
        return None
    if again is None:
        again = _enqueue_again(study, trial, deaths)
        ledger.refresh()
    study._storage.set_trial_user_attr(trial._trial_id, attributes.RETRIED_BY, again)
    fail(study, trial, reason)
    _log.info("Trial %d failed (%s); its architecture is run again as trial %d.", trial.number, reason, again)
    return again


def _enqueue_again(study: optuna.Study, trial: FrozenTrial, deaths: int) -> int:
    attrs = {key: value for key, value in trial.user_attrs.items() if key not in attributes.OF_ONE_ATTEMPT}
    attrs |= {attributes.RETRY_OF: trial.number}
    if attributes.ARCH in trial.user_attrs:
        attrs[attributes.ARCH] = trial.user_attrs[attributes.ARCH]
    if deaths:
        attrs[attributes.DEATHS] = deaths
    fixed = fixed_params(trial)
    template = create_trial(
        state=TrialState.WAITING,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs=attrs,
        system_attrs={"fixed_params": fixed} if fixed else None,
    )
    trial_id = study._storage.create_new_trial(study._study_id, template_trial=template)
    return study._storage.get_trial(trial_id).number


# --- storage ----------------------------------------------------------------------------------------------------------


def _claim(study: optuna.Study, trial_id: int, user_attrs: Mapping[str, Any]) -> bool:
    backend = backend_of(study._storage)
    if isinstance(backend, GenomeStorage):
        return backend.claim_trial(trial_id, user_attrs)
    try:
        # The worker comes first: a RUNNING trial without one belongs to somebody else and is never repaired.
        for key, value in user_attrs.items():
            study._storage.set_trial_user_attr(trial_id, key, value)
        return study._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
    except UpdateFinishedTrialError:
        return False


def _finish(
    study: optuna.Study,
    trial_id: int,
    state: TrialState,
    values: list[float] | None,
    user_attrs: Mapping[str, Any],
    constraints: Mapping[str, float],
) -> bool:
    study._thread_local.cached_all_trials = None  # as Study.tell does
    backend = backend_of(study._storage)
    if isinstance(backend, GenomeStorage):
        system_attrs = {f"constraints:{key}": float(value) for key, value in constraints.items()}
        return backend.finish_trial(trial_id, state, values, user_attrs, system_attrs)
    try:
        for key, value in user_attrs.items():
            study._storage.set_trial_user_attr(trial_id, key, value)
        if constraints:
            trial = Trial(study, trial_id)
            for key, value in constraints.items():
                trial.set_constraint(key, value)
        return study._storage.set_trial_state_values(trial_id, state, values)
    except UpdateFinishedTrialError:
        return False
