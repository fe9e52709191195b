"""The picture of a supernet's fidelity, as a PNG file in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spikesearch.canvas import as_png, new_figure

if TYPE_CHECKING:
    from spikesearch.audit.fidelity_result import Fidelity


def fidelity_figure(fidelity: Fidelity) -> bytes:
    """Draw the accuracy of training alone against that with inherited weights, coloured by energy.

    A line joins the two seeds of a network. Dead networks are grey crosses; one whose training diverged is not drawn.

    Args:
        fidelity: What was measured.

    Returns:
        A PNG file.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    figure, axes = new_figure()
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

    energies = [network.inherited.energy_uJ for network in fidelity.live]
    norm = LogNorm(min(energies), max(energies)) if energies else None
    points = None
    for label, marker, networks in (
        ("neuron genes free", "o", [network for network in fidelity.live if not network.fixed_neurons]),
        ("neuron genes fixed", "s", [network for network in fidelity.live if network.fixed_neurons]),
    ):
        if networks:
            points = axes.scatter(
                [network.inherited.accuracy for network in networks],
                [network.alone[0].accuracy for network in networks if network.alone[0] is not None],
                c=[network.inherited.energy_uJ for network in networks],
                norm=norm,
                cmap="viridis",
                marker=marker,
                edgecolor="white",
                linewidth=0.6,
                s=52,
                zorder=4,
            )
            axes.scatter([], [], marker=marker, color="#5a5a5a", s=52, label=label)  # the legend knows no energy
    for network in fidelity.networks:
        accuracies = [score.accuracy for score in network.alone if score is not None]
        if network.dead and accuracies:
            axes.scatter(network.inherited.accuracy, accuracies[0], marker="x", color="#b8b8b8", s=40, zorder=3)
        elif len(accuracies) > 1:
            across = [network.inherited.accuracy] * len(accuracies)
            axes.plot(across, accuracies, color="#8a8a8a", linewidth=1, marker="_", markevery=[1], zorder=2)
    if any(network.twice for network in fidelity.networks):
        axes.plot([], [], color="#8a8a8a", linewidth=1, marker="_", label="to the second seed")
    if any(network.dead for network in fidelity.networks):
        axes.scatter([], [], marker="x", color="#b8b8b8", s=40, label="dead")
    if points is not None:
        scale = figure.colorbar(points, ax=axes)
        scale.set_label(f"energy per sample, microjoules ({fidelity.convention!r} convention)")
        scale.ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        scale.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        scale.ax.yaxis.set_minor_formatter(NullFormatter())
    limits = {"xlim": axes.get_xlim(), "ylim": axes.get_ylim()}
    axes.axline((0.5, 0.5), slope=1, color="#1a1a1a", linewidth=0.8, linestyle=":", zorder=1, label="equal accuracies")
    axes.set(**limits)  # the line of equal accuracies must not push the points together
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("search accuracy with inherited weights")
    axes.set_ylabel("search accuracy trained alone")
    shown = [("tau", fidelity.tau), ("one seed with another", fidelity.ceiling)]
    figures = ", ".join(f"{name} {value:.2f}" for name, value in shown if value is not None)
    axes.set_title(f"Study {fidelity.study}: {len(fidelity.live)} live networks" + (f", {figures}" if figures else ""))
    axes.grid(alpha=0.3, which="major")
    axes.legend(loc="best")
    return as_png(figure)
