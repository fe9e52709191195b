"""``spikesearch supernet``: train it without searching, look at it, measure how far its scores can be trusted."""

from __future__ import annotations

from typing import Annotated

import typer

from spikesearch.cli.output import (
    DeviceOption,
    DownloadOption,
    Format,
    FormatOption,
    RunDirOption,
    StorageOption,
    emit,
    print_fidelity,
    print_table,
)
from spikesearch.cli.study import NameArgument, NameOption, before_command

app = typer.Typer(
    help="Train a study's supernet, look at it, measure its fidelity.", no_args_is_help=True, rich_markup_mode=None
)
app.callback()(before_command)


@app.command()
def train(
    what: Annotated[str, typer.Argument(metavar="STUDY", help="A study's name, a study file or a shipped id.")],
    storage: StorageOption = None,
    study_name: NameOption = None,
    run_dir: RunDirOption = None,
    device: DeviceOption = "cpu",
    download: DownloadOption = False,
) -> None:
    """Train the supernet of a study, or what is left of that, and print the study's name; no trial is run."""
    from spikesearch.study.session import open_session

    session = open_session(
        what, storage=storage, study_name=study_name, run_dir=run_dir, device=device, download=download
    )
    session.train()
    print(session.study.study_name)


@app.command()
def info(
    name: NameArgument,
    storage: StorageOption = None,
    run_dir: RunDirOption = None,
    chosen: FormatOption = Format.table,
) -> None:
    """Show the supernet of a study: size, hash, training."""
    from spikesearch.study.session import open_study

    facts = open_study(name, storage=storage, run_dir=run_dir).supernet_info()
    rows = [(key, _text(value)) for key, value in facts.items()]
    emit(
        facts,
        chosen,
        table=lambda facts: print_table(f"Supernet of study {name}", ("", ""), rows),
        value=lambda facts: [facts["hash"]],
        data=dict,
    )


@app.command()
def fidelity(
    name: NameArgument,
    n: Annotated[int, typer.Option("--n", help="Architectures to train.")] = 30,
    epochs: Annotated[
        int | None, typer.Option(help="Of each training; by default train.epochs of the study file.")
    ] = None,
    storage: StorageOption = None,
    run_dir: RunDirOption = None,
    device: DeviceOption = "cpu",
    chosen: FormatOption = Format.table,
) -> None:
    """Train architectures alone, or what is left of that, and tell how well inherited weights rank them."""
    from spikesearch.audit.fidelity import measure_fidelity
    from spikesearch.study.session import open_trained

    trained = open_trained(name, storage=storage, run_dir=run_dir, device=device)
    print_fidelity(measure_fidelity(trained, n=n, epochs=epochs), chosen)


def _text(value: object) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
