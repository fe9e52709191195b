"""Architectures and the space that they are chosen from; nothing here knows of weights or of torch."""

from __future__ import annotations

from spikesearch.space.architecture import Architecture, BlockSpec, StemSpec
from spikesearch.space.space import SearchSpace

__all__ = ["Architecture", "BlockSpec", "SearchSpace", "StemSpec"]
