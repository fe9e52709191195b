"""``spikesearch study``: create, run and read studies."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from spikesearch.cli.output import (
    DeviceOption,
    DownloadOption,
    Format,
    FormatOption,
    RunDirOption,
    StorageOption,
    emit,
    print_study,
    print_table,
    print_trial,
    quiet_optuna,
)
from spikesearch.cli.recipe import (
    ArchOption,
    KindChoice,
    KindOption,
    RecipeTrialOption,
    SourceOption,
    create_recipe,
    refuse_recipe_options,
    run_recipes,
    show_recipes,
)
from spikesearch.cli.space import (
    DepthsOption,
    EmbedDimOption,
    NumHeadsOption,
    PresetOption,
    StemStrideOption,
    TimeStepsOption,
    chosen_preset,
)
from spikesearch.errors import StudyError
from spikesearch.extensions import TARGETS

app = typer.Typer(help="Create, run and read studies.", no_args_is_help=True, rich_markup_mode=None)

NameArgument = Annotated[str, typer.Argument(help="Name of the study.")]
NameOption = Annotated[str | None, typer.Option(help="Name of the study, instead of the study file's.")]


@app.callback()
def before_command() -> None:
    """Prepare what the command will import, unless only its help is wanted."""
    if "--help" not in sys.argv:  # the context no longer knows the arguments of the command
        quiet_optuna()


@app.command()
def create(
    study_file: Annotated[str, typer.Argument(help="A study file, or the id of a shipped one, such as digits.")],
    storage: StorageOption = None,
    study_name: NameOption = None,
    skip_if_exists: Annotated[bool, typer.Option("--skip-if-exists", help="Accept a study that exists.")] = False,
    kind: KindOption = KindChoice.architecture,
    trial: RecipeTrialOption = None,
    arch: ArchOption = None,
    source: SourceOption = None,
    download: DownloadOption = False,
) -> None:
    """Create a study and print its name; nothing is trained yet."""
    if kind is KindChoice.recipe:
        name = create_recipe(
            study_file,
            trial=trial,
            arch=arch,
            source=source,
            storage=storage,
            study_name=study_name,
            skip_if_exists=skip_if_exists,
            download=download,
        )
        print(name)
        return
    refuse_recipe_options(**{"trial": trial, "arch": arch, "from": source})
    from spikesearch.config import find_study_file, load_study_file
    from spikesearch.study import create_study
    from spikesearch.study.assembly import load_data_of, new_supernet

    config = load_study_file(find_study_file(study_file))
    new_supernet(config, load_data_of(config, download=download))  # wrong data are found before anything is written
    study = create_study(config, storage=storage, study_name=study_name, load_if_exists=skip_if_exists)
    print(study.study_name)


@app.command()
def run(
    what: Annotated[str, typer.Argument(metavar="STUDY", help="A study's name, a study file or a shipped id.")],
    storage: StorageOption = None,
    study_name: NameOption = None,
    n_trials: Annotated[
        int | None,
        typer.Option(
            help="Add so many COMPLETE trials, shared by the workers of this call; by default, as many as the study "
            "lacks of search.n_trials in the study file."
        ),
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds of search; training does not count.")] = None,
    workers: Annotated[int, typer.Option(help="Processes that score trials.")] = 1,
    threads: Annotated[
        int | None,
        typer.Option(
            help="Threads that compute, shared by the workers; by default one per core, too many for several commands "
            "at once.",
            min=1,
            max=4096,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar=f"[{'|'.join(TARGETS.names())}]",
            help="Kind of device that the network is for. What it cannot run is refused before anything is trained. By "
            "default `target` of the study file.",
        ),
    ] = None,
    run_dir: RunDirOption = None,
    device: DeviceOption = "cpu",
    download: DownloadOption = False,
    chosen: FormatOption = Format.table,
) -> None:
    """Train the supernet and search it, or do what is left of that; then print the Pareto front."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    options: dict[str, Any] = {
        "n_trials": n_trials,
        "timeout": timeout,
        "run_dir": run_dir,
        "device": device,
        "download": download,
    }
    from spikesearch.study import run_study
    from spikesearch.study.assist import resolve_or_assist
    from spikesearch.study.results import read_results
    from spikesearch.study.store import storage_name

    found = resolve_or_assist(what, storage=storage, study_name=study_name, device=device)
    if found.kind == "recipe":
        run_recipes(found, chosen, workers=workers, **options)
        return
    if target is not None:
        found = replace(found, file=found.config.meant_for(target))
    study = run_study(found, workers=workers, **options)
    print_study(read_results(study, storage_name(study)), chosen)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder of images with one sub-folder per class, or other data.")],
    output: Annotated[Path, typer.Option(help="The study file to write.")],
    kind: Annotated[
        str | None, typer.Option(help="Kind of data (`spikesearch data list`); else it is recognised.")
    ] = None,
    preset: PresetOption = None,
    embed_dim: EmbedDimOption = None,
    depths: DepthsOption = None,
    time_steps: TimeStepsOption = None,
    num_heads: NumHeadsOption = None,
    stem_stride: StemStrideOption = None,
) -> None:
    """Write a working study file for a folder of data; with --preset, of a space that contains the preset."""
    from spikesearch.data import init_study_file

    sizes = {"embed_dim": embed_dim, "depths": depths, "time_steps": time_steps, "num_heads": num_heads}
    published = chosen_preset(preset, stem_stride=stem_stride, **sizes)
    print(init_study_file(folder, output, kind, preset=published))


