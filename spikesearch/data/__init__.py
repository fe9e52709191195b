"""Images and event recordings: read, checked, divided into three splits."""

from __future__ import annotations

from spikesearch.data.bundle import DataBundle, Split
from spikesearch.data.check import check_data, list_kinds
from spikesearch.data.init import init_study_file
from spikesearch.data.registry import load_data

__all__ = ["DataBundle", "Split", "check_data", "init_study_file", "list_kinds", "load_data"]
