"""What a genome is: the genes of a study, which of them are active together, and how genomes are told apart.

A genome maps parameter names to internal values (see :mod:`spikesearch.sampler.genes`). :class:`ArchitectureDomain`
knows a search space and its conditional blocks; :class:`DistributionDomain` learns its genes from the finished trials
of any study.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from optuna.distributions import CategoricalDistribution

from spikesearch.sampler import genes

if TYPE_CHECKING:
    import numpy as np
    from optuna.distributions import BaseDistribution

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

    Attributes:
        distributions: Every gene that can be varied, in a fixed order.
        size: Number of different genomes, or None if it is infinite or unknown.
    """

    distributions: dict[str, BaseDistribution]
    size: int | None

    @abstractmethod
    def active(self, genome: Mapping[str, float]) -> list[str]:
        """Return the names of the genes that this genome has, in the fixed order."""

    @abstractmethod
    def read(self, params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> Genome | None:
        """Return the genome of a trial, or None if the trial does not hold a whole one."""

    def complete(self, genome: Mapping[str, float], rng: np.random.Generator) -> Genome:
        """Return the genome with its missing genes drawn at random and its inactive ones dropped."""
        found = {name: genome.get(name) for name in self.active(genome)}
        return {
            name: genes.draw(self.distributions[name], rng) if value is None else value for name, value in found.items()
        }

    def sample(self, rng: np.random.Generator) -> Genome:
        """Draw a genome at random."""
        return self.complete({}, rng)

    def params(self, genome: Mapping[str, float]) -> dict[str, Any]:
        """Return the genome as Optuna parameters."""
        return {name: genes.external(self.distributions[name], value) for name, value in genome.items()}

    def neighbours(self, genome: Genome, rng: np.random.Generator) -> Iterator[Genome]:
        """Yield genomes that differ in one gene: every other level of one with few, small steps of one with many.

        Args:
            genome: A complete genome.
            rng: The only source of randomness.
        """
        for name, value in genome.items():
            levels = self._few_levels[name]
            if levels is None:
                distribution = self.distributions[name]
                place = genes.to_unit(distribution, value)
                for scale in (0.2, 0.05, 0.01):
                    moved = genes.from_unit(distribution, place + scale * rng.normal())
                    if moved != value:
                        yield {**genome, name: moved}
            else:
                for other in levels:
                    if other != value:
                        yield {**genome, name: other}

    @cached_property
    def _few_levels(self) -> dict[str, list[float] | None]:
        """Every value of each gene, None if it has many."""
        counts = {name: genes.levels(distribution) for name, distribution in self.distributions.items()}
        return {
            name: None
            if count is None or count > MANY_LEVELS
            else [genes.level(self.distributions[name], position) for position in range(count)]
            for name, count in counts.items()
        }


class ArchitectureDomain(Domain):
    """The genes of a :class:`~spikesearch.space.SearchSpace`; blocks beyond the depth are inactive.

    Args:
        space: The space.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.distributions = dict(space.distributions())
        self.size = space.size
        self._active = {depth: list(space.distributions(depth)) for depth in space.depths}

    def active(self, genome: Mapping[str, float]) -> list[str]:
        return self._active[self.depth(genome)]

    def depth(self, genome: Mapping[str, float]) -> int:
        """Return the number of blocks of a genome that holds at least the gene ``depth``."""
        return self.space.depths[int(genome["depth"])]

    def with_depth(self, genome: Mapping[str, float], depth: int) -> Genome:
        """Return a genome with another number of blocks; new blocks stay to be completed."""
        names = set(self._active[depth])
        genome = {name: value for name, value in genome.items() if name in names}
        return {**genome, "depth": float(self.space.depths.index(depth))}

    def complete(self, genome: Mapping[str, float], rng: np.random.Generator) -> Genome:
        if "depth" not in genome:
            genome = {**genome, "depth": genes.draw(self.distributions["depth"], rng)}
        return super().complete(genome, rng)

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
        depth = params["depth"]
        names = self._active.get(depth)
        if names is None:
            raise ValueError(f"`depth` must be one of {list(self.space.depths)}, but got {depth!r}.")
        return {name: float(self.distributions[name].to_internal_repr(params[name])) for name in names}

    def at(self, index: int) -> Genome:
        """Return the genome with this number in the enumeration of the space."""
        return self.encode(self.space.params(self.space.at(index)))

    def neighbours(self, genome: Genome, rng: np.random.Generator) -> Iterator[Genome]:
        for other in super().neighbours(genome, rng):
            if other["depth"] == genome["depth"]:
                yield other
        position = int(genome["depth"])
        last = f"block{self.depth(genome) - 1}."
        for step in (-1, 1):
            if 0 <= position + step < len(self.space.depths):
                other = self.with_depth(genome, self.space.depths[position + step])
                for name in self.active(other):
                    if name not in other:
                        other[name] = genome[last + name.rpartition(".")[2]]
                yield {name: other[name] for name in self.active(other)}


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
        self._names = list(self.distributions)
        counts = [genes.levels(distribution) for distribution in self.distributions.values()]
        self.size = None if None in counts else math.prod(count for count in counts if count is not None)

    def active(self, genome: Mapping[str, float]) -> list[str]:
        return self._names

    def read(self, params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> Genome | None:
        return read_genome(params, distributions)

    def at(self, index: int) -> Genome:
        """Return the genome with this number in the enumeration of a finite domain."""
        genome = {}
        for name, distribution in self.distributions.items():
            index, position = divmod(index, genes.levels(distribution) or 1)
            genome[name] = genes.level(distribution, position)
        return genome


def read_genome(params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> Genome:
    """Return the genome of a trial: its parameters that can take more than one value.

    A value that its distribution does not know is left out: anything may be enqueued, and only Optuna decides what
    becomes of it.
    """
    genome = {}
    for name, value in params.items():
        if not distributions[name].single():
            with suppress(KeyError, OverflowError, TypeError, ValueError):
                genome[name] = float(distributions[name].to_internal_repr(value))
    return genome


class SeenGenomes:
    """Genomes that were drawn before, asked in constant time.

    A genome of a :class:`DistributionDomain` holds more genes than its trial will have. It is a repetition if all genes
    of some earlier trial agree with it: the objective would then ask the same questions and get the same answers.
    Earlier trials are therefore kept by the set of genes that they have. Trials that did not complete may have been
    stopped before their last question; they count only if complete ones had the same set.
    """

    def __init__(self) -> None:
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
        other = SeenGenomes()
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
        return False

    def __len__(self) -> int:
        layers = [self._whole, *self._doubtful]
        return sum(len(known) for layer in layers for known in layer.values())


class _Either:
    """Two sets asked as one."""

    def __init__(self, first: set[Key], second: set[Key]) -> None:
        self._sets = (first, second)

    def __contains__(self, key: Key) -> bool:
        return any(key in kept for kept in self._sets)

    def __len__(self) -> int:
        return sum(len(kept) for kept in self._sets)


def check_choices(name: str, expected: BaseDistribution, found: BaseDistribution) -> str | None:
    """Say how a trial's distribution differs from the search space's, or return None if it does not."""
    if expected == found:
        return None
    if isinstance(expected, CategoricalDistribution) and isinstance(found, CategoricalDistribution):
        return f"`{name}` has the choices {list(found.choices)} in the study, but {list(expected.choices)} in the space"
    return f"`{name}` is a {type(found).__name__} in the study, but a {type(expected).__name__} in the space"
