"""Features: genomes as rows of numbers that a regression model can learn from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.tree import DecisionTreeClassifier

from spikesearch.sampler import genes
from spikesearch.sampler.domain import ArchitectureDomain, Domain, Genome


class Encoder:
    """Encodes the genomes of a domain.

    A choice has one column per value (1 for the value that it has), a number one column from 0 to 1, and a choice
    between ascending numbers both. The columns of an inactive gene are 0, so that what depends on an inactive block
    adds nothing. Architectures have two more columns: the logarithms of their parameters and of their dense operations.

    Args:
        domain: The genes.
    """

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._names = list(domain.distributions)
        self._tables: list[np.ndarray | None] = []
        for distribution in domain.distributions.values():
            count = genes.levels(distribution)
            if not isinstance(distribution, genes.CategoricalDistribution) or count is None:
                self._tables.append(None)
                continue
            table = np.eye(count) * math.sqrt(0.5)
            if genes.is_ordered(distribution) and count > 2:
                table = np.concatenate([table, np.linspace(0, 1, count)[:, None]], axis=1)
            # The last row stands for an inactive gene.
            self._tables.append(np.concatenate([table, np.zeros((1, table.shape[1]))]))

    def __call__(self, genomes: Sequence[Mapping[str, float]]) -> np.ndarray:
        """Return the features; shape ``[genomes, features]``.

        Args:
            genomes: Genomes; of a learned domain they may lack genes, which are then inactive.
        """
        blocks = []
        for name, table in zip(self._names, self._tables, strict=True):
            if table is None:
                distribution = self._domain.distributions[name]
                column = [genes.to_unit(distribution, g[name]) if name in g else 0.0 for g in genomes]
                blocks.append(np.array(column)[:, None])
            else:
                blocks.append(table[np.array([int(g.get(name, -1)) for g in genomes], dtype=np.intp)])
        if isinstance(self._domain, ArchitectureDomain):
            blocks.append(_sizes(self._domain, genomes))
        return np.concatenate(blocks, axis=1) if blocks else np.zeros((len(genomes), 0))


def _sizes(domain: ArchitectureDomain, genomes: Sequence[Mapping[str, float]]) -> np.ndarray:
    """Parameters, and dense operations per token without attention's products, as logarithms; 0 for the largest."""
    space = domain.space
    widths = np.array([space.embed_dims[int(g["embed_dim"])] for g in genomes], dtype=float)
    steps = np.array([space.time_steps[int(g["time_steps"])] for g in genomes], dtype=float)
    ratios = np.array(
        [sum(4 + 2 * space.mlp_ratios[int(g[f"block{i}.mlp_ratio"])] for i in range(domain.depth(g))) for g in genomes]
    )
    # The stem's convolutions have widths D/8, D/4, D/2, D and a D to D one that encodes positions, all 3x3.
    stem = 9 * (1 / 32 + 1 / 8 + 1 / 2 + 1)
    parameters = widths**2 * (ratios + stem)
    largest = space.largest
    most = largest.embed_dim**2 * (sum(4 + 2 * b.mlp_ratio for b in largest.blocks) + stem)
    operations = parameters * steps / max(space.time_steps)
    return np.log(np.stack([parameters, operations], axis=1) / most)


class ActivityModel:
    """Guesses which genes a trial would ask for, where the domain does not know.

    A genome of a :class:`DistributionDomain` has a value for every gene, but a trial asks only for some, depending on
    the values of others. A decision tree on the genes that all trials have learns which.

    Args:
        genomes: Genomes of trials, each with the genes that it asked for.
    """

    def __init__(self, genomes: Sequence[Mapping[str, float]]) -> None:
        signatures: dict[tuple[str, ...], int] = {}
        labels = [signatures.setdefault(tuple(genome), len(signatures)) for genome in genomes]
        self._signatures = list(signatures)
        self._tree: DecisionTreeClassifier | None = None
        common = set(self._signatures[0]).intersection(*self._signatures[1:])
        self._common = sorted(common)
        if len(signatures) > 1 and common:
            self._tree = DecisionTreeClassifier(random_state=0).fit(self._values(genomes), labels)

    def __call__(self, genomes: Sequence[Genome]) -> Sequence[Genome]:
        """Return the genomes without the genes that would not be asked for."""
        if self._tree is None:
            return genomes
        guesses = self._tree.predict(self._values(genomes))
        return [
            {name: genome[name] for name in self._signatures[guess] if name in genome}
            for genome, guess in zip(genomes, guesses, strict=True)
        ]

    def _values(self, genomes: Sequence[Mapping[str, float]]) -> np.ndarray:
        return np.array([[genome[name] for name in self._common] for genome in genomes])
