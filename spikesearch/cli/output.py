"""Options that commands share, and formats of results on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from spikesearch.audit.fidelity_result import Fidelity
    from spikesearch.study.results import StudyResult, TrialResult
    from spikesearch.subnet.quantise import Quantisation
    from spikesearch.subnet.retrain import Retraining

T = TypeVar("T")


class Format(StrEnum):
    """Formats, as Optuna's command line has them."""

    table = "table"
    json = "json"
    yaml = "yaml"
    value = "value"


FormatOption = Annotated[Format, typer.Option("--format", "-f", help="How to print the result.")]
StorageOption = Annotated[
    str | None,
    typer.Option(
        help="Storage URL; by default $SPIKESEARCH_STORAGE, $OPTUNA_STORAGE or sqlite:///spikesearch.db.",
        show_default=False,
    ),
]
RunDirOption = Annotated[
    str | None, typer.Option(help="Folder of the study's files; by default runs/<study> beside the SQLite file.")
]
DeviceOption = Annotated[str, typer.Option(help="Where to compute: cpu or cuda.")]
DownloadOption = Annotated[
    bool, typer.Option("--download", help="Fetch missing data of a kind that can be fetched (see data list).")
]
TrialOption = Annotated[int | None, typer.Option(help="Number of a trial; by default the recommended one.")]


