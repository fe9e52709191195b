"""An empty figure, and a drawn one as a PNG file in memory."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from spikesearch.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_figure() -> tuple[Figure, Axes]:
    """Return an empty figure and its axes.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("Pictures need matplotlib: pip install 'spikesearch[plots]'.") from error
    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    return figure, figure.add_subplot()


def as_png(figure: Figure) -> bytes:
    """Return a figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
