"""Mutation: small random changes of a genome."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from optuna.distributions import CategoricalDistribution

from spikesearch.sampler import genes
from spikesearch.sampler.domain import Domain, Genome, group_of
from spikesearch.sampler.errors import SamplerError

if TYPE_CHECKING:
    import numpy as np
    from optuna.distributions import BaseDistribution


class Mutation(ABC):
    """Changes a genome."""

    @abstractmethod
    def __call__(self, genome: Genome, domain: Domain, probability: float, rng: np.random.Generator) -> Genome:
        """Return a changed copy.

        Args:
            genome: A complete genome.
            domain: The genes.
            probability: Probability that a gene changes.
            rng: The only source of randomness.
        """


class GeneMutation(Mutation):
    """Every gene on its own.

    Choices without an order move to any other one. Choices and numbers of few levels that have an order move one step
    up or down or to any other one, half the time each. Numbers of many levels move by polynomial mutation (Deb & Goyal,
    1996), and always by at least one level. Genes that come with a changed one, such as those of a further block, are
    drawn at random.

    Args:
        eta: Distribution index of the polynomial mutation: the larger, the smaller the steps.
        min_levels: From how many levels on a number counts as continuous.

    Raises:
        SamplerError: If ``eta`` is negative.
    """

    def __init__(self, *, eta: float = 20.0, min_levels: int = 9) -> None:
        if not eta >= 0:
            raise SamplerError(f"`eta` must be at least 0, but got {eta!r}.")
        self.eta = eta
        self.min_levels = min_levels

    def __call__(self, genome: Genome, domain: Domain, probability: float, rng: np.random.Generator) -> Genome:
        result = dict(genome)
        for name, value in genome.items():
            if rng.random() < probability:
                result[name] = self.change(domain.distributions[name], value, rng)
        whole = domain.conditions and all(name in genome for name in domain.structure)
        return domain.complete(result, rng) if whole else result

    def change(self, distribution: BaseDistribution, value: float, rng: np.random.Generator) -> float:
        """Return another value of one gene (the same one only if there is no other)."""
        count = genes.levels(distribution)
        ordered = genes.is_ordered(distribution)
        if count is None or (ordered and count >= self.min_levels and not _is_categorical(distribution)):
            return self._polynomial(distribution, value, rng)
        if count < 2:
            return value
        here = genes.position(distribution, value)
        if ordered and rng.random() < 0.5:
            step = 1 if here == 0 else -1 if here == count - 1 else (1 if rng.random() < 0.5 else -1)
            return genes.level(distribution, here + step)
        other = int(rng.integers(count - 1))
        return genes.level(distribution, other + (other >= here))

    def _polynomial(self, distribution: BaseDistribution, value: float, rng: np.random.Generator) -> float:
        x = genes.to_unit(distribution, value)
        u = rng.random()
        power = 1 / (self.eta + 1)
        if u < 0.5:
            delta = (2 * u + (1 - 2 * u) * (1 - x) ** (self.eta + 1)) ** power - 1
        else:
            delta = 1 - (2 * (1 - u) + (2 * u - 1) * x ** (self.eta + 1)) ** power
        moved = genes.from_unit(distribution, x + delta)
        count = genes.levels(distribution)
        if moved != value or count is None:
            return moved
        here = genes.position(distribution, value)
        up = here == 0 or (here < count - 1 and delta > 0)
        return genes.level(distribution, here + (1 if up else -1))


class ArchitectureMutation(Mutation):
    """Adds or drops whole blocks at the end, then changes genes like :class:`GeneMutation`.

    Blocks come and go at the end because a shallower subnet keeps the first blocks of the supernet. A new block is a
    copy of the last one or drawn at random, half the time each.

    Args:
        depth_prob: Probability that the depth moves to the next choice up or down.
        genes: How the other genes change.

    Raises:
        SamplerError: If ``depth_prob`` is not a probability.
    """

    def __init__(self, *, depth_prob: float = 0.15, genes: Mutation | None = None) -> None:
        if not 0 <= depth_prob <= 1:
            raise SamplerError(f"`depth_prob` must be from 0 to 1, but got {depth_prob!r}.")
        self.depth_prob = depth_prob
        self.genes = genes if genes is not None else GeneMutation()

    def __call__(self, genome: Genome, domain: Domain, probability: float, rng: np.random.Generator) -> Genome:
        for name in domain.structure:
            if rng.random() < self.depth_prob and (targets := domain.steps(name, genome[name])):
                target = targets[int(rng.integers(len(targets)))]
                genome = self._restructured({**genome, name: target}, domain, rng)
        structure = {name: genome[name] for name in domain.structure}
        others = {name: value for name, value in genome.items() if name not in structure}
        return domain.complete({**self.genes(others, domain, probability, rng), **structure}, rng)

    @staticmethod
    def _restructured(genome: Genome, domain: Domain, rng: np.random.Generator) -> Genome:
        """Return the genome without the groups that are no more, and with new ones."""
        copied: dict[str, bool] = {}

        def value(name: str, grown: Genome) -> float:
            group = group_of(name)
            if group not in copied:
                copied[group] = rng.random() < 0.5
            before = grown.get(domain.previous.get(name, "")) if copied[group] else None
            return genes.draw(domain.distributions[name], rng) if before is None else before

        return domain.grow(genome, value)


def _is_categorical(distribution: BaseDistribution) -> bool:
    return isinstance(distribution, CategoricalDistribution)