def quiet_optuna() -> None:
    """Let Optuna only warn: it would tell of every trial on stderr."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)


def emit(
    result: T,
    chosen: Format,
    *,
    table: Callable[[T], None],
    value: Callable[[T], Iterable[object]],
    data: Callable[[T], object],
) -> None:
    """Print the result of a command in the chosen format.

    Args:
        result: What to print.
        chosen: The format.
        table: Prints it for a person.
        value: Its most important values, one a line, for a shell.
        data: It in plain JSON types, for JSON and YAML.
    """
    if chosen is Format.table:
        table(result)
    elif chosen is Format.value:
        for line in value(result):
            print(line)
    elif chosen is Format.json:
        print(json.dumps(data(result), indent=2))
    else:
        import yaml

        print(yaml.safe_dump(data(result), sort_keys=False), end="")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; numbers to the right."""
    from rich.table import Table
    from rich.text import Text

    # Text, because rich would take the brackets of a string such as "exp[/1]" for markup.
    table = Table(title=Text(title), title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        numeric = all(isinstance(row[index], int | float) or row[index] in ("", "-") for row in rows)
        # Where there is little room, texts are folded, but no number is cut.
        figures = not set().union(*(_cell(row[index]) for row in rows)) - set("0123456789.,+-e%")
        justify: Literal["left", "right"] = "right" if numeric and rows else "left"
        table.add_column(Text(column), justify=justify, overflow="fold", no_wrap=figures)
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    _print_rich(table)


def print_study(result: StudyResult, chosen: Format) -> None:
    """Print the state of a study."""
    emit(
        result,
        chosen,
        table=_study_table,
        value=lambda result: (trial.number for trial in result.front),
        data=lambda result: result.to_dict(),
    )


def _study_table(result: StudyResult) -> None:
    from spikesearch.study.results import majority_sentence

    states = ", ".join(f"{count} {state}" for state, count in result.states.items() if count)
    print(f"Study {result.name} in {result.storage}: {states or 'no trials'}")
    if result.hypervolume is not None:
        print(f"Hypervolume (1 - accuracy, energy / reference energy; at most 1): {result.hypervolume:.4f}")
    if result.majority_share is not None:
        print(majority_sentence(result.majority_share))
    rows = [_row("", trial) for trial in result.front]
    rows += [_row("recommended", result.recommended)] if result.recommended else []
    rows += [_row("reference", result.reference)] if result.reference else []
    title = f"Pareto front: accuracy on the search split, energy under the {result.convention!r} convention"
    print_table(title, _TRIAL_COLUMNS, rows)


def print_trial(trial: TrialResult, chosen: Format, convention: str) -> None:
    """Print one trial."""
    title = f"Energy under the {convention!r} convention"
    emit(
        trial,
        chosen,
        table=lambda trial: print_table(title, _TRIAL_COLUMNS, [_row("recommended", trial)]),
        value=lambda trial: [trial.number],
        data=lambda trial: trial.to_dict(with_test=True),
    )


def print_retraining(retraining: Retraining, chosen: Format) -> None:
    """Print a network that was trained by itself, beside what it is compared with."""
    emit(
        retraining,
        chosen,
        table=_retraining_table,
        value=lambda retraining: [retraining.retrained.test_accuracy],
        data=lambda retraining: retraining.to_dict(),
    )


def _retraining_table(retraining: Retraining) -> None:
    print(f"{'Network' if retraining.preset is None else f'Preset {retraining.preset}'} in {retraining.folder}")
    rows = [
        (
            row.role,
            "-" if row.trial is None else row.trial,
            f"{100 * row.search_accuracy:.2f}",
            f"{100 * row.test_accuracy:.2f}",
            f"{row.energy_uJ:.4g}",
            f"{row.params:,}",
        )
        for row in retraining.rows
    ]
    columns = ("", "trial", "search %", "test %", "energy uJ", "params")
    print_table(f"Energy on the search split, under the {retraining.convention!r} convention", columns, rows)


def print_quantisation(quantisation: Quantisation, chosen: Format) -> None:
    """Print a network of integers beside the one that it was made of."""
    emit(
        quantisation,
        chosen,
        table=_quantisation_table,
        value=lambda quantisation: [quantisation.integers.accuracy],
        data=lambda quantisation: quantisation.to_dict(),
    )


def _quantisation_table(quantisation: Quantisation) -> None:
    size = quantisation.size
    print(f"Network in {quantisation.folder}")
    columns, rows = ["", "accuracy %", "rate", "bytes of constants"], []
    for name, measured, nbytes in (
        ("float32", quantisation.floats, quantisation.nbytes),
        ("int8", quantisation.integers, size.flash),
    ):
        energies = (f"{report.total_uJ:.4g}" for report in measured.energy)
        rows.append((name, f"{100 * measured.accuracy:.2f}", f"{measured.rate:.4f}", f"{nbytes:,}", *energies))
    columns += [f"{report.convention} uJ" for report in quantisation.floats.energy]
    print_table(f"On the {quantisation.split} split", columns, rows)
    print(
        f"On a device: {size.flash:,} bytes of flash beside the code, {size.ram:,} bytes of RAM, of which "
        f"{size.kept:,} live from one time step to the next; {size.input:,} bytes of a sample."
    )
    if quantisation.wide:
        print("Currents and potentials have 32 bits: 16 would leave too few steps for the thresholds.")


def print_fidelity(fidelity: Fidelity, chosen: Format) -> None:
    """Print how well rankings agree with the accuracies of networks that were trained alone."""
    emit(
        fidelity,
        chosen,
        table=_fidelity_table,
        value=lambda fidelity: ["" if fidelity.tau is None else fidelity.tau],
        data=lambda fidelity: fidelity.to_dict(),
    )


def _fidelity_table(fidelity: Fidelity) -> None:
    dead = fidelity.dead
    print(
        f"Study {fidelity.study}: {len(fidelity.networks)} networks trained alone for {fidelity.facts['epochs']} "
        f"epochs, in {fidelity.folder}\n{dead['either']} dead, which are not ranked: {dead['inherited']} with "
        f"inherited weights, {dead['alone']} trained alone"
    )
    rows: list[tuple[object, ...]] = []
    for name, group in fidelity.groups.items():
        for ranking, agreement in group.rankings.items():
            first = ranking == next(iter(group.rankings))
            values = (str(agreement.tau), str(agreement.spearman))
            rows.append(
                (name.replace("_", " ") if first else "", group.n if first else "", _RANKINGS[ranking], *values)
            )
    for ranking, agreement in fidelity.groups["all"].lead.items():
        values = (str(agreement.tau), str(agreement.spearman))
        rows.append(("all", fidelity.groups["all"].n, f"inherited minus {_RANKINGS[ranking]}", *values))
    columns = ("networks", "number", "ranked by", "Kendall tau-b [95 %]", "Spearman [95 %]")
    print_table("Agreement with the accuracy of training alone, on the search split", columns, rows)
    if fidelity.ceiling is not None:
        print(
            f"Networks with two seeds: tau {fidelity.retest.tau} with the accuracies of either, on average; that is "
            f"{fidelity.share_of_ceiling} times the ceiling, {fidelity.retest.ceiling}.\nThe ceiling is what one more "
            "training would tell; a perfect ranking could exceed it."
        )


_TRIAL_COLUMNS = (
    *("", "trial", "accuracy %", "energy uJ", "F_AEB", "params"),
    *("test %", "test uJ", "architecture"),
)
_RANKINGS = {
    "inherited": "inherited accuracy",
    "energy": "energy alone",
    "params": "parameters alone",
    "second_seed": "another seed (the ceiling)",
}


def _row(role: str, trial: TrialResult) -> tuple[object, ...]:
    test = trial.test
    return (
        role,
        trial.number,
        f"{100 * trial.accuracy:.2f}",
        f"{trial.energy_uJ:.4g}",
        "-" if trial.f_aeb is None else f"{trial.f_aeb:.4f}",
        "-" if trial.attrs.get("params") is None else f"{trial.attrs['params']:,}",
        "" if test is None else f"{100 * test['accuracy']:.2f}",
        "" if test is None else f"{test['energy_uJ']:.4g}",
        trial.describe(),
    )


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _print_rich(table: Table) -> None:
    from rich.console import Console

    # Without a terminal nothing may be cut to an imagined width.
    width = None if sys.stdout.isatty() else 200
    console = Console(width=width, soft_wrap=not sys.stdout.isatty())
    if console.measure(table, options=console.options.update(max_width=1000)).maximum > console.width:
        table.box, table.padding = None, (0, 1, 0, 0)  # room for what the table says
    console.print(table)
