"""Initial design: the first genomes of a study, before there are parents."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from functools import lru_cache
from typing import TYPE_CHECKING

from spikesearch.sampler import genes
from spikesearch.sampler.domain import Domain, Genome
from spikesearch.sampler.errors import SamplerError
from spikesearch.streams import DESIGN

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


class InitialDesign(ABC):
    """Makes the first genomes of a study.

    Attributes:
        size: How many different genomes are tried before parents are chosen.
    """

    size: int

    @abstractmethod
    def __call__(self, domain: Domain, index: int, seed: int) -> Genome:
        """Return one genome of the design: a function of its arguments only.

        Args:
            domain: The genes.
            index: Place in the design, from 0 to ``size - 1``.
            seed: The sampler's seed.
        """

    @abstractmethod
    def gene(self, name: str, distribution: BaseDistribution, index: int, seed: int) -> float:
        """Return one gene of genome ``index``, for parameters that are asked for before the domain is known."""


class SpaceFillingDesign(InitialDesign):
    """Largest, smallest and middle architecture, then points that fill the space.

    The filling points spread every gene evenly: over ``size`` points each of k choices appears about size / k times, in
    an order of its own per gene (Latin hypercube, McKay et al., 1979). Without a search space there is no largest
    architecture, and all points fill.

    Args:
        size: Number of points.

    Raises:
        SamplerError: If ``size`` is not at least 1.
    """

    def __init__(self, *, size: int = 12) -> None:
        if size < 1:
            raise SamplerError(f"`size` must be at least 1, but got {size!r}.")
        self.size = size

    def __call__(self, domain: Domain, index: int, seed: int) -> Genome:
        if index < len(domain.corners):
            return dict(domain.corners[index])
        return domain.grow({}, lambda name, _: self.gene(name, domain.distributions[name], index, seed))

    def gene(self, name: str, distribution: BaseDistribution, index: int, seed: int) -> float:
        order, jitter = _strata(name, self.size, seed)
        place = index % self.size
        return genes.from_unit(distribution, (order[place] + jitter[place]) / self.size)


@lru_cache(maxsize=1024)
def _strata(name: str, size: int, seed: int) -> tuple[list[int], list[float]]:
    # crc32, not hash(): the same in every process.
    rng = DESIGN.generator(seed, zlib.crc32(name.encode()), size)
    return rng.permutation(size).tolist(), rng.random(size).tolist()
