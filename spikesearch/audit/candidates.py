"""Which architectures a measurement of fidelity trains: drawn in rounds, each spread evenly over the energies."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from spikesearch.errors import CheckpointError, StudyError
from spikesearch.io import atomic_write_json, read_json
from spikesearch.scoring import Score
from spikesearch.space import Architecture, SearchSpace
from spikesearch.space.genes import STEM
from spikesearch.streams import CANDIDATES

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

FORMAT_VERSION = 1
FIXED_EVERY = 3  # every third network has its neuron genes fixed, so that ten of thirty differ in size alone
STRATA = 6  # networks per round, one of each stratum
PER_STRATUM = 4  # architectures that are scored for each of them


@dataclass(frozen=True)
class Candidate:
    """An architecture and its score with inherited weights.

    Args:
        arch: The architecture.
        score: On the search split.
    """

    arch: Architecture
    score: Score

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"architecture": self.arch.to_dict(), "inherited": self.score.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Candidate:
        """Build what :meth:`to_dict` wrote."""
        return cls(Architecture.from_dict(data["architecture"]), Score(**data["inherited"]))


class NetworkList:
    """An endless list of architectures of a space, kept in a file as far as it is known.

    It is a function of space, seed and scores alone: asking for more of it never changes its beginning. Every third
    architecture has all neuron genes at the choices nearest to v_threshold 1.0 and tau 2.0, the others are free. Both
    kinds come in rounds: 24 new architectures are sampled and scored, ordered by energy and cut into six strata, and of
    each stratum one is taken, in random order.

    Args:
        space: The search space.
        seed: Of everything random.
        score: Scores an architecture with inherited weights on the search split.
        path: Keeps the rounds; need not exist.

    Raises:
        CheckpointError: If ``path`` is corrupt.
    """

    def __init__(self, space: SearchSpace, seed: int, score: Callable[[Architecture], Score], path: Path) -> None:
        self.space = space
        self.fixed_space = fixed_neurons(space)
        self.seed = seed
        self.score = score
        self.path = path
        self._rounds: list[tuple[Candidate, ...]] = read_kept(path, _rounds_of) or []

    def first(self, n: int) -> list[Candidate]:
        """Return the first ``n`` different architectures.

        Raises:
            StudyError: If the space has fewer.
        """
        if n > self.space.size:
            raise StudyError(f"`n` must be at most {self.space.size}, the size of the search space, but got {n}.")
        queues: dict[bool, deque[Candidate]] = {True: deque(), False: deque()}
        used = 0
        chosen: list[Candidate] = []
        while len(chosen) < n:
            fixed = len(chosen) % FIXED_EVERY == FIXED_EVERY - 1
            for kind in (fixed, not fixed):  # where one kind is exhausted, the other takes its place
                if not queues[kind]:
                    queues[kind].extend(self._round(used, kind))
                    used += 1
                if queues[kind]:
                    chosen.append(queues[kind].popleft())
                    break
        return chosen

    def _round(self, number: int, fixed: bool) -> tuple[Candidate, ...]:
        if number == len(self._rounds):
            self._rounds.append(self._draw(number, fixed))
            rounds = [[candidate.to_dict() for candidate in round_] for round_ in self._rounds]
            atomic_write_json(self.path, {"rounds": rounds})
        return self._rounds[number]

    def _draw(self, number: int, fixed: bool) -> tuple[Candidate, ...]:
        space = self.fixed_space if fixed else self.space
        taken = {candidate.arch for round_ in self._rounds for candidate in round_}
        wanted = min(STRATA * PER_STRATUM, space.size - sum(arch in space for arch in taken))
        rng = CANDIDATES.generator(self.seed, number)
        drawn: dict[Architecture, None] = {}  # in the order in which they were drawn
        while len(drawn) < wanted:
            arch = space.sample(rng)
            if arch not in taken:
                drawn[arch] = None
        if not drawn:
            return ()
        _log.info("Scoring %d architectures with inherited weights, to choose networks of all energies.", wanted)
        scored = sorted(
            (Candidate(arch, self.score(arch)) for arch in drawn),
            key=lambda candidate: (candidate.score.energy_uJ, candidate.arch.key),
        )
        strata = np.array_split(np.arange(wanted), min(STRATA, wanted))
        picks = [scored[int(rng.choice(stratum))] for stratum in strata]
        return tuple(picks[i] for i in rng.permutation(len(picks)))


def fixed_neurons(space: SearchSpace) -> SearchSpace:
    """Return the part of a space whose neuron genes are those of its reference."""
    neuron = space.largest.stem
    return replace(space, **{gene.choices: (getattr(neuron, gene.name),) for gene in STEM if gene.near is not None})


def digest(facts: Mapping[str, Any]) -> str:
    """Return 12 hexadecimal digits that stand for everything that a kept file depends on."""
    text = json.dumps({"format_version": FORMAT_VERSION, **facts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_kept(path: Path, build: Callable[[dict[str, Any]], _T]) -> _T | None:
    """Return what was built from a JSON file; ``None`` if there is none.

    Raises:
        CheckpointError: If it is corrupt.
    """
    remedy = "delete it, and the same command makes it anew."
    try:
        return build(read_json(path, error=CheckpointError, remedy=remedy)) if path.exists() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{path} is corrupt; {remedy}") from None


def _rounds_of(data: Mapping[str, Any]) -> list[tuple[Candidate, ...]]:
    return [tuple(map(Candidate.from_dict, round_)) for round_ in data["rounds"]]
