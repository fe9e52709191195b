"""``spikesearch space``: networks that are points of a search space; and options that say which of them is meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spikesearch.cli.output import Format, FormatOption, emit, print_table

if TYPE_CHECKING:
    from spikesearch.space.presets import Preset

app = typer.Typer(help="Networks that are points of a search space.", no_args_is_help=True, rich_markup_mode=None)

PresetOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="A published network (`spikesearch space presets` lists them).")
]
EmbedDimOption = Annotated[int | None, typer.Option(help="Width of the preset's last stage, instead of the published.")]
DepthsOption = Annotated[
    str | None,
    typer.Option(
        metavar="N[,N...]", help="Blocks of each of the preset's stages, as its paper counts; 0 leaves it out."
    ),
]
TimeStepsOption = Annotated[int | None, typer.Option(help="Simulation steps of the preset.")]
NumHeadsOption = Annotated[int | None, typer.Option(help="Heads of the preset's blocks that have some.")]
StemStrideOption = Annotated[int | None, typer.Option(help="Stride of the preset's first convolution.")]


def chosen_preset(name: str | None, **sizes: Any) -> Preset | None:
    """Return the preset that the options of a command mean, or ``None`` without a name."""
    from spikesearch.space import presets

    given = {size: value for size, value in sizes.items() if value is not None}
    if name is None:
        for size in given:
            raise typer.BadParameter(f"--{size.replace('_', '-')} goes with --preset only.")
        return None
    if "depths" in given:
        try:
            given["depths"] = [int(depth) for depth in given["depths"].split(",")]
        except ValueError:
            raise typer.BadParameter(f"--depths must be numbers with commas, but got {given['depths']!r}.") from None
    return presets.get(name, **given)


@app.command(name="presets")
def presets_(chosen: FormatOption = Format.table) -> None:
    """List published networks as architectures: their sizes, and what is not as published."""
    from spikesearch.space import presets

    emit(
        [presets.get(name) for name in presets.names()],
        chosen,
        table=_table,
        value=lambda known: (preset.name for preset in known),
        data=lambda known: [_describe(preset) for preset in known],
    )


def _describe(preset: Preset) -> dict[str, Any]:
    from spikesearch.nn.units import Form, network_units

    published = preset.published
    assert published is not None
    form = Form(published.in_channels, published.num_classes, **preset.model)
    return {
        "name": preset.name,
        "paper": preset.paper,
        "embed_dim": preset.arch.embed_dim,
        "depths": list(preset.depths),
        "parameters": sum(unit.parameters for unit in network_units(preset.arch, form)),
        "published_parameters": published.parameters,
        "image_size": published.image_size,
        "model": dict(preset.model),
        "architecture": preset.arch.to_dict(),
        "differs": list(preset.differs),
    }


def _table(known: Sequence[Preset]) -> None:
    rows = []
    for row in map(_describe, known):
        parameters = (round(row[key] / 1e6, 2) for key in ("parameters", "published_parameters"))
        depths = "/".join(map(str, row["depths"]))
        rows.append((row["name"], row["paper"], row["embed_dim"], depths, *parameters, row["image_size"]))
    columns = ("name", "paper", "embed dim", "depths", "parameters, M", "published, M", "pixels")
    print_table("Published networks, with as many classes as the paper counts its parameters for", columns, rows)
    for paper in dict.fromkeys(preset.paper for preset in known):
        print(f"\n{paper}; not as published:")
        for sentence in dict.fromkeys(line for preset in known if preset.paper == paper for line in preset.differs):
            print(f"- {sentence}")
