"""One worker's loop: take the next trial under the study's lock, score it, store it, until the budget is used up."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from optuna.trial import FrozenTrial

from spikesearch.errors import StudyError
from spikesearch.fitness import dead_below, f_aeb
from spikesearch.racing import Dominated, Rival
from spikesearch.study import attributes
from spikesearch.study.assembly import device_limits, make_sampler
from spikesearch.study.search import trials
from spikesearch.study.search.interrupts import Interrupts
from spikesearch.study.search.ledger import Ledger
from spikesearch.study.search.signs import Watch, signs_of_life
from spikesearch.study.worker import Worker

if TYPE_CHECKING:
    import optuna

    from spikesearch.space import Architecture, SearchSpace
    from spikesearch.storage.locks import Lock
    from spikesearch.study.session import Session

_log = logging.getLogger(__name__)

Outcome = Literal["done", "exhausted", "timeout", "stopped"]
_POLL_S = (0.01, 0.5)  # shortest and longest pause while other workers finish what is left


class ScoreLike(Protocol):
    """What the search needs to know of a scored architecture; see :class:`spikesearch.scoring.Score`."""

    @property
    def accuracy(self) -> float: ...
    @property
    def energy_uJ(self) -> float: ...  # noqa: N802 - the unit is microjoule
    @property
    def params(self) -> int: ...
    @property
    def macs(self) -> float: ...
    @property
    def acs(self) -> float: ...
    @property
    def mean_firing_rate(self) -> float: ...


@dataclass(frozen=True)
class Budget:
    """How much this run may do.

    Args:
        run: The run whose trials are counted.
        further: COMPLETE trials that the run adds, all its workers together; ``None`` for no such limit.
        total: COMPLETE trials that the study holds in the end; used if ``further`` is ``None``.
        deadline: Unix time after which no trial is started; ``None`` for none.
    """

    run: str
    further: int | None
    total: int
    deadline: float | None = None

    def verdict(self, ledger: Ledger) -> Literal["go", "wait", "done"]:
        """Say whether another trial may be started.

        A running trial holds a ticket, because it will most likely be COMPLETE: starting one more could exceed the
        budget. If it is not, its ticket is free again, so that ``wait`` is the answer while others run. It is not while
        only other machines run trials: nobody here can tell whether they live.
        """
        workers = [Worker.of(trial) for trial in ledger.running]
        living = [worker for worker in workers if worker is not None and worker.is_alive()]
        if self.further is not None:
            living = [worker for worker in living if worker.run == self.run]
            left = self.further - ledger.n_complete_by_run[self.run]
        else:
            left = self.total - ledger.n_complete
        if left <= 0:
            return "done"
        if len(living) < left:
            return "go"
        return "wait" if any(worker.on_this_host() for worker in living) else "done"


@dataclass(frozen=True)
class Task:
    """A trial that this worker runs.

    Args:
        trial: The trial.
        rivals: The front that it races against; empty if it is scored in full.
    """

    trial: FrozenTrial
    rivals: Sequence[Rival] = ()


@dataclass(frozen=True)
class FinishedTrial:
    """A COMPLETE trial; for progress displays."""

    number: int
    accuracy: float
    energy_uJ: float  # noqa: N815 - the unit is microjoule
    f_aeb: float
    feasible: bool


class Search:
    """A worker's loop.

    Args:
        study: The study, with its sampler.
        space: Its search space.
        score: Scores an architecture.
        lock: The study's lock.
        worker: This process.
        budget: How much may be done.
        constraints: Upper bounds of a trial's attributes.
        excess: Returns by how much an architecture is beyond bounds that are known before it is scored, by name.
        num_classes: Number of classes; a subnet that hardly does better than guessing is dead, hence infeasible.
        majority_share: Share of the most frequent class, which a guess would be.
        beta: Weight of the energy in F_AEB.
        on_trial: Called with the result of every trial that this worker has finished.
        stop: Asked before every trial whether to end early.
        race: Scores an architecture, or stops it early against rivals; ``None`` scores everything in full.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: SearchSpace,
        score: Callable[[Architecture], ScoreLike],
        *,
        lock: Lock,
        worker: Worker,
        budget: Budget,
        num_classes: int,
        majority_share: float = 0.0,
        constraints: Mapping[str, float] | None = None,
        excess: Callable[[Architecture], Mapping[str, float]] | None = None,
        beta: float = 0.02,
        on_trial: Callable[[FinishedTrial], None] | None = None,
        stop: Callable[[], bool] | None = None,
        race: Callable[[Architecture, Sequence[Rival]], ScoreLike] | None = None,
    ) -> None:
        self._study = study
        self._space = space
        self._score = score
        self._lock = lock
        self._worker = worker
        self._budget = budget
        self._dead_below = dead_below(num_classes, majority_share)
        self._constraints = dict(constraints or {})
        self._excess = excess
        self._beta = beta
        self._on_trial = on_trial
        self._stop = stop
        self._race = race
        self._ledger = Ledger(study, space)
        self._reference = space.largest
        self._reference_energy: float | None = None
        self._told: set[str] = set()
        self._watch = Watch(study)
        self._interrupts = Interrupts()

    def run(self) -> Outcome:
        """Run trials until the budget is used up, the space is exhausted or the time is over.

        Raises:
            BaseException: Whatever scoring raises. The trial is FAIL then; after Ctrl-C its architecture is in the
                queue again.
        """
        with self._interrupts:
            try:
                outcome = self._loop()
                self._interrupts.check()
                return outcome
            except (KeyboardInterrupt, SystemExit):
                self._abandon()
                raise

    def _loop(self) -> Outcome:
        pause = _POLL_S[0]
        while True:
            self._interrupts.check()
            if self._budget.deadline is not None and time.time() >= self._budget.deadline:
                return "timeout"
            if self._stop is not None and self._stop():
                return "stopped"
            following = self._next()
            if isinstance(following, Task):
                self._run(following)
                pause = _POLL_S[0]
            elif following == "wait":
                with self._interrupts.allowed():
                    time.sleep(pause)
                pause = min(2 * pause, _POLL_S[1])
            else:
                return following

    # --- the next trial -----------------------------------------------------------------------------------------------

    def _next(self) -> Task | Literal["wait", "done", "exhausted"]:
        from spikesearch.sampler import (  # takes a second, for whoever only reads a study
            ESNNSampler,
            SpaceExhaustedError,
        )

        with self._lock:
            self._ledger.refresh()
            self._repair()
            verdict = self._budget.verdict(self._ledger)
            if verdict != "go":
                return verdict
            if self._reference.key not in self._ledger.complete:
                return self._next_reference()
            self._read_reference_energy()
            queue = self._ledger.waiting
            for waiting in queue:
                trial = self._claim(waiting)
                if trial is not None:
                    return Task(trial)  # in full: whoever enqueued it wants a score, not a verdict
            if queue:  # claiming has changed trials
                self._ledger.refresh()
            sampler = self._study.sampler
            assert isinstance(sampler, ESNNSampler)
            try:
                params = sampler.propose(self._study, self._ledger.n_trials, trials=self._ledger.trials)
            except SpaceExhaustedError:
                return "wait" if self._others_run() else "exhausted"
            return Task(trials.create(self._study, self._space, params, self._worker), self._rivals())

    def _rivals(self) -> Sequence[Rival]:
        # Budgets count COMPLETE trials. If more were stopped than that, a search whose front is as good as it gets
        # would hardly come to an end, and the sampler would learn nothing of where proposals are bad.
        # What runs may be stopped, too.
        if self._race is None or self._ledger.n_stopped + len(self._ledger.running) >= self._ledger.n_complete:
            return ()
        return self._ledger.front

    def _next_reference(self) -> Task | Literal["wait"]:
        # Every F_AEB, and every constraint on it, is relative to the reference: nothing runs beside it.
        for trial in self._ledger.running:
            if self._ledger.arch_key(trial) == self._reference.key:
                if message := self._watch.look(trial):
                    self._tell(message)
                return "wait"
        for trial in self._ledger.waiting:
            if self._ledger.arch_key(trial) == self._reference.key:
                claimed = self._claim(trial)
                if claimed is not None:
                    return Task(claimed)
        return Task(trials.create(self._study, self._space, self._space.params(self._reference), self._worker))

    def _claim(self, waiting: FrozenTrial) -> FrozenTrial | None:
        trial = trials.claim(self._study, self._space, waiting, self._worker)
        if trial is None:
            return None
        key = self._ledger.arch_key(trial)
        same = self._ledger.complete.get(key or "")
        if same is None:
            same = next((t.number for t in self._ledger.running if self._ledger.arch_key(t) == key), None)
        if same is None:
            return trial
        trials.skip(self._study, trial, same)
        return None

    def _repair(self) -> None:
        """Put the architectures of dead processes into the queue again."""
        repaired = False
        for trial in self._ledger.running:
            worker = Worker.of(trial)
            if worker is not None and not worker.is_alive():
                trials.give_up(self._study, self._ledger, trial, died=True)
                repaired = True
            elif worker is not None and not worker.on_this_host():
                self._tell(
                    f"Trial {trial.number} is run by process {worker.pid} on {worker.host}; it is left alone. "
                    + worker.remedy(self._study)
                )
        if repaired:
            self._ledger.refresh()

    def _others_run(self) -> bool:
        workers = [Worker.of(trial) for trial in self._ledger.running]
        return any(worker is not None and worker.on_this_host() for worker in workers)

    # --- the trial ----------------------------------------------------------------------------------------------------

    def _run(self, task: Task) -> None:
        trial = task.trial
        arch = self._space.architecture(trial.params)
        try:
            awaited = signs_of_life(self._study) if arch == self._reference else nullcontext()
            with awaited, self._interrupts.allowed():
                score = self._race(arch, task.rivals) if self._race and task.rivals else self._score(arch)
            if arch == self._reference:
                self._store_reference_energy(score.energy_uJ)
            finished = self._finish(trial, arch, score)
        except Dominated as lost:
            trials.stop(self._study, trial, lost)
            return
        except Exception as error:
            trials.fail(self._study, trial, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
            raise
        if finished is None:
            _log.warning("Trial %d was finished by somebody else; its score is dropped.", trial.number)
        elif self._on_trial is not None:
            self._on_trial(finished)

    def _finish(self, trial: FrozenTrial, arch: Architecture, score: ScoreLike) -> FinishedTrial | None:
        assert self._reference_energy is not None
        constraints = {"dead": self._dead_below - score.accuracy}
        for key, bound in self._constraints.items():
            constraints[key] = float(getattr(score, key)) - bound
        if self._excess is not None:
            constraints |= self._excess(arch)
        attrs = {
            attributes.F_AEB: f_aeb(score.accuracy, score.energy_uJ, self._reference_energy, self._beta),
            attributes.PARAMS: int(score.params),
            attributes.MACS: float(score.macs),
            attributes.ACS: float(score.acs),
            attributes.MEAN_FIRING_RATE: float(score.mean_firing_rate),
            attributes.FEASIBLE: int(all(value <= 0 for value in constraints.values())),
        }
        values = (float(score.accuracy), float(score.energy_uJ))
        if not trials.finish(self._study, trial, values, attrs, constraints):
            return None
        return FinishedTrial(trial.number, *values, attrs[attributes.F_AEB], bool(attrs[attributes.FEASIBLE]))

    def _store_reference_energy(self, energy: float) -> None:
        # Before the reference itself is finished: no trial has an F_AEB without it. A repetition after a crash finds
        # the energy stored already and keeps it.
        with self._lock:
            stored = self._study.user_attrs.get(attributes.REFERENCE_ENERGY)
            if stored is None:
                self._study.set_user_attr(attributes.REFERENCE_ENERGY, energy)
                stored = energy
        self._reference_energy = float(stored)

    def _read_reference_energy(self) -> None:
        if self._reference_energy is not None:
            return
        stored = self._study.user_attrs.get(attributes.REFERENCE_ENERGY)
        if stored is None:  # the reference was scored by a plain Optuna user
            number = self._ledger.complete[self._reference.key]
            stored = self._study.get_trials(deepcopy=False)[number].values[1]
            if not stored > 0:
                raise StudyError(
                    f"Trial {number}, the reference, holds the energy {stored}, but F_AEB needs one above 0; "
                    "start another study with --study-name."
                )
            self._study.set_user_attr(attributes.REFERENCE_ENERGY, stored)
        self._reference_energy = float(stored)

    def _abandon(self) -> None:
        """Give up what this worker holds, wherever the interruption came: also a trial that it has just created."""
        with self._lock:
            self._ledger.refresh()
            for trial in self._ledger.running:
                if Worker.of(trial) == self._worker:
                    trials.give_up(self._study, self._ledger, trial, died=False)

    def _tell(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            _log.warning(message)


def build_search(
    session: Session,
    budget: Budget,
    *,
    on_trial: Callable[[FinishedTrial], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Search:
    """Wire a :class:`Search` for this process.

    Args:
        session: The study, with its supernet.
        budget: How much may be done.
        on_trial: See :class:`Search`.
        stop: See :class:`Search`.
    """
    config, scorer = session.config, session.scorer()
    limits = device_limits(config, session.supernet())
    session.study.sampler = make_sampler(config, limits)
    return Search(
        session.study,
        session.space,
        scorer.score,
        lock=session.lock(),
        worker=Worker.here(budget.run),
        budget=budget,
        num_classes=session.data.num_classes,
        majority_share=session.data.majority_share,
        constraints={name: bound for name, bound in config.constraints.items() if name not in limits.bounds},
        excess=limits.excess,
        beta=config.report.beta,
        on_trial=on_trial,
        stop=stop,
        race=scorer.race if config.scoring.racing else None,
    )
