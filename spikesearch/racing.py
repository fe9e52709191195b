"""Racing: a candidate that can hardly reach the Pareto front any more need not be scored on every image.

A score is a fact about a finite set of images. After ``n`` of ``N`` of them, in an order that is random and does not
depend on the candidate (that of a split is), two one-sided bounds tell what the whole score can still be:

accuracy
    The right answers among the ``n`` follow the hypergeometric distribution, so that the bound is exact: the largest
    number of right answers among all ``N`` that leaves what was seen likely enough.
energy
    Student's t over the energies of the batches, each a mean over many images, with the correction for a finite set.
    The only term of an energy that is not linear in the images is the smaller of two rates in an attention product,
    and the smaller of two sums is at least the sum of the smaller ones: batches never overstate the energy of them all.

A candidate is stopped if a finished trial dominates even these bounds. It is looked at a few times, twice each, so that
every look gets its share of the 1 % of error (Bonferroni). What is dominated by the front of now is dominated by every
later front as well.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy.special import stdtrit

CONFIDENCE = 0.99
_LOOKS = (1 / 8, 1 / 4, 1 / 2, 3 / 4)  # shares of the images
_BATCHES = 3  # fewer say next to nothing of how energies vary


@dataclass(frozen=True)
class Rival:
    """A finished trial on the Pareto front.

    Args:
        number: Its number.
        accuracy: As a fraction.
        energy_uJ: Microjoules per sample.
    """

    number: int
    accuracy: float
    energy_uJ: float  # noqa: N815 - the unit

    def dominates(self, accuracy: float, energy: float) -> bool:
        """Tell whether it is nowhere worse than these values, and somewhere better."""
        nowhere_worse = self.accuracy >= accuracy and self.energy_uJ <= energy
        return nowhere_worse and (self.accuracy, self.energy_uJ) != (accuracy, energy)


def enter(front: Sequence[Rival], new: Rival) -> list[Rival]:
    """Return a front after another trial has finished: with it, and without those that it dominates, or unchanged."""
    if any(rival.dominates(new.accuracy, new.energy_uJ) for rival in front):
        return list(front)
    return [*(rival for rival in front if not new.dominates(rival.accuracy, rival.energy_uJ)), new]


class Dominated(Exception):  # noqa: N818 - not an error, but how a race ends
    """A candidate is stopped.

    Args:
        accuracy_bound: What its accuracy is at most, as a fraction.
        energy_bound_uJ: What its energy is at least, in microjoules per sample.
        images_seen: After how many images.
        dominated_by: Number of the trial that dominates both bounds.
    """

    NAMES: ClassVar[tuple[str, ...]] = ("accuracy_bound", "energy_bound_uJ", "images_seen", "dominated_by")
    """The arguments, under which a stopped trial keeps them as attributes."""

    def __init__(self, *, accuracy_bound: float, energy_bound_uJ: float, images_seen: int, dominated_by: int) -> None:
        super().__init__(
            f"after {images_seen} images at most {accuracy_bound:.4f} accurate and at least {energy_bound_uJ:.4g} uJ, "
            f"dominated by trial {dominated_by}"
        )
        self.accuracy_bound = accuracy_bound
        self.energy_bound_uJ = energy_bound_uJ
        self.images_seen = images_seen
        self.dominated_by = dominated_by

    def to_dict(self) -> dict[str, float]:
        """Return plain JSON types; the inverse of :meth:`of`."""
        return dict(vars(self))

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> Dominated | None:
        """Return how a trial with these attributes was stopped, or ``None`` if it was not."""
        if "dominated_by" not in attributes:
            return None
        return cls(**{name: attributes[name] for name in cls.NAMES})


class Race:
    """One candidate against the front as it was when the candidate started.

    Args:
        rivals: The front.
        n_images: Images of the whole split.
        batch_size: Images per batch.
    """

    def __init__(self, rivals: Sequence[Rival], n_images: int, batch_size: int) -> None:
        self._rivals = rivals
        self._n_images = n_images
        self._batch_size = batch_size
        self._looks = looks(n_images, batch_size)

    def look(self, correct: int, energies: Sequence[float]) -> None:
        """Judge the candidate after a batch.

        Args:
            correct: Right answers so far.
            energies: Microjoules per sample of every batch so far.

        Raises:
            Dominated: If it cannot reach the front.
        """
        if len(energies) not in self._looks:
            return
        alpha = (1 - CONFIDENCE) / (2 * len(self._looks))
        seen = len(energies) * self._batch_size
        accuracy = most_correct(correct, seen, self._n_images, alpha) / self._n_images
        energy = least_mean(energies, seen / self._n_images, alpha)
        for rival in self._rivals:
            if rival.dominates(accuracy, energy):
                raise Dominated(
                    accuracy_bound=accuracy, energy_bound_uJ=energy, images_seen=seen, dominated_by=rival.number
                )


def looks(n_images: int, batch_size: int) -> list[int]:
    """Return after how many batches a candidate is judged: whole batches, never the last one.

    Args:
        n_images: Images of the split.
        batch_size: Images per batch.

    Example:
        >>> looks(2000, 64), looks(2000, 256), looks(362, 256)
        ([4, 8, 16, 24], [3, 4, 6], [])
    """
    batches = {max(_BATCHES, math.ceil(share * n_images / batch_size)) for share in _LOOKS}
    return sorted(number for number in batches if number * batch_size < n_images)


def most_correct(correct: int, seen: int, total: int, alpha: float) -> int:
    """Return an upper bound of the right answers among all images, wrong with a probability of at most ``alpha``.

    Args:
        correct: Right answers among those seen.
        seen: Images seen, drawn at random without replacement.
        total: All images.
        alpha: Probability, over the order of the images, that the bound is too low.

    Returns:
        The largest number under which ``correct`` or fewer right answers are not less likely than ``alpha``.
    """
    from scipy.stats import hypergeom

    possible = range(correct, total - seen + correct + 1)
    unlikely = bisect.bisect_left(
        possible, True, key=lambda number: bool(hypergeom.cdf(correct, total, number, seen) < alpha)
    )
    return possible[unlikely - 1]


def least_mean(values: Sequence[float], share: float, alpha: float) -> float:
    """Return a lower bound of the mean over all batches, from some that were drawn at random.

    Args:
        values: Means of the batches seen, at least two.
        share: How much of everything they are.
        alpha: Probability that the bound is too high, as far as means of batches follow a normal distribution; those of
            few images do not if some images are far cheaper than the others.
    """
    seen = np.asarray(values)
    error = seen.std(ddof=1) * math.sqrt((1 - share) / len(seen))
    return float(seen.mean() - stdtrit(len(seen) - 1, 1 - alpha) * error)
