"""The search space that architectures live in.

An :class:`Architecture` is one point: a global embedding width and number of time steps, the genes of the stem, perhaps
a :class:`StageSpec` per stage, and one :class:`BlockSpec` per block. A :class:`SearchSpace` holds the choices per gene,
samples architectures, and maps them to Optuna parameters and back without loss. Nothing here knows of weights or of
torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, make_dataclass
from fractions import Fraction
from functools import cached_property
from itertools import product
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from spikesearch.errors import SpaceError
from spikesearch.space.architecture import (
    Architecture,
    BlockSpec,
    StageSpec,
    StemSpec,
    check_keys,
    check_stages,
    stage_width,
)
from spikesearch.space.choices import Choices
from spikesearch.space.genes import (
    BLOCK,
    DEPTH,
    LEARNED_TAU,
    LISTS,
    STAGE_LISTS,
    Gene,
    places,
    real,
    stage_prefix,
    with_arguments,
)

if TYPE_CHECKING:
    import numpy as np
    from optuna.distributions import CategoricalDistribution
    from optuna.trial import BaseTrial

__all__ = ["Architecture", "BlockSpec", "Parameter", "SearchSpace", "StageChoices", "StageSpec", "StemSpec"]

if TYPE_CHECKING:

    class _Lists:
        """What type checkers see of the fields that the table of genes gives a space."""

        __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
        stages: tuple[StageChoices, ...]

        def __init__(self, *choices: Iterable[Any], **by_name: Iterable[Any]) -> None: ...

        def __getattr__(self, name: str) -> tuple[Any, ...]: ...

    class _StageLists:
        """The same for a stage."""

        __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
        width: float

        def __init__(self, width: float | str, **by_name: Iterable[Any]) -> None: ...

        def __getattr__(self, name: str) -> tuple[Any, ...]: ...

else:
    _Lists = make_dataclass(
        "_Lists",
        [
            *(
                (name, tuple[gene.kind, ...], field(default=() if gene.default is None else (gene.default,)))
                for name, gene in LISTS.items()
            ),
            ("stages", tuple, field(default=(), kw_only=True)),
        ],
        frozen=True,
        namespace={"__post_init__": lambda self: self._normalise()},
    )
    _StageLists = make_dataclass(
        "_StageLists",
        [("width", float), *((name, tuple, field(default=(), kw_only=True)) for name in STAGE_LISTS)],
        frozen=True,
        namespace={"__post_init__": lambda self: self._normalise()},
    )


def _choices_of(name: str, choices: Any, where: str = "") -> tuple[Any, ...]:
    """Return a list of choices as the space keeps it; see :class:`SearchSpace`."""
    gene, where = LISTS[name], f"{where}{name}"
    if isinstance(choices, str) and gene.said(choices) != choices:
        choices = (choices,)  # a word, such as `learned`, is all there is
    if isinstance(choices, str | Mapping) or not hasattr(choices, "__iter__"):
        raise SpaceError(f"`{where}` must be a list of choices, but got {choices!r}.")
    values = [gene.read(where, value) for value in choices]
    if not values:
        raise SpaceError(f"`{where}` must have at least one choice, but got an empty list.")
    if len(set(values)) != len(values):
        raise SpaceError(f"`{where}` must not repeat a choice, but got {list(choices)}.")
    return tuple(values if gene.kind is str else sorted(values))


class StageChoices(_StageLists):
    """A stage of a space of several: its width, its depths, and the lists that it has of its own.

    A list that is left out is that of the space.

    Args:
        width: Of its blocks over ``embed_dim``: a number, or text such as ``1/4``.
        depths: See :class:`SearchSpace`; so the others.

    Raises:
        SpaceError: If the width is no number, or a list is not one of choices.
    """

    def _normalise(self) -> None:
        width: Any = self.width
        try:
            width = float(Fraction(width)) if isinstance(width, str) else real("stages.width", width)
        except (ValueError, ZeroDivisionError):
            raise SpaceError(f"`stages.width` must be a number or a fraction such as 1/4, but got {width!r}.") from None
        object.__setattr__(self, "width", width)
        for name in STAGE_LISTS:
            if getattr(self, name) != ():
                object.__setattr__(self, name, _choices_of(name, getattr(self, name), "stages."))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; the inverse of :meth:`from_dict`."""
        return {"width": self.width} | {name: list(getattr(self, name)) for name in STAGE_LISTS if getattr(self, name)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "stages") -> StageChoices:
        """Build a stage from :meth:`to_dict`'s output.

        Raises:
            SpaceError: If a key is missing or unknown, or a value is impossible.
        """
        check_keys(where, data, ["width", *STAGE_LISTS], ["width"])
        return cls(**data)


