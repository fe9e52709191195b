"""What a study holds, read incrementally: finished trials are looked at once, open ones every time."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial, TrialState

from spikesearch.errors import SpaceError
from spikesearch.racing import Dominated, Rival, enter
from spikesearch.study.attributes import RETRY_OF
from spikesearch.study.worker import Worker

if TYPE_CHECKING:
    import optuna

    from spikesearch.space import SearchSpace


class Ledger:
    """The state of a study as one process sees it.

    Args:
        study: The study.
        space: Its search space.

    Attributes:
        trials: The trials as they were read last, by number.
        n_trials: Number of trials of any state; the number of the next one.
        complete: Number of the first COMPLETE trial per architecture key.
        n_complete: Number of COMPLETE trials.
        n_complete_by_run: The same, of the workers of one run.
        n_stopped: Number of trials that lost a race.
        front: The Pareto front of the feasible COMPLETE trials, as they were read.
        open: RUNNING and WAITING trials, by number.
        retry_of: Number of the trial that repeats a given trial.
    """

    def __init__(self, study: optuna.Study, space: SearchSpace) -> None:
        self._study = study
        self._space = space
        self._seen = 0
        self.trials: list[FrozenTrial] = []
        self.n_trials = 0
        self.complete: dict[str, int] = {}
        self.n_complete = 0
        self.n_complete_by_run: Counter[str] = Counter()
        self.n_stopped = 0
        self.front: list[Rival] = []
        self.open: list[FrozenTrial] = []
        self.retry_of: dict[int, int] = {}

    def refresh(self) -> None:
        """Read what changed since the last call; one query."""
        trials = self.trials = self._study._storage.get_all_trials(self._study._study_id, deepcopy=False)
        numbers = [*(trial.number for trial in self.open), *range(self._seen, len(trials))]
        self.open = []
        for number in numbers:
            trial = trials[number]
            if number >= self._seen and RETRY_OF in trial.user_attrs:
                self.retry_of.setdefault(trial.user_attrs[RETRY_OF], number)
            if not trial.state.is_finished():
                self.open.append(trial)
            elif trial.state == TrialState.COMPLETE:
                self._complete(trial)
            elif is_stopped(trial):
                self.n_stopped += 1
        self._seen = self.n_trials = len(trials)

    @property
    def running(self) -> list[FrozenTrial]:
        """The RUNNING trials, by number."""
        return [trial for trial in self.open if trial.state == TrialState.RUNNING]

    @property
    def waiting(self) -> list[FrozenTrial]:
        """The WAITING trials, by number."""
        return [trial for trial in self.open if trial.state == TrialState.WAITING]

    def arch_key(self, trial: FrozenTrial) -> str | None:
        """Return the key of a trial's architecture, or ``None`` while its genome is incomplete or foreign."""
        try:
            return self._space.architecture({**fixed_params(trial), **trial.params}).key
        except SpaceError:
            return None

    def _complete(self, trial: FrozenTrial) -> None:
        self.n_complete += 1
        worker = Worker.of(trial)
        if worker is not None:
            self.n_complete_by_run[worker.run] += 1
        key = self.arch_key(trial)
        if key is not None:
            self.complete.setdefault(key, trial.number)
            self._enter_front(trial)

    def _enter_front(self, trial: FrozenTrial) -> None:
        feasible = all(value <= 0 for value in trial.constraints.values())
        if feasible and all(math.isfinite(value) for value in trial.values):
            self.front = enter(self.front, Rival(trial.number, *trial.values))


def is_stopped(trial: FrozenTrial) -> bool:
    """Tell whether a trial lost a race; one that was pruned as a repetition did not."""
    return trial.state == TrialState.PRUNED and Dominated.of(trial.user_attrs) is not None


def fixed_params(trial: FrozenTrial) -> dict[str, Any]:
    """Return the genes that a user fixed with ``study.enqueue_trial``; Optuna writes them when they are asked for."""
    return dict(trial.system_attrs.get("fixed_params", {}))
