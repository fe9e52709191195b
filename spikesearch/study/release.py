"""Trials of a machine that is gone: nobody else can know that, so the user says it."""

from __future__ import annotations

from dataclasses import replace

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from spikesearch.errors import StudyError, did_you_mean
from spikesearch.study.attributes import WORKER
from spikesearch.study.store import find_study, store_with
from spikesearch.study.worker import Worker


def release_host(name: str, host: str, *, storage: str | BaseStorage | None = None) -> list[int]:
    """Let the running trials of a machine count as those of dead processes; the next run repeats them.

    A process that is alive after all goes on, but what it finds out about these trials is dropped.

    Args:
        name: Name of the study.
        host: Name of the machine, as the trials have it.
        storage: As for :func:`spikesearch.load_study`.

    Returns:
        The numbers of the trials.

    Raises:
        StudyNotFoundError: If there is no such study.
        StudyError: If no running trial is the machine's, or the machine is this one.
    """
    store = store_with(name, storage)
    study = find_study(store, name)
    with store.lock(name):
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        workers = [(trial, worker) for trial in running if (worker := Worker.of(trial)) is not None]
        hosts = list(dict.fromkeys(worker.host for _, worker in workers))
        theirs = [(trial, worker) for trial, worker in workers if worker.host == host]
        if not theirs:
            raise StudyError(
                f"No running trial of the study {name!r} is of the machine {host!r}{did_you_mean(host, hosts)}; these "
                f"machines have one: {', '.join(hosts) or 'none'}."
            )
        if theirs[0][1].on_this_host():
            raise StudyError(
                f"{host} is this machine, where it is known who is alive: `spikesearch study run {name}` repeats the "
                "trials of dead processes, and living ones can be ended."
            )
        released = []
        for trial, worker in theirs:
            try:
                study._storage.set_trial_user_attr(trial._trial_id, WORKER, replace(worker, lost=True).to_dict())
                released.append(trial.number)
            except UpdateFinishedTrialError:  # it was alive, and has just finished
                pass
    return released
