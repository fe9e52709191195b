"""Networks as files, in the formats of :data:`FORMATS`; :func:`register` adds one.

Importing this package costs nothing; the names below are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spikesearch._lazy import lazy_names

if TYPE_CHECKING:
    from spikesearch.export.folder import load_network, read_facts, save_network
    from spikesearch.export.registry import FORMATS, Export, ExportFormat, register
    from spikesearch.export.write import check_format, export_network

__all__ = [
    "FORMATS",
    "Export",
    "ExportFormat",
    "check_format",
    "export_network",
    "load_network",
    "read_facts",
    "register",
    "save_network",
]

__getattr__ = lazy_names(
    __name__,
    {
        "FORMATS": "spikesearch.export.registry",
        "Export": "spikesearch.export.registry",
        "ExportFormat": "spikesearch.export.registry",
        "check_format": "spikesearch.export.write",
        "export_network": "spikesearch.export.write",
        "register": "spikesearch.export.registry",
        "load_network": "spikesearch.export.folder",
        "read_facts": "spikesearch.export.folder",
        "save_network": "spikesearch.export.folder",
    },
)
