"""How large architectures are, from the list of their units: features that models of a study learn from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from spikesearch.space import SearchSpace


class RelativeSizes:
    """Weights, and operations per token over all time steps, as logarithms; 0 for the largest architecture.

    Products of spikes, the layer that sees the images, and the head are left out.

    Args:
        space: The space of the architectures.
    """

    def __init__(self, space: SearchSpace) -> None:
        from spikesearch.nn.units import block_share, stem_share

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
        self._stem, largest = stem_share(), space.largest
        self._most = largest.embed_dim**2 * (sum(map(block_share, largest.blocks)) + self._stem)

    def __call__(self, indices: np.ndarray) -> np.ndarray:
        """Return the two columns; shape ``[genomes, 2]``.

        Args:
            indices: Which choice each gene has, -1 for an inactive gene; shape ``[genomes, genes]``.
        """
        blocks = self._blocks[tuple(indices[:, columns] for columns in self._columns)].sum(axis=1)
        parameters = self._widths[indices[:, self._width]] ** 2 * (blocks + self._stem)
        operations = parameters * self._shares[indices[:, self._steps]]
        return np.log(np.stack([parameters, operations], axis=1) / self._most)
