"""What has come of a study: the Pareto front, the recommended trial and the reference."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from spikesearch.errors import SpaceError, StudyError
from spikesearch.fitness import f_aeb, hypervolume, pareto_front, recommend
from spikesearch.study import provenance
from spikesearch.study.attributes import MAJORITY_SHARE, MEASURED, REFERENCE_ENERGY, TEST_PREFIX

if TYPE_CHECKING:
    import optuna

    from spikesearch.config import StudyConfig
    from spikesearch.space import Architecture


@dataclass(frozen=True)
class TrialResult:
    """A COMPLETE trial.

    Args:
        number: Its number.
        architecture: What was scored.
        accuracy: On the search split, as a fraction.
        energy_uJ: Microjoules per sample, under the study's convention.
        f_aeb: ``None`` before the reference is scored.
        feasible: Whether all constraints are satisfied.
        attrs: ``params``, ``macs``, ``acs`` and ``mean_firing_rate`` where known.
        test: Score on the test split, if it has been taken.
        broken: The constraints that are not satisfied.
    """

    number: int
    architecture: Architecture
    accuracy: float
    energy_uJ: float  # noqa: N815 - the unit is microjoule
    f_aeb: float | None
    feasible: bool
    attrs: dict[str, Any] = field(default_factory=dict)
    test: dict[str, Any] | None = None
    broken: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return the architecture in a few words."""
        return self.architecture.describe()

    def to_dict(self, *, with_test: bool = False) -> dict[str, Any]:
        """Return plain JSON types.

        Args:
            with_test: Add ``test_accuracy``, which is ``None`` until it has been measured.
        """
        result: dict[str, Any] = {
            "number": self.number,
            "accuracy": self.accuracy,
            "energy_uJ": self.energy_uJ,
            "f_aeb": self.f_aeb,
            "params": self.attrs.get("params"),
            "macs": self.attrs.get("macs"),
            "acs": self.attrs.get("acs"),
            "architecture": self.architecture.to_dict(),
        }
        if with_test:
            result["test_accuracy"] = self.test["accuracy"] if self.test else None
        return result


