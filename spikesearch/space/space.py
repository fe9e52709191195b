"""The search space that architectures live in.

An :class:`Architecture` is one point: a global embedding width and number of time steps, the neuron genes of the stem,
and one :class:`BlockSpec` per transformer block. A :class:`SearchSpace` holds the choices per gene, samples
architectures, and maps them to Optuna parameters and back without loss. Nothing here knows of weights or of torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from spikesearch.errors import SpaceError
from spikesearch.space.architecture import (
    Architecture,
    BlockSpec,
    StemSpec,
    check_heads,
    check_keys,
    check_mlp,
    check_tau,
    check_threshold,
    check_width,
    integer,
    real,
)

if TYPE_CHECKING:
    import numpy as np
    import optuna

__all__ = ["Architecture", "BlockSpec", "SearchSpace", "StemSpec"]


@dataclass(frozen=True)
class SearchSpace:
    """The choices per gene.

    Choices are sorted and stored as tuples, integers for ``embed_dims``, ``depths``, ``num_heads`` and ``time_steps``,
    floats for the others, so that two spaces with the same choices are equal.

    Args:
        embed_dims: Embedding widths, multiples of 8; every one divisible by every ``num_heads``.
        depths: Numbers of blocks; a shallower subnet keeps the first blocks.
        num_heads: Attention heads per block.
        mlp_ratios: MLP hidden width over embedding width, per block.
        v_thresholds: Firing thresholds, per block and for the stem, > 0.
        taus: Membrane time constants in time steps, per block and for the stem, > 1.
        time_steps: Numbers of simulation steps T.

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

    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    mlp_ratios: tuple[float, ...]
    v_thresholds: tuple[float, ...]
    taus: tuple[float, ...]
    time_steps: tuple[int, ...]
    mixers = ("ssa",)

    def __post_init__(self) -> None:
        integers = {"embed_dims", "depths", "num_heads", "time_steps"}
        for field in fields(self):
            convert = integer if field.name in integers else real
            choices = getattr(self, field.name)
            if isinstance(choices, str | Mapping) or not hasattr(choices, "__iter__"):
                raise SpaceError(f"`{field.name}` must be a list of choices, but got {choices!r}.")
            values = tuple(sorted(convert(field.name, value) for value in choices))
            if not values:
                raise SpaceError(f"`{field.name}` must have at least one choice, but got an empty list.")
            if len(set(values)) != len(values):
                raise SpaceError(f"`{field.name}` must not repeat a choice, but got {list(choices)}.")
            object.__setattr__(self, field.name, values)
        for depth in self.depths:
            if depth < 1:
                raise SpaceError(f"`depths` must be at least 1, but got {depth}.")
        for steps in self.time_steps:
            if steps < 1:
                raise SpaceError(f"`time_steps` must be at least 1, but got {steps}.")
        for width in self.embed_dims:
            check_width("embed_dims", width)
            for heads in self.num_heads:
                check_heads("num_heads", heads, width)
            for ratio in self.mlp_ratios:
                check_mlp("mlp_ratios", ratio, width)
        for threshold in self.v_thresholds:
            check_threshold("v_thresholds", threshold)
        for tau in self.taus:
            check_tau("taus", tau)

    # --- points -------------------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Number of different architectures."""
        per_depth = sum(self._block_choices**depth for depth in self.depths)
        return len(self.embed_dims) * len(self.time_steps) * self._neuron_choices * per_depth

    @cached_property
    def largest(self) -> Architecture:
        """The largest size genes, most heads, and the neuron genes nearest to v_threshold 1.0 and tau 2.0."""
        return self._uniform(-1)

    @cached_property
    def smallest(self) -> Architecture:
        """The smallest size genes, fewest heads, and the neuron genes nearest to v_threshold 1.0 and tau 2.0."""
        return self._uniform(0)

    @cached_property
    def middle(self) -> Architecture:
        """The (lower) median of every size gene and the neuron genes nearest to v_threshold 1.0 and tau 2.0."""
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
        return Architecture(
            embed_dim=int(rng.choice(self.embed_dims)),
            time_steps=int(rng.choice(self.time_steps)),
            stem=StemSpec(float(rng.choice(self.v_thresholds)), float(rng.choice(self.taus))),
            blocks=tuple(
                BlockSpec(
                    num_heads=int(rng.choice(self.num_heads)),
                    mlp_ratio=float(rng.choice(self.mlp_ratios)),
                    v_threshold=float(rng.choice(self.v_thresholds)),
                    tau=float(rng.choice(self.taus)),
                )
                for _ in range(depth)
            ),
        )

    def __contains__(self, arch: object) -> bool:
        return isinstance(arch, Architecture) and self._foreign_gene(arch) is None

    def check(self, arch: Architecture) -> Architecture:
        """Return ``arch`` if it belongs to the space.

        Raises:
            SpaceError: If it does not; the message names the first gene that does not fit and its choices.
        """
        problem = self._foreign_gene(arch)
        if problem is not None:
            name, value, choices = problem
            raise SpaceError(f"`{name}` must be one of {list(choices)} in this space, but got {value!r}.")
        return arch

    def neighbours(self, arch: Architecture) -> Iterator[Architecture]:
        """Yield every architecture that differs in one gene; depth moves to the next choice up or down.

        A deeper neighbour repeats the last block, a shallower one drops blocks from the end.

        Args:
            arch: An architecture of this space.

        Raises:
            SpaceError: If ``arch`` is not in the space.
        """
        self.check(arch)
        params = self.params(arch)
        for name, value in params.items():
            if name == "depth":
                continue
            for choice in self._choices(name):
                if choice != value:
                    yield self.architecture({**params, name: choice})
        position = self.depths.index(arch.depth)
        if position > 0:
            yield replace(arch, blocks=arch.blocks[: self.depths[position - 1]])
        if position + 1 < len(self.depths):
            missing = self.depths[position + 1] - arch.depth
            yield replace(arch, blocks=arch.blocks + (arch.blocks[-1],) * missing)

    def at(self, index: int) -> Architecture:
        """Return the architecture with this number in the enumeration of the space; the inverse of :meth:`index`.

        Args:
            index: From 0 to ``size - 1``.

        Raises:
            IndexError: If there is no such architecture.
        """
        if not 0 <= index < self.size:
            raise IndexError(f"`index` must be from 0 to {self.size - 1}, but got {index}.")
        common = len(self.embed_dims) * len(self.time_steps) * self._neuron_choices
        depth = self.depths[0]
        for depth in self.depths:
            here = common * self._block_choices**depth
            if index < here:
                break
            index -= here

        def draw(choices: tuple[Any, ...]) -> Any:
            nonlocal index
            index, digit = divmod(index, len(choices))
            return choices[digit]

        params: dict[str, Any] = {"depth": depth}
        for name in self._names(depth):
            if name != "depth":
                params[name] = draw(self._choices(name))
        return self.architecture(params)

    def index(self, arch: Architecture) -> int:
        """Return the number of ``arch`` in the enumeration of the space; the inverse of :meth:`at`.

        Raises:
            SpaceError: If ``arch`` is not in the space.
        """
        params = self.params(arch)
        common = len(self.embed_dims) * len(self.time_steps) * self._neuron_choices
        position = 0
        for name in reversed(self._names(arch.depth)):
            if name != "depth":
                choices = self._choices(name)
                position = position * len(choices) + choices.index(params[name])
        return position + sum(common * self._block_choices**d for d in self.depths if d < arch.depth)

    # --- Optuna parameters --------------------------------------------------------------------------------------------

    def suggest(self, trial: optuna.trial.BaseTrial) -> Architecture:
        """Ask an Optuna trial for an architecture, define-by-run: only the blocks that exist are asked for.

        Args:
            trial: A running trial of any study.
        """
        depth = trial.suggest_categorical("depth", self.depths)
        names = self._names(int(depth))
        return self.architecture({name: trial.suggest_categorical(name, self._choices(name)) for name in names})

    def params(self, arch: Architecture) -> dict[str, Any]:
        """Return the Optuna parameters of an architecture; the inverse of :meth:`architecture`.

        Raises:
            SpaceError: If ``arch`` is not in the space.
        """
        self.check(arch)
        params: dict[str, Any] = {
            "embed_dim": arch.embed_dim,
            "time_steps": arch.time_steps,
            "depth": arch.depth,
            "stem.v_threshold": arch.stem.v_threshold,
            "stem.tau": arch.stem.tau,
        }
        for i, block in enumerate(arch.blocks):
            params[f"block{i}.num_heads"] = block.num_heads
            params[f"block{i}.mlp_ratio"] = block.mlp_ratio
            params[f"block{i}.v_threshold"] = block.v_threshold
            params[f"block{i}.tau"] = block.tau
        return params

    def architecture(self, params: Mapping[str, Any]) -> Architecture:
        """Return the architecture with these Optuna parameters; names that are not of the space are ignored.

        Raises:
            SpaceError: If a parameter is missing or not one of its choices.
        """

        def gene(name: str) -> Any:
            if name not in params:
                raise SpaceError(f"`{name}` is missing from the parameters.")
            choices = self._choices(name)
            if params[name] not in choices:
                raise SpaceError(f"`{name}` must be one of {list(choices)}, but got {params[name]!r}.")
            return choices[choices.index(params[name])]

        return Architecture(
            embed_dim=gene("embed_dim"),
            time_steps=gene("time_steps"),
            stem=StemSpec(gene("stem.v_threshold"), gene("stem.tau")),
            blocks=tuple(
                BlockSpec(
                    num_heads=gene(f"block{i}.num_heads"),
                    mlp_ratio=gene(f"block{i}.mlp_ratio"),
                    v_threshold=gene(f"block{i}.v_threshold"),
                    tau=gene(f"block{i}.tau"),
                )
                for i in range(gene("depth"))
            ),
        )

    def distributions(self, depth: int | None = None) -> dict[str, optuna.distributions.CategoricalDistribution]:
        """Return the Optuna distribution of every parameter of an architecture of this depth.

        Args:
            depth: Number of blocks; the deepest by default, which gives every parameter of the space.
        """
        from optuna.distributions import CategoricalDistribution

        names = self._names(max(self.depths) if depth is None else depth)
        return {name: CategoricalDistribution(self._choices(name)) for name in names}

    # --- plain data ---------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, list[int | float]]:
        """Return plain JSON types; the inverse of :meth:`from_dict`."""
        return {field.name: list(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SearchSpace:
        """Build a space from :meth:`to_dict`'s output.

        Raises:
            SpaceError: If a key is missing or unknown, or the choices are impossible.
        """
        check_keys("space", data, cls)
        return cls(**dict(data))

    # --- helpers ------------------------------------------------------------------------------------------------------

    @property
    def _neuron_choices(self) -> int:
        return len(self.v_thresholds) * len(self.taus)

    @property
    def _block_choices(self) -> int:
        return len(self.num_heads) * len(self.mlp_ratios) * self._neuron_choices

    @staticmethod
    def _names(depth: int) -> list[str]:
        blocks = [f"block{i}.{gene}" for i in range(depth) for gene in ("num_heads", "mlp_ratio", "v_threshold", "tau")]
        return ["embed_dim", "time_steps", "depth", "stem.v_threshold", "stem.tau", *blocks]

    def _choices(self, name: str) -> tuple[Any, ...]:
        gene = name.rpartition(".")[2]
        return {
            "embed_dim": self.embed_dims,
            "time_steps": self.time_steps,
            "depth": self.depths,
            "num_heads": self.num_heads,
            "mlp_ratio": self.mlp_ratios,
            "v_threshold": self.v_thresholds,
            "tau": self.taus,
        }[gene]

    def _foreign_gene(self, arch: Architecture) -> tuple[str, Any, tuple[Any, ...]] | None:
        genes: list[tuple[str, Any]] = [
            ("embed_dim", arch.embed_dim),
            ("time_steps", arch.time_steps),
            ("depth", arch.depth),
            ("stem.v_threshold", arch.stem.v_threshold),
            ("stem.tau", arch.stem.tau),
        ]
        for i, block in enumerate(arch.blocks):
            genes += [(f"block{i}.{field.name}", getattr(block, field.name)) for field in fields(block)]
        for name, value in genes:
            if value not in self._choices(name):
                return name, value, self._choices(name)
        return None

    def _uniform(self, position: int | None) -> Architecture:
        def size(choices: tuple[Any, ...]) -> Any:
            return choices[(len(choices) - 1) // 2 if position is None else position]

        threshold = min(self.v_thresholds, key=lambda value: (abs(value - 1.0), value))
        tau = min(self.taus, key=lambda value: (abs(value - 2.0), value))
        block = BlockSpec(size(self.num_heads), size(self.mlp_ratios), threshold, tau)
        return Architecture(
            embed_dim=size(self.embed_dims),
            time_steps=size(self.time_steps),
            stem=StemSpec(threshold, tau),
            blocks=(block,) * size(self.depths),
        )
