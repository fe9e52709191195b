"""How large architectures are, from their genes alone: features that a model of accuracy and energy learns from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from spikesearch.space import BlockSpec, SearchSpace

# Over the squared width. The stem's 3x3 convolutions have widths D/8, D/4, D/2, D, and a D to D one encodes positions.
STEM_SHARE = 9 * (1 / 32 + 1 / 8 + 1 / 2 + 1)


def block_share(block: BlockSpec) -> float:
    """Return the weights of a block over the squared width: its operations per token, without products of spikes."""
    return 4 + 2 * block.mlp_ratio


class RelativeSizes:
    """Parameters, and dense operations per token without products of spikes, as logarithms; 0 for the largest.

    Args:
        space: The space of the architectures.
    """

    def __init__(self, space: SearchSpace) -> None:
        names = list(space.parameters)
        self._width, self._steps = names.index("embed_dim"), names.index("time_steps")
        self._widths = np.array(space.embed_dims, dtype=float)
        self._shares = np.array(space.time_steps) / max(space.time_steps)
        # Thresholds and time constants have no part in it, so only sizes and kinds tell blocks apart here.
        first = {name: p for name, p in space.parameters.items() if name.startswith("block0.") and p.gene.near is None}
        rows = [(p.gene.name, (*p.choices, p.gene.absent)) for p in first.values()]
        self._columns = [[names.index(f"block{i}.{gene}") for i in range(max(space.depths))] for gene, _ in rows]
        self._blocks = np.zeros([len(choices) for _, choices in rows])
        for places in np.ndindex(*self._blocks.shape):
            values = {gene: choices[place] for (gene, choices), place in zip(rows, places, strict=True)}
            self._blocks[places] = block_share(replace(space.largest.blocks[0], **values))
        self._blocks[(-1,) * len(rows)] = 0.0  # all genes are inactive: there is no such block
        largest = space.largest
        self._most = largest.embed_dim**2 * (sum(map(block_share, largest.blocks)) + STEM_SHARE)

    def __call__(self, indices: np.ndarray) -> np.ndarray:
        """Return the two columns; shape ``[genomes, 2]``.

        Args:
            indices: Which choice each gene has, -1 for an inactive gene; shape ``[genomes, genes]``.
        """
        blocks = self._blocks[tuple(indices[:, columns] for columns in self._columns)].sum(axis=1)
        parameters = self._widths[indices[:, self._width]] ** 2 * (blocks + STEM_SHARE)
        operations = parameters * self._shares[indices[:, self._steps]]
        return np.log(np.stack([parameters, operations], axis=1) / self._most)
