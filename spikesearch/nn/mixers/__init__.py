"""Mixers: what exchanges information between the tokens of a block. One file each, which registers its mixer."""

from __future__ import annotations

from typing import ClassVar

from spikesearch.extensions import MIXERS, Registry
from spikesearch.nn.plan import BranchPlan

__all__ = ["MIXERS", "Mixer", "register"]


class Mixer(BranchPlan):
    """The first residual branch of a block.

    Attributes:
        name: As in the gene ``mixer``; also the name of its module in a block unless ``module`` says otherwise.
        genes: Names of the block's genes that this mixer reads and others need not, such as ``num_heads``.
    """

    kind = "mixer"
    name: ClassVar[str]
    genes: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "module" not in vars(cls) and "name" in vars(cls):
            cls.module = cls.name


def register(mixer: Mixer) -> Mixer:
    """Make a mixer available under its name, and return it.

    Raises:
        ValueError: If the name is taken.
    """
    registry: Registry[Mixer] = MIXERS
    return registry.register(mixer.name, mixer)
