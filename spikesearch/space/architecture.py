"""One architecture: its genes, its canonical key, its checks. Nothing here knows of a search space or of weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from spikesearch.errors import SpaceError, did_you_mean
from spikesearch.space.genes import (
    BLOCK,
    DEPTH,
    NETWORK,
    STEM,
    STEM_DIVISOR,
    BlockSpec,
    Gene,
    NetworkGenes,
    StemSpec,
    active_genes,
    places,
)

__all__ = ["STEM_DIVISOR", "Architecture", "BlockSpec", "StemSpec", "mlp_width"]


@dataclass(frozen=True, order=True)
class Architecture(NetworkGenes):
    """One point of a search space; frozen, hashable and JSON-serialisable.

    Args:
        embed_dim: Embedding width, shared by all blocks; the stem uses 1/8, 1/4, 1/2 and all of it.
        time_steps: Number of simulation steps T.
        stem: Neuron genes of the stem.
        blocks: One entry per block, first to last; their number is the depth.
    """

    stem: StemSpec
    blocks: tuple[BlockSpec, ...]

    @property
    def depth(self) -> int:
        """Number of transformer blocks."""
        return len(self.blocks)

    @cached_property
    def key(self) -> str:
        """Short canonical hash (12 hexadecimal digits): equal architectures have equal keys, in every process."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @property
    def owners(self) -> Iterator[tuple[str, Sequence[Gene], Any]]:
        """What has genes, first to last: how its parameters begin, its rows of the table, and what holds the values."""
        for (place, rows), owner in zip(places(self.depth), (self, self.stem, *self.blocks), strict=True):
            yield place, rows, owner

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; the inverse of :meth:`from_dict`."""
        network, stem, *blocks = (
            {
                gene.name: gene.kind(getattr(owner, gene.name))
                for gene in genes
                if not gene.optional or getattr(owner, gene.name) != gene.absent
            }
            for _, genes, owner in self.owners
        )
        return {**network, "stem": stem, "blocks": blocks}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Architecture:
        """Build an architecture from :meth:`to_dict`'s output and validate it.

        Args:
            data: Keys ``embed_dim``, ``time_steps``, ``stem`` and ``blocks``.

        Raises:
            SpaceError: If a key is missing or unknown, or a value is impossible.
        """
        parts = ("stem", "blocks")
        network = _values("architecture", "", NETWORK, data, parts)
        stem = _values("architecture.stem", "stem.", STEM, data["stem"])
        if isinstance(data["blocks"], str | Mapping) or not hasattr(data["blocks"], "__iter__"):
            raise SpaceError(f"`architecture.blocks` must be a list, but got {data['blocks']!r}.")
        blocks = tuple(
            BlockSpec(**_values(f"architecture.blocks[{i}]", f"block{i}.", BLOCK, block))
            for i, block in enumerate(data["blocks"])
        )
        return cls(**network, stem=StemSpec(**stem), blocks=blocks).validate()

    def validate(self) -> Architecture:
        """Return the architecture itself if a network can be built from it.

        Raises:
            SpaceError: If it has no block, a value that its gene's check refuses (heads that do not divide the width, a
                width that is not a multiple of 8, ``tau <= 1``, ...), or one for a gene that does not exist there.
        """
        if not self.blocks:
            raise SpaceError("An architecture needs at least one block, but got none.")
        for place, genes, owner in self.owners:
            active = active_genes(genes, vars(owner))
            for gene in genes:
                value = getattr(owner, gene.name)
                if gene in active:
                    gene.check(f"{place}{gene.name}", value, self.embed_dim)
                elif value != gene.absent:
                    assert gene.active is not None
                    raise SpaceError(
                        f"`{place}{gene.name}` must be left out (or {gene.absent!r}) where `{gene.active.gene}` is "
                        f"{getattr(owner, gene.active.gene)!r}, but got {value!r}."
                    )
        return self

    # --- for people ---------------------------------------------------------------------------------------------------

    def describe(self) -> str:
        """Return the architecture in a few words.

        Example:
            >>> block = BlockSpec(num_heads=2, mlp_ratio=4.0, v_threshold=1.0, tau=2.0)
            >>> Architecture(48, 4, StemSpec(1.0, 2.0), (block, block)).describe()
            'D48 L2 T4 heads 2/2 mlp 4/4'
        """
        first, *others = NETWORK
        words = [
            *(f"{gene.short}{gene.show(getattr(self, gene.name))}" for gene in (first, DEPTH, *others) if gene.short),
            *(
                f"{gene.short} {'/'.join(gene.show(getattr(block, gene.name)) for block in self.blocks)}"
                for gene in self._block_genes
                if gene.short
            ),
        ]
        return " ".join(words)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the genes of stem and blocks as a table of text: header and rows."""
        header = ["", *(gene.title for gene in self._block_genes)]
        rows = [
            [place.rstrip(".").replace("block", "block "), *(_cell(gene, owner) for gene in self._block_genes)]
            for place, _, owner in self.owners
            if owner is not self
        ]
        return header, rows

    @property
    def _block_genes(self) -> list[Gene]:
        """The genes of blocks, without those that no block says anything of."""
        return [
            gene
            for gene in BLOCK
            if not gene.optional or any(getattr(block, gene.name) != gene.absent for block in self.blocks)
        ]


def mlp_width(embed_dim: int, mlp_ratio: float) -> int:
    """Return the hidden width of an MLP; the space guarantees that it is a whole number."""
    return round(embed_dim * mlp_ratio)


def check_keys(where: str, data: Any, known: Collection[str], required: Collection[str]) -> None:
    """Refuse what is no mapping, has a key that is not known, or lacks a required one."""
    if not isinstance(data, Mapping):
        raise SpaceError(f"`{where}` must be a mapping, but got {data!r}.")
    for key in data:
        if key not in known:
            raise SpaceError(f"`{where}` has no key {key!r}{did_you_mean(str(key), known)}")
    missing = [name for name in required if name not in data]
    if missing:
        raise SpaceError(f"`{where}` lacks the key {missing[0]!r}.")


def _values(where: str, place: str, genes: Sequence[Gene], data: Any, parts: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the values of all genes of an owner from its JSON form."""
    check_keys(where, data, [*(gene.name for gene in genes), *parts], ())
    values = {
        gene.name: gene.read(f"{place}{gene.name}", data[gene.name]) if gene.name in data else gene.absent
        for gene in genes
    }
    required = [gene.name for gene in active_genes(genes, values) if gene.default is None]
    check_keys(where, data, data, [*required, *parts])
    return values


def _cell(gene: Gene, owner: Any) -> str:
    return gene.show(getattr(owner, gene.name)) if hasattr(owner, gene.name) else ""
