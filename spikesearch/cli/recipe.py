"""Studies of recipes on the command line: what ``spikesearch study create``, ``run`` and ``show`` do with them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spikesearch.cli.output import Format, emit, print_table

if TYPE_CHECKING:
    import optuna

    from spikesearch.study.resolve import Target


class KindChoice(StrEnum):
    """What a study searches."""

    architecture = "architecture"
    recipe = "recipe"


class SourceChoice(StrEnum):
    """What training a network by itself may begin with."""

    inherited = "inherited"
    scratch = "scratch"


KindOption = Annotated[
    KindChoice, typer.Option(help="Search architectures, or the recipe that trains one of them best.")
]
SourceOption = Annotated[
    SourceChoice | None,
    typer.Option(
        "--from",
        help="Begin with the weights of the supernet, or with new ones.  [default: inherited]",
        show_default=False,
    ),
]
RecipeTrialOption = Annotated[
    int | None,
    typer.Option("--trial", help="With --kind recipe: the architecture's; by default the recommended one."),
]
ArchOption = Annotated[
    Path | None,
    typer.Option("--arch", help="With --kind recipe: JSON file of an architecture (model.json), instead of a trial's."),
]


def refuse_recipe_options(**options: object) -> None:
    """Complain about options that mean nothing for a study of architectures."""
    for name, value in options.items():
        if value is not None:
            raise typer.BadParameter(f"--{name} goes with --kind recipe only.")


def create_recipe(
    what: str,
    *,
    trial: int | None,
    arch: Path | None,
    source: SourceChoice | None,
    storage: str | None,
    study_name: str | None,
    skip_if_exists: bool,
    download: bool,
) -> str:
    """Create a study of recipes and return its name."""
    from spikesearch.recipe.study import create_recipe_study, read_architecture

    study = create_recipe_study(
        what,
        trial=trial,
        arch=None if arch is None else read_architecture(arch),
        source="inherited" if source is None else source.value,
        storage=storage,
        study_name=study_name,
        load_if_exists=skip_if_exists,
        download=download,
    )
    return study.study_name


def run_recipes(target: Target, chosen: Format, *, workers: int, **options: Any) -> None:
    """Run a study of recipes and print it."""
    from spikesearch.recipe.run import run_recipe_study
    from spikesearch.study.search.pool import available_cores

    if workers != 1:
        raise typer.BadParameter(
            "a study of recipes has one worker per command; start the command several times, each with --threads "
            f"{max(1, available_cores() // workers)}."
        )
    study = run_recipe_study(target, **options)
    show_recipes(study, target.store.name, chosen)


def show_recipes(study: optuna.Study, storage: str, chosen: Format) -> None:
    """Print the state of a study of recipes."""
    from spikesearch.recipe.study import KEYS, describe_recipes

    def table(recipes: dict[str, Any]) -> None:
        states = ", ".join(f"{count} {state}" for state, count in recipes["states"].items() if count)
        print(f"Recipes {recipes['name']} in {recipes['storage']}, from {recipes['from']} weights: {states}")
        rows = [
            (
                trial["number"],
                trial["state"],
                "-" if trial["accuracy"] is None else f"{100 * trial['accuracy']:.2f}",
                trial["epochs_run"],
                *(trial["recipe"].get(key, "-") for key in KEYS),
            )
            for trial in recipes["trials"]
        ]
        columns = ("trial", "state", "accuracy %", "epochs run", *KEYS)
        print_table("Best first; accuracy on the search split", columns, rows)

    emit(
        describe_recipes(study, storage),
        chosen,
        table=table,
        value=lambda recipes: ["" if recipes["best"] is None else recipes["best"]],
        data=dict,
    )
