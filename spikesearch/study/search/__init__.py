"""The search of a study: the loop of a worker, the life of a trial, the pool of workers."""

from __future__ import annotations

from spikesearch._moved import moved_names

__getattr__ = moved_names(__name__)
