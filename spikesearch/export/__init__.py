"""Networks as files: a folder of safetensors and JSON, timm, ONNX, NIR and torch.export programs.

Importing this package costs nothing; the names below are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spikesearch.export.folder import load_network, read_facts, save_network
    from spikesearch.export.formats import FORMATS, export_network

__all__ = ["FORMATS", "export_network", "load_network", "read_facts", "save_network"]

_HOMES = {
    "FORMATS": "spikesearch.export.formats",
    "export_network": "spikesearch.export.formats",
    "load_network": "spikesearch.export.folder",
    "read_facts": "spikesearch.export.folder",
    "save_network": "spikesearch.export.folder",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'spikesearch.export' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
