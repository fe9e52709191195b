"""The finished and pending trials of a study as the sampler sees them, kept up to date at the cost of what is new.

An archive is a cache of the study and never a source of truth: built anew from the same study, in another process and
whatever the order in which trials finished, it says the same. Trials are told apart by their numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import TrialState

from spikesearch.sampler.domain import (
    ArchitectureDomain,
    DistributionDomain,
    Domain,
    Genome,
    SeenGenomes,
    check_choices,
    read_genome,
)
from spikesearch.sampler.errors import SamplerError
from spikesearch.sampler.known import known_value
from spikesearch.sampler.ranking import Ranks
from spikesearch.sampler.stops import FAILED, PRUNED, Stops

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

    from spikesearch.space import SearchSpace


@dataclass(frozen=True)
class Population:
    """Trials that can be compared: complete, with finite objective values and a whole genome.

    Attributes:
        numbers: Their trial numbers; shape ``[n]``.
        genomes: Their genomes.
        losses: Objective values, negated where the study maximises; shape ``[n, objectives]``.
        violations: Sum of what exceeds the constraints; 0 for feasible trials; shape ``[n]``.
        margins: Largest constraint value, at most 0 for feasible trials; 0 without constraints; shape ``[n]``.
        ranks: Non-domination ranks among the feasible trials of the whole study; meaningless for infeasible ones.
        directions: The study's directions.
    """

    numbers: np.ndarray
    genomes: Sequence[Genome]
    losses: np.ndarray
    violations: np.ndarray
    margins: np.ndarray
    ranks: np.ndarray
    directions: tuple[StudyDirection, ...]

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, indices: np.ndarray) -> Population:
        """Return some of the trials, in the order given."""
        return Population(
            self.numbers[indices],
            _Picked(self.genomes, indices),
            self.losses[indices],
            self.violations[indices],
            self.margins[indices],
            self.ranks[indices],
            self.directions,
        )


class _Picked(Sequence[Genome]):
    """Some of a list's genomes, looked up when asked for: most of a large front is never asked for."""

    def __init__(self, genomes: Sequence[Genome], indices: np.ndarray) -> None:
        self._genomes = genomes
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Picked(self._genomes, self._indices[index])
        return self._genomes[self._indices[index]]


