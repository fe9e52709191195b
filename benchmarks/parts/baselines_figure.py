"""The picture of baselines.py, as a PNG file in memory."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from spikesearch.canvas import as_png, new_figure

# what is ours, hand-made, conventional, or another search; within a group, the marker tells networks apart
_COLOURS = {"ESNN": "#dd6b20", "largest": "#1a1a1a", "ViT": "#2b6cb0", "ResNet": "#2f855a"}
_OTHER = "#9f7aea"
_MARKERS = "osD^vPX*<>hdp8H"


def baselines_figure(runs: list[dict[str, Any]], study: str) -> bytes:
    """Draw test accuracy against energy under both conventions, and the fronts of the first seed.

    Args:
        runs: The figures per seed.
        study: Name of the study.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    figure, axes = new_figure()
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.remove()
    figure.set_size_inches(14, 5.6)
    panels = figure.subplots(1, 3)
    for panel, convention in zip(panels, ("spikformer", "strict"), strict=False):
        _networks(panel, runs, convention)
        panel.set_title(f"{convention!r} convention")
        panel.set_xlabel("energy per image, microjoules")
        panel.set_ylabel("test accuracy, %")
    panels[0].sharey(panels[1])
    _fronts(panels[2], runs[0])
    for panel in panels:
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.grid(alpha=0.3, which="major")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize="small", frameon=False)
    counted = f"means of {len(runs)} seeds, bars from the lowest to the highest" if len(runs) > 1 else "one seed"
    figure.suptitle(f"Study {study}, {counted}")
    return as_png(figure)


def _networks(panel: Any, runs: list[dict[str, Any]], convention: str) -> None:
    drawn: Counter[str] = Counter()  # networks of each colour
    for name in runs[0]["networks"]:
        colour = next((colour for group, colour in _COLOURS.items() if name.startswith(group)), _OTHER)
        rows = [run["networks"][name] for run in runs]
        accuracy = 100 * np.array([row["test"] for row in rows])
        mean = accuracy.mean()
        panel.errorbar(
            np.mean([row[convention] for row in rows]),
            mean,
            yerr=[[mean - accuracy.min()], [accuracy.max() - mean]],
            color=colour,
            marker=_MARKERS[drawn[colour]],
            markersize=8,
            linewidth=0.8,
            linestyle="none",
            label=name,
        )
        drawn[colour] += 1


def _fronts(panel: Any, run: dict[str, Any]) -> None:
    for (name, arm), style in zip(run["arms"].items(), ("-", "--", ":", "-."), strict=False):
        energy, accuracy = np.array(arm["front"]).reshape(-1, 2).T
        colour = _COLOURS.get(name, _OTHER)
        label = f"{name}, {arm['trials']} trials"
        panel.plot(energy, 100 * accuracy, style, drawstyle="steps-post", color=colour, label=label)
    panel.set_title(f"fronts with inherited weights, seed {run['seed']}")
    panel.set_xlabel("energy over the reference's")
    panel.set_ylabel("search accuracy, %")
    panel.legend(loc="lower right", fontsize="small")
