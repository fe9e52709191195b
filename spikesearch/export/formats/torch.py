"""Networks as ``torch.export`` programs: run by PyTorch alone, without this package and without SpikingJelly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from spikesearch.export.portable import agreement, trace
from spikesearch.export.registry import Export, ExportFormat, register

PROGRAM = "model.pt2"
USAGE = f"""import torch

net = torch.export.load("FOLDER/{PROGRAM}").module()
logits = net(images)"""


def _write(folder: Path, export: Export) -> dict[str, Any]:
    path = folder / PROGRAM
    torch.export.save(trace(export.net, export.samples), path)
    loaded = torch.export.load(path).module()
    return agreement(export.net, loaded, export.samples, "The torch.export program", exact=True)


register(ExportFormat("torch", (PROGRAM,), USAGE, _write))
