"""The ESNN sampler: wiring of the strategies into an Optuna sampler."""

from __future__ import annotations

import threading
import weakref
import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.samplers import BaseSampler

from spikesearch import streams
from spikesearch.sampler import genes
from spikesearch.sampler.archive import Archive
from spikesearch.sampler.crossover import BlockCrossover, Crossover, UniformCrossover
from spikesearch.sampler.design import InitialDesign, SpaceFillingDesign
from spikesearch.sampler.domain import Domain, Genome
from spikesearch.sampler.duplicates import DuplicateHandling, UnseenOnly
from spikesearch.sampler.errors import SamplerError, SpaceExhaustedError
from spikesearch.sampler.known import known_value
from spikesearch.sampler.mutation import ArchitectureMutation, Mutation
from spikesearch.sampler.pinned import pin, pins
from spikesearch.sampler.selection import CrowdingSelection, FAEBSelection, Selection
from spikesearch.sampler.surrogate import GaussianProcessSurrogate, Situation, Surrogate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial, TrialState

    from spikesearch.space import SearchSpace


class ESNNSampler(BaseSampler):
    """Steady-state evolutionary multi-objective sampler for architectures, and for any Optuna study.

    Every proposal chooses its parents from all trials that have finished so far, in whatever order they arrived: there
    are no generations, and enqueued, added and late trials count like any other. Running and waiting trials are known,
    so that nothing is proposed twice while unseen points remain. The whole conditional genome evolves.

    A proposal is a function of the seed, the trial's number, the finished trials sorted by number and the genomes of
    pending trials: a resumed study continues as if it had never stopped. The sampler keeps no state of its own (a cache
    of the study apart), writes nothing to the storage but known constraints, and may be shared by threads and pickled.

    Args:
        space: The search space; without one the genes are learned from the finished trials of the study.
        population_size: How many parents survive, at least 2.
        crossover_prob: Probability that a child has two parents rather than one.
        mutation_prob: Probability that a gene mutates; by default 1 over the number of genes.
        selection: Who survives; by default :class:`FAEBSelection` with a space, else :class:`CrowdingSelection`.
        surrogate: How the best of many children is predicted; :class:`GaussianProcessSurrogate` by default and for
            True, none for False.
        seed: Seed, at least 0; drawn at random by default. Processes that share a study may share a seed.
        crossover: By default :class:`BlockCrossover` with a space, else :class:`UniformCrossover`.
        mutation: By default :class:`ArchitectureMutation`.
        initial_design: By default :class:`SpaceFillingDesign`, which starts from the largest architecture.
        duplicates: By default :class:`UnseenOnly`.
        known_objectives: For the objective of each index, a function of the parameters that computes it exactly.
        known_constraints: Per name, a function of the parameters that is at most 0 where a trial is allowed. They are
            checked before a trial is spent and recorded with it. Known functions get a dict of Optuna parameters: of a
            proposal the whole architecture, or without a space every parameter that finished trials had; of a finished
            trial those that it asked for. They must cope with absent parameters where a study has conditional ones, and
            return a number.

    Raises:
        SamplerError: If an option is out of range; later, if a known function does not keep to the above.

    Example:
        >>> import optuna
        >>> study = optuna.create_study(directions=["maximize", "minimize"], sampler=ESNNSampler(seed=0))
        >>> def objective(trial):
        ...     x, n = trial.suggest_float("x", 0, 1), trial.suggest_int("n", 1, 9)
        ...     return x, n * x
        >>> study.optimize(objective, n_trials=30)
        >>> len(study.trials)
        30
    """

    def __init__(
        self,
        space: SearchSpace | None = None,
        *,
        population_size: int = 20,
        crossover_prob: float = 0.9,
        mutation_prob: float | None = None,
        selection: Selection | None = None,
        surrogate: Surrogate | bool | None = None,
        seed: int | None = None,
        crossover: Crossover | None = None,
        mutation: Mutation | None = None,
        initial_design: InitialDesign | None = None,
        duplicates: DuplicateHandling | None = None,
        known_objectives: Mapping[int, Callable[[dict[str, Any]], float]] | None = None,
        known_constraints: Mapping[str, Callable[[dict[str, Any]], float]] | None = None,
    ) -> None:
        if not _is_integer(population_size) or population_size < 2:
            raise SamplerError(f"`population_size` must be a whole number of at least 2, but got {population_size!r}.")
        _check_probability("crossover_prob", crossover_prob)
        if mutation_prob is not None:
            _check_probability("mutation_prob", mutation_prob)
        if seed is not None and (not _is_integer(seed) or seed < 0):
            raise SamplerError(f"`seed` must be a whole number of at least 0, but got {seed!r}.")
        self.space = space
        self.population_size = int(population_size)
        self.crossover_prob = float(crossover_prob)
        self.mutation_prob = mutation_prob
        self.selection = selection or (FAEBSelection() if space is not None else CrowdingSelection())
        self.surrogate = _surrogate(surrogate)
        self.crossover = crossover or (BlockCrossover() if space is not None else UniformCrossover())
        self.mutation = mutation or ArchitectureMutation()
        self.initial_design = initial_design or SpaceFillingDesign()
        self.duplicates = duplicates or UnseenOnly()
        self.known_objectives = dict(known_objectives or {})
        self.known_constraints = dict(known_constraints or {})
        self.seed = int(seed) if seed is not None else int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
        self._lock = threading.RLock()
        self._archives: weakref.WeakKeyDictionary[Any, dict[int, Archive]] = weakref.WeakKeyDictionary()

    # --- proposals ----------------------------------------------------------------------------------------------------

    def propose(self, study: Study, number: int, *, trials: Sequence[FrozenTrial] | None = None) -> dict[str, Any]:
        """Make the genome of a trial.

        Args:
            study: The study, as it is now.
            number: Number of the trial that the genome is for; it need not exist yet.
            trials: The study's trials, sorted by number, if the caller has just read them; read by default.

        Returns:
            Optuna parameters: with a space a whole architecture, without one a value for every parameter that a
            finished trial had.

        Raises:
            SpaceExhaustedError: If nothing unseen is left that satisfies the known constraints.
            SamplerError: If the study holds a parameter of the space with another distribution.
        """
        with self._lock:
            archive = self._archive(study, study.get_trials(deepcopy=False) if trials is None else trials)
            return self._propose(archive, number, repeat=False)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        with self._lock:
            domain = self._archive(study, _trials(study)).domain
        return dict(domain.distributions) if domain is not None else {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not search_space:
            return {}
        with self._lock:
            archive = self._archive(study, _trials(study))
            fixed, unknown = pins(study, trial, archive.domain, search_space) if archive.domain else ({}, frozenset())
            params = self._propose(archive, trial.number, repeat=True, fixed=fixed, unknown=unknown)
            varied = set(archive.domain.distributions) if archive.domain is not None else set()
        result = {}
        for name, distribution in search_space.items():
            if name in params and distribution._contains(distribution.to_internal_repr(params[name])):
                result[name] = params[name]
            elif name not in varied:
                result[name] = self.sample_independent(study, trial, name, distribution)
        return result

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if trial.number < self.initial_design.size:
            value = self.initial_design.gene(param_name, param_distribution, trial.number, self.seed)
        else:
            # crc32, not hash(): the same in every process.
            rng = streams.INDEPENDENT.generator(self.seed, trial.number, zlib.crc32(param_name.encode()))
            value = genes.draw(param_distribution, rng)
        return genes.external(param_distribution, value)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        if not self.known_constraints or not state.is_finished() or values is None:
            return
        given = trial.constraints
        for name, function in self.known_constraints.items():
            if name not in given:
                value = known_value(f"constraint `{name}`", function, trial.params)
                study._storage.set_trial_system_attr(trial._trial_id, f"constraints:{name}", value)

    def arguments(self) -> dict[str, Any]:
        """Return what makes this sampler propose what it does, as plain JSON types, for a study's records.

        Strategies appear with their options, functions as ``module:qualname``, the space as its choices.
        """
        names = [
            *("population_size", "crossover_prob", "mutation_prob", "selection", "surrogate", "seed", "crossover"),
            *("mutation", "initial_design", "duplicates", "known_objectives", "known_constraints"),
        ]
        space = self.space.to_dict() if self.space is not None else None
        return {"space": space, **{name: _describe(getattr(self, name)) for name in names}}

    def _propose(
        self,
        archive: Archive,
        number: int,
        *,
        repeat: bool,
        fixed: Genome | None = None,
        unknown: frozenset[str] = frozenset(),
    ) -> dict[str, Any]:
        """Make a genome.

        Args:
            archive: What is known of the study.
            number: Number of the trial that it is for.
            repeat: Whether it may be one that was seen, if there is nothing else.
            fixed: Genes that are fixed from outside.
            unknown: Genes that are fixed from outside to what is not known here.
        """
        domain = archive.domain
        if domain is None:
            return {}
        rng = streams.PROPOSALS.generator(self.seed, number)
        seen = archive.seen_with_pending(number)
        seen = seen.without(unknown) if unknown else seen
        make = self._breeder(archive, domain, rng)
        has_fixed = None
        if fixed:
            make, domain, has_fixed = pin(make, domain, fixed, rng)

        def allowed(genome: Genome) -> bool:
            if has_fixed is not None and not has_fixed(genome):
                return False
            return not self.known_constraints or self._violation(archive, genome) <= 0

        if len(seen) < self.initial_design.size:
            for index in range(self.initial_design.size):
                genome = self.initial_design(domain, index, self.seed)
                if fixed:
                    genome = domain.complete({**genome, **fixed}, rng)
                if genome not in seen and allowed(genome):
                    return domain.params(genome)

        if self.surrogate is not None:
            situation = Situation(
                domain=domain,
                feasible=archive.feasible,
                infeasible=archive.infeasible,
                pending=self._pending(archive, domain, number),
                make=make,
                usable=lambda genome: genome not in seen and allowed(genome),
                known=self._known_losses(archive),
                number=number,
            )
            promising = self.surrogate(situation, rng)
            if promising is not None:
                return domain.params(promising)
        try:
            genome = self.duplicates(make, domain, seen, allowed, rng)
        except SpaceExhaustedError:
            if not repeat:
                raise
            genome = make()
        return domain.params(genome)

    def _breeder(self, archive: Archive, domain: Domain, rng: np.random.Generator) -> Callable[[], Genome]:
        """Return a function that makes one child after the other."""
        feasible, infeasible = self.selection(archive.feasible, archive.infeasible, self.population_size)
        if not len(feasible) + len(infeasible):
            return lambda: domain.sample(rng)

        def make() -> Genome:
            mother = self.selection.tournament(feasible, infeasible, rng)
            child = mother
            if rng.random() < self.crossover_prob:
                father = self.selection.tournament(feasible, infeasible, rng)
                child = self.crossover(mother, father, domain, rng)
            child = domain.complete(child, rng)
            probability = 1 / len(child) if self.mutation_prob is None else self.mutation_prob
            return self.mutation(child, domain, probability, rng)

        return make

    def _pending(self, archive: Archive, domain: Domain, number: int) -> list[Genome]:
        """Return the genomes of the other pending trials, of which known objectives must be computable."""
        pending = [genome for other, genome in archive.pending.items() if other != number]
        if not self.known_objectives or self.space is not None:
            return pending
        # A running trial shows only what it has asked for so far.
        names = list(domain.distributions)
        return [{name: genome[name] for name in names} for genome in pending if genome.keys() >= set(names)]

    def _known_losses(self, archive: Archive) -> dict[int, Callable[[Genome], float]]:
        def loss(objective: int, function: Callable[[dict[str, Any]], float]) -> Callable[[Genome], float]:
            sign = archive.signs[objective]
            what = f"objective {objective}"
            return lambda genome: sign * known_value(what, function, archive.params(genome))

        return {objective: loss(objective, function) for objective, function in self.known_objectives.items()}

    def _violation(self, archive: Archive, genome: Genome) -> float:
        params = archive.params(genome)
        values = [known_value(f"constraint `{n}`", f, params) for n, f in self.known_constraints.items()]
        return sum(max(value, 0.0) for value in values)

    # --- the cache of the study ---------------------------------------------------------------------------------------

    def _archive(self, study: Study, trials: Sequence[FrozenTrial]) -> Archive:
        """Return what is known of a study, brought up to date."""
        if trials and trials[-1].number != len(trials) - 1:
            # Some trials are hidden (a pruner with brackets shows each trial only those of its own), or they come in
            # another order: nothing to build upon, so read everything and forget it.
            archive = self._new_archive(study)
            archive.update(sorted(trials, key=lambda trial: trial.number))
            return archive
        archives = self._archives.setdefault(study._storage, {})
        # Out of the cache until the update has returned: what an error leaves half updated must not be used again.
        archive = archives.pop(study._study_id) if study._study_id in archives else self._new_archive(study)
        if not archive.update(trials):
            archive = self._new_archive(study)
            archive.update(trials)
        archives[study._study_id] = archive
        return archive

    def _new_archive(self, study: Study) -> Archive:
        for objective in self.known_objectives:
            if not _is_integer(objective) or not 0 <= objective < len(study.directions):
                raise SamplerError(
                    f"`known_objectives` must name objectives from 0 to {len(study.directions) - 1}, "
                    f"but got {objective!r}."
                )
        return Archive(
            self.space, study.directions, keep=self.population_size, known_constraints=self.known_constraints
        )

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_lock"], state["_archives"]  # a cache, and what guards it
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()
        self._archives = weakref.WeakKeyDictionary()


def _trials(study: Study) -> list[FrozenTrial]:
    """Return all trials, from the copy that Optuna reads once per trial where it keeps one."""
    read = getattr(study, "_get_trials", None)
    return read(deepcopy=False, use_cache=True) if read is not None else study.get_trials(deepcopy=False)


def _surrogate(choice: Surrogate | bool | None) -> Surrogate | None:
    if choice is None or choice is True:
        return GaussianProcessSurrogate()
    if choice is False:
        return None
    if not isinstance(choice, Surrogate):
        raise SamplerError(f"`surrogate` must be a Surrogate, True, False or None, but got {choice!r}.")
    return choice


def _describe(value: object) -> Any:
    """Return plain JSON types that name a strategy with its options, or a function as `module:qualname`."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _describe(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_describe(item) for item in value]
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}:{value.__qualname__}"
    kind = type(value)
    options = {key: _describe(item) for key, item in vars(value).items() if not key.startswith("_")}
    return {"name": f"{kind.__module__}:{kind.__qualname__}", **options}


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _check_probability(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating) or not 0 <= value <= 1:
        raise SamplerError(f"`{name}` must be a number from 0 to 1, but got {value!r}.")
