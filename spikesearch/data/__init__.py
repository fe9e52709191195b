"""Images and event recordings: read, checked, divided into three splits.

The names are loaded when they are first used, because study files are checked without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from spikesearch.data.kind import KINDS, Inference, Kind, register

if TYPE_CHECKING:
    from spikesearch.data.bundle import ArrayStore, DataBundle, Source, Split
    from spikesearch.data.check import check_data, list_kinds
    from spikesearch.data.init import init_study_file
    from spikesearch.data.load import load_data

__all__ = [
    "KINDS",
    "ArrayStore",
    "DataBundle",
    "Inference",
    "Kind",
    "Source",
    "Split",
    "check_data",
    "init_study_file",
    "list_kinds",
    "load_data",
    "register",
]

_HOMES = {
    "ArrayStore": "bundle",
    "DataBundle": "bundle",
    "Source": "bundle",
    "Split": "bundle",
    "check_data": "check",
    "init_study_file": "init",
    "list_kinds": "check",
    "load_data": "load",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'spikesearch.data' has no attribute {name!r}")
    return getattr(import_module(f"spikesearch.data.{_HOMES[name]}"), name)
