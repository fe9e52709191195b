"""The table of genes: every choice that makes an architecture is one row, and all that deals with genes reads the rows.

A row is a field of :class:`NetworkGenes`, :class:`StemSpec`, :class:`StageSpec` or :class:`BlockSpec` (and
:data:`DEPTH`, the number of blocks). From it follow the lists of a :class:`~spikesearch.space.SearchSpace` and the keys
of a study file, checks, sampling, neighbours and enumeration, Optuna's parameters, the sampler's features, and how
genes are shown.

A gene may depend on another one of the same owner: a block has ``num_heads`` only if its mixer has heads. One that an
architecture does not have holds :attr:`Gene.absent` there, always the same value, so that equal networks are equal
architectures; it is no parameter, and neither the JSON form nor the key of the architecture speaks of it. The value is
of the gene's own type, rather than ``None``, so that specifications compare, sort and type-check as before.

A gene with a default came after 0.1.0. A space whose list holds just the default does not have the gene at all, and
says nothing of it: studies that were made before the gene existed stay what they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from typing import Any, Literal, NamedTuple, get_type_hints

from spikesearch.errors import SpaceError
from spikesearch.extensions import MIXERS

STEM_DIVISOR = 8  # the first convolution of the stem has embed_dim / 8 channels
MIXER = "ssa"  # of a block that does not say which

Owner = Literal["network", "stage", "stem", "block"]


@dataclass(frozen=True)
class Condition:
    """A gene exists only with some values of another gene of the same owner.

    Attributes:
        gene: Name of the other gene.
        holds: Tells of a value of that gene, and of the gene in question, whether the latter exists.
    """

    gene: str
    holds: Callable[[Any, Gene], bool]


@dataclass(frozen=True, kw_only=True)
class Gene:
    """A row of the table.

    Attributes:
        name: Name of the field; in Optuna's names behind the place, such as ``block1.tau``.
        owner: What has the gene: the network, its stem, a stage (a stack of blocks), or a block.
        kind: Type of its values; text is a choice without an order.
        default: Value where nothing is said; ``None`` if it must be said. A row that is added must have one.
        choices: Name of the search space's list of choices, and of the key in a study file.
        about: What it is, for help texts.
        title: Column of a model card.
        short: Word of a one-line description; empty leaves the gene out of it.
        check: Refuses an impossible value; gets its name, the value and an embedding width that it must go with. The
            check of a gene with a condition and without a default must refuse :attr:`absent`.
        near: Of a neuron gene: the value that the reference is nearest to. Other numbers are sizes, of which the
            reference has the largest; of text it has the first.
        active: When the gene exists; ``None``: always.
        branch: Of a block's gene: the first residual branch of the block that depends on it.
        suggested: The choices in a new study file.
        words: Words that may be written for a value, and the value that architectures hold.
    """

    name: str
    owner: Owner
    kind: type[int] | type[float] | type[str]
    default: Any
    choices: str
    about: str
    title: str
    short: str = ""
    check: Callable[[str, Any, int], object]
    near: float | None = None
    active: Condition | None = None
    branch: Literal["mixer", "mlp"] = "mixer"
    suggested: tuple[Any, ...] = ()
    words: tuple[tuple[str, Any], ...] = ()

    @property
    def absent(self) -> Any:
        """What it holds in an architecture that does not have it."""
        return self.kind() if self.default is None else self.default

    @property
    def optional(self) -> bool:
        """Whether an architecture need not speak of it."""
        return self.default is not None or self.active is not None

    def read(self, name: str, value: Any) -> Any:
        """Return a value, or what a word stands for, as the gene's type.

        Raises:
            SpaceError: If it is of another type.
        """
        value = self.said(value)
        if self.kind is int:
            return integer(name, value)
        return real(name, value) if self.kind is float else text(name, value)

    def said(self, value: Any) -> Any:
        """Return what a word stands for; anything else as it is."""
        return dict(self.words).get(value, value) if isinstance(value, str) else value

    def pick(self, choices: Sequence[Any], position: int | None) -> Any:
        """Return the choice of a typical architecture.

        Args:
            choices: All choices, ascending if they are numbers.
            position: Of a size: -1 for the largest, 0 for the smallest, ``None`` for the lower median.
        """
        if self.kind is str:
            return choices[0]
        if self.near is not None:
            return min(choices, key=lambda value: (abs(value - self.near), value))
        return choices[(len(choices) - 1) // 2 if position is None else position]

    def show(self, value: Any) -> str:
        """Return a value as text; a dash for a gene that does not exist there."""
        if self.default is None and self.optional and value == self.absent:
            return "-"
        for word, meant in self.words:
            if value == meant:
                return word
        return f"{value:g}" if self.kind is float else str(value)


# --- types and checks of values ---------------------------------------------------------------------------------------


def integer(name: str, value: Any) -> int:
    """Return a whole number as ``int``; anything else is a :class:`SpaceError`."""
    number = not isinstance(value, bool | str) and hasattr(value, "__int__")
    if not number or not math.isfinite(value) or int(value) != value:
        raise SpaceError(f"`{name}` must hold whole numbers, but got {value!r}.")
    return int(value)


def real(name: str, value: Any) -> float:
    """Return a finite number as ``float``; anything else is a :class:`SpaceError`."""
    if isinstance(value, bool | str) or not hasattr(value, "__float__") or not math.isfinite(value):
        raise SpaceError(f"`{name}` must hold finite numbers, but got {value!r}.")
    return float(value)


def text(name: str, value: Any, width: int = 0) -> str:
    """Return text that is not empty; anything else is a :class:`SpaceError`."""
    if not isinstance(value, str) or not value:
        raise SpaceError(f"`{name}` must hold names, but got {value!r}.")
    return str(value)


def _stem_divides(name: str, value: int, width: int) -> None:
    if value < STEM_DIVISOR or value % STEM_DIVISOR:
        raise SpaceError(f"`{name}` must be a positive multiple of {STEM_DIVISOR} (the stem), but got {value}.")


def _divides_width(name: str, value: int, width: int) -> None:
    if value < 1 or width % value:
        raise SpaceError(f"`{name}` must divide every embed_dim, but {value} does not divide {width}.")


def _whole_width(name: str, value: float, width: int) -> None:
    if not 0 <= value < math.inf or abs(width * value - round(width * value)) > 1e-6:
        raise SpaceError(
            f"`{name}` must be 0 (no MLP), or positive and give a whole MLP width, "
            f"but {value} times embed_dim {width} is {width * value}."
        )


def _at_least_zero(name: str, value: int, width: int) -> None:
    if value < 0:
        raise SpaceError(f"`{name}` must be at least 0, but got {value}.")


def _at_least_one(name: str, value: int, width: int) -> None:
    if value < 1:
        raise SpaceError(f"`{name}` must be at least 1, but got {value}.")


def _above(bound: float, unit: str = "") -> Callable[[str, float, int], None]:
    def check(name: str, value: float, width: int) -> None:
        if not bound < value < math.inf:
            raise SpaceError(f"`{name}` must be above {bound}{unit}, but got {value}.")

    return check


# --- the rows ---------------------------------------------------------------------------------------------------------


def _read_by(mixer: str, gene: Gene) -> bool:
    """Tell whether a mixer reads a gene of its block; one that is not installed reads none.

    A gene that must be given is read by the mixer that blocks have if nothing is said. So a space of that mixer alone
    does not ask the registry, which would import the code of networks.
    """
    if mixer == MIXER and gene.default is None:
        return True
    return gene.name in getattr(MIXERS.get(mixer), "genes", ())


IF_READ_BY_MIXER = Condition("mixer", _read_by)


def _row(**columns: Any) -> dict[str, partial[Gene]]:
    """Return the metadata of a field: all of its row but what the field says itself."""
    return {"row": partial(Gene, **columns)}


LEARNED_TAU = 0.0
"""Stands for a time constant that is no gene but learnt, by every layer of neurons for itself."""


def _time_constant(name: str, value: float, width: int) -> None:
    if value != LEARNED_TAU:
        _above(1, " (time steps)")(name, value, width)


_THRESHOLD = _row(
    choices="v_thresholds",
    about="Firing threshold of the LIF neurons, above 0; those behind an attention product keep 0.5.",
    title="threshold",
    check=_above(0),
    near=1.0,
    suggested=(1.0,),
)
_TAU = _row(
    choices="taus",
    about="Membrane time constant of the LIF neurons in time steps, above 1, or `learned`: one per layer of neurons "
    "instead of a gene; those behind an attention product keep 2.",
    title="tau",
    check=_time_constant,
    near=2.0,
    suggested=(1.25, 2.0, 4.0),
    words=(("learned", LEARNED_TAU),),
)


@dataclass(frozen=True, order=True)
class NetworkGenes:
    """The genes that a network has once."""

    embed_dim: int = field(
        metadata=_row(
            choices="embed_dims",
            about="Embedding width of all blocks, a multiple of 8; the stem uses 1/8, 1/4, 1/2 and all of it.",
            title="width",
            short="D",
            check=_stem_divides,
        )
    )
    time_steps: int = field(
        metadata=_row(
            choices="time_steps",
            about="Number of simulation steps T.",
            title="time steps",
            short="T",
            check=_at_least_one,
        )
    )


@dataclass(frozen=True, order=True)
class StemSpec:
    """The genes of the stem."""

    v_threshold: float = field(metadata=_THRESHOLD)
    tau: float = field(metadata=_TAU)
    channels: int = field(
        default=0,
        metadata=_row(
            choices="stem_channels",
            about="Channels of the one convolution of a stem of kind `conv`; 0: the width of the first stage.",
            title="channels",
            short="C",
            check=_at_least_zero,
        ),
    )


@dataclass(frozen=True, order=True)
class StageSpec:
    """A stage of a network that has several: its width, its number of blocks, and the genes of the way into it.

    Args:
        width: Width of its blocks over ``embed_dim``.
        depth: Number of its blocks.
        v_threshold: Of the neurons in front of the convolution that leads into the stage; 0 in the first stage, where
            the stem does.
        tau: Likewise.
    """

    width: float
    depth: int
    v_threshold: float = field(default=0.0, metadata=_THRESHOLD)
    tau: float = field(default=0.0, metadata=_TAU)


@dataclass(frozen=True, order=True)
class BlockSpec:
    """The genes of one block."""

    num_heads: int = field(
        metadata=_row(
            choices="num_heads",
            about="Attention heads, which divide every embedding width; a block whose mixer has none holds 0.",
            title="heads",
            short="heads",
            check=_divides_width,
            active=IF_READ_BY_MIXER,
            suggested=(2, 4),
        )
    )
    mlp_ratio: float = field(
        metadata=_row(
            choices="mlp_ratios",
            about="Hidden width of the MLP over the width of the block; 0: no MLP.",
            title="MLP ratio",
            short="mlp",
            check=_whole_width,
            branch="mlp",
            suggested=(0, 1, 2),
        )
    )
    v_threshold: float = field(metadata=_THRESHOLD)
    tau: float = field(metadata=_TAU)
    mixer: str = field(
        default=MIXER,
        metadata=_row(
            choices="mixers",
            about="What exchanges information between tokens: a name of ``spikesearch.extensions.MIXERS``.",
            title="mixer",
            short="mixer",
            check=text,
        ),
    )


DEPTH = Gene(
    name="depth",
    owner="stage",
    kind=int,
    default=None,
    choices="depths",
    about="Number of blocks; a shallower subnet keeps the first ones.",
    title="depth",
    short="L",
    check=_at_least_one,
    suggested=(1, 2),
)


def _rows(spec: type[Any], owner: Owner) -> tuple[Gene, ...]:
    """Return the rows of a specification in the order of its fields, but before all those that others depend on."""
    kinds = get_type_hints(spec)
    rows = [
        column.metadata["row"](
            name=column.name,
            owner=owner,
            kind=kinds[column.name],
            default=None if column.default is MISSING else column.default,
        )
        for column in fields(spec)
        if "row" in column.metadata
    ]
    leading = {gene.active.gene for gene in rows if gene.active is not None}
    return tuple(sorted(rows, key=lambda gene: gene.name not in leading))


NETWORK = _rows(NetworkGenes, "network")
STEM = _rows(StemSpec, "stem")
STAGE = _rows(StageSpec, "stage")
BLOCK = _rows(BlockSpec, "block")
GENES = (*NETWORK, DEPTH, *STEM, *STAGE, *BLOCK)
"""All rows, in the order of Optuna's parameters."""

