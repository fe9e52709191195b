"""Mixers that do not pay: never competitive in a study's trials, or hardly trained in its supernet."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from spikesearch.audit.finding import Finding
from spikesearch.study.results import TrialResult

if TYPE_CHECKING:
    from spikesearch.nn import Supernet
    from spikesearch.space import SearchSpace

LEAST_TRIALS = 10
"""How many trials with a mixer, and without it, are needed to speak of it."""
NEIGHBOURS = 5
"""Trials of other mixers, the nearest in energy, that a trial is compared with."""
HARDLY_TRAINED = 0.1
"""Share of what the other mixers' shifts have moved below which one has hardly been trained."""


def never_competitive(space: SearchSpace, trials: Sequence[TrialResult], samples: int) -> Iterator[Finding]:
    """Find mixers of which no trial comes near the best ones without it, and which are worse on the whole.

    A search tries what it thinks good, so that a mixer may have few trials, and the best of few is worse than the best
    of many by chance. So two things are asked for: every trial with the mixer is beaten, by one of no more energy, by
    more than the standard error of the difference; and compared with the nearest in energy, those with it are worse on
    average, by more than two standard errors.

    Args:
        space: The search space.
        trials: The COMPLETE trials.
        samples: How many samples of the search split an accuracy was measured on.
    """
    for stage, mixers in _choices(space):
        for mixer in mixers:
            own: list[TrialResult] = []
            others: list[TrialResult] = []
            for trial in (trial for trial in trials if trial.energy_uJ > 0):
                blocks = trial.architecture.blocks_of_stages[stage]
                (own if any(block.mixer == mixer for block in blocks) else others).append(trial)
            if min(len(own), len(others)) < LEAST_TRIALS:
                continue
            behind = [_behind(trial, others, samples) for trial in own]
            lost = np.array([_lost(trial, others) for trial in own])
            competes = any(distance <= margin for distance, margin in behind)
            if competes or lost.mean() <= 2 * lost.std(ddof=1) / math.sqrt(len(lost)):
                continue
            nearest, _ = min(behind)
            rivals = " or ".join(other for other in mixers if other != mixer)
            yield Finding(
                "mixer never competitive",
                f"{mixer} in {_list_of(space, stage)}",
                f"its {len(own)} trials are {100 * nearest:.1f} points or more below the best with {rivals} alone that "
                f"take no more energy, and {100 * lost.mean():.1f} points below others of their energy on average",
                "Leave it out of the list in another study: the others then get its share of the training. If it ought "
                "to be good, train longer (train.epochs), which needs another study, too.",
            )


def hardly_trained(supernet: Supernet) -> Iterator[Finding]:
    """Find mixers of a supernet whose shifts, which start at 0, have moved far less than those of the others."""
    from spikesearch.nn.elastic import ElasticBatchNorm
    from spikesearch.nn.modules import Block, Branch
    from spikesearch.nn.units import stage_module

    space = supernet.space
    for stage, mixers in _choices(space):
        squares: dict[str, list[float]] = defaultdict(list)
        for name, block in supernet.named_modules():
            if not isinstance(block, Block) or not name.startswith(f"{stage_module(space.largest, stage)}blocks."):
                continue
            for branch in block.children():
                if isinstance(branch, Branch) and branch.plan.kind == "mixer":
                    norms = [module for module in branch.modules() if isinstance(module, ElasticBatchNorm)]
                    squares[branch.plan.module] += [float(norm.bias.detach().square().mean()) for norm in norms]
        moved = {mixer: math.sqrt(float(np.mean(squares[_module(mixer)]))) for mixer in mixers}
        for mixer in mixers:
            typical = float(np.median([distance for other, distance in moved.items() if other != mixer]))
            if moved[mixer] < HARDLY_TRAINED * typical:
                yield Finding(
                    "mixer hardly trained",
                    f"{mixer} in {_list_of(space, stage)}",
                    f"shifts of its batch-norms have moved by {moved[mixer]:.2g}, those of the others by {typical:.2g}",
                    "Its scores say little. Train longer (train.epochs), or leave it out of the list; both need "
                    "another study.",
                )


def _choices(space: SearchSpace) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield the stages that offer several mixers."""
    for stage, lists in enumerate(space.stage_lists):
        if len(lists["mixers"]) > 1:
            yield stage, lists["mixers"]


def _list_of(space: SearchSpace, stage: int) -> str:
    return f"space.stages[{stage}].mixers" if space.stages else "space.mixers"


def _module(mixer: str) -> str:
    from spikesearch.extensions import MIXERS

    module: str = MIXERS[mixer].module
    return module


def _behind(trial: TrialResult, others: Sequence[TrialResult], samples: int) -> tuple[float, float]:
    """Return how far a trial is behind the best of others of no more energy, and how far is too far to be chance."""
    best = max((other.accuracy for other in others if other.energy_uJ <= trial.energy_uJ), default=0.0)
    return best - trial.accuracy, math.sqrt(2 * best * (1 - best) / samples)


def _lost(trial: TrialResult, others: Sequence[TrialResult]) -> float:
    """Return by how much the others of about a trial's energy are better on average."""
    near = sorted(others, key=lambda other: abs(math.log(other.energy_uJ / trial.energy_uJ)))[:NEIGHBOURS]
    return float(np.mean([other.accuracy for other in near])) - trial.accuracy
