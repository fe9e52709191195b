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
from spikesearch.racing import Rival
from spikesearch.study import provenance
from spikesearch.study.results import TrialResult, complete_trials
from spikesearch.study.search.ledger import is_stopped
from spikesearch.study.store import load_study, open_store
from spikesearch.study.trained import Trained, open_trained
from spikesearch.study.worker import Worker

if TYPE_CHECKING:
    import optuna

ENERGY_TOLERANCE = 1e-3
ACCURACY_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Check:
    """One finding.

    Args:
        name: What was checked.
        passed: Whether it is in order.
        found: What was found.
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
    store = open_store(storage, create=False)
    study = load_study(name, storage=store.storage)
    checks = list(_trial_checks(study))
    try:
        trained = open_trained(name, storage=store.storage, run_dir=run_dir, device=device)
    except SpikesearchError as error:
        return [*checks, Check("data and supernet", False, str(error))]
    hash_ = study.user_attrs[provenance.SUPERNET_HASH]
    checks.append(Check("data and supernet", True, f"data {trained.data.fingerprint}, supernet {hash_[:12]}"))
    return [*checks, *_score_checks(trained)]


def _trial_checks(study: optuna.Study) -> Iterator[Check]:
    trials = study.get_trials(deepcopy=False)
    numbers = [trial.number for trial in trials]
    yield Check("trial numbers", numbers == list(range(len(trials))), f"{len(trials)} trials, contiguous from 0")
    results = complete_trials(study, provenance.stored_config(study), trials)
    twice = [key for key, count in Counter(t.architecture.key for t in results).items() if count > 1]
    found = f"{len(results)} complete, " + (f"repeated: {', '.join(twice)}" if twice else "all different")
    yield Check("architectures", not twice, found)
    broken = [trial.number for trial in trials if not _points_back(trial, trials)]
    retried = sum("retry_of" in trial.user_attrs for trial in trials)
    yield Check("repetitions", not broken, f"{retried} repeated" + (f", broken at {broken}" if broken else ""))
    stopped = [trial for trial in trials if is_stopped(trial)]
    if stopped:
        by_number = {trial.number: trial for trial in results}
        broken = [trial.number for trial in stopped if not _is_dominated(trial, by_number)]
        found = f"{len(stopped)} by racing" + (f", nothing dominates the bounds of {broken}" if broken else "")
        yield Check("stopped trials", not broken, found)
    dead = [trial.number for trial in trials if trial.state == TrialState.RUNNING and _is_dead(trial)]
    found = f"of dead processes: {dead}; the next `study run` repeats them" if dead else "none of a dead process"
    yield Check("running trials", not dead, found)


def _is_dominated(trial: FrozenTrial, complete: dict[int, TrialResult]) -> bool:
    attrs = trial.user_attrs
    by = complete.get(attrs["dominated_by"])
    if by is None or not by.feasible:
        return False
    return Rival(by.number, by.accuracy, by.energy_uJ).dominates(attrs["accuracy_bound"], attrs["energy_bound_uJ"])


def _points_back(trial: FrozenTrial, trials: list[FrozenTrial]) -> bool:
    for there, back in (("retry_of", "retried_by"), ("retried_by", "retry_of")):
        other = trial.user_attrs.get(there)
        if other is None:
            continue
        if not (isinstance(other, int) and 0 <= other < len(trials)):
            return False
        if trials[other].user_attrs.get(back) != trial.number and not _is_dead(trials[other]):
            return False
    return True


def _is_dead(trial: FrozenTrial) -> bool:
    worker = Worker.from_dict(trial.user_attrs.get("worker"))
    return trial.state == TrialState.RUNNING and worker is not None and not worker.is_alive()


def _score_checks(trained: Trained) -> Iterator[Check]:
    results = trained.results()
    for role, trial in (("reference", results.reference), ("recommended", results.recommended)):
        if trial is not None:
            yield _score_again(trained, role, trial)


def _score_again(trained: Trained, role: str, trial: TrialResult) -> Check:
    score = trained.scorer.score(trial.architecture)
    tolerance = max(ACCURACY_TOLERANCE, 1 / score.n_images) + 1e-12
    same = abs(score.accuracy - trial.accuracy) <= tolerance
    same &= abs(score.energy_uJ - trial.energy_uJ) <= ENERGY_TOLERANCE * trial.energy_uJ
    found = (
        f"trial {trial.number}: accuracy {trial.accuracy:.4f} and now {score.accuracy:.4f}, "
        f"energy {trial.energy_uJ:.4g} and now {score.energy_uJ:.4g} uJ"
    )
    return Check(f"score of the {role}", bool(same), found)
