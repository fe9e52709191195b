"""Networks in integers as C99 programs that compile and test themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spikesearch.errors import ExportError
from spikesearch.export.registry import Export, ExportFormat, register
from spikesearch.nn import Spikformer

FILES = ("network.h", "network.c", "test_vectors.h", "main.c", "Makefile", "CMakeLists.txt")
VECTORS = 8  # samples that the folder is tested with
USAGE = """#include "network.h" /* all names begin with PREFIX, see there */

int best = PREFIX_classify(sample);

int32_t logits[PREFIX_CLASSES];
PREFIX_run(sample, logits);

/* `make check` compiles the program and compares every layer with the integer reference. */"""


def _write(folder: Path, export: Export) -> dict[str, Any]:
    from spikesearch.device.c.project import check_project, write_project

    samples = export.samples[:VECTORS]
    write_project(export.integers, folder, samples, prefix=name_of(export))
    differences = check_project(folder)
    if differences:
        raise ExportError(
            f"The C program does not compute what the integer network computes: {differences} layers or logits of "
            f"{len(samples)} samples differ. This is a defect; please report it."
        )
    outcome = "not compiled: no C compiler here; run `make check`" if differences is None else differences
    return {"samples": len(samples), "differences": outcome}


def name_of(export: Export) -> str:
    """Return what a network is called: study and trial, or its key."""
    about = export.description
    parts = [about.get("study"), about.get("trial", about.get("preset"))]
    return "_".join(str(part) for part in parts if part is not None) or f"net_{export.net.arch.key}"


def check_integers(net: Spikformer, options: object) -> None:
    """Make sure that a network can be computed with integers.

    Raises:
        ExportError: Naming what cannot.
    """
    from spikesearch.device.quantiser import check_network

    check_network(net)


register(ExportFormat("c", FILES, USAGE, _write, check_integers, integer=True, language="c"))