@dataclass(frozen=True)
class StudyResult:
    """The state of a study.

    Args:
        name: Name of the study.
        storage: Its storage, without password.
        convention: Energy convention of every energy.
        states: Number of trials per state.
        trials: The COMPLETE trials, by number.
        hypervolume: See :func:`trials_hypervolume`; ``None`` before the reference is scored.
        front: Feasible trials that no other feasible one dominates, by energy.
        recommended: See :func:`spikesearch.fitness.recommend`; ``None`` if no trial qualifies.
        reference: The largest architecture; ``None`` before it is scored.
        majority_share: Share of the search split's most frequent class, which answering it always would score; ``None``
            before the data are read.
    """

    name: str
    storage: str
    convention: str
    states: dict[str, int]
    trials: list[TrialResult]
    hypervolume: float | None
    front: list[TrialResult]
    recommended: TrialResult | None
    reference: TrialResult | None
    majority_share: float | None

    @property
    def finalists(self) -> list[TrialResult]:
        """The reference and the recommended trial, as far as there are any: they are scored on the test split."""
        return [trial for trial in (self.reference, self.recommended) if trial is not None]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, as ``spikesearch study show -f json`` prints them."""
        return {
            "name": self.name,
            "storage": self.storage,
            "n_trials": sum(self.states.values()),
            "states": self.states,
            "energy_convention": self.convention,
            "hypervolume": self.hypervolume,
            "front": [trial.to_dict() for trial in self.front],
            "recommended": self.recommended.to_dict(with_test=True) if self.recommended else None,
            "reference": self.reference.to_dict(with_test=True) if self.reference else None,
            "majority_share": self.majority_share,
        }


def majority_sentence(share: float) -> str:
    """Say what accuracies are to be compared with."""
    return f"Always answering the most frequent class would score {share:.1%} on the search split."


def read_results(study: optuna.Study, storage: str) -> StudyResult:
    """Read the state of a study.

    Args:
        study: A study made by spikesearch.
        storage: How to call its storage.
    """
    config = provenance.stored_config(study)
    all_trials = study.get_trials(deepcopy=False)
    states = {name: sum(trial.state == state for trial in all_trials) for name, state in _STATES.items()}
    trials = complete_trials(study, config, all_trials)
    key = config.space.search_space().largest.key
    reference = next((trial for trial in trials if trial.architecture.key == key), None)
    feasible = [trial for trial in trials if trial.feasible]
    front = [trial for trial, best in zip(feasible, pareto_front(_losses(feasible)), strict=True) if best]
    return StudyResult(
        name=study.study_name,
        storage=storage,
        convention=config.scoring.convention,
        states=states,
        trials=trials,
        hypervolume=None if reference is None else trials_hypervolume(trials, reference),
        front=sorted(front, key=lambda trial: (trial.energy_uJ, -trial.accuracy, trial.number)),
        recommended=choose(config, trials, reference),
        reference=reference,
        majority_share=study.user_attrs.get(MAJORITY_SHARE),
    )


def complete_trials(
    study: optuna.Study, config: StudyConfig, all_trials: Sequence[FrozenTrial] | None = None
) -> list[TrialResult]:
    """Return the COMPLETE trials of a study that hold an architecture and finite values, by number."""
    space = config.space.search_space()
    attrs = study.user_attrs
    reference_energy = attrs.get(REFERENCE_ENERGY)
    results = []
    for trial in study.get_trials(deepcopy=False) if all_trials is None else all_trials:
        if trial.state != TrialState.COMPLETE or not all(math.isfinite(value) for value in trial.values):
            continue
        try:
            arch = space.architecture(trial.params)
        except SpaceError:  # a plain Optuna user's trial of something else
            continue
        accuracy, energy = trial.values
        fitness = None
        if reference_energy is not None and energy > 0 and accuracy >= 0:  # beta may have changed since the trial
            fitness = f_aeb(accuracy, energy, reference_energy, config.report.beta)
        results.append(
            TrialResult(
                number=trial.number,
                architecture=arch,
                accuracy=accuracy,
                energy_uJ=energy,
                f_aeb=fitness,
                feasible=all(value <= 0 for value in trial.constraints.values()),
                attrs={name: trial.user_attrs.get(name) for name in MEASURED},
                test=attrs.get(TEST_PREFIX + arch.key),
                broken=tuple(name for name, value in trial.constraints.items() if not value <= 0),
            )
        )
    return results


def trials_hypervolume(trials: Sequence[TrialResult], reference: TrialResult) -> float:
    """Return the hypervolume of the feasible trials, at most 1.

    It is that in (1 - accuracy, energy / energy of the reference) with the corner (1, 1).
    """
    losses = [(1 - trial.accuracy, trial.energy_uJ / reference.energy_uJ) for trial in trials if trial.feasible]
    return hypervolume(losses, (1.0, 1.0)) if losses else 0.0


def choose(
    config: StudyConfig,
    trials: Sequence[TrialResult],
    reference: TrialResult | None,
    *,
    max_energy: float | None = None,
    min_accuracy: float | None = None,
    beta: float | None = None,
) -> TrialResult | None:
    """Return the recommended trial: of the best F_AEB among those that lose little accuracy against the reference.

    Args:
        config: The study file; its ``report`` section has the defaults.
        trials: COMPLETE trials.
        reference: The scored reference, or ``None``.
        max_energy: Only trials of at most this many microjoules; if all of these lose more, the best F_AEB of them.
        min_accuracy: Only trials of at least this accuracy (a fraction), however far that is below the reference.
        beta: Weight of the energy in F_AEB.

    Returns:
        ``None`` if no trial qualifies, or the reference is not scored yet.
    """
    if reference is None:
        return None
    allowed = [
        trial.feasible
        and (max_energy is None or trial.energy_uJ <= max_energy)
        and (min_accuracy is None or trial.accuracy >= min_accuracy)
        for trial in trials
    ]
    # Whoever says what accuracy is enough does not ask how good the reference is.
    drops = [config.report.max_accuracy_drop] if min_accuracy is None else [1.0]
    if max_energy is not None:
        drops.append(1.0)
    for drop in drops:
        index = recommend(
            [trial.accuracy for trial in trials],
            [trial.energy_uJ for trial in trials],
            reference_accuracy=reference.accuracy,
            reference_energy=reference.energy_uJ,
            beta=config.report.beta if beta is None else beta,
            max_accuracy_drop=drop,
            feasible=allowed,
        )
        if index is not None:
            return trials[index]
    return None


def best_trial(
    study: optuna.Study,
    *,
    max_energy: float | None = None,
    min_accuracy: float | None = None,
    beta: float | None = None,
) -> TrialResult:
    """Return the recommended trial of a study; see :func:`choose`.

    Raises:
        StudyError: If no trial qualifies, or a bound is impossible.
    """
    if max_energy is not None and not 0 < max_energy < math.inf:
        raise StudyError(f"`max_energy` must be above 0 and finite, but got {max_energy}.")
    if min_accuracy is not None and not 0 <= min_accuracy <= 1:
        raise StudyError(f"`min_accuracy` must be a fraction from 0 to 1, but got {min_accuracy}.")
    if beta is not None and not 0 < beta < math.inf:
        raise StudyError(f"`beta` must be above 0 and finite, but got {beta}.")
    config = provenance.stored_config(study)
    trials = complete_trials(study, config)
    key = config.space.search_space().largest.key
    reference = next((trial for trial in trials if trial.architecture.key == key), None)
    if reference is None:
        raise StudyError(
            f"The reference of study {study.study_name!r} is not scored yet; `spikesearch study run "
            f"{study.study_name}` does that first."
        )
    chosen = choose(config, trials, reference, max_energy=max_energy, min_accuracy=min_accuracy, beta=beta)
    if chosen is None:
        raise StudyError(
            why_none(study.study_name, config, trials, reference, max_energy=max_energy, min_accuracy=min_accuracy)
        )
    return chosen


def why_none(
    name: str,
    config: StudyConfig,
    trials: Sequence[TrialResult],
    reference: TrialResult,
    *,
    max_energy: float | None = None,
    min_accuracy: float | None = None,
) -> str:
    """Say why :func:`choose` has returned ``None``, and what to do; the arguments are its own, but for the name."""
    feasible = [trial for trial in trials if trial.feasible]
    if not feasible:
        counts = Counter(key for trial in trials for key in trial.broken)
        reasons = [
            f"{count} of {len(trials)} {'hardly do better than guessing' if key == 'dead' else f'break `{key}`'}"
            for key, count in counts.most_common()
        ]
        return (
            f"No trial of study {name!r} is feasible: {', '.join(reasons)}. Run more trials, or start another study "
            f"that trains longer or has looser `constraints`; `spikesearch doctor {name}` looks for other causes."
        )
    best, cheapest = max(trial.accuracy for trial in feasible), min(trial.energy_uJ for trial in feasible)
    bounds = [] if max_energy is None else [f"takes at most {max_energy:.4g} uJ"]
    bounds += [] if min_accuracy is None else [f"has an accuracy of at least {min_accuracy:.4g}"]
    if bounds:
        return (
            f"No trial of study {name!r} is feasible and {' and '.join(bounds)}: the cheapest takes {cheapest:.4g} uJ, "
            f"and the most accurate has {best:.4f}. Allow more energy or less accuracy, or run more trials."
        )
    return (
        f"No trial of study {name!r} is feasible and within `report.max_accuracy_drop` "
        f"({config.report.max_accuracy_drop:g}) of the reference, whose accuracy is {reference.accuracy:.4f}: the most "
        f"accurate has {best:.4f}. Raise that key in the study file and run it again, or run more trials."
    )


def find_trial(study: optuna.Study, number: int | None) -> TrialResult:
    """Return a COMPLETE trial of a study.

    Args:
        study: The study.
        number: Its number; ``None`` for the recommended one.

    Raises:
        StudyError: If there is none, or it is not COMPLETE.
    """
    config = provenance.stored_config(study)
    trials = complete_trials(study, config)
    if number is None:
        return best_trial(study)
    for trial in trials:
        if trial.number == number:
            return trial
    known = ", ".join(str(trial.number) for trial in trials[:10]) or "none"
    raise StudyError(
        f"The study {study.study_name!r} has no COMPLETE trial {number}; COMPLETE are {known}"
        f"{' and more' if len(trials) > 10 else ''}."
    )


def _losses(trials: Sequence[TrialResult]) -> np.ndarray:
    return np.array([(-trial.accuracy, trial.energy_uJ) for trial in trials], dtype=float).reshape(-1, 2)


_STATES = {
    "complete": TrialState.COMPLETE,
    "failed": TrialState.FAIL,
    "pruned": TrialState.PRUNED,
    "running": TrialState.RUNNING,
    "waiting": TrialState.WAITING,
}
