"""Published networks as architectures: the hand-made rivals of what a search finds.

A preset is the nearest point of the space to a network that a paper names and sizes; :attr:`Preset.differs` says what
is not the same, and docs/presets.md where the difference in parameters comes from. Every preset can be made smaller:

Example:
    >>> from spikesearch.space import presets
    >>> preset = presets.get("qkformer-4-384", embed_dim=64, depths=(1, 1, 1), time_steps=2)
    >>> preset.arch.widths, preset.arch.time_steps, preset.model
    ((16, 32, 64), 2, {'residual': 'add', 'stem': 'conv', 'stem_stride': 1})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fractions import Fraction
from typing import Any

from spikesearch.errors import SpaceError
from spikesearch.space._published import PRESETS, Published, Size
from spikesearch.space.architecture import Architecture, BlockSpec, StageSpec, StemSpec
from spikesearch.space.genes import BLOCK, integer
from spikesearch.space.space import SearchSpace

__all__ = ["Preset", "Published", "get", "names"]


@dataclass(frozen=True)
class Preset:
    """A published network, or one of its kind in another size.

    Args:
        name: As in :func:`names`; a smaller one keeps it.
        paper: Where the network was published.
        arch: Its architecture.
        model: The keyword arguments of :class:`~spikesearch.Spikformer`, and keys of ``model`` in a study file, that go
            with it: what residual connections carry, and the stem.
        depths: Blocks of each stage as the paper counts them; one of them may be several of ours.
        differs: What is not as published, a sentence each.
        published: What the paper prints; ``None`` in another size.
    """

    name: str
    paper: str
    arch: Architecture
    model: Mapping[str, Any]
    depths: tuple[int, ...]
    differs: tuple[str, ...]
    published: Published | None

    def check_image_size(self, image_size: int) -> None:
        """Make sure that every stage has 2 x 2 positions or more, between which a mixer can exchange anything.

        Args:
            image_size: Height and width of the images, in pixels.

        Raises:
            SpaceError: If a stage has fewer.
        """
        stride = self.model.get("stem_stride")
        if stride is None:  # patch splitting halves only as often as is good for the images
            return
        side, last = -(-image_size // stride), len(self.arch.depths) - 1
        for stage in range(last + 1):
            if side < 2:
                smallest = stride * 2**last + 1
                ways = [f"a `stem_stride` below {stride}"] if stride > 1 else []
                ways += [f"depth 0 from stage {stage} on"] if stage else []
                raise SpaceError(
                    f"The preset {self.name!r} needs images of {smallest} x {smallest} pixels or more, but got "
                    f"{image_size} x {image_size}: behind a stem of stride {stride}, stage {stage} would have one "
                    f"position. Give {' or '.join(ways)}, or take another preset."
                )
            side = -(-side // 2)

    def space(self) -> SearchSpace:
        """Return a search space around it: as large at most, and down to half of everything.

        Widths from half of the preset's, depths from one block or half of them, heads and MLP ratios from half, time
        steps from a quarter, the mixers of each stage, and the usual thresholds and time constants beside its own.
        """
        arch, first = self.arch, self.arch.blocks[0]
        stages = []
        for blocks, depth in zip(arch.blocks_of_stages, arch.depths, strict=True):
            heads = {block.num_heads for block in blocks if block.num_heads}
            ratios = {block.mlp_ratio for block in blocks}
            lists: dict[str, list[Any]] = {
                "depths": sorted(range(1, depth + 1) if depth <= 3 else {-(-depth // 2), depth}),
                "mixers": list(dict.fromkeys(block.mixer for block in blocks)),
                "mlp_ratios": sorted(ratios | {max(ratios) / 2}),
            }
            if heads:
                lists["num_heads"] = sorted(heads | {-(-most // 2) for most in heads if most % 2 == 0})
            stages.append(lists)
        space: dict[str, Any] = {
            "embed_dims": [width for width in (arch.embed_dim // 2, arch.embed_dim * 3 // 4) if self._fits(width)]
            + [arch.embed_dim],
            "time_steps": sorted({max(1, arch.time_steps // part) for part in (1, 2, 4)}),
            **{
                gene.choices: sorted({*gene.suggested, getattr(first, gene.name)})
                for gene in BLOCK
                if gene.near is not None
            },
        }
        if arch.stem.channels:
            space["stem_channels"] = [arch.stem.channels]
        if arch.stages:
            widths = (stage.width for stage in arch.stages)
            space["stages"] = [{"width": width, **lists} for width, lists in zip(widths, stages, strict=True)]
        else:
            space |= stages[0]
        return SearchSpace(**space)

    def _fits(self, embed_dim: int) -> bool:
        try:
            replace(self.arch, embed_dim=embed_dim).validate()
        except SpaceError:
            return False
        return True


def names() -> list[str]:
    """Return the names of all presets: family, depth and width, as papers write them."""
    return list(PRESETS)


def get(
    name: str,
    *,
    embed_dim: int | None = None,
    depths: int | Sequence[int] | None = None,
    time_steps: int | None = None,
    num_heads: int | None = None,
    stem_stride: int | None = None,
) -> Preset:
    """Return a preset, as published or in another size.

    Args:
        name: One of :func:`names`.
        embed_dim: Width of the last stage; the others keep their share of it.
        depths: Blocks of each stage, as the paper counts them; 0 leaves a stage out. A number for networks of one.
        time_steps: Number of simulation steps T.
        num_heads: Heads of every block that has some.
        stem_stride: Of the convolution in front of all stages, for presets that begin with one.

    Raises:
        SpaceError: If there is no such preset, or no network of this size.
    """
    size = _size(name)
    family = size.family
    as_published = (embed_dim, depths, time_steps, num_heads, stem_stride) == (None,) * 5
    numbers = size.depths if depths is None else _depths(name, depths, len(family.stages))
    heads = size.num_heads if num_heads is None else num_heads
    neurons = {"v_threshold": 1.0, "tau": family.tau}
    kept = [(stage, depth) for stage, depth in zip(family.stages, numbers, strict=True) if depth]
    full = Fraction(size.embed_dim) if embed_dim is None else Fraction(embed_dim) / kept[-1][0].width
    stages: list[StageSpec] = []
    blocks: list[BlockSpec] = []
    for stage, depth in kept:
        own = (*stage.before, *(stage.blocks * depth)[stage.led if stages else 0 :])
        stages.append(StageSpec(float(stage.width / kept[-1][0].width), len(own), **(neurons if stages else {})))
        blocks += [
            BlockSpec(heads if block.heads else 0, block.mlp_ratio, mixer=block.mixer, **neurons) for block in own
        ]
    arch = Architecture(
        embed_dim=int(full * kept[-1][0].width),
        time_steps=size.time_steps if time_steps is None else time_steps,
        stem=StemSpec(**neurons, channels=int(full * family.stem_share)),
        blocks=tuple(blocks),
        stages=tuple(stages) if len(stages) > 1 else (),
    )
    try:
        arch.validate()
    except SpaceError as error:
        raise SpaceError(f"There is no {name!r} in this size: {error}") from None
    model = {"residual": family.residual, **_stem(size, name, stem_stride)}
    return Preset(
        name=name,
        paper=family.paper,
        arch=arch,
        model=model,
        depths=tuple(depth for _, depth in kept),
        differs=family.differs,
        published=size.published if as_published else None,
    )


def _size(name: str) -> Size:
    if name in PRESETS:
        return PRESETS[name]
    near = [known for known in PRESETS if name and known.startswith(name)] or get_close_matches(name, PRESETS)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    raise SpaceError(f"There is no preset {name!r}{hint} `spikesearch space presets` lists them all.")


def _depths(name: str, depths: int | Sequence[int], count: int) -> tuple[int, ...]:
    """Return as many depths as the preset has stages."""
    numbers = tuple(integer("depths", depth) for depth in (depths if isinstance(depths, Sequence) else [depths]))
    if len(numbers) != count or min(numbers) < 0 or not any(numbers):
        expected = "one number above 0" if count == 1 else f"{count} numbers, one a stage (0 leaves it out)"
        raise SpaceError(f"`depths` of {name!r} must be {expected}, but got {', '.join(map(str, numbers))}.")
    return numbers


def _stem(size: Size, name: str, stem_stride: int | None) -> dict[str, Any]:
    """Return the settings of the stem."""
    if size.stem_stride is None:
        if stem_stride is not None:
            raise SpaceError(f"`stem_stride` must be left out: {name!r} begins with patch splitting.")
        return {}
    stride = size.stem_stride if stem_stride is None else stem_stride
    if stride < 1:
        raise SpaceError(f"`stem_stride` must be at least 1, but got {stride}.")
    return {"stem": "conv", "stem_stride": stride}
