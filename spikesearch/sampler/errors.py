"""The errors of the sampler."""

from __future__ import annotations

from spikesearch.errors import SpikesearchError


class SamplerError(SpikesearchError, ValueError):
    """A sampler option that is out of range, or a study that does not fit the sampler's search space."""


class SpaceExhaustedError(SpikesearchError, RuntimeError):
    """Every point of the search space that may be proposed has been proposed."""
