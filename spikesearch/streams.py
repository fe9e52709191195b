"""Every stream of random numbers in the package: what it draws, and the key that a generator is made from.

A key holds whole numbers: those of the stream itself, then its parts, such as the seed and the epoch. Two streams must
never have a key in common, or what looks independent is the same numbers; NumPy fills short keys up with zeros, so that
``[4, 0]`` and ``[4, 0, 0, 0]`` are one key. A new stream belongs into the second half of the table, where the package
sees to that. First weights are the one thing that is not here: torch's generator draws them, from the seed itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, product
from typing import Literal

import numpy as np

_LENGTH = 6
_TAG = 0x5049_4B45  # opens a key of _LENGTH numbers; no stream that 0.1.0 fixed has keys as long


@dataclass(frozen=True)
class Stream:
    """One use of random numbers.

    Args:
        draws: What is drawn.
        parts: Names of the parts of a key, in order.
        before: Numbers of the stream itself, in front of the parts.
        after: The same, behind them.
        kind: What the key is for: NumPy's default ``generator``; the ``seed`` of a generator of another library; or
            the ``hash`` :func:`spikesearch.data.keyed.uniforms`. Equal keys of two kinds give different numbers.
        words: Length of such a seed; seeds of two lengths give different numbers, too.
        fixed: Whether 0.1.0 fixed the key, which scores, proposals or trainings depend on. Other keys are filled up
            to one length.
    """

    draws: str
    parts: str
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    kind: Literal["generator", "seed", "hash"] = "generator"
    words: int = 0
    fixed: bool = True

    def key(self, *parts: int) -> list[int]:
        """Return the key for some parts."""
        words = [*self.before, *parts, *self.after]
        return words if self.fixed else [*words, *[0] * (_LENGTH - len(words))]

    def generator(self, *parts: int) -> np.random.Generator:
        """Return NumPy's default generator for some parts."""
        return np.random.default_rng(self.key(*parts))

    def seed(self, *parts: int) -> np.ndarray:
        """Return a seed for a generator of another library: uint32, shape ``[words]``."""
        return np.random.SeedSequence(self.key(*parts)).generate_state(self.words)


def _new(number: int, draws: str, parts: str, kind: Literal["generator", "hash"] = "generator") -> Stream:
    return Stream(draws, parts, before=(_TAG, number), kind=kind, fixed=False)


SPLITS = Stream("which images of a class are in which split", "seed, class")
SPLIT_ORDER = Stream("the order of the images within the splits", "seed, number of classes")
PROPOSALS = Stream("the genome of a trial", "seed, trial")
INDEPENDENT = Stream("a parameter that a trial asks for unannounced", "seed, trial, crc32 of the name")
DESIGN = Stream("one gene of the initial design", "seed, crc32 of the name, size of the design")
RECIPES = Stream("a recipe, by Optuna's sampler", "seed, trial", kind="seed", words=1)
TRAINING_ORDER = Stream("the order of the training images", "seed, epoch", before=(1,))
MIXUP = Stream("how images of a batch are mixed", "seed, epoch, step", before=(2,), kind="seed", words=4)
DEPTHS = Stream("the depths of the subnets that are trained", "seed, epoch, deck", before=(3,))
GENES = Stream("the other genes of a subnet that is trained", "seed, epoch, subnet", before=(4,))
CALIBRATION = Stream("the images for batch-norm statistics, in every study the same", "", before=(20_230_601,))
AFFINE = Stream("shifts and rotations of digits", "seed, epoch, step", kind="hash")
CROP = Stream("crops and flips of images", "seed, epoch, step", after=(0,), kind="hash")
POLICY = Stream("RandAugment and its like", "seed, epoch, step", after=(1,), kind="hash")
ERASE = Stream("rectangles that are erased", "seed, epoch, step", after=(2,), kind="hash")
EVENTS = Stream("flips, shifts and left-out frames of recordings", "seed, epoch, step", after=(3,), kind="hash")

CANDIDATES = _new(1, "networks that a measurement of fidelity trains", "seed, round")
BOOTSTRAP = _new(2, "resamples for intervals", "number of items, seed")
DROP_PATH = _new(3, "which branches a sample skips", "seed, epoch, step", kind="hash")
MIXERS = _new(4, "the mixers of the subnets that are trained", "seed, epoch, deck, place")
STAGE_DEPTHS = _new(5, "the depths of their stages, but the first", "seed, epoch, deck, stage")

# The only pairs that may have a key in common, because 0.1.0 fixed both: another key for either would change the data
# or the course of every study. The first three begin with the seed, the others with a number that a seed may be as
# well. They draw things of different kinds: an order of images, a genome, a depth.
_SEED_FIRST = (SPLITS, SPLIT_ORDER, PROPOSALS)
MAY_COINCIDE = frozenset(
    frozenset(pair)
    for pair in (
        *combinations(_SEED_FIRST, 2),
        *product(_SEED_FIRST, (TRAINING_ORDER, DEPTHS, GENES)),
        *product((SPLITS, PROPOSALS), (CALIBRATION,)),
    )
)
TABLE: dict[str, Stream] = {name: value for name, value in globals().items() if isinstance(value, Stream)}