# From the outside in as far as sizes go, then time; what came later has a default and comes last.
LISTS: Mapping[str, Gene] = {
    gene.choices: gene
    for gene in sorted((NETWORK[0], DEPTH, *BLOCK, *NETWORK[1:], STEM[-1]), key=lambda gene: gene.default is not None)
}
"""The lists of choices of a search space, in the order of its arguments, and a gene that is chosen from each."""

_EVERYWHERE = {gene.choices for gene in (*NETWORK, *STEM)}
STAGE_LISTS = tuple(name for name in LISTS if name not in _EVERYWHERE)
"""Those that a stage may have of its own."""


def active_genes(genes: Sequence[Gene], values: Mapping[str, Any]) -> list[Gene]:
    """Return which of an owner's genes exist with these values; values of absent genes may be missing."""
    active: dict[str, Gene] = {}
    for gene in genes:
        condition = gene.active
        if condition is None or (condition.gene in active and condition.holds(values[condition.gene], gene)):
            active[gene.name] = gene
    return list(active.values())


class Place(NamedTuple):
    """What has genes in a network.

    Attributes:
        prefix: How the names of its parameters begin.
        genes: Its rows of the table.
        stage: Number of its stage; 0 of the network and of the stem.
    """

    prefix: str
    genes: tuple[Gene, ...]
    stage: int = 0


