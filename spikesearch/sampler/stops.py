"""Where objectives give up: genes that were the last that a trial asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

Names = tuple[str, ...]
Values = tuple[float, ...]

PRUNED, FAILED, CERTAIN = 2, 1, 2  # who prunes means it; a failure may be chance, two at one place are not


class Stops:
    """Trials that ended before they had asked for all their genes.

    An objective that has been given the same values asks for the same gene next. So what agrees with a trial that gave
    up, in every gene that it had asked for, gives up as well; unless some trial that agrees with it went further.
    """

    def __init__(self) -> None:
        self._genomes: list[Mapping[str, float]] = []
        self._places: dict[Names, Counter[Values]] = {}
        self._passed: dict[Names, set[Values]] = {}

    def add(self, genome: Mapping[str, float], weight: int = 0) -> None:
        """Remember the genes that a finished trial asked for.

        Args:
            genome: The genes.
            weight: ``PRUNED`` or ``FAILED``, if it may have ended before it had asked for all.
        """
        if not genome:
            return
        for names, passed in self._passed.items():
            passed |= _beyond(names, [genome])
        if weight:
            names = tuple(sorted(genome))
            if names not in self._places:
                self._places[names] = Counter()
                self._passed[names] = _beyond(names, self._genomes)
            self._places[names][tuple([genome[name] for name in names])] += weight
        self._genomes.append(genome)

    def __contains__(self, genome: Mapping[str, float]) -> bool:
        """Tell whether a trial of this genome would give up where an earlier one did."""
        for names, places in self._places.items():
            if genome.keys() >= set(names):
                values = tuple([genome[name] for name in names])
                if places[values] >= CERTAIN and values not in self._passed[names]:
                    return True
        return False


def _beyond(names: Names, genomes: Iterable[Mapping[str, float]]) -> set[Values]:
    """Return the values of some genes in those genomes that have more genes."""
    wanted = set(names)
    return {tuple([genome[name] for name in names]) for genome in genomes if genome.keys() > wanted}
