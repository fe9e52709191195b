"""``spikesearch subnet``: take one architecture out of a study."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spikesearch.cli.output import (
    DeviceOption,
    Format,
    FormatOption,
    RunDirOption,
    StorageOption,
    TrialOption,
    emit,
    print_quantisation,
    print_retraining,
)
from spikesearch.cli.recipe import SourceOption
from spikesearch.cli.space import (
    DepthsOption,
    EmbedDimOption,
    NumHeadsOption,
    PresetOption,
    StemStrideOption,
    TimeStepsOption,
    chosen_preset,
)
from spikesearch.cli.study import NameArgument, before_command
from spikesearch.extensions import EXPORT_FORMATS

if TYPE_CHECKING:
    from spikesearch.study.session import Session

app = typer.Typer(help="Take one architecture out of a study.", no_args_is_help=True, rich_markup_mode=None)
app.callback()(before_command)


NetworkOption = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Folder of a retrained network, instead of a trial.")
]


class SplitChoice(StrEnum):
    """Splits that a subnet may be evaluated on."""

    search = "search"
    test = "test"


@app.command()
def extract(
    name: NameArgument,
    storage: StorageOption = None,
    trial: TrialOption = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder to write; by default subnets/<trial> of the study's.")
    ] = None,
    run_dir: RunDirOption = None,
) -> None:
    """Write a trial's network with its inherited weights, and print the folder."""
    from spikesearch.study.session import open_trained
    from spikesearch.subnet.extract import extract_subnet

    print(extract_subnet(open_trained(name, storage=storage, run_dir=run_dir), trial, output))


@app.command()
def evaluate(
    name: NameArgument,
    storage: StorageOption = None,
    trial: TrialOption = None,
    split: Annotated[SplitChoice, typer.Option(help="Which images.")] = SplitChoice.search,
    run_dir: RunDirOption = None,
    device: DeviceOption = "cpu",
    chosen: FormatOption = Format.table,
) -> None:
    """Score a trial's network with inherited weights again, and show its energy layer by layer."""
    from spikesearch.study.session import open_trained
    from spikesearch.subnet.evaluate import evaluate_subnet

    trained = open_trained(name, storage=storage, run_dir=run_dir, device=device)
    evaluation = evaluate_subnet(trained, trial, split.value)
    title = f"Trial {evaluation.number} of study {name}: accuracy {evaluation.accuracy:.2%} on the {split.value} split"
    emit(
        evaluation,
        chosen,
        table=lambda evaluation: print(title, evaluation.energy.table(), sep="\n"),
        value=lambda evaluation: [evaluation.accuracy],
        data=lambda evaluation: evaluation.to_dict(),
    )


@app.command()
def retrain(
    name: NameArgument,
    storage: StorageOption = None,
    trial: TrialOption = None,
    preset: PresetOption = None,
    embed_dim: EmbedDimOption = None,
    depths: DepthsOption = None,
    time_steps: TimeStepsOption = None,
    num_heads: NumHeadsOption = None,
    stem_stride: StemStrideOption = None,
    source: SourceOption = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training split; by default train.epochs of the study file.")
    ] = None,
    energy_weight: Annotated[
        float | None,
        typer.Option(
            metavar="WEIGHT",
            help="Of the energy in the loss, as beta in F_AEB; 0.02 is mild. By default train.energy_weight of the "
            "study file.",
        ),
    ] = None,
    recipe_from: Annotated[
        str | None, typer.Option(metavar="STUDY", help="Study of recipes whose best trial's recipe is used.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder to write the network to as well.")] = None,
    run_dir: RunDirOption = None,
    device: DeviceOption = "cpu",
    chosen: FormatOption = Format.table,
) -> None:
    """Train a trial's network, or a preset, by itself, or what is left of that, and compare it on the test split."""
    from spikesearch.study.resolve import find
    from spikesearch.study.session import open_session, open_trained
    from spikesearch.subnet.retrain import retrain_subnet

    sizes = {"embed_dim": embed_dim, "depths": depths, "time_steps": time_steps, "num_heads": num_heads}
    published = chosen_preset(preset, stem_stride=stem_stride, **sizes)
    if published is not None and (trial is not None or (source is not None and source.value == "inherited")):
        raise typer.BadParameter("--preset begins with weights of its own; leave out --trial and --from.")
    if published is None:
        session = open_trained(name, storage=storage, run_dir=run_dir, device=device)
    else:  # which needs no supernet
        session = open_session(find(name, storage), run_dir=run_dir, device=device)
    retraining = retrain_subnet(
        session,
        trial,
        preset=published,
        source=None if source is None else source.value,
        epochs=epochs,
        energy_weight=energy_weight,
        recipe_from=recipe_from,
        output=output,
    )
    print_retraining(retraining, chosen)


@app.command()
def quantise(
    name: NameArgument,
    storage: StorageOption = None,
    trial: TrialOption = None,
    network: NetworkOption = None,
    bits: Annotated[int, typer.Option(help="Of a weight; 8 is what there is.")] = 8,
    epochs: Annotated[
        int, typer.Option(help="Passes over the training split with rounded weights, before they are rounded for good.")
    ] = 0,
    split: Annotated[SplitChoice, typer.Option(help="Which samples to measure on.")] = SplitChoice.search,
    output: Annotated[
        Path | None, typer.Option(help="Folder to write; by default quantised/<trial> of the study's.")
    ] = None,
    run_dir: RunDirOption = None,
    device: DeviceOption = "cpu",
    chosen: FormatOption = Format.table,
) -> None:
    """Turn a network into one of integers, and compare accuracy, rate, energy and size."""
    from spikesearch.subnet.quantise import quantise_subnet

    session = _opened(name, network, storage=storage, run_dir=run_dir, device=device)
    quantisation = quantise_subnet(
        session, trial, network=network, bits=bits, epochs=epochs, split=split.value, output=output
    )
    print_quantisation(quantisation, chosen)


def _opened(name: str, network: Path | None, *, storage: str | None, run_dir: str | None, device: str) -> Session:
    """Open a study; with a network of its own, that of a preset needs no supernet."""
    from spikesearch.study.session import open_study, open_trained

    return (open_trained if network is None else open_study)(name, storage=storage, run_dir=run_dir, device=device)


def _format(name: str) -> str:
    from spikesearch.export import FORMATS

    if name not in FORMATS:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, FORMATS))}.")
    return name


@app.command()
def export(
    name: NameArgument,
    storage: StorageOption = None,
    trial: TrialOption = None,
    network: NetworkOption = None,
    to: Annotated[
        str, typer.Option(metavar=f"[{'|'.join(EXPORT_FORMATS.names())}]", callback=_format, help="Format.")
    ] = "safetensors",
    opset: Annotated[int | None, typer.Option(help="Version of the ONNX operators.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder to write; by default exports/<trial>-<format> of the study's.")
    ] = None,
    run_dir: RunDirOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Write a network for other tools, with a model card, checked on real images; print the folder."""
    from spikesearch.subnet.export import export_subnet

    session = _opened(name, network, storage=storage, run_dir=run_dir, device=device)
    print(export_subnet(session, trial, to=to, output=output, network=network, opset=opset))
