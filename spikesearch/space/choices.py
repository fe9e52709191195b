"""The genes of one owner with their choices in one space: which exist together, and every combination by number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from spikesearch.space.genes import Gene

if TYPE_CHECKING:
    import numpy as np


class Choices:
    """The choices of a network, of its stem, or of a block.

    A gene whose list holds just its default, or that exists with no value of the gene it depends on, is not among them.

    Args:
        genes: Rows of the table, those that others depend on first.
        lists: All choices of each list of the space.

    Attributes:
        genes: The genes that can be chosen, by name.
        values: Their choices.
        conditions: Of a gene that depends on another one of these: which, and with which of its choices it exists.
    """

    def __init__(self, genes: Sequence[Gene], lists: Mapping[str, tuple[Any, ...]]) -> None:
        self.absent = {gene.name: gene.absent for gene in genes}
        self.genes: dict[str, Gene] = {}
        self.values: dict[str, tuple[Any, ...]] = {}
        self.conditions: dict[str, tuple[str, tuple[Any, ...]]] = {}
        for gene in genes:
            choices = lists[gene.choices]
            if choices == (gene.default,):
                continue
            if gene.active is not None:
                leading = gene.active.gene
                offered = self.values.get(leading, (self.absent[leading],))
                fitting = tuple(value for value in offered if gene.active.holds(value, gene))
                if not fitting:
                    continue
                if leading in self.values:
                    self.conditions[gene.name] = leading, fitting
            self.genes[gene.name] = gene
            self.values[gene.name] = choices

    def choose(self, choice: Callable[[str], Any], place: str = "") -> dict[str, Any]:
        """Return a value for every gene that exists with the values of those before it.

        Args:
            choice: Returns the value of a gene, by its name.
            place: What stands before the name for ``choice``.
        """
        chosen: dict[str, Any] = {}
        for name in self.values:
            if self._exists(name, chosen):
                chosen[name] = choice(f"{place}{name}")
        return chosen

    def sample(
        self, rng: np.random.Generator, given: Mapping[str, Any] = MappingProxyType({}), place: str = ""
    ) -> dict[str, Any]:
        """Draw a value for every gene that exists with those before it, but for those that are given, by full name."""

        def draw(name: str) -> Any:
            full, values = f"{place}{name}", self.values[name]
            return given[full] if full in given else values[int(rng.choice(len(values)))]

        return self.choose(draw)

    def of(self, owner: object) -> dict[str, Any]:
        """Return the values of the genes that exist, from an object with these attributes."""
        return self.choose(lambda name: getattr(owner, name))

    def typical(self, position: int | None) -> dict[str, Any]:
        """Return the typical values; see :meth:`Gene.pick`."""
        return self.choose(lambda name: self.genes[name].pick(self.values[name], position))

    def foreign(self, owner: object) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
        """Yield every gene of an object that has no value of this space: name, value and choices."""
        existing = self.of(owner)
        for name, absent in self.absent.items():
            value, choices = getattr(owner, name), self.values[name] if name in existing else (absent,)
            if value not in choices:
                yield name, value, choices

    # --- enumeration --------------------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """Number of different combinations."""
        return sum(count for _, _, count in self._patterns)

    def at(self, index: int) -> dict[str, Any]:
        """Return the combination with this number, from 0 to ``count - 1``; the first gene varies fastest."""
        for leading, names, count in self._patterns:
            if index < count:
                values = dict(leading)
                for name in names:
                    index, digit = divmod(index, len(self.values[name]))
                    values[name] = self.values[name][digit]
                return values
            index -= count
        raise IndexError(index)

    def index(self, values: Mapping[str, Any]) -> int:
        """Return the number of a combination; the inverse of :meth:`at`."""
        position = 0
        for leading, names, count in self._patterns:
            if leading.items() <= values.items():
                digits = 0
                for name in reversed(names):
                    digits = digits * len(self.values[name]) + self.values[name].index(values[name])
                return position + digits
            position += count
        raise ValueError(values)

    @cached_property
    def _patterns(self) -> list[tuple[dict[str, Any], list[str], int]]:
        """What the genes that others depend on may be, the others that exist then, and the combinations of those."""
        controlling = {name for name, _ in self.conditions.values()}
        patterns: list[dict[str, Any]] = [{}]
        for name in self.values:
            if name in controlling:
                patterns = [
                    {**pattern, **chosen}
                    for pattern in patterns
                    for chosen in ([{name: v} for v in self.values[name]] if self._exists(name, pattern) else [{}])
                ]
        result = []
        for pattern in patterns:
            names = [name for name in self.values if name not in controlling and self._exists(name, pattern)]
            result.append((pattern, names, math.prod(len(self.values[name]) for name in names)))
        return result

    def _exists(self, name: str, chosen: Mapping[str, Any]) -> bool:
        if name not in self.conditions:
            return True
        leading, fitting = self.conditions[name]
        return leading in chosen and chosen[leading] in fitting
