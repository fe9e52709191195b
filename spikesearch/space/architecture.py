"""One architecture: its genes, its canonical key, its checks. Nothing here knows of a search space or of weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

from spikesearch.errors import SpaceError, did_you_mean
from spikesearch.space.genes import (
    BLOCK,
    DEPTH,
    NETWORK,
    STAGE,
    STEM,
    STEM_DIVISOR,
    BlockSpec,
    Gene,
    NetworkGenes,
    StageSpec,
    StemSpec,
    active_genes,
    places,
    real,
)

__all__ = ["STEM_DIVISOR", "Architecture", "BlockSpec", "StageSpec", "StemSpec", "mlp_width"]


@dataclass(frozen=True, order=True)
class Architecture(NetworkGenes):
    """One point of a search space; frozen, hashable and JSON-serialisable.

    Args:
        embed_dim: Embedding width of all blocks, or of those of the last stage.
        time_steps: Number of simulation steps T.
        stem: Genes of the stem.
        blocks: One entry per block, first to last; their number is the depth.
        stages: One entry per stage, which say which blocks are theirs; none if all blocks have one resolution.
    """

    stem: StemSpec
    blocks: tuple[BlockSpec, ...]
    stages: tuple[StageSpec, ...] = ()

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def depths(self) -> tuple[int, ...]:
        """Number of blocks of each stage."""
        return tuple(stage.depth for stage in self.stages) or (self.depth,)

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Width of each stage, in channels."""
        return tuple(stage_width(self.embed_dim, stage.width) for stage in self.stages) or (self.embed_dim,)

    @property
    def blocks_of_stages(self) -> list[tuple[BlockSpec, ...]]:
        """The blocks of each stage."""
        ends = list(accumulate(self.depths))
        return [self.blocks[end - depth : end] for end, depth in zip(ends, self.depths, strict=True)]

    @cached_property
    def key(self) -> str:
        """Short canonical hash (12 hexadecimal digits): equal architectures have equal keys, in every process."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @property
    def owners(self) -> Iterator[tuple[str, Sequence[Gene], Any]]:
        """What has genes, first to last: how its parameters begin, its rows of the table, and what holds the values."""
        owners: list[Any] = [self, self.stem]
        for number, blocks in enumerate(self.blocks_of_stages):
            owners += [*self.stages[number : number + 1 if number else 0], *blocks]
        for (prefix, genes, _), owner in zip(places(self.depths), owners, strict=True):
            yield prefix, genes, owner

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; the inverse of :meth:`from_dict`."""
        network = {**_plain(NETWORK, self), "stem": _plain(STEM, self.stem)}
        blocks = [[_plain(BLOCK, block) for block in stage] for stage in self.blocks_of_stages]
        if not self.stages:
            return {**network, "blocks": blocks[0]}
        stages = [
            {"width": stage.width, **_plain(STAGE, stage), "blocks": own}
            for stage, own in zip(self.stages, blocks, strict=True)
        ]
        return {**network, "stages": stages}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Architecture:
        """Build an architecture from :meth:`to_dict`'s output and validate it.

        Args:
            data: Keys ``embed_dim``, ``time_steps``, ``stem``, and ``blocks`` or ``stages``: a list of mappings with
                ``width``, ``blocks`` and, but for the first, ``v_threshold`` and ``tau``.

        Raises:
            SpaceError: If a key is missing or unknown, or a value is impossible.
        """
        staged = isinstance(data, Mapping) and "stages" in data
        parts = ("stem", "stages" if staged else "blocks")
        network = _values("architecture", "", NETWORK, data, parts)
        stem = StemSpec(**_values("architecture.stem", "stem.", STEM, data["stem"]))
        if not staged:
            return cls(**network, stem=stem, blocks=_blocks("architecture", "", data)).validate()
        stages: list[StageSpec] = []
        blocks: tuple[BlockSpec, ...] = ()
        for number, stage in enumerate(_list("architecture.stages", data["stages"])):
            where, place = f"architecture.stages[{number}]", f"stage{number}."
            genes = _values(where, place, STAGE if number else (), stage, ("width", "blocks"))
            own = _blocks(where, place, stage)
            stages.append(StageSpec(real(f"{place}width", stage["width"]), len(own), **genes))
            blocks += own
        return cls(**network, stem=stem, blocks=blocks, stages=tuple(stages)).validate()

    def validate(self) -> Architecture:
        """Return the architecture itself if a network can be built from it.

        Raises:
            SpaceError: If it has no block, a value that its gene's check refuses (heads that do not divide the width, a
                width that is not a multiple of 8, ``tau <= 1``, ...), or one for a gene that does not exist there.
        """
        if not self.blocks:
            raise SpaceError("An architecture needs at least one block, but got none.")
        if self.stages:
            check_stages([(stage.width, stage.depth) for stage in self.stages], [self.embed_dim])
            if sum(self.depths) != self.depth:
                raise SpaceError(f"The stages must have {self.depth} blocks together, but got {sum(self.depths)}.")
        for (place, genes, owner), (_, _, stage) in zip(self.owners, places(self.depths), strict=True):
            active = active_genes(genes, vars(owner))
            for gene in genes:
                value = getattr(owner, gene.name)
                if gene in active:
                    gene.check(f"{place}{gene.name}", value, self.embed_dim if owner is self else self.widths[stage])
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
                f"{gene.short}{gene.show(getattr(self.stem, gene.name))}"
                for gene in STEM
                if gene.short and _says(gene, self.stem)
            ),
            *(f"{gene.short} {'|'.join(self._values_in_stages(gene))}" for gene in self._block_genes if gene.short),
        ]
        return " ".join(words)

    def _values_in_stages(self, gene: Gene) -> list[str]:
        return ["/".join(gene.show(getattr(block, gene.name)) for block in stage) for stage in self.blocks_of_stages]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the genes of stem and blocks as a table of text: header and rows."""
        named = {gene.name for gene in BLOCK}
        genes = [*self._block_genes, *(gene for gene in STEM if gene.name not in named and _says(gene, self.stem))]
        header = ["", *(gene.title for gene in genes)]
        rows = [
            [
                place.rstrip(".").replace("stage", "stage ").replace(".block", " block").replace("block", "block "),
                *(_cell(gene, owner) for gene in genes),
            ]
            for place, _, owner in self.owners
            if owner is not self
        ]
        return header, rows

    @property
    def _block_genes(self) -> list[Gene]:
        """The genes of blocks, without those that no block says anything of."""
        return [gene for gene in BLOCK if any(_says(gene, block) for block in self.blocks)]


def stage_width(embed_dim: int, width: float) -> int:
    """Return the width of a stage in channels; the space guarantees that it is a whole number."""
    return round(embed_dim * width)


def check_stages(stages: Sequence[tuple[float, int]], embed_dims: Sequence[int]) -> None:
    """Refuse stages that no network can have.

    Args:
        stages: Width over ``embed_dim``, and least number of blocks.
        embed_dims: All of the space.
    """
    for number, (width, depth) in enumerate(stages):
        for embed_dim in embed_dims:
            channels = embed_dim * width
            if not channels >= 1 or abs(channels - round(channels)) > 1e-6:
                raise SpaceError(
                    f"`stage{number}.width` must give whole numbers of channels, but {width:g} times embed_dim "
                    f"{embed_dim} is {channels:g}."
                )
        if depth < 1:
            raise SpaceError(f"`stage{number}.depth` must be at least 1, but got {depth}.")
    if len(stages) < 2:
        raise SpaceError(f"`stages` must be two or more, or left out where there is one, but got {len(stages)}.")
    if any(before > after for before, after in pairwise(width for width, _ in stages)) or stages[-1][0] != 1:
        widths = [width for width, _ in stages]
        raise SpaceError(f"`stages` must not get narrower, and the last must have width 1, but got widths {widths}.")


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


def _blocks(where: str, place: str, data: Mapping[str, Any]) -> tuple[BlockSpec, ...]:
    """Return the blocks of an architecture, or of a stage, from their JSON form."""
    return tuple(
        BlockSpec(**_values(f"{where}.blocks[{i}]", f"{place}block{i}.", BLOCK, block))
        for i, block in enumerate(_list(f"{where}.blocks", data["blocks"]))
    )


def _list(where: str, data: Any) -> list[Any]:
    if isinstance(data, str | Mapping) or not hasattr(data, "__iter__"):
        raise SpaceError(f"`{where}` must be a list, but got {data!r}.")
    return list(data)


def _plain(genes: Sequence[Gene], owner: Any) -> dict[str, Any]:
    """Return the JSON form of an owner of genes."""
    return {gene.name: gene.kind(getattr(owner, gene.name)) for gene in genes if _says(gene, owner)}


def _says(gene: Gene, owner: Any) -> bool:
    """Whether an owner has a gene, or would have to."""
    return not gene.optional or getattr(owner, gene.name) != gene.absent


def _cell(gene: Gene, owner: Any) -> str:
    return gene.show(getattr(owner, gene.name)) if hasattr(owner, gene.name) else ""
