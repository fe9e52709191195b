"""One architecture: its genes, its canonical key, its checks. Nothing here knows of a search space or of weights."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from spikesearch.errors import SpaceError, did_you_mean

STEM_DIVISOR = 8  # the first convolution of the stem has embed_dim / 8 channels


@dataclass(frozen=True, order=True)
class StemSpec:
    """Neuron genes of the stem.

    Args:
        v_threshold: Firing threshold of its LIF neurons, > 0.
        tau: Membrane time constant in time steps, > 1.
    """

    v_threshold: float
    tau: float


@dataclass(frozen=True, order=True)
class BlockSpec:
    """Genes of one transformer block.

    Args:
        num_heads: Attention heads; divides the embedding width.
        mlp_ratio: Hidden width of the MLP over the embedding width.
        v_threshold: Firing threshold of its LIF neurons (the attention LIF keeps 0.5), > 0.
        tau: Membrane time constant in time steps (the attention LIF keeps 2), > 1.
    """

    num_heads: int
    mlp_ratio: float
    v_threshold: float
    tau: float
    mixer = "ssa"


@dataclass(frozen=True, order=True)
class Architecture:
    """One point of a search space; frozen, hashable and JSON-serialisable.

    Args:
        embed_dim: Embedding width, shared by all blocks; the stem uses 1/8, 1/4, 1/2 and all of it.
        time_steps: Number of simulation steps T.
        stem: Neuron genes of the stem.
        blocks: One entry per block, first to last; their number is the depth.
    """

    embed_dim: int
    time_steps: int
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

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; the inverse of :meth:`from_dict`."""
        return {
            "embed_dim": int(self.embed_dim),
            "time_steps": int(self.time_steps),
            "stem": {"v_threshold": float(self.stem.v_threshold), "tau": float(self.stem.tau)},
            "blocks": [
                {
                    "num_heads": int(block.num_heads),
                    "mlp_ratio": float(block.mlp_ratio),
                    "v_threshold": float(block.v_threshold),
                    "tau": float(block.tau),
                }
                for block in self.blocks
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Architecture:
        """Build an architecture from :meth:`to_dict`'s output and validate it.

        Args:
            data: Keys ``embed_dim``, ``time_steps``, ``stem`` and ``blocks``.

        Raises:
            SpaceError: If a key is missing or unknown, or a value is impossible.
        """
        check_keys("architecture", data, cls)
        check_keys("architecture.stem", data["stem"], StemSpec)
        if isinstance(data["blocks"], str | Mapping) or not hasattr(data["blocks"], "__iter__"):
            raise SpaceError(f"`architecture.blocks` must be a list, but got {data['blocks']!r}.")
        blocks = list(data["blocks"])
        for i, block in enumerate(blocks):
            check_keys(f"architecture.blocks[{i}]", block, BlockSpec)
        return cls(
            embed_dim=integer("embed_dim", data["embed_dim"]),
            time_steps=integer("time_steps", data["time_steps"]),
            stem=StemSpec(real("stem.v_threshold", data["stem"]["v_threshold"]), real("stem.tau", data["stem"]["tau"])),
            blocks=tuple(
                BlockSpec(
                    num_heads=integer(f"block{i}.num_heads", block["num_heads"]),
                    mlp_ratio=real(f"block{i}.mlp_ratio", block["mlp_ratio"]),
                    v_threshold=real(f"block{i}.v_threshold", block["v_threshold"]),
                    tau=real(f"block{i}.tau", block["tau"]),
                )
                for i, block in enumerate(blocks)
            ),
        ).validate()

    def validate(self) -> Architecture:
        """Return the architecture itself if a network can be built from it.

        Raises:
            SpaceError: If it has no block, heads that do not divide the width, a width that is not a multiple of 8, an
                MLP of fractional width, ``tau <= 1`` or a threshold that is not positive.
        """
        if not self.blocks:
            raise SpaceError("An architecture needs at least one block, but got none.")
        check_width("embed_dim", self.embed_dim)
        if self.time_steps < 1:
            raise SpaceError(f"`time_steps` must be at least 1, but got {self.time_steps}.")
        check_neuron("stem", self.stem.v_threshold, self.stem.tau)
        for i, block in enumerate(self.blocks):
            check_heads(f"block{i}.num_heads", block.num_heads, self.embed_dim)
            check_mlp(f"block{i}.mlp_ratio", block.mlp_ratio, self.embed_dim)
            check_neuron(f"block{i}", block.v_threshold, block.tau)
        return self


def mlp_width(embed_dim: int, mlp_ratio: float) -> int:
    """Return the hidden width of an MLP; the space guarantees that it is a whole number."""
    return round(embed_dim * mlp_ratio)


# --- checks -----------------------------------------------------------------------------------------------------------


def check_keys(where: str, data: Any, kind: type) -> None:
    """Refuse a mapping that lacks a field of ``kind`` or has another key."""
    if not isinstance(data, Mapping):
        raise SpaceError(f"`{where}` must be a mapping, but got {data!r}.")
    known = [field.name for field in fields(kind)]
    for key in data:
        if key not in known:
            raise SpaceError(f"`{where}` has no key {key!r}{did_you_mean(str(key), known)}")
    missing = [name for name in known if name not in data]
    if missing:
        raise SpaceError(f"`{where}` lacks the key {missing[0]!r}.")


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


def check_width(name: str, width: int) -> None:
    """Refuse a width that the stem cannot divide."""
    if width < STEM_DIVISOR or width % STEM_DIVISOR:
        raise SpaceError(f"`{name}` must be a positive multiple of {STEM_DIVISOR} (the stem), but got {width}.")


def check_heads(name: str, heads: int, width: int) -> None:
    """Refuse heads that do not divide the width."""
    if heads < 1 or width % heads:
        raise SpaceError(f"`{name}` must divide every embed_dim, but {heads} does not divide {width}.")


def check_mlp(name: str, ratio: float, width: int) -> None:
    """Refuse an MLP of fractional or no width."""
    if not 0 < ratio < math.inf or abs(width * ratio - round(width * ratio)) > 1e-6:
        raise SpaceError(
            f"`{name}` must be positive and give a whole MLP width, "
            f"but {ratio} times embed_dim {width} is {width * ratio}."
        )


def check_threshold(name: str, threshold: float) -> None:
    """Refuse a firing threshold that is not positive."""
    if not 0 < threshold < math.inf:
        raise SpaceError(f"`{name}` must be above 0, but got {threshold}.")


def check_tau(name: str, tau: float) -> None:
    """Refuse a time constant of one step or less."""
    if not 1 < tau < math.inf:
        raise SpaceError(f"`{name}` must be above 1 (time steps), but got {tau}.")


def check_neuron(where: str, threshold: float, tau: float) -> None:
    """Refuse impossible neuron genes."""
    check_threshold(f"{where}.v_threshold", threshold)
    check_tau(f"{where}.tau", tau)
