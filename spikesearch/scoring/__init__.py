"""Scoring subnets with inherited weights."""

from spikesearch.scoring.scorer import Score, Scorer

__all__ = ["Score", "Scorer"]
