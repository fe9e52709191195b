"""Genes that are fixed from outside: by ``study.enqueue_trial``, or by a sampler around this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from spikesearch.sampler.domain import DistributionDomain, Domain, Genome

if TYPE_CHECKING:
    import numpy as np
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial


def pins(
    study: Study, trial: FrozenTrial, domain: Domain, asked: Mapping[str, BaseDistribution]
) -> tuple[Genome, frozenset[str]]:
    """Return which genes of a trial are fixed from outside.

    Args:
        study: The study.
        trial: The trial.
        domain: The genes.
        asked: The parameters that values are wanted for.

    Returns:
        The fixed genes whose values are known, and the names of those whose values are not.
    """
    fixed: dict[str, Any] = {}
    sampler: object = getattr(study, "sampler", None)
    while (values := getattr(sampler, "_fixed_params", None)) is not None:  # Optuna's PartialFixedSampler
        fixed = {**{name: value for name, value in values.items() if name not in asked}, **fixed}
        sampler = getattr(sampler, "_base_sampler", None)
    fixed |= trial.system_attrs.get("fixed_params", {})
    genome: Genome = {}
    for name, distribution in domain.distributions.items():
        if name in fixed:
            with suppress(KeyError, OverflowError, TypeError, ValueError):  # no value of this gene; Optuna decides
                value = float(distribution.to_internal_repr(fixed[name]))
                if distribution._contains(value):
                    genome[name] = value
    return genome, frozenset(domain.distributions.keys() - asked.keys() - genome.keys())


class PinnedDomain(DistributionDomain):
    """The genes of a :class:`~spikesearch.sampler.domain.DistributionDomain`, of which some have one value only.

    Args:
        domain: The genes.
        fixed: Those that are fixed.
    """

    def __init__(self, domain: Domain, fixed: Genome) -> None:
        super().__init__(domain.distributions)
        self._fixed = fixed
        self._free = DistributionDomain({n: d for n, d in domain.distributions.items() if n not in fixed})
        self.size = self._free.size

    def at(self, index: int) -> Genome:
        return {**self._free.at(index), **self._fixed}

    def complete(self, genome: Mapping[str, float], rng: np.random.Generator) -> Genome:
        return super().complete({**genome, **self._fixed}, rng)

    def neighbours(self, genome: Genome, rng: np.random.Generator) -> Iterator[Genome]:
        return (other for other in super().neighbours(genome, rng) if other.items() >= self._fixed.items())


def pin(
    make: Callable[[], Genome], domain: Domain, fixed: Genome, rng: np.random.Generator
) -> tuple[Callable[[], Genome], Domain, Callable[[Genome], bool]]:
    """Return what makes children with fixed genes, their domain, and what tells whether a genome has them.

    Args:
        make: Makes any child.
        domain: The genes.
        fixed: Those that are fixed.
        rng: The only source of randomness.
    """

    def pinned() -> Genome:
        return domain.complete({**make(), **fixed}, rng)

    def has_them(genome: Genome) -> bool:
        return all(genome.get(name, value) == value for name, value in fixed.items())

    return pinned, PinnedDomain(domain, fixed) if isinstance(domain, DistributionDomain) else domain, has_them