def stage_prefix(stages: int, stage: int) -> str:
    """Return how the names of a stage's parameters begin: as ever where there is just one."""
    return "" if stages == 1 else f"stage{stage}."


def places(depths: Sequence[int]) -> list[Place]:
    """Return what has genes in a network whose stages have these numbers of blocks, first to last."""
    result = [Place("", NETWORK), Place("stem.", STEM)]
    for stage, depth in enumerate(depths):
        prefix = stage_prefix(len(depths), stage)
        if stage:
            result.append(Place(prefix, STAGE, stage))
        result += [Place(f"{prefix}block{i}.", BLOCK, stage) for i in range(depth)]
    return result


def with_arguments(doc: str | None, about: Mapping[str, str]) -> str:
    """Return the docstring of a class with a section for what it is made from."""
    before, raises, rest = (doc or "").partition("    Raises:\n")
    arguments = "".join(f"        {name}: {words}\n" for name, words in about.items())
    return f"{before.rstrip()}\n\n    Args:\n{arguments}" + (f"\n{raises}{rest}" if raises else "    ")


StemSpec.__doc__ = with_arguments(StemSpec.__doc__, {gene.name: gene.about for gene in STEM})
BlockSpec.__doc__ = with_arguments(BlockSpec.__doc__, {gene.name: gene.about for gene in BLOCK})
