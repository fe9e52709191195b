"""The picture of fronts.py, as a PNG file in memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from spikesearch.canvas import as_png, new_figure

_OURS = "#dd6b20"
_COLOURS = (
    "#1a1a1a",
    "#2b6cb0",
    "#2f855a",
    "#9f7aea",
    "#b7791f",
    "#0987a0",
    "#97266d",
    "#718096",
    "#e53e3e",
    "#38a169",
)
_MARKERS = "sD^vPX*<>hdp8H"


def fronts_figure(runs: list[dict[str, Any]], study: str) -> bytes:
    """Draw test accuracy over energy, one line per way to get a network, under both conventions.

    Args:
        runs: The figures per seed.
        study: Name of the study.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    figure, axes = new_figure()
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.remove()
    figure.set_size_inches(12, 6.4)
    panels = figure.subplots(1, 2, sharey=True)
    for panel, convention in zip(panels, ("spikformer", "strict"), strict=True):
        for number, name in enumerate(runs[0]["networks"]):
            _line(panel, runs, name, number, convention)
        panel.set_title(f"{convention!r} convention")
        panel.set_xlabel("energy per sample, microjoules")
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("test accuracy, %")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize="small", frameon=False)
    counted = f"means of {len(runs)} seeds, bars from the lowest to the highest" if len(runs) > 1 else "one seed"
    figure.suptitle(f"Study {study}, {counted}")
    return as_png(figure)


def _line(panel: Any, runs: list[dict[str, Any]], name: str, number: int, convention: str) -> None:
    points = []
    for budget in runs[0]["networks"][name]:
        rows = [run["networks"][name].get(budget) for run in runs]
        if all(row is not None for row in rows):
            accuracies = 100 * np.array([row["test"] for row in rows])
            energy = float(np.mean([row[convention] for row in rows]))
            points.append((energy, accuracies.mean(), accuracies.min(), accuracies.max()))
    if not points:
        return
    energies, means, lows, highs = np.array(sorted(points)).T
    ours = name == "searched"
    panel.errorbar(
        energies,
        means,
        yerr=[means - lows, highs - means],
        color=_OURS if ours else _COLOURS[number % len(_COLOURS)],
        marker="o" if ours else _MARKERS[number % len(_MARKERS)],
        linewidth=2.4 if ours else 1.2,
        linestyle="-" if ours else "--",
        capsize=2,
        label=name,
    )
