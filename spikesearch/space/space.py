"""The search space that architectures live in.

An :class:`Architecture` is one point: a global embedding width and number of time steps, the neuron genes of the stem,
and one :class:`BlockSpec` per transformer block. A :class:`SearchSpace` holds the choices per gene, samples
architectures, and maps them to Optuna parameters and back without loss. Nothing here knows of weights or of torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, make_dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from spikesearch.errors import SpaceError
from spikesearch.space.architecture import Architecture, BlockSpec, StemSpec, check_keys
from spikesearch.space.choices import Choices
from spikesearch.space.genes import DEPTH, LISTS, Gene, places, with_arguments

if TYPE_CHECKING:
    import numpy as np
    from optuna.distributions import CategoricalDistribution
    from optuna.trial import BaseTrial

__all__ = ["Architecture", "BlockSpec", "Parameter", "SearchSpace", "StemSpec"]

if TYPE_CHECKING:

    class _Lists:
        """What type checkers see of the fields that the table of genes gives a space."""

        __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

        def __init__(self, *choices: Iterable[Any], **by_name: Iterable[Any]) -> None: ...

        def __getattr__(self, name: str) -> tuple[Any, ...]: ...

else:
    _Lists = make_dataclass(
        "_Lists",
        [
            (name, tuple[gene.kind, ...], field() if gene.default is None else field(default=(gene.default,)))
            for name, gene in LISTS.items()
        ],
        frozen=True,
        namespace={"__post_init__": lambda self: self._normalise()},
    )


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
    holds just that says nothing of the gene.

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
        for name, gene in LISTS.items():
            choices = getattr(self, name)
            if isinstance(choices, str | Mapping) or not hasattr(choices, "__iter__"):
                raise SpaceError(f"`{name}` must be a list of choices, but got {choices!r}.")
            values = [gene.read(name, value) for value in choices]
            if not values:
                raise SpaceError(f"`{name}` must have at least one choice, but got an empty list.")
            if len(set(values)) != len(values):
                raise SpaceError(f"`{name}` must not repeat a choice, but got {list(choices)}.")
            object.__setattr__(self, name, tuple(values if gene.kind is str else sorted(values)))
        for width in self.embed_dims:
            for name, gene in LISTS.items():
                for value in getattr(self, name):
                    gene.check(name, value, width)

    # --- points -------------------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Number of different architectures."""
        size: int = self._common * sum(self._block.count**depth for depth in self.depths)
        return size

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
        return self.sample_depth(rng, int(rng.choice(self.depths)))

    def sample_depth(self, rng: np.random.Generator, depth: int) -> Architecture:
        """Draw every gene but the depth, which is given.

        Args:
            rng: The only source of randomness.
            depth: One of ``depths``.
        """
        return self._build([choices.sample(rng) for _, choices in self._places(depth)])

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
        position = self.depths.index(arch.depth)
        changes = [
            (name, choice)
            for name, value in params.items()
            if name != DEPTH.name
            for choice in self.parameters[name].choices
            if choice != value
        ]
        changes += [(DEPTH.name, depth) for depth in self.depths[max(0, position - 1) : position + 2]]
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
        depth = self.depths[0]
        for depth in self.depths:
            here = self._common * self._block.count**depth
            if index < here:
                break
            index -= here
        parts = []
        for _, choices in self._places(depth):
            index, number = divmod(index, choices.count)
            parts.append(choices.at(number))
        return self._build(parts)

    def index(self, arch: Architecture) -> int:
        """Return the number of ``arch`` in the enumeration of the space; the inverse of :meth:`at`.

        Raises:
            SpaceError: If ``arch`` is not in the space.
        """
        self.check(arch)
        position = 0
        for (_, choices), (_, _, owner) in reversed([*zip(self._places(arch.depth), arch.owners, strict=True)]):
            position = position * choices.count + choices.index(choices.of(owner))
        shallower: int = self._common * sum(self._block.count**depth for depth in self.depths if depth < arch.depth)
        return shallower + position

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

        network, stem, *blocks = self._places(max(self.depths))
        add(*network, {})
        parameters[DEPTH.name] = Parameter(DEPTH, self.depths, {})
        add(*stem, {})
        for i, block in enumerate(blocks):
            add(*block, {DEPTH.name: tuple(d for d in self.depths if d > i)}, before=blocks[i - 1][0] if i else "")
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
        params = {DEPTH.name: arch.depth}
        for (place, choices), (_, _, owner) in zip(self._places(arch.depth), arch.owners, strict=True):
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

        depth = value(DEPTH.name)
        return self._build([choices.choose(value, place) for place, choices in self._places(depth)])

    def distributions(self, depth: int | None = None) -> dict[str, CategoricalDistribution]:
        """Return the Optuna distribution of every parameter that architectures of this depth may have.

        Args:
            depth: Number of blocks; the deepest by default, which gives every parameter of the space.
        """
        from optuna.distributions import CategoricalDistribution

        return {
            name: CategoricalDistribution(parameter.choices)
            for name, parameter in self.parameters.items()
            if depth is None or depth in parameter.active.get(DEPTH.name, (depth,))
        }

    # --- plain data ---------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, list[Any]]:
        """Return plain JSON types; the inverse of :meth:`from_dict`."""
        return {
            name: list(getattr(self, name)) for name, gene in LISTS.items() if getattr(self, name) != (gene.default,)
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SearchSpace:
        """Build a space from :meth:`to_dict`'s output.

        Raises:
            SpaceError: If a key is missing or unknown, or the choices are impossible.
        """
        check_keys("space", data, LISTS, [name for name, gene in LISTS.items() if gene.default is None])
        return cls(**data)

    def __getstate__(self) -> dict[str, tuple[Any, ...]]:
        return {name: getattr(self, name) for name in LISTS}  # without what is cached

    # --- helpers ------------------------------------------------------------------------------------------------------

    @cached_property
    def _choices(self) -> dict[str, Choices]:
        lists = {name: getattr(self, name) for name in LISTS}
        return {rows[0].owner: Choices(rows, lists) for _, rows in places(1)}

    def _places(self, depth: int) -> list[tuple[str, Choices]]:
        return [(place, self._choices[rows[0].owner]) for place, rows in places(depth)]

    @property
    def _block(self) -> Choices:
        return self._choices["block"]

    @property
    def _common(self) -> int:
        return self._choices["network"].count * self._choices["stem"].count

    def _foreign(self, arch: Architecture) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
        """Yield every gene that has no value of this space, with its value and choices."""
        for (place, choices), (_, _, owner) in zip(self._places(arch.depth), arch.owners, strict=True):
            for name, value, known in choices.foreign(owner):
                yield f"{place}{name}", value, known
            if not place and arch.depth not in self.depths:
                yield DEPTH.name, arch.depth, self.depths

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
        network, stem, block = (choices.typical(position) for _, choices in self._places(1))
        return self._build([network, stem, *(block,) * DEPTH.pick(self.depths, position)])

    def _build(self, parts: Sequence[Mapping[str, Any]]) -> Architecture:
        """Return the architecture with these values of network, stem and blocks."""
        places = self._places(len(parts) - 2)
        filled = [{**choices.absent, **values} for (_, choices), values in zip(places, parts, strict=True)]
        network, stem, *blocks = filled
        return Architecture(**network, stem=StemSpec(**stem), blocks=tuple(BlockSpec(**block) for block in blocks))


SearchSpace.__doc__ = with_arguments(SearchSpace.__doc__, {name: gene.about for name, gene in LISTS.items()})
