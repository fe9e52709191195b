"""Duplicate handling: no genome twice while unseen ones remain."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from spikesearch.sampler.domain import Domain, Genome, SeenGenomes
from spikesearch.sampler.errors import SamplerError, SpaceExhaustedError

if TYPE_CHECKING:
    import numpy as np


class DuplicateHandling(ABC):
    """Turns a proposal that cannot be used into one that can."""

    @abstractmethod
    def __call__(
        self,
        make: Callable[[], Genome],
        domain: Domain,
        seen: SeenGenomes,
        allowed: Callable[[Genome], bool],
        rng: np.random.Generator,
    ) -> Genome:
        """Return a genome.

        Args:
            make: Makes another proposal of the same kind.
            domain: The genes.
            seen: Genomes that were proposed before.
            allowed: Tells whether a genome satisfies the known constraints.
            rng: The only source of randomness.

        Raises:
            SpaceExhaustedError: If the domain is finite and has nothing left that is allowed.
        """


class UnseenOnly(DuplicateHandling):
    """Tries again, then a neighbour of a proposal, then anything unseen, then gives up.

    Args:
        attempts: How many proposals are made before their neighbours are looked at.
        max_scan: How many genomes of a finite domain are looked at, in order from a random place, before it counts as
            exhausted. It is reached only where known constraints forbid nearly everything: otherwise an unseen genome
            is found after at most as many steps as there are seen ones.

    Raises:
        SamplerError: If a number is not at least 1.
    """

    def __init__(self, *, attempts: int = 20, max_scan: int = 100_000) -> None:
        if attempts < 1:
            raise SamplerError(f"`attempts` must be at least 1, but got {attempts!r}.")
        if max_scan < 1:
            raise SamplerError(f"`max_scan` must be at least 1, but got {max_scan!r}.")
        self.attempts = attempts
        self.max_scan = max_scan

    def __call__(
        self,
        make: Callable[[], Genome],
        domain: Domain,
        seen: SeenGenomes,
        allowed: Callable[[Genome], bool],
        rng: np.random.Generator,
    ) -> Genome:
        def usable(genome: Genome) -> bool:
            return genome not in seen and allowed(genome)

        genome = make()
        for _ in range(self.attempts):
            if usable(genome):
                return genome
            genome = make()
        near = [other for other in domain.neighbours(genome, rng) if usable(other)]
        if near:
            return near[int(rng.integers(len(near)))]
        for _ in range(self.attempts):
            genome = domain.sample(rng)
            if usable(genome):
                return genome
        return self._scan(domain, usable, max(self.max_scan, len(seen) + 1), rng)

    @staticmethod
    def _scan(domain: Domain, usable: Callable[[Genome], bool], max_steps: int, rng: np.random.Generator) -> Genome:
        if domain.size is None:
            raise SpaceExhaustedError(
                "No proposal satisfies the known constraints. Loosen them, or check that they return numbers that are "
                "at most 0 where a trial is allowed."
            )
        start = int(rng.integers(min(domain.size, 2**62)))
        steps = min(domain.size, max_steps)
        for step in range(steps):
            genome = domain.at((start + step) % domain.size)
            if usable(genome):
                return genome
        looked = "every point" if steps == domain.size else f"each of {steps:,} points looked at"
        raise SpaceExhaustedError(
            f"The search space is exhausted: {looked} of its {domain.size:,} was proposed before or breaks a known "
            "constraint. Widen the space, or end the study here."
        )