class Archive:
    """What a sampler knows of one study.

    Args:
        space: The search space, or None to learn the genes from the trials.
        directions: The study's directions.
        keep: How many of the best trials need an exact rank.
        known_constraints: Constraints that can be computed from parameters; they count for trials that do not carry
            them.
    """

    def __init__(
        self,
        space: SearchSpace | None,
        directions: Sequence[StudyDirection],
        *,
        keep: int,
        known_constraints: Mapping[str, Callable[[dict[str, Any]], float]] | None = None,
    ) -> None:
        self._architectures = ArchitectureDomain(space) if space is not None else None
        self._directions = tuple(directions)
        self.signs = np.array([-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in directions])
        self._known_constraints = dict(known_constraints or {})
        self._learned: dict[str, tuple[int, BaseDistribution]] = {}
        self._constants: dict[str, tuple[int, Any]] = {}
        self._domain: Domain | None = self._architectures
        self._known = 0  # how many trials were looked at
        self._unsettled: list[int] = []  # the places of those that had not finished then
        self._last: tuple[int, FrozenTrial] | None = None  # place and trial that were read last
        self._stops = Stops()
        self.seen = SeenGenomes(self._stops)
        self.pending: dict[int, Genome] = {}
        self._feasible = _Rows()
        self._infeasible = _Rows()
        self._ranks = Ranks(keep)

    # --- reading the study --------------------------------------------------------------------------------------------

    def update(self, trials: Sequence[FrozenTrial]) -> bool:
        """Read what is new in a study.

        Args:
            trials: The trials of the study, sorted by number.

        Returns:
            False if they cannot be a continuation of what was read before; the archive is then of no more use.

        Raises:
            SamplerError: If a trial holds a parameter of the space with another distribution, or a known constraint
                fails; the archive is then half updated and of no more use.
        """
        if len(trials) < self._known or not self._continues(trials):
            return False
        fresh = sorted(self._unsettled) + list(range(self._known, len(trials)))
        self._known = len(trials)
        self._unsettled = []
        self.pending = {}
        for place in fresh:
            trial = trials[place]
            if trial.state.is_finished():
                self._read(trial)
                self._last = place, trial
            else:
                self._unsettled.append(place)
                genome = self._genome(trial)
                if genome:
                    self.pending[trial.number] = genome
        return True

    def _continues(self, trials: Sequence[FrozenTrial]) -> bool:
        """Tell whether the trials last read are still there: a study may be deleted and another take its place."""
        if self._last is None:
            return True
        place, last = self._last
        return trials[place].datetime_complete == last.datetime_complete and trials[place].params == last.params

    def _genome(self, trial: FrozenTrial) -> Genome | None:
        if self._architectures is None:
            # What was wished for a trial tells about it only until it is over: then it has what it asked for.
            wished = {} if trial.state.is_finished() else trial.system_attrs.get("fixed_params", {})
            params = trial.params or wished
            known = {name: trial.distributions.get(name) or self._distribution(name) for name in params}
            usable = {name: value for name, value in params.items() if known[name] is not None}
            return DistributionDomain({}).read(usable, known)  # type: ignore[arg-type]
        for name, distribution in trial.distributions.items():
            expected = self._architectures.distributions.get(name)
            problem = expected and check_choices(name, expected, distribution)
            if problem:
                raise SamplerError(
                    f"Trial {trial.number} does not fit the search space: {problem}. Use the space that the study was "
                    "started with, or start a new study."
                )
        params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        return self._architectures.read(params, trial.distributions)

    def _distribution(self, name: str) -> BaseDistribution | None:
        return self._learned[name][1] if name in self._learned else None

    def _read(self, trial: FrozenTrial) -> None:
        genome = self._genome(trial)
        if genome:
            whole = self._architectures is not None or trial.state == TrialState.COMPLETE
            self.seen.add(genome, whole=whole)
        self._note_stop(trial, genome)
        if trial.state != TrialState.COMPLETE:
            return
        if self._architectures is None:
            self._learn(trial)
        losses = self.signs * np.asarray(trial.values, dtype=float)
        if not genome or not np.isfinite(losses).all():
            return
        constraints = self._constraints(trial)
        violation = float(np.maximum(constraints, 0.0).sum())
        margin = float(constraints.max(initial=-np.inf)) if len(constraints) else 0.0
        if violation > 0:
            self._infeasible.add(trial.number, genome, losses, violation, margin)
        else:
            self._feasible.add(trial.number, genome, losses, violation, margin)
            self._ranks.add(losses)

    def _note_stop(self, trial: FrozenTrial, genome: Genome | None) -> None:
        may_have_more = genome is None if self._architectures is not None else True
        weight = {TrialState.PRUNED: PRUNED, TrialState.FAIL: FAILED}.get(trial.state, 0) if may_have_more else 0
        self._stops.add(read_genome(trial.params, trial.distributions) if genome is None else genome, weight)

    def _learn(self, trial: FrozenTrial) -> None:
        """Remember the parameters of a trial; of several distributions of one name, the highest number's counts."""
        for name, distribution in trial.distributions.items():
            before = self._learned.get(name)
            if distribution.single():
                if trial.number >= self._constants.get(name, (0, None))[0]:
                    self._constants[name] = (trial.number, trial.params[name])
                continue
            if before is not None and before[0] > trial.number:
                continue
            self._learned[name] = (trial.number, distribution)
            if before is None or before[1] != distribution:
                self._domain = None

    def _constraints(self, trial: FrozenTrial) -> np.ndarray:
        """Return the constraint values of a trial, recorded and known ones; feasible are those at most 0."""
        values = dict(trial.constraints)
        for name, function in self._known_constraints.items():
            if name not in values:
                values[name] = known_value(f"constraint `{name}`", function, trial.params, nan=True)
        array = np.array(list(values.values()), dtype=float)
        return np.where(np.isnan(array), np.inf, array)  # not a number says nothing good of a trial

    # --- answers ------------------------------------------------------------------------------------------------------

    @property
    def domain(self) -> Domain | None:
        """The genes, or None while no trial has shown any."""
        if self._domain is None and self._learned:
            self._domain = DistributionDomain({name: learned[1] for name, learned in self._learned.items()})
        return self._domain

    def params(self, genome: Genome) -> dict[str, Any]:
        """Return what the functions of the user are given for a genome: its Optuna parameters.

        Learned parameters with a single value are no genes, but finished trials have them, so they are added.
        """
        assert self.domain is not None
        return {**{name: constant[1] for name, constant in self._constants.items()}, **self.domain.params(genome)}

    def seen_with_pending(self, number: int) -> SeenGenomes:
        """Return the genomes of all trials, running and waiting ones included, but not those of trial ``number``."""
        others = [genome for pending, genome in self.pending.items() if pending != number]
        return self.seen.with_pending(others, whole=self._architectures is not None)

    @property
    def feasible(self) -> Population:
        """Feasible trials in the order in which they were read."""
        return self._feasible.population(self._ranks.ranks, self._directions)

    @property
    def infeasible(self) -> Population:
        """Infeasible trials in the order in which they were read."""
        return self._infeasible.population(None, self._directions)


class _Rows:
    """Growing columns of a :class:`Population`."""

    def __init__(self) -> None:
        self._count = 0
        self._numbers = np.empty(0, dtype=np.int64)
        self._losses = np.empty((0, 1))
        self._violations = np.empty(0)
        self._margins = np.empty(0)
        self._genomes: list[Genome] = []

    def __len__(self) -> int:
        return self._count

    def add(self, number: int, genome: Genome, losses: np.ndarray, violation: float, margin: float) -> None:
        if self._count == len(self._numbers):
            extra = max(64, self._count)
            self._numbers = np.concatenate([self._numbers, np.zeros(extra, dtype=np.int64)])
            self._losses = np.concatenate(
                [self._losses.reshape(self._count, len(losses)), np.zeros((extra, len(losses)))]
            )
            self._violations = np.concatenate([self._violations, np.zeros(extra)])
            self._margins = np.concatenate([self._margins, np.zeros(extra)])
        self._numbers[self._count] = number
        self._losses[self._count] = losses
        self._violations[self._count] = violation
        self._margins[self._count] = margin
        self._genomes.append(genome)
        self._count += 1

    def population(self, ranks: np.ndarray | None, directions: tuple[StudyDirection, ...]) -> Population:
        count = self._count
        return Population(
            self._numbers[:count],
            self._genomes,
            self._losses[:count],
            self._violations[:count],
            self._margins[:count],
            np.zeros(count, dtype=np.int64) if ranks is None else ranks,
            directions,
        )
