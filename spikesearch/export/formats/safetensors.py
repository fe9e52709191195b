"""Networks as a folder of safetensors and JSON, which this package reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spikesearch.export.folder import FACTS, WEIGHTS, load_network, write_weights
from spikesearch.export.portable import agreement
from spikesearch.export.registry import Export, ExportFormat, register
from spikesearch.io import atomic_write_json

USAGE = """from spikesearch.export import load_network

net = load_network("FOLDER")
logits = net(images)"""


def _write(folder: Path, export: Export) -> dict[str, Any]:
    write_weights(folder, export.net)
    atomic_write_json(folder / FACTS, export.description)
    return agreement(export.net, load_network(folder), export.samples, "The folder", exact=True)


register(ExportFormat("safetensors", (WEIGHTS,), USAGE, _write))
