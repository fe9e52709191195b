"""``spikesearch data``: which data there can be, and whether yours can be used."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from spikesearch.cli.output import DownloadOption, Format, FormatOption, emit, print_table

SKIPPED_SHOWN = 20
CLASSES_SHOWN = 20

app = typer.Typer(
    help="Which data there can be, and whether yours can be used.", no_args_is_help=True, rich_markup_mode=None
)


@app.command(name="list")
def list_(chosen: FormatOption = Format.table) -> None:
    """List the kinds of data that a study file may name."""
    from spikesearch.data import list_kinds

    emit(
        list_kinds(),
        chosen,
        table=lambda rows: print_table(
            "Kinds of data", ("kind", "what", "needs"), [tuple(row.values()) for row in rows]
        ),
        value=lambda rows: (row["kind"] for row in rows),
        data=list,
    )


@app.command()
def check(
    study_file: Annotated[str, typer.Argument(help="A study file, or the id of a shipped one.")],
    download: DownloadOption = False,
    chosen: FormatOption = Format.table,
) -> None:
    """Read all data of a study file and say what was found, and what is worth a second look."""
    from spikesearch.config import find_study_file, load_study_file
    from spikesearch.data import check_data

    config = load_study_file(find_study_file(study_file))
    facts = check_data(config.data, seed=config.seed, download=download)
    emit(facts, chosen, table=_check_table, value=lambda facts: [facts["fingerprint"]], data=dict)


def _check_table(facts: dict[str, Any]) -> None:
    print(facts["summary"])
    names = list(facts["splits"]["train"]["per_class"])
    more = f" and {len(names) - CLASSES_SHOWN} more" if len(names) > CLASSES_SHOWN else ""
    print(f"Classes: {', '.join(names[:CLASSES_SHOWN])}{more}")
    rows = [(name, split["images"], *_least_and_most(split["per_class"])) for name, split in facts["splits"].items()]
    print_table("Splits", ("split", "images", "fewest per class", "most per class"), rows)
    for note in facts["notes"]:
        print(note)
    for skipped in facts["skipped"][:SKIPPED_SHOWN]:
        print(f"Unusable: {skipped}")
    if len(facts["skipped"]) > SKIPPED_SHOWN:
        print(f"... and {len(facts['skipped']) - SKIPPED_SHOWN} more, which -f json lists.")
    for warning in facts["warnings"]:
        print(f"Warning: {warning}")


def _least_and_most(counts: dict[str, int]) -> tuple[int, int]:
    return min(counts.values()), max(counts.values())