@dataclass(frozen=True)
class Parameter:
    """A gene at one place of the networks of a space, such as the ``tau`` of block 1.

    Attributes:
        gene: The row of the table.
        choices: What can be chosen.
        active: It exists only if each of these parameters exists and has one of the values.
        previous: Name of the same gene in the block before, or ``None``.
    """

    gene: Gene
    choices: tuple[Any, ...]
    active: Mapping[str, tuple[Any, ...]]
    previous: str | None = None

    @property
    def reference(self) -> Any:
        """The choice of the largest architecture that has it."""
        return self.gene.pick(self.choices, -1)

    def exists(self, values: Mapping[str, Any]) -> bool:
        """Tell whether an architecture with these parameters has it."""
        return all(name in values and values[name] in fitting for name, fitting in self.active.items())


class SearchSpace(_Lists):
    """The choices per gene.

    Choices are stored as tuples of the gene's type; numbers are sorted, so that two spaces with the same choices are
    equal, while of names the first is the reference's. A list with a default may be left out, and a space in which it
    holds just that says nothing of the gene. With ``stages``, a list of :class:`StageChoices` or of mappings, lists of
    blocks are those of their stage, and what a stage does not say, of the space.

    Raises:
        SpaceError: If a list is empty, holds a duplicate or a value of the wrong type, or describes networks that
            cannot be built.

    Example:
        >>> space = SearchSpace(embed_dims=(48, 96), depths=(1, 2), num_heads=(2, 4), mlp_ratios=(2, 4),
        ...                     v_thresholds=(0.6, 1.0, 1.4), taus=(1.25, 2.0, 4.0), time_steps=(2, 4))
        >>> space.size
        47952
        >>> space.largest.depth, space.smallest.embed_dim
        (2, 48)
    """

    def _normalise(self) -> None:
        if isinstance(self.stages, str | Mapping) or not hasattr(self.stages, "__iter__"):
            raise SpaceError(f"`stages` must be a list of stages, but got {self.stages!r}.")
        stages = [
            stage if isinstance(stage, StageChoices) else StageChoices.from_dict(stage, f"stages[{number}]")
            for number, stage in enumerate(self.stages)
        ]
        object.__setattr__(self, "stages", tuple(stages))
        for name in LISTS:
            if not stages or name not in STAGE_LISTS or getattr(self, name) != ():
                object.__setattr__(self, name, _choices_of(name, getattr(self, name)))
        if len(self.taus) > 1 and LEARNED_TAU in self.taus:
            raise SpaceError("`taus` must be numbers, or `learned` alone: a time constant that is learnt is no gene.")
        if len(self.stem_channels) > 1 and 0 in self.stem_channels:
            raise SpaceError(
                "`stem_channels` must not offer 0, the width of the first stage, beside numbers of channels, but got "
                f"{list(self.stem_channels)}."
            )
        if stages and self.depths:
            raise SpaceError("`depths` must be left out where there are `stages`; each has its own.")
        if stages:
            check_stages([(stage.width, min(stage.depths, default=1)) for stage in stages], self.embed_dims)
        for number, lists in enumerate(self.stage_lists):
            prefix = stage_prefix(len(self.stage_lists), number)
            owned = {*_block_lists(lists), DEPTH.choices}
            for name, gene in LISTS.items():
                if stages and not lists[name] and name in owned:
                    raise SpaceError(f"`stages[{number}]` lacks `{name}`, and so does the space.")
                for width in self.embed_dims if not stages or name in owned else ():
                    for value in lists[name]:
                        gene.check(f"{prefix}{name}", value, stage_width(width, stages[number].width if stages else 1))

    @cached_property
    def stage_lists(self) -> list[dict[str, tuple[Any, ...]]]:
        """All lists of choices as they hold in each stage."""
        own = {name: getattr(self, name) for name in LISTS}
        stages = [{name: getattr(stage, name) for name in STAGE_LISTS} for stage in self.stages] or [{}]
        return [{**own, **{name: choices for name, choices in lists.items() if choices}} for lists in stages]

    # --- points -------------------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Number of different architectures."""
        return sum(self._count(depths) for depths in self._all_depths)

    @cached_property
    def largest(self) -> Architecture:
        """The largest size genes, first mixer, and the neuron genes nearest to v_threshold 1.0 and tau 2.0."""
        return self._uniform(-1)

    @cached_property
    def smallest(self) -> Architecture:
        """The smallest size genes, first mixer, and the neuron genes nearest to v_threshold 1.0 and tau 2.0."""
        return self._uniform(0)

    @cached_property
    def middle(self) -> Architecture:
        """The (lower) median of every size gene, first mixer, and the neuron genes nearest to 1.0 and 2.0."""
        return self._uniform(None)

    def sample(self, rng: np.random.Generator) -> Architecture:
        """Draw an architecture gene by gene, so that every depth is equally likely.

        Args:
            rng: The only source of randomness.
        """
        return self.sample_depths(rng, [int(rng.choice(lists[DEPTH.choices])) for lists in self.stage_lists])

    def sample_depths(
        self,
        rng: np.random.Generator,
        depths: Sequence[int],
        given: Mapping[str, Any] = MappingProxyType({}),
    ) -> Architecture:
        """Draw every gene but the depths, which are given.

        Args:
            rng: The only source of randomness.
            depths: One for each stage.
            given: Further parameters that are not drawn, by name; what the architecture does not have is ignored.
        """
        return self._build(depths, [choices.sample(rng, given, place) for place, choices in self._places(depths)])

    def sample_depth(self, rng: np.random.Generator, depth: int) -> Architecture:
        """Draw every gene but the depth, which is given; of a space without stages.

        Args:
            rng: The only source of randomness.
            depth: One of ``depths``.
        """
        return self.sample_depths(rng, [depth])

    def __contains__(self, arch: object) -> bool:
        return isinstance(arch, Architecture) and next(self._foreign(arch), None) is None

    def check(self, arch: Architecture) -> Architecture:
        """Return ``arch`` if it belongs to the space.

        Raises:
            SpaceError: If it does not; the message names the first gene that does not fit and its choices.
        """
        for name, value, choices in self._foreign(arch):
            raise SpaceError(f"`{name}` must be one of {list(choices)} in this space, but got {value!r}.")
        return arch

    def neighbours(self, arch: Architecture) -> Iterator[Architecture]:
        """Yield every architecture that differs in one gene; depth moves to the next choice up or down.

        A deeper neighbour repeats the last block, a shallower one drops blocks from the end. A gene that comes with
        another one (heads with a mixer) is as in the block before, or as in the reference.

        Args:
            arch: An architecture of this space.

        Raises:
            SpaceError: If ``arch`` is not in the space.
        """
        params = self.params(arch)
        leading = [name for name in params if self.parameters[name].gene is DEPTH]
        changes = [
            (name, choice)
            for name, value in params.items()
            if name not in leading
            for choice in self.parameters[name].choices
            if choice != value
        ]
        for name in leading:
            depths = self.parameters[name].choices
            position = depths.index(params[name])
            changes += [(name, depth) for depth in depths[max(0, position - 1) : position + 2]]
        for name, choice in changes:
            if choice != params[name]:
                yield self._grown({**params, name: choice})

    def at(self, index: int) -> Architecture:
        """Return the architecture with this number in the enumeration of the space; the inverse of :meth:`index`.

        Args:
            index: From 0 to ``size - 1``.

        Raises:
            IndexError: If there is no such architecture.
        """
        if not 0 <= index < self.size:
            raise IndexError(f"`index` must be from 0 to {self.size - 1}, but got {index}.")
        for depths in self._all_depths:
            here = self._count(depths)
            if index < here:
                parts = []
                for _, choices in self._places(depths):
                    index, number = divmod(index, choices.count)
                    parts.append(choices.at(number))
                return self._build(depths, parts)
            index -= here
        raise AssertionError

    def index(self, arch: Architecture) -> int:
        """Return the number of ``arch`` in the enumeration of the space; the inverse of :meth:`at`.

        Raises:
            SpaceError: If ``arch`` is not in the space.
        """
        self.check(arch)
        position = 0
        for (_, choices), (_, _, owner) in reversed([*zip(self._places(arch.depths), arch.owners, strict=True)]):
            position = position * choices.count + choices.index(choices.of(owner))
        before = self._all_depths[: self._all_depths.index(arch.depths)]
        return sum(self._count(depths) for depths in before) + position

    # --- Optuna parameters --------------------------------------------------------------------------------------------

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """Every parameter of the space by its name, in a fixed order; those that others depend on come before them."""
        parameters: dict[str, Parameter] = {}

        def add(place: str, choices: Choices, active: dict[str, tuple[Any, ...]], before: str = "") -> None:
            for name, gene in choices.genes.items():
                conditions = dict(active)
                if name in choices.conditions:
                    leading, fitting = choices.conditions[name]
                    conditions[f"{place}{leading}"] = fitting
                previous = f"{before}{name}" if before else None
                parameters[f"{place}{name}"] = Parameter(gene, choices.values[name], conditions, previous)

        largest = [max(lists[DEPTH.choices]) for lists in self.stage_lists]
        leading = dict(zip(self.depth_names, (lists[DEPTH.choices] for lists in self.stage_lists), strict=True))
        before: dict[int, str] = {}
        for (place, choices), (_, genes, stage) in zip(self._places(largest), places(largest), strict=True):
            if genes[0].owner != "block":
                add(place, choices, {})
                if genes[0].owner == "network":
                    parameters.update({name: Parameter(DEPTH, depths, {}) for name, depths in leading.items()})
                continue
            name, number = self.depth_names[stage], int(place.rstrip(".").rpartition("block")[2])
            add(place, choices, {name: tuple(d for d in leading[name] if d > number)}, before.get(stage, ""))
            before[stage] = place
        return parameters

    def suggest(self, trial: BaseTrial) -> Architecture:
        """Ask an Optuna trial for an architecture, define-by-run: only the genes that exist are asked for.

        Args:
            trial: A running trial of any study.
        """
        leading = {name for parameter in self.parameters.values() for name in parameter.active}
        params: dict[str, Any] = {}
        for name in sorted(self.parameters, key=lambda name: name not in leading):
            if self.parameters[name].exists(params):
                params[name] = trial.suggest_categorical(name, self.parameters[name].choices)
        return self.architecture(params)

    def params(self, arch: Architecture) -> dict[str, Any]:
        """Return the Optuna parameters of an architecture; the inverse of :meth:`architecture`.

        Raises:
            SpaceError: If ``arch`` is not in the space.
        """
        self.check(arch)
        params = dict[str, Any](zip(self.depth_names, arch.depths, strict=True))
        for (place, choices), (_, _, owner) in zip(self._places(arch.depths), arch.owners, strict=True):
            params |= {f"{place}{name}": value for name, value in choices.of(owner).items()}
        return {name: params[name] for name in self.parameters if name in params}

    def architecture(self, params: Mapping[str, Any]) -> Architecture:
        """Return the architecture with these Optuna parameters; names that it does not have are ignored.

        Raises:
            SpaceError: If a parameter is missing or not one of its choices.
        """

        def value(name: str) -> Any:
            if name not in params:
                raise SpaceError(f"`{name}` is missing from the parameters.")
            choices = self.parameters[name].choices
            if params[name] not in choices:
                raise SpaceError(f"`{name}` must be one of {list(choices)}, but got {params[name]!r}.")
            return choices[choices.index(params[name])]

        depths = [value(name) for name in self.depth_names]
        return self._build(depths, [choices.choose(value, place) for place, choices in self._places(depths)])

    def distributions(self, depth: int | None = None) -> dict[str, CategoricalDistribution]:
        """Return the Optuna distribution of every parameter that architectures may have.

        Args:
            depth: Only of those with this number of blocks, of a space without stages.
        """
        from optuna.distributions import CategoricalDistribution

        return {
            name: CategoricalDistribution(parameter.choices)
            for name, parameter in self.parameters.items()
            if depth is None or depth in parameter.active.get(DEPTH.name, (depth,))
        }

    def with_params(self, arch: Architecture, params: Mapping[str, Any]) -> Architecture:
        """Return an architecture with other values of some parameters; those that it does not have are ignored.

        A gene that comes with another one is as in the block before, or as in the reference.

        Raises:
            SpaceError: If ``arch`` is not in the space, or a value is no choice.
        """
        own = self.params(arch)
        return self._grown({**own, **{name: value for name, value in params.items() if name in own}})

    # --- plain data ---------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, list[Any]]:
        """Return plain JSON types; the inverse of :meth:`from_dict`."""
        lists = {name: list(getattr(self, name)) for name, gene in LISTS.items() if says(gene, getattr(self, name))}
        return lists | ({"stages": [stage.to_dict() for stage in self.stages]} if self.stages else {})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SearchSpace:
        """Build a space from :meth:`to_dict`'s output.

        Raises:
            SpaceError: If a key is missing or unknown, or the choices are impossible.
        """
        staged = isinstance(data, Mapping) and bool(data.get("stages"))
        required = [
            name for name, gene in LISTS.items() if gene.default is None and not (staged and name in STAGE_LISTS)
        ]
        check_keys("space", data, [*LISTS, "stages"], required)
        return cls(**data)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in (*LISTS, "stages")}  # without what is cached

    # --- helpers ------------------------------------------------------------------------------------------------------

    @cached_property
    def depth_names(self) -> tuple[str, ...]:
        """Names of the parameters that hold the numbers of blocks, by stage."""
        count = len(self.stage_lists)
        return tuple(f"{stage_prefix(count, stage)}{DEPTH.name}" for stage in range(count))

    @cached_property
    def _all_depths(self) -> list[tuple[int, ...]]:
        return list(product(*(lists[DEPTH.choices] for lists in self.stage_lists)))

    @cached_property
    def _choices(self) -> dict[tuple[str, int], Choices]:
        return {
            (genes[0].owner, stage): Choices(genes, self.stage_lists[stage])
            for _, genes, stage in places([1] * len(self.stage_lists))
        }

    def _places(self, depths: Sequence[int]) -> list[tuple[str, Choices]]:
        return [(prefix, self._choices[genes[0].owner, stage]) for prefix, genes, stage in places(depths)]

    def _count(self, depths: Sequence[int]) -> int:
        """Return the number of architectures with these depths."""
        return math.prod(choices.count for _, choices in self._places(depths))

    def _foreign(self, arch: Architecture) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
        """Yield every gene that has no value of this space, with its value and choices."""
        widths = tuple(stage.width for stage in arch.stages)
        if widths != (known_widths := tuple(stage.width for stage in self.stages)):
            yield "stages", list(widths), known_widths
            return
        for (place, choices), (_, _, owner) in zip(self._places(arch.depths), arch.owners, strict=True):
            for name, value, known in choices.foreign(owner):
                yield f"{place}{name}", value, known
            if not place:
                for name, depth, lists in zip(self.depth_names, arch.depths, self.stage_lists, strict=True):
                    if depth not in lists[DEPTH.choices]:
                        yield name, depth, lists[DEPTH.choices]

    def _grown(self, params: Mapping[str, Any]) -> Architecture:
        """Return the architecture with these parameters after a change that may have made some appear or vanish."""
        grown: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            if parameter.exists(grown):
                grown[name] = (
                    params[name] if name in params else grown.get(parameter.previous or "", parameter.reference)
                )
        return self.architecture(grown)

    def _uniform(self, position: int | None) -> Architecture:
        depths = [DEPTH.pick(lists[DEPTH.choices], position) for lists in self.stage_lists]
        return self._build(depths, [choices.typical(position) for _, choices in self._places(depths)])

    def _build(self, depths: Sequence[int], parts: Sequence[Mapping[str, Any]]) -> Architecture:
        """Return the architecture with these values of all that has genes."""
        network: dict[str, Any] = {}
        stems, blocks = [], []
        stages = [StageSpec(stage.width, depth) for stage, depth in zip(self.stages, depths, strict=False)]
        for (_, genes, stage), (_, choices), values in zip(places(depths), self._places(depths), parts, strict=True):
            filled = {**choices.absent, **values}
            owner = genes[0].owner
            if owner == "network":
                network = filled
            elif owner == "stem":
                stems.append(StemSpec(**filled))
            elif owner == "stage":
                stages[stage] = StageSpec(self.stages[stage].width, depths[stage], **filled)
            else:
                blocks.append(BlockSpec(**filled))
        return Architecture(**network, stem=stems[0], blocks=tuple(blocks), stages=tuple(stages))


def says(gene: Gene, choices: Sequence[Any]) -> bool:
    """Tell whether a space says something of a gene: not if it is left out, nor if it holds just the default."""
    return len(choices) > 0 and tuple(choices) != (gene.default,)


def _block_lists(lists: Mapping[str, tuple[Any, ...]]) -> list[str]:
    """Return the lists that blocks of a stage choose from, given all lists; heads only where a mixer reads them."""
    active: dict[str, Gene] = {}
    for gene in BLOCK:
        condition = gene.active
        offered = lists[active[condition.gene].choices] if condition and condition.gene in active else ()
        if condition is None or any(condition.holds(value, gene) for value in offered):
            active[gene.name] = gene
    return [gene.choices for gene in active.values()]


SearchSpace.__doc__ = with_arguments(SearchSpace.__doc__, {name: gene.about for name, gene in LISTS.items()})
