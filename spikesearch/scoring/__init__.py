"""Scoring subnets with inherited weights, and observing networks."""

from spikesearch.scoring.observation import Observation, observe
from spikesearch.scoring.scorer import Score, Scorer

__all__ = ["Observation", "Score", "Scorer", "observe"]
