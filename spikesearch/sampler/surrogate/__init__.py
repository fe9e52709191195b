"""The model of finished trials that predicts which of many children is the best."""

from __future__ import annotations

from spikesearch.sampler.surrogate.surrogate import GaussianProcessSurrogate, Situation, Surrogate

__all__ = ["GaussianProcessSurrogate", "Situation", "Surrogate"]
