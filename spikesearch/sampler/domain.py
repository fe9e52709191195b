"""What a genome is: the genes of a study, which of them are active together, and how genomes are told apart.

A genome maps parameter names to internal values (see :mod:`spikesearch.sampler.genes`). :class:`ArchitectureDomain`
knows a search space and the conditions of its genes; :class:`DistributionDomain` learns its genes from the finished
trials of any study.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from optuna.distributions import CategoricalDistribution

from spikesearch.sampler import genes
from spikesearch.sampler.sizes import RelativeSizes

if TYPE_CHECKING:
    import numpy as np
    from optuna.distributions import BaseDistribution

    from spikesearch.sampler.stops import Stops
    from spikesearch.space import SearchSpace

Genome = dict[str, float]
Key = tuple[Any, ...]
MANY_LEVELS = 12  # a gene with more levels is treated like a continuous one


@lru_cache(maxsize=4096)
def group_of(name: str) -> str:
    """Return the group that a gene belongs to: what stands before the last dot, or its whole name.

    Example:
        >>> group_of("block3.tau"), group_of("embed_dim")
        ('block3', 'embed_dim')
    """
    return name.rpartition(".")[0] or name


class Domain(ABC):
    """The genes of a study.

    A gene may depend on others: it is active only if each of them is and has one of some values. *Controlling* are
    genes that others depend on, and *structure* those among them that decide whether another group exists, such as the
    depth, which decides on blocks.

    Attributes:
        distributions: Every gene that can be varied, in a fixed order, those that others depend on before them.
        size: Number of different genomes, or None if it is infinite or unknown.
        conditions: Of a gene that is not always active: with which values of which other genes it is.
        previous: Of a gene in one of several groups of a kind: the same gene of the group before.
        reference: Of every gene that is not always active: its value where no group before has one.
        corners: Genomes that a study begins with.
        knows_activity: Whether the genes of a genome are exactly those that its trial will ask for.
        sizes: Further features of genomes, from which choice each gene has (-1 if it is inactive; shape ``[genomes,
            genes]``); None if there are none.
    """

    distributions: dict[str, BaseDistribution]
    size: int | None
    conditions: Mapping[str, Mapping[str, frozenset[float]]] = {}
    previous: Mapping[str, str] = {}
    reference: Mapping[str, float] = {}
    corners: Sequence[Genome] = ()
    knows_activity = False
    sizes: Callable[[np.ndarray], np.ndarray] | None = None

    @abstractmethod
    def read(self, params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> Genome | None:
        """Return the genome of a trial, or None if the trial does not hold a whole one."""

    @abstractmethod
    def at(self, index: int) -> Genome:
        """Return the genome with this number, from 0 to ``size - 1``, of a finite domain."""

    # --- conditions ---------------------------------------------------------------------------------------------------

    @cached_property
    def controlling(self) -> tuple[str, ...]:
        """The genes that others depend on."""
        names = {name for condition in self.conditions.values() for name in condition}
        return tuple(name for name in self.distributions if name in names)

    @cached_property
    def structure(self) -> tuple[str, ...]:
        """The genes that genes of other groups depend on."""
        pairs = ((other, name) for name, condition in self.conditions.items() for other in condition)
        names = {other for other, name in pairs if group_of(other) != group_of(name)}
        return tuple(name for name in self.controlling if name in names)

    def is_active(self, name: str, genome: Mapping[str, float]) -> bool:
        """Tell whether a gene is active beside others, of which none is inactive."""
        condition = self.conditions.get(name)
        if condition is not None:
            for other, values in condition.items():
                if genome.get(other) not in values:
                    return False
        return True

    def grow(self, genome: Mapping[str, float], value: Callable[[str, Genome], float]) -> Genome:
        """Return the genome without its inactive genes, and with those that it lacks.

        Args:
            genome: The genome.
            value: Returns the value of a gene that is active but not there, given the name and the genes before it.
        """
        grown: Genome = {}
        for name in self.distributions:
            if self.is_active(name, grown):
                grown[name] = genome[name] if name in genome else value(name, grown)
        return grown

    def complete(self, genome: Mapping[str, float], rng: np.random.Generator) -> Genome:
        """Return the genome with its missing genes drawn at random and its inactive ones dropped."""
        genome = dict(genome)
        for name in self.controlling:
            if name not in genome and self.is_active(name, genome):
                genome[name] = genes.draw(self.distributions[name], rng)
        return self.grow(genome, lambda name, _: genes.draw(self.distributions[name], rng))

    # --- genomes ------------------------------------------------------------------------------------------------------

    def sample(self, rng: np.random.Generator) -> Genome:
        """Draw a genome at random."""
        return self.complete({}, rng)

    def params(self, genome: Mapping[str, float]) -> dict[str, Any]:
        """Return the genome as Optuna parameters."""
        return {name: genes.external(self.distributions[name], value) for name, value in genome.items()}

    def steps(self, name: str, value: float) -> list[float]:
        """Return the values one level below and above one of a gene that has levels, as far as they exist."""
        distribution = self.distributions[name]
        here, count = genes.position(distribution, value), genes.levels(distribution) or 0
        return [genes.level(distribution, place) for place in (here - 1, here + 1) if 0 <= place < count]

    def neighbours(self, genome: Genome, rng: np.random.Generator) -> Iterator[Genome]:
        """Yield genomes that differ in one gene: every other level of one with few, small steps of one with many.

        Genes of the structure move by one level. What becomes active with another gene is as in the group before, or as
        in the reference.

        Args:
            genome: A complete genome.
            rng: The only source of randomness.
        """
        for name, value in genome.items():
            for moved in self._other_values(name, value, rng):
                if name not in self.controlling:
                    yield {**genome, name: moved}
                elif name not in self.structure:
                    yield self.grow({**genome, name: moved}, self._like_the_group_before)
        for name in self.structure:
            if name in genome:
                for moved in self.steps(name, genome[name]):
                    yield self.grow({**genome, name: moved}, self._like_the_group_before)

    def _like_the_group_before(self, name: str, genome: Genome) -> float:
        before = genome.get(self.previous.get(name, ""))
        return self.reference[name] if before is None else before

    def _other_values(self, name: str, value: float, rng: np.random.Generator) -> Iterator[float]:
        distribution = self.distributions[name]
        count = genes.levels(distribution)
        values: Iterable[float]
        if count is None or count > MANY_LEVELS:
            place = genes.to_unit(distribution, value)
            values = (genes.from_unit(distribution, place + scale * rng.normal()) for scale in (0.2, 0.05, 0.01))
        else:
            values = (genes.level(distribution, position) for position in range(count))
        return (other for other in values if other != value)


class ArchitectureDomain(Domain):
    """The genes of a :class:`~spikesearch.space.SearchSpace`.

    Args:
        space: The space.
    """

    knows_activity = True

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.distributions = dict(space.distributions())
        self.size = space.size
        self.conditions = {
            name: {
                other: frozenset(self._value(other, v) for v in values) for other, values in parameter.active.items()
            }
            for name, parameter in space.parameters.items()
            if parameter.active
        }
        self.previous = {name: p.previous for name, p in space.parameters.items() if p.previous is not None}
        self.reference = {name: self._value(name, space.parameters[name].reference) for name in self.conditions}
        self.corners = [self.encode(space.params(arch)) for arch in (space.largest, space.smallest, space.middle)]
        self.sizes = RelativeSizes(space)

    def read(self, params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> Genome | None:
        try:
            return self.encode(params)
        except (KeyError, OverflowError, TypeError, ValueError):
            return None

    def encode(self, params: Mapping[str, Any]) -> Genome:
        """Return the genome of Optuna parameters; names that are not of the space are ignored.

        Raises:
            KeyError: If a parameter is missing.
            ValueError: If a value is not one of its choices.
        """
        return self.grow({}, lambda name, _: self._value(name, params[name]))

    def at(self, index: int) -> Genome:
        return self.encode(self.space.params(self.space.at(index)))

    def _value(self, name: str, choice: Any) -> float:
        return float(self.distributions[name].to_internal_repr(choice))


class DistributionDomain(Domain):
    """Genes learned from trials: the union of their parameters, conditional ones included.

    Which genes are active together is the objective's secret, so a genome of this domain holds all of them, and the
    objective asks for those that it needs.

    Args:
        distributions: Every parameter, with the distribution it was last asked with; those with a single value are left
            out.
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution]) -> None:
        self.distributions = {name: distributions[name] for name in sorted(distributions)}
        counts = [genes.levels(distribution) for distribution in self.distributions.values()]
        self.size = None if None in counts else math.prod(count for count in counts if count is not None)

    def read(self, params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> Genome | None:
        return read_genome(params, distributions)

    def at(self, index: int) -> Genome:
        genome = {}
        for name, distribution in self.distributions.items():
            index, position = divmod(index, genes.levels(distribution) or 1)
            genome[name] = genes.level(distribution, position)
        return genome


def read_genome(params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> Genome:
    """Return the genome of a trial: its parameters that can take more than one value.

    One with a value that its distribution does not hold has none: anything may be enqueued, and what has such a value
    is no point of the space, hence nobody's parent and nobody's repetition.
    """
    genome = {}
    for name, value in params.items():
        distribution = distributions[name]
        if not distribution.single():
            try:
                genome[name] = float(distribution.to_internal_repr(value))
                known = distribution._contains(genome[name])
            except (KeyError, OverflowError, TypeError, ValueError):
                known = False
            if not known:
                return {}
    return genome


class SeenGenomes:
    """Genomes that were drawn before, asked in constant time.

    A genome of a :class:`DistributionDomain` holds more genes than its trial will have. It is a repetition if all genes
    of some earlier trial agree with it: the objective would then ask the same questions and get the same answers.
    Earlier trials are therefore kept by the set of genes that they have. Trials that did not complete may have been
    stopped before their last question; they count only if complete ones had the same set.

    Attributes:
        stops: Genomes that are known to end where an earlier trial did; they count as seen.
    """

    def __init__(self, stops: Stops | None = None) -> None:
        self.stops = stops
        self._whole: dict[tuple[str, ...], set[Key]] = {}
        self._doubtful: list[dict[tuple[str, ...], set[Key]]] = [{}]

    def add(self, genome: Mapping[str, float], *, whole: bool = True) -> None:
        """Remember a genome; one without genes says nothing and is ignored.

        Args:
            genome: The genes of a trial.
            whole: Whether these are surely all its genes.
        """
        if genome:
            names = tuple(sorted(genome))
            kept = self._whole if whole else self._doubtful[-1]
            kept.setdefault(names, set()).add(tuple([genome[name] for name in names]))

    def with_pending(self, genomes: Iterable[Mapping[str, float]], *, whole: bool) -> SeenGenomes:
        """Return what this one holds and some more, without changing it or copying much."""
        other = SeenGenomes(self.stops)
        other._doubtful = [*self._doubtful, {}]
        for genome in genomes:
            other.add(genome, whole=whole)
        for names, known in self._whole.items():
            more = other._whole.get(names)
            other._whole[names] = known if more is None else _Either(known, more)  # type: ignore[assignment]
        return other

    def __contains__(self, genome: Mapping[str, float]) -> bool:
        for names, known in self._whole.items():
            try:
                key = tuple([genome[name] for name in names])
            except KeyError:
                continue
            if key in known or any(key in layer[names] for layer in self._doubtful if names in layer):
                return True
        return self.stops is not None and genome in self.stops

    def without(self, names: Container[str]) -> SeenGenomes:
        """Return what is left of these genomes without some genes."""
        other = SeenGenomes(self.stops)
        for layer in (self._whole, *self._doubtful):
            for genes_of, known in layer.items():
                for values in known:
                    kept = {name: value for name, value in zip(genes_of, values, strict=True) if name not in names}
                    other.add(kept, whole=layer is self._whole)
        return other

    def __len__(self) -> int:
        layers = [self._whole, *self._doubtful]
        return sum(len(known) for layer in layers for known in layer.values())


class _Either:
    """Two sets asked as one."""

    def __iter__(self) -> Iterator[Key]:
        return itertools.chain(*self._sets)

    def __init__(self, first: set[Key], second: set[Key]) -> None:
        self._sets = (first, second)

    def __contains__(self, key: Key) -> bool:
        return any(key in kept for kept in self._sets)

    def __len__(self) -> int:
        return sum(len(kept) for kept in self._sets)


def check_choices(name: str, expected: BaseDistribution, actual: BaseDistribution) -> str | None:
    """Say how a trial's distribution differs from the search space's, or return None if it does not."""
    if expected == actual:
        return None
    if isinstance(expected, CategoricalDistribution) and isinstance(actual, CategoricalDistribution):
        return (
            f"`{name}` has the choices {list(actual.choices)} in the study, but {list(expected.choices)} in the space"
        )
    return f"`{name}` is a {type(actual).__name__} in the study, but a {type(expected).__name__} in the space"
