"""Does a study still hold what it says? Checks of its trials, its data, its supernet and of two scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from spikesearch.errors import SpikesearchError
from spikesearch.racing import Dominated, Rival
from spikesearch.study import provenance
from spikesearch.study.attributes import RETRIED_BY, RETRY_OF
from spikesearch.study.resolve import find
from spikesearch.study.results import TrialResult, complete_trials
from spikesearch.study.search.ledger import is_stopped
from spikesearch.study.session import Session, open_trained
from spikesearch.study.worker import Worker

if TYPE_CHECKING:
    import optuna

ENERGY_TOLERANCE = 1e-3
ACCURACY_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Check:
    """The outcome of one check.

    Args:
        name: What was checked.
        passed: Whether it is in order.
        found: What is the case.
    """

    name: str
    passed: bool
    found: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def verify_study(
    name: str, *, storage: str | BaseStorage | None = None, run_dir: str | Path | None = None, device: str = "cpu"
) -> list[Check]:
    """Check a study; nothing is changed.

    Args:
        name: Name of the study.
        storage: As for :func:`spikesearch.load_study`.
        run_dir: Folder of the study's files, where it is not the usual one.
        device: Where to score.

    Raises:
        SpikesearchError: If there is no such study.
    """
    target = find(name, storage)
    checks = list(check_trials(target.existing))
    try:
        session = open_trained(target, run_dir=run_dir, device=device)
    except SpikesearchError as error:
        return [*checks, Check("data and supernet", False, str(error))]
    same = f"data {session.data.fingerprint}, supernet {session.supernet_hash[:12]}"
    return [*checks, Check("data and supernet", True, same), *_score_checks(session)]


def check_trials(study: optuna.Study) -> Iterator[Check]:
    """Check what a study says of its trials.

    Raises:
        StudyError: If it was not made by spikesearch.
    """
    trials = study.get_trials(deepcopy=False)
    numbers = [trial.number for trial in trials]
    yield Check("trial numbers", numbers == list(range(len(trials))), f"{len(trials)} trials, contiguous from 0")
    results = complete_trials(study, provenance.stored_config(study), trials)
    twice = [key for key, count in Counter(t.architecture.key for t in results).items() if count > 1]
    different = f"repeated: {', '.join(twice)}" if twice else "all different"
    yield Check("architectures", not twice, f"{len(results)} complete, {different}")
    broken = [trial.number for trial in trials if not _points_back(trial, trials)]
    retried = sum(RETRY_OF in trial.user_attrs for trial in trials)
    yield Check("repetitions", not broken, f"{retried} repeated" + (f", broken at {broken}" if broken else ""))
    stopped = [trial for trial in trials if is_stopped(trial)]
    if stopped:
        by_number = {trial.number: trial for trial in results}
        broken = [trial.number for trial in stopped if not _is_dominated(trial, by_number)]
        lost = f"{len(stopped)} by racing" + (f", nothing dominates the bounds of {broken}" if broken else "")
        yield Check("stopped trials", not broken, lost)
    dead = [trial.number for trial in trials if trial.state == TrialState.RUNNING and _is_dead(trial)]
    whose = f"of dead processes: {dead}; the next `study run` repeats them" if dead else "none of a dead process"
    away = _away(trials)
    for worker, numbers in away.items():
        whose += f"; {numbers} of {worker.host}, of which nothing is known here. {worker.remedy(study)}"
    yield Check("running trials", not dead and not away, whose)


def _is_dominated(trial: FrozenTrial, complete: dict[int, TrialResult]) -> bool:
    lost = Dominated.of(trial.user_attrs)
    by = complete.get(lost.dominated_by) if lost is not None else None
    if lost is None or by is None or not by.feasible:
        return False
    return Rival(by.number, by.accuracy, by.energy_uJ).dominates(lost.accuracy_bound, lost.energy_bound_uJ)


def _points_back(trial: FrozenTrial, trials: list[FrozenTrial]) -> bool:
    for there, back in ((RETRY_OF, RETRIED_BY), (RETRIED_BY, RETRY_OF)):
        other = trial.user_attrs.get(there)
        if other is None:
            continue
        if not (isinstance(other, int) and 0 <= other < len(trials)):
            return False
        if trials[other].user_attrs.get(back) != trial.number and not _is_dead(trials[other]):
            return False
    return True


def _is_dead(trial: FrozenTrial) -> bool:
    worker = Worker.of(trial)
    return trial.state == TrialState.RUNNING and worker is not None and not worker.is_alive()


def _away(trials: list[FrozenTrial]) -> dict[Worker, list[int]]:
    """Return the running trials of every other machine, by a worker of it."""
    hosts: dict[str, tuple[Worker, list[int]]] = {}
    for trial in trials:
        worker = Worker.of(trial)
        if trial.state == TrialState.RUNNING and worker and not worker.lost and not worker.on_this_host():
            hosts.setdefault(worker.host, (worker, []))[1].append(trial.number)
    return dict(hosts.values())


def _score_checks(session: Session) -> Iterator[Check]:
    results = session.results()
    for role, trial in (("reference", results.reference), ("recommended", results.recommended)):
        if trial is not None:
            yield _score_again(session, role, trial)


def _score_again(session: Session, role: str, trial: TrialResult) -> Check:
    score = session.scorer().score(trial.architecture)
    tolerance = max(ACCURACY_TOLERANCE, 1 / score.n_images) + 1e-12
    same = abs(score.accuracy - trial.accuracy) <= tolerance
    same &= abs(score.energy_uJ - trial.energy_uJ) <= ENERGY_TOLERANCE * trial.energy_uJ
    scores = (
        f"trial {trial.number}: accuracy {trial.accuracy:.4f} and now {score.accuracy:.4f}, "
        f"energy {trial.energy_uJ:.4g} and now {score.energy_uJ:.4g} uJ"
    )
    return Check(f"score of the {role}", bool(same), scores)
