"""Pictures of a study, as PNG files in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from spikesearch.canvas import as_png, new_figure

if TYPE_CHECKING:
    from spikesearch.study.results import StudyResult, TrialResult

# distinguishable without colours too: every group has a marker of its own
_GREY, _BLUE, _ORANGE, _BLACK = "#b8b8b8", "#2b6cb0", "#dd6b20", "#1a1a1a"


def pareto_figure(result: StudyResult) -> bytes:
    """Draw accuracy against energy: all trials, the Pareto front, the recommended one and the reference.

    Args:
        result: A study with at least one COMPLETE trial.

    Returns:
        A PNG file.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    figure, axes = new_figure()
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

    front = {trial.number for trial in result.front}
    groups: list[tuple[str, Sequence[TrialResult], dict[str, Any]]] = [
        ("infeasible", [t for t in result.trials if not t.feasible], {"marker": "x", "color": _GREY, "s": 24}),
        (
            "dominated",
            [t for t in result.trials if t.feasible and t.number not in front],
            {"marker": "o", "facecolor": "none", "edgecolor": _GREY, "s": 24},
        ),
    ]
    for label, trials, style in groups:
        if trials:
            axes.scatter(*_columns(trials), label=label, zorder=2, **style)
    if result.front:
        axes.plot(*_columns(result.front), drawstyle="steps-post", color=_BLUE, linewidth=1.2, zorder=3)
        axes.scatter(*_columns(result.front), marker="o", color=_BLUE, s=28, label="Pareto front", zorder=4)
    for label, trial, marker, color in (
        ("recommended", result.recommended, "*", _ORANGE),
        ("reference (largest)", result.reference, "s", _BLACK),
    ):
        if trial is not None:
            size = 190 if marker == "*" else 46
            axes.scatter(*_columns([trial]), marker=marker, color=color, s=size, label=label, zorder=5)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel(f"energy per sample, microjoules ({result.convention!r} convention)")
    axes.set_ylabel("accuracy on the search split")
    axes.set_title(f"Study {result.name}: {len(result.trials)} scored architectures")
    axes.grid(alpha=0.3, which="major")
    axes.legend(loc="lower right")
    return as_png(figure)


def _columns(trials: Sequence[TrialResult]) -> tuple[list[float], list[float]]:
    return [trial.energy_uJ for trial in trials], [trial.accuracy for trial in trials]
