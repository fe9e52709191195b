"""Persistent studies: create, run, resume, and read what was found."""

from __future__ import annotations

from spikesearch.study.run import run_study
from spikesearch.study.store import create_study, load_study

__all__ = ["create_study", "load_study", "run_study"]