@app.command(name="list")
def list_(storage: StorageOption = None, chosen: FormatOption = Format.table) -> None:
    """List the studies of a storage."""
    from spikesearch.study.store import list_studies, summary

    rows = [summary(study) for study in list_studies(storage)]
    columns = ("name", "trials", "complete", "started", "made by")
    values = [(row["name"], row["n_trials"], row["complete"], row["started"] or "-", row["made_by"]) for row in rows]
    emit(
        rows,
        chosen,
        table=lambda rows: print_table("Studies", columns, values),
        value=lambda rows: (row["name"] for row in rows),
        data=list,
    )


@app.command()
def show(name: NameArgument, storage: StorageOption = None, chosen: FormatOption = Format.table) -> None:
    """Show the state of a study: its Pareto front, the recommended trial and the reference."""
    from spikesearch.study.provenance import kind_of
    from spikesearch.study.results import read_results
    from spikesearch.study.store import find_study, store_with

    store = store_with(name, storage)
    study = find_study(store, name)
    if kind_of(study) == "recipe":
        show_recipes(study, store.name, chosen)
    else:
        print_study(read_results(study, store.name), chosen)


@app.command()
def best(
    name: NameArgument,
    storage: StorageOption = None,
    max_energy: Annotated[float | None, typer.Option(help="At most this many microjoules per sample.")] = None,
    min_accuracy: Annotated[
        float | None, typer.Option(help="At least this search accuracy, as a fraction.", min=0, max=1)
    ] = None,
    beta: Annotated[float | None, typer.Option(help="Weight of the energy in F_AEB.")] = None,
    chosen: FormatOption = Format.table,
) -> None:
    """Show the recommended trial."""
    from spikesearch.study import load_study
    from spikesearch.study.provenance import stored_config
    from spikesearch.study.results import best_trial

    study = load_study(name, storage=storage)
    trial = best_trial(study, max_energy=max_energy, min_accuracy=min_accuracy, beta=beta)
    print_trial(trial, chosen, stored_config(study).scoring.convention)


@app.command()
def report(
    name: NameArgument,
    storage: StorageOption = None,
    output: Annotated[Path | None, typer.Option(help="File to write, with a picture beside it; else print.")] = None,
    run_dir: RunDirOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Write a report in Markdown: picture and table of the front, test scores, energy per layer, provenance."""
    from spikesearch.report.markdown import study_report, write_report
    from spikesearch.study.session import open_trained

    trained = open_trained(name, storage=storage, run_dir=run_dir, device=device)
    if output is None:
        print(study_report(trained), end="")
    else:
        write_report(trained, output)
        print(output)


@app.command()
def verify(
    name: NameArgument,
    storage: StorageOption = None,
    run_dir: RunDirOption = None,
    device: DeviceOption = "cpu",
    chosen: FormatOption = Format.table,
) -> None:
    """Check a study against its data and supernet, and score two trials again; exit status 1 if a check fails."""
    from spikesearch.audit.verify import verify_study

    checks = verify_study(name, storage=storage, run_dir=run_dir, device=device)
    rows = [(check.name, "ok" if check.passed else "FAILED", check.found) for check in checks]
    emit(
        checks,
        chosen,
        table=lambda checks: print_table(f"Study {name}", ("check", "result", "found"), rows),
        value=lambda checks: (f"{result} {check}" for check, result, _ in rows),
        data=lambda checks: [check.to_dict() for check in checks],
    )
    if not all(check.passed for check in checks):
        raise typer.Exit(1)


@app.command()
def release(
    name: NameArgument,
    host: Annotated[str, typer.Argument(help="Name of the machine, as messages have it.")],
    storage: StorageOption = None,
) -> None:
    """Say that a machine is gone: the next run repeats its trials. Print their numbers."""
    from spikesearch.study.release import release_host

    for number in release_host(name, host, storage=storage):
        print(number)


@app.command()
def delete(
    name: NameArgument,
    storage: StorageOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a study, its supernet and its checkpoints."""
    from spikesearch.study.store import delete_study, find_study, store_with

    if not yes:
        find_study(store_with(name, storage), name)  # before anything is asked
        if not sys.stdin.isatty():
            raise StudyError("Without a terminal nobody can be asked, so nothing was deleted; give --yes.")
        if not typer.confirm(f"Delete the study {name!r} with its trials and its supernet?", err=True):
            print("Nothing was deleted.", file=sys.stderr)
            raise typer.Exit(1)
    delete_study(name, storage=storage)
    print(name)
