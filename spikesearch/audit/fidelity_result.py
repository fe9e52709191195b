"""What a measurement of fidelity tells: the networks, and how well rankings of them agree with training alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikesearch.audit.rank_statistics import (
    CONFIDENCE,
    RESAMPLES,
    Comparison,
    Estimate,
    Retest,
    compare,
    quantile_bins,
    retest,
)
from spikesearch.scoring import Score

if TYPE_CHECKING:
    from spikesearch.space import Architecture

ENERGY_BINS = 3


@dataclass(frozen=True)
class Network:
    """An architecture with inherited weights, and trained alone.

    Args:
        arch: The architecture.
        inherited: Its score with inherited weights.
        alone: Its score trained alone with the first seed and, if that was done, the second; ``None`` if that diverged.
        fixed_neurons: Whether all its neuron genes are those of the reference.
    """

    arch: Architecture
    inherited: Score
    alone: tuple[Score | None, ...]
    fixed_neurons: bool

    @property
    def dead(self) -> bool:
        """Whether it is dead with inherited weights or trained alone with the first seed."""
        return self.inherited.dead or _dead(self.alone[0])

    @property
    def twice(self) -> bool:
        """Whether it lives and has been trained with a second seed, which it survived."""
        return not self.dead and len(self.alone) > 1 and not _dead(self.alone[1])

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "key": self.arch.key,
            "architecture": self.arch.to_dict(),
            "fixed_neurons": self.fixed_neurons,
            "dead": self.dead,
            "inherited": self.inherited.to_dict(),
            "alone": [None if score is None else score.to_dict() for score in self.alone],
        }


@dataclass(frozen=True)
class Fidelity:
    """What was measured; everything on the search split.

    Args:
        study: Name of the study.
        folder: Holds ``report.json``, ``scatter.png`` where matplotlib is installed, and the kept trainings.
        facts: What the numbers depend on, in plain JSON types.
        convention: Energy convention of every energy.
        networks: In the order in which they were drawn.
    """

    study: str
    folder: Path
    facts: dict[str, Any]
    convention: str
    networks: tuple[Network, ...]

    @cached_property
    def live(self) -> tuple[Network, ...]:
        """The networks that are not dead; only these are ranked."""
        return tuple(network for network in self.networks if not network.dead)

    @property
    def dead(self) -> dict[str, int]:
        """Number of networks that are dead with ``inherited`` weights, trained ``alone``, or in ``either`` way."""
        return {
            "inherited": sum(network.inherited.dead for network in self.networks),
            "alone": sum(_dead(network.alone[0]) for network in self.networks),
            "either": len(self.networks) - len(self.live),
        }

    @cached_property
    def groups(self) -> dict[str, Comparison]:
        """Agreement of rankings with the accuracies of the first seed's trainings, among groups of live networks.

        ``all``; ``top_half``, those at or above the median accuracy; ``energy_bins``, where only pairs of one of three
        bins count; ``fixed_neurons``; and ``two_seeds``, where the accuracies of the second seed are one more ranking.
        """
        live = self.live
        truth = np.array([_accuracy(network.alone[0]) for network in live])
        energies = np.array([network.inherited.energy_uJ for network in live])
        median = np.median(truth) if live else 0.0
        return {
            "all": _compare(live),
            "top_half": _compare([network for network, value in zip(live, truth, strict=True) if value >= median]),
            "energy_bins": _compare(live, bins=quantile_bins(energies, ENERGY_BINS)),
            "fixed_neurons": _compare([network for network in live if network.fixed_neurons]),
            "two_seeds": _compare([network for network in live if network.twice], second=True),
        }

    @property
    def tau(self) -> float | None:
        """Kendall's tau-b of inherited against stand-alone accuracy over all live networks."""
        return self.groups["all"].rankings["inherited"].tau.value

    @cached_property
    def retest(self) -> Retest:
        """Agreement with the accuracies of either seed, and of these with each other, where there are two."""
        twice = [network for network in self.live if network.twice]
        return retest(
            np.array([network.inherited.accuracy for network in twice]),
            *(np.array([_accuracy(network.alone[seed]) for network in twice]) for seed in (0, 1)),
        )

    @property
    def ceiling(self) -> float | None:
        """Kendall's tau-b of one seed's trainings with another's: what one more training tells, and no bound.

        See :class:`~spikesearch.audit.rank_statistics.Retest`.
        """
        return self.retest.ceiling.value

    @property
    def share_of_ceiling(self) -> Estimate:
        """Kendall's tau-b of inherited accuracy over ``ceiling``, both among the networks with two seeds."""
        return self.retest.share

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "study": self.study,
            **self.facts,
            "split": "search",
            "energy_convention": self.convention,
            "n": len(self.networks),
            "live": len(self.live),
            "dead": self.dead,
            "tau": self.tau,
            "ceiling": self.ceiling,
            "tau_two_seeds": asdict(self.retest.tau),
            "share_of_ceiling": asdict(self.share_of_ceiling),
            "confidence": CONFIDENCE,
            "resamples": RESAMPLES,
            "groups": {name: asdict(group) for name, group in self.groups.items()},
            "networks": [network.to_dict() for network in self.networks],
        }


def _compare(networks: Sequence[Network], *, bins: np.ndarray | None = None, second: bool = False) -> Comparison:
    rankings = {
        "inherited": np.array([network.inherited.accuracy for network in networks]),
        "energy": np.array([network.inherited.energy_uJ for network in networks]),
        "params": np.array([network.inherited.params for network in networks]),
    }
    if second:
        rankings["second_seed"] = np.array([_accuracy(network.alone[1]) for network in networks])
    return compare(rankings, np.array([_accuracy(network.alone[0]) for network in networks]), bins=bins)


def _accuracy(score: Score | None) -> float:
    return float("nan") if score is None else score.accuracy


def _dead(score: Score | None) -> bool:
    return score is None or score.dead
