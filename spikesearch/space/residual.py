"""What the residual connections of a network carry: one table of the kinds there are."""

from __future__ import annotations

from dataclasses import dataclass

from spikesearch.errors import SpaceError


@dataclass(frozen=True)
class Residual:
    """A kind of residual connection, the same for all networks of a supernet.

    Args:
        name: As in the study file.
        currents: Whether branches add membrane currents to the stream, so that neurons have to read it; else every
            branch ends in neurons, and the stream is a sum of spikes.
        title: For a model card.
        normed: Whether neurons that read currents have a batch-norm of their own.
    """

    name: str
    currents: bool
    title: str
    normed: bool = False


RESIDUALS = {
    kind.name: kind
    for kind in (
        Residual("add", currents=False, title="sums of spikes"),
        Residual(
            "membrane",
            currents=True,
            title="membrane currents; neurons that read them have the threshold divided by a gain that was learnt",
        ),
        Residual(
            "normed",
            currents=True,
            title="membrane currents; neurons that read them have a batch-norm of their own, a threshold and a bias "
            "current per channel",
            normed=True,
        ),
    )
}


def check_residual(name: str) -> str:
    """Return the name of a kind of residual connection.

    Raises:
        SpaceError: If there is no such kind.
    """
    if name not in RESIDUALS:
        raise SpaceError(f"`residual` must be one of {', '.join(RESIDUALS)}, but got {name!r}.")
    return name
