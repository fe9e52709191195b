"""Crossover: a child's genome from two parents."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from optuna.distributions import CategoricalDistribution

from spikesearch.sampler import genes
from spikesearch.sampler.domain import Domain, Genome, group_of
from spikesearch.sampler.errors import SamplerError

if TYPE_CHECKING:
    import numpy as np


class Crossover(ABC):
    """Makes a child of two parents."""

    @abstractmethod
    def __call__(self, mother: Genome, father: Genome, domain: Domain, rng: np.random.Generator) -> Genome:
        """Return the child's genes; those that no parent has may be missing.

        Args:
            mother: A genome; of a learned domain it may lack genes.
            father: Another one.
            domain: The genes.
            rng: The only source of randomness.
        """


class UniformCrossover(Crossover):
    """Every gene from either parent, numbers on a scale blended.

    The blend is simulated binary crossover (Deb & Agrawal, 1995).

    Args:
        eta: Distribution index of the blend: the larger, the nearer the child stays to its parents.
        blend_prob: Probability that a number is blended rather than taken.
        min_levels: Numbers with fewer possible values are taken, not blended.

    Raises:
        SamplerError: If ``eta`` is negative or ``blend_prob`` is not a probability.
    """

    def __init__(self, *, eta: float = 20.0, blend_prob: float = 0.5, min_levels: int = 6) -> None:
        if not eta >= 0:
            raise SamplerError(f"`eta` must be at least 0, but got {eta!r}.")
        if not 0 <= blend_prob <= 1:
            raise SamplerError(f"`blend_prob` must be from 0 to 1, but got {blend_prob!r}.")
        self.eta = eta
        self.blend_prob = blend_prob
        self.min_levels = min_levels

    def __call__(self, mother: Genome, father: Genome, domain: Domain, rng: np.random.Generator) -> Genome:
        child: Genome = {}
        for name, distribution in domain.distributions.items():
            first, second = mother.get(name), father.get(name)
            if first is None or second is None:
                if first is not None or second is not None:
                    child[name] = first if first is not None else second  # type: ignore[assignment]
                continue
            child[name] = first if rng.random() < 0.5 else second
            if first != second and self._blends(distribution) and rng.random() < self.blend_prob:
                child[name] = self._blend(distribution, child[name], first + second - child[name], rng)
        return child

    def _blends(self, distribution: object) -> bool:
        if isinstance(distribution, CategoricalDistribution):
            return False
        count = genes.levels(distribution)  # type: ignore[arg-type]
        return count is None or count >= self.min_levels

    def _blend(self, distribution: object, near: float, far: float, rng: np.random.Generator) -> float:
        a, b = genes.to_unit(distribution, near), genes.to_unit(distribution, far)  # type: ignore[arg-type]
        u = rng.random()
        spread = (2 * u) ** (1 / (self.eta + 1)) if u <= 0.5 else (2 * (1 - u)) ** (-1 / (self.eta + 1))
        return genes.from_unit(distribution, 0.5 * ((1 + spread) * a + (1 - spread) * b))  # type: ignore[arg-type]


class BlockCrossover(Crossover):
    """Whole blocks, aligned by their place: the genes of a group are inherited together.

    A group is what stands before a name's last dot (``block3``, ``stem``); a name without a dot is a group of its own.
    How many blocks there are is inherited first, and a block that only one parent has comes from that parent. Genes of
    a block work together in one layer of the network, and with inherited weights a block's weights belong to its place.

    Args:
        mix_prob: Probability that a group's genes are drawn from either parent one by one instead.

    Raises:
        SamplerError: If ``mix_prob`` is not a probability.
    """

    def __init__(self, *, mix_prob: float = 0.3) -> None:
        if not 0 <= mix_prob <= 1:
            raise SamplerError(f"`mix_prob` must be from 0 to 1, but got {mix_prob!r}.")
        self.mix_prob = mix_prob

    def __call__(self, mother: Genome, father: Genome, domain: Domain, rng: np.random.Generator) -> Genome:
        child: Genome = {}
        choose: dict[str, tuple[bool, bool]] = {}
        for name in domain.structure:
            child[name] = (mother if rng.random() < 0.5 else father)[name]
        for name in domain.distributions:
            first, second = mother.get(name), father.get(name)
            if name in child or (first is None and second is None) or not domain.is_active(name, child):
                continue
            group = group_of(name)
            if group not in choose:
                choose[group] = (rng.random() < 0.5, rng.random() < self.mix_prob)
            from_mother, mixed = choose[group]
            if mixed:
                from_mother = rng.random() < 0.5
            value = first if (from_mother and first is not None) or second is None else second
            child[name] = value  # type: ignore[assignment]
        return child
