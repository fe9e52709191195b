"""Features: genomes as rows of numbers that a regression model can learn from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from optuna.distributions import CategoricalDistribution
from sklearn.tree import DecisionTreeClassifier

from spikesearch.sampler import genes
from spikesearch.sampler.domain import Domain, Genome

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


class Encoder:
    """Encodes the genomes of a domain.

    A choice has one column per value (1 for the value that it has), a number one column from 0 to 1, and a choice
    between ascending numbers both. The columns of an inactive gene are 0, so that what depends on an inactive block
    adds nothing. A domain may add columns of its own: see :attr:`Domain.sizes`.

    Args:
        domain: The genes.
    """

    def __init__(self, domain: Domain) -> None:
        self._nothing = dict.fromkeys(domain.distributions, math.nan)
        self._tables = [_table(distribution) for distribution in domain.distributions.values()]
        self._distributions = list(domain.distributions.values())
        self._sizes = domain.sizes

    def __call__(self, genomes: Sequence[Mapping[str, float]]) -> np.ndarray:
        """Return the features; shape ``[genomes, features]``.

        Args:
            genomes: Genomes; of a learned domain they may lack genes, which are then inactive.
        """
        shape = len(genomes), len(self._nothing)
        values = np.fromiter(chain.from_iterable(map(self._row, genomes)), float, shape[0] * shape[1]).reshape(shape)
        with np.errstate(invalid="ignore"):  # numbers may be too large for an index, but are not used as one
            indices = np.where(np.isnan(values), -1.0, values).astype(np.intp)
        blocks = [
            np.nan_to_num(genes.to_units(distribution, values[:, i]))[:, None]
            if table is None
            else table[indices[:, i]]
            for i, (distribution, table) in enumerate(zip(self._distributions, self._tables, strict=True))
        ]
        if self._sizes is not None:
            blocks.append(self._sizes(indices))
        return np.concatenate(blocks, axis=1) if blocks else np.zeros((len(genomes), 0))

    def _row(self, genome: Mapping[str, float]) -> Iterable[float]:
        """Return the value of every gene, NaN for an inactive one."""
        row = {**self._nothing, **genome}
        if len(row) > len(self._nothing):  # a running trial may have asked for genes that no finished one has
            return [row[name] for name in self._nothing]
        return row.values()


def _table(distribution: BaseDistribution) -> np.ndarray | None:
    """Return the columns of each value of a choice, and of an inactive one in the last row; None for a number."""
    if not isinstance(distribution, CategoricalDistribution):
        return None
    count = len(distribution.choices)
    table = np.eye(count) * math.sqrt(0.5)
    if genes.is_ordered(distribution) and count > 2:
        table = np.concatenate([table, np.linspace(0, 1, count)[:, None]], axis=1)
    return np.concatenate([table, np.zeros((1, table.shape[1]))])


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
