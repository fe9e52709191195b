"""A study in Markdown: the front, the test scores, the energy per layer and where it all comes from."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from spikesearch.energy import energy_model
from spikesearch.errors import MissingDependencyError, StudyError
from spikesearch.io import atomic_write_bytes, atomic_write_text, user_path
from spikesearch.report.figures import pareto_figure
from spikesearch.study.attributes import SAMPLER, VERSIONS
from spikesearch.study.results import TrialResult, majority_sentence
from spikesearch.study.session import Session
from spikesearch.tables import markdown_table

TITLE = "# Study "

_log = logging.getLogger(__name__)


def write_report(session: Session, output: Path) -> None:
    """Write the report of a study, and a picture of its Pareto front beside it (``report.md``, ``report.png``).

    Args:
        session: The study with its trained supernet.
        output: The Markdown file.

    Raises:
        StudyError: If ``output`` names no file, or the picture's, or if something that is no report would be lost.
        StorageError: If it cannot be written.
    """
    output = user_path(output, "`output`")
    if not output.name or output.suffix == ".png":
        raise StudyError(f"`output` must be a Markdown file such as report.md, but got {str(output)!r}.")
    picture, drawn = output.with_suffix(".png"), None
    for path in (output, picture):
        if path.exists() and not _is_report(output):
            raise StudyError(f"{path} exists, and no report of a study beside it. Remove it, or name another --output.")
    try:
        drawn = pareto_figure(session.results())
    except MissingDependencyError as error:
        _log.warning("The report has no picture. %s", error)
    atomic_write_text(output, study_report(session, picture=picture.name if drawn else None))
    if drawn:
        atomic_write_bytes(picture, drawn)


def _is_report(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline().startswith(TITLE)
    except (OSError, UnicodeDecodeError):
        return False


def study_report(session: Session, *, picture: str | None = None) -> str:
    """Return the report of a study; the recommended and the reference get a test score if they have none.

    Args:
        session: The study with its trained supernet.
        picture: File name of a picture of the Pareto front, to be shown.
    """
    for finalist in session.results().finalists:
        session.final_score(finalist.architecture)
    result = session.results()
    config = session.config
    states = ", ".join(f"{count} {state}" for state, count in result.states.items() if count) or "no trials"
    lines = [
        f"{TITLE}{result.name}",
        "",
        f"{states}. Every energy is in microjoules per sample under the `{result.convention}` convention, with "
        f"{energy_model(config.scoring).prices()}.",
        f"F_AEB = accuracy * (energy / reference energy) ** -{config.report.beta}.",
        "",
        "## Recommended and reference",
        "",
        "The recommended architecture was chosen on the search split, among many; only the accuracy on the test split, "
        "which nothing was chosen on, says how good it is.",
        *([majority_sentence(result.majority_share)] if result.majority_share is not None else []),
        "",
        *_table([("recommended", result.recommended), ("reference", result.reference)], with_test=True),
        "",
        "## Pareto front",
        "",
        *([f"![accuracy against energy of all trials]({picture})", ""] if picture else []),
        *_table([("", trial) for trial in result.front], with_test=False),
        "",
    ]
    if result.hypervolume is not None:
        lines += [f"Hypervolume of (1 - accuracy, energy / reference energy), at most 1: {result.hypervolume:.4f}.", ""]
    for role, trial in (("recommended", result.recommended), ("reference", result.reference)):
        if trial is not None:
            _, energy = session.scorer().evaluate(trial.architecture, "search", detailed=True)
            lines += [f"## Energy of the {role} architecture, layer by layer", "", "```", energy.table(), "```", ""]
            lines += ["```json", json.dumps(trial.architecture.to_dict()), "```", ""]
    attrs = session.study.user_attrs
    lines += [
        "## Where it comes from",
        "",
        f"- data: {session.data.summary()}",
        f"- supernet: {session.supernet_hash}",
        f"- sampler: {attrs[SAMPLER]['name']}, seed {config.seed}",
        "- versions: " + ", ".join(f"{name} {version}" for name, version in attrs[VERSIONS].items()),
    ]
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[tuple[str, TrialResult | None]], *, with_test: bool) -> list[str]:
    columns = ["", "trial", "accuracy", "energy", "F_AEB", "parameters"]
    columns += ["test accuracy", "test energy"] if with_test else []
    columns.append("architecture")
    lines = []
    for role, trial in rows:
        if trial is None:
            continue
        cells = [role, str(trial.number), f"{trial.accuracy:.2%}", f"{trial.energy_uJ:.4g}"]
        cells.append("" if trial.f_aeb is None else f"{trial.f_aeb:.4f}")
        cells.append(f"{trial.attrs['params']:,}" if trial.attrs.get("params") is not None else "")
        if with_test:
            cells += [f"{trial.test['accuracy']:.2%}", f"{trial.test['energy_uJ']:.4g}"] if trial.test else ["", ""]
        cells.append(trial.describe())
        lines.append(cells)
    return markdown_table(columns, lines)
