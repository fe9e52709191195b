"""Networks in integers as memory files, for a circuit: weights, thresholds, shapes, and what every layer should do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spikesearch.export.formats.c import check_integers
from spikesearch.export.registry import Export, ExportFormat, register

SHAPES, ARRAYS, GOLDEN = "shapes.json", "arrays", "golden"
SAMPLES = 4
USAGE = f"""// {SHAPES} lists the operations in their order, and the shape of every file; numbers are two's complement.
reg signed [7:0] weight [0:N-1];
initial $readmemh("FOLDER/{ARRAYS}/head.weight.mem", weight);"""


def _write(folder: Path, export: Export) -> dict[str, Any]:
    from spikesearch.device.memory_files import write_memory_files

    samples = export.samples[:SAMPLES]
    write_memory_files(export.integers, folder, samples)
    return {"samples": len(samples)}


register(
    ExportFormat(
        "memory-files", (SHAPES, ARRAYS, GOLDEN), USAGE, _write, check_integers, integer=True, language="verilog"
    )
)
