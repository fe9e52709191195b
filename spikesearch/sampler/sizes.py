"""How large architectures are, from the list of their units: features that models of a study learn from."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from spikesearch.space import SearchSpace


class RelativeSizes:
    """Weights, and operations over all positions and time steps, as logarithms; 0 for the largest architecture.

    Products of spikes, the layer that sees the images, and the head are left out. Operations of a stage are weighted by
    its number of positions, a quarter of that of the stage before.

    Args:
        space: The space of the architectures.
    """

    def __init__(self, space: SearchSpace) -> None:
        from spikesearch.nn.units import DOWN, block_share, stem_share

        names, largest = list(space.parameters), space.largest
        self._width, self._steps = names.index("embed_dim"), names.index("time_steps")
        self._widths = np.array(space.embed_dims, dtype=float)
        self._shares = np.array(space.time_steps) / max(space.time_steps)
        stages = largest.stages or (None,)
        relative = [1.0 if stage is None else stage.width for stage in stages]
        self._positions = [0.25**number for number in range(len(stages))]
        # Patch splitting, or the convolutions between stages: as wide as the network, whatever the other genes are.
        self._fixed = [stem_share() if not largest.stages else 0.0]
        self._fixed += [before * width * DOWN.kernel for before, width in pairwise(relative)]
        self._columns, self._blocks = [], []
        for number, (blocks, share) in enumerate(zip(largest.blocks_of_stages, relative, strict=True)):
            prefix = space.depth_names[number].removesuffix("depth")
            # Thresholds and time constants have no part in it, so only sizes and kinds tell blocks apart here.
            first = f"{prefix}block0."
            rows = {
                name.removeprefix(first): (*p.choices, p.gene.absent)
                for name, p in space.parameters.items()
                if name.startswith(first) and p.gene.near is None
            }
            table = np.zeros([len(space.embed_dims), *map(len, rows.values())])
            for places in np.ndindex(*table.shape):
                pairs = zip(rows.items(), places[1:], strict=True)
                values = {gene: choices[place] for (gene, choices), place in pairs}
                width = round(space.embed_dims[places[0]] * share)
                table[places] = block_share(replace(blocks[0], **values), width) * share**2
            none: tuple[Any, ...] = (slice(None), *[-1] * len(rows))
            table[none] = 0.0  # all genes are inactive: there is no such block
            depth = max(space.stage_lists[number]["depths"])
            self._columns.append([[names.index(f"{prefix}block{i}.{gene}") for i in range(depth)] for gene in rows])
            self._blocks.append(table)
        shares = [
            sum(block_share(spec, round(largest.embed_dim * share)) for spec in blocks) * share**2 + fixed
            for blocks, share, fixed in zip(largest.blocks_of_stages, relative, self._fixed, strict=True)
        ]
        self._most = largest.embed_dim**2 * np.array(
            [sum(shares), sum(share * there for share, there in zip(shares, self._positions, strict=True))]
        )

    def __call__(self, indices: np.ndarray) -> np.ndarray:
        """Return the two columns; shape ``[genomes, 2]``.

        Args:
            indices: Which choice each gene has, -1 for an inactive gene; shape ``[genomes, genes]``.
        """
        widths = indices[:, self._width]
        parameters = operations = np.zeros(len(indices))
        for columns, table, fixed, there in zip(self._columns, self._blocks, self._fixed, self._positions, strict=True):
            picked = tuple(indices[:, column] for column in columns)
            blocks = table[(widths[:, None], *picked)].sum(axis=1)
            parameters = parameters + self._widths[widths] ** 2 * (blocks + fixed)
            operations = operations + self._widths[widths] ** 2 * (blocks + fixed) * there
        operations = operations * self._shares[indices[:, self._steps]]
        sizes: np.ndarray = np.log(np.stack([parameters, operations], axis=1) / self._most)
        return sizes
