"""Measuring a trial's network with inherited weights again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spikesearch.study.results import find_trial
from spikesearch.study.session import Session

if TYPE_CHECKING:
    from spikesearch.energy import EnergyReport
    from spikesearch.scoring.scorer import SplitName


@dataclass(frozen=True)
class Evaluation:
    """One subnet with inherited weights, measured again.

    Args:
        number: Its trial.
        split: Which images.
        accuracy: As a fraction.
        energy: Layer by layer.
    """

    number: int
    split: SplitName
    accuracy: float
    energy: EnergyReport

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "number": self.number,
            "split": self.split,
            "accuracy": self.accuracy,
            "energy_uJ": self.energy.total_uJ,
            "energy": self.energy.to_dict(),
        }


def evaluate_subnet(session: Session, number: int | None, split: SplitName) -> Evaluation:
    """Measure a trial's network with inherited weights again.

    Args:
        session: The study.
        number: Number of a COMPLETE trial; ``None`` for the recommended one.
        split: Which images.
    """
    trial = find_trial(session.study, number)
    accuracy, energy = session.scorer().evaluate(trial.architecture, split, detailed=True)
    return Evaluation(trial.number, split, accuracy, energy)
