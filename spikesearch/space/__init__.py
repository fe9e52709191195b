"""Architectures and the space that they are chosen from; nothing here knows of weights or of torch."""

from __future__ import annotations

from spikesearch.space.architecture import Architecture, BlockSpec, StageSpec, StemSpec
from spikesearch.space.space import SearchSpace, StageChoices

__all__ = ["Architecture", "BlockSpec", "SearchSpace", "StageChoices", "StageSpec", "StemSpec"]
