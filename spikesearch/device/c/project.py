"""A folder that compiles: the C program with test vectors, a test, and files for make and CMake."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spikesearch.device.c.checks import checksums
from spikesearch.device.c.source import HEADER, SOURCE, CSource, c_source
from spikesearch.device.program import Program
from spikesearch.errors import ExportError
from spikesearch.io import atomic_write_text

if TYPE_CHECKING:
    from spikesearch.device.program import Samples

VECTORS = "test_vectors.h"
FILES = (HEADER, SOURCE, VECTORS, "main.c", "Makefile", "CMakeLists.txt")
PATIENCE_S = 600  # seconds that the test of a C program may take
_QUIET: dict[str, Any] = {"capture_output": True, "text": True, "check": False}
FLAGS = "-std=c99 -Wall -Wextra -Werror -pedantic"


def write_project(program: Program, folder: str | Path, samples: Samples, *, prefix: str) -> Path:
    """Write the C program of an integer network into an existing folder; ``make check`` compares it with the reference.

    Args:
        program: The integer network.
        folder: Where to write.
        samples: Of the test vectors, as :meth:`Program.run` takes them.
        prefix: How all names of the program begin; what is no letter or digit becomes an underscore.

    Returns:
        The folder.
    """
    folder = Path(folder)
    prefix = identifier(prefix)
    source = c_source(program, prefix)
    texts = {
        HEADER: source.header,
        SOURCE: source.source,
        VECTORS: _vectors(program, samples, source, prefix),
        "main.c": _MAIN.replace("@p@", prefix).replace("@U@", prefix.upper()),
        "Makefile": _MAKEFILE.replace("@U@", prefix.upper()),
        "CMakeLists.txt": _CMAKE.replace("@p@", prefix).replace("@U@", prefix.upper()),
    }
    for name, text in texts.items():
        atomic_write_text(folder / name, text)
    return folder


def identifier(text: str) -> str:
    """Return text as a C identifier in small letters."""
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    return f"net_{name}" if not name or name[0].isdigit() else name


def check_project(folder: Path) -> int | None:
    """Compile and run the test of a program; return the number of differences, or ``None`` without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "check_network"
        macro = f"-D{_macro(folder)}_CHECK"
        sources = [str(folder / name) for name in (SOURCE, "main.c")]
        built = subprocess.run([compiler, *FLAGS.split(), "-O1", macro, *sources, "-o", str(path)], **_QUIET)
        if built.returncode:
            raise ExportError(
                f"The C program does not compile: {built.stderr.strip().splitlines()[:1]}. This is a defect; please "
                "report it."
            )
        try:
            ended = subprocess.run([str(path)], timeout=PATIENCE_S, **_QUIET)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ExportError(f"The test of the C program cannot be run here: {error}.") from None
    found = re.fullmatch(r"(?s).*vectors, (\d+) differences\n", ended.stdout)
    if found is None:
        raise ExportError(
            f"The test of the C program ended with status {ended.returncode} before it said anything. This is a "
            "defect; please report it."
        )
    return int(found[1])


def _macro(folder: Path) -> str:
    header = (folder / HEADER).read_text(encoding="utf-8")
    return header.partition("#ifndef ")[2].partition("_H\n")[0]


def _vectors(program: Program, samples: Samples, source: CSource, prefix: str) -> str:
    raw = program.raw(samples)
    logits, sums = [], []
    for part, trace in program.traces(samples, currents=True, spikes=True):
        logits.append(part)
        sums.append(checksums(program, trace, part))
    u = prefix.upper()
    names = ",\n    ".join(f'"{name}"' for name in source.checks)
    return (
        f"/* Samples, and what the integer reference computes from them. */\n"
        f"#define VECTORS {len(raw)}\n\n"
        f"static const char *const check_names[{u}_CHECKS] = {{\n    {names}}};\n\n"
        + _rows("uint8_t", f"inputs[VECTORS][{u}_INPUT_BYTES]", raw.reshape(len(raw), -1))
        + _rows("int32_t", f"expected_logits[VECTORS][{u}_CLASSES]", np.concatenate(logits))
        + _rows("uint32_t", f"expected_checks[VECTORS][{u}_CHECKS]", np.concatenate(sums), "u")
    )


def _rows(kind: str, declaration: str, values: NDArray[Any], suffix: str = "") -> str:
    rows = ",\n".join("    {" + ", ".join(f"{value}{suffix}" for value in row) + "}" for row in values.tolist())
    return f"static const {kind} {declaration} = {{\n{rows}}};\n\n"


_MAIN = """/* Compares every layer and every logit with the integer reference; exits with 0 only if all agree. */
#include <stdio.h>

#include "network.h"
#include "test_vectors.h"

int main(void)
{
    int i, k, wrong = 0;
    for (i = 0; i < VECTORS; i++) {
        int32_t logits[@U@_CLASSES];
        @p@_run(inputs[i], logits);
        for (k = 0; k < @U@_CLASSES; k++)
            if (logits[k] != expected_logits[i][k]) {
                wrong++;
                printf("vector %d: logit %d differs\\n", i, k);
            }
#ifdef @U@_CHECK
        for (k = 0; k < @U@_CHECKS; k++)
            if (@p@_checks[k] != expected_checks[i][k]) {
                wrong++;
                printf("vector %d: %s differ\\n", i, check_names[k]);
            }
#else
        (void)expected_checks;
        (void)check_names;
#endif
    }
    printf("%d vectors, %d differences\\n", (int)VECTORS, wrong);
    return wrong != 0;
}
"""

_MAKEFILE = f"""# make check: compile, compare with the test vectors. CC and CFLAGS may be given.
CC ?= cc
CFLAGS ?= -O2
FLAGS = {FLAGS}

network.o: network.c network.h
\t$(CC) $(FLAGS) $(CFLAGS) -c network.c -o $@

check: network.c main.c network.h test_vectors.h
\t$(CC) $(FLAGS) $(CFLAGS) -D@U@_CHECK network.c main.c -o check_network
\t./check_network

clean:
\trm -f network.o check_network

.PHONY: check clean
"""

_CMAKE = """cmake_minimum_required(VERSION 3.10)
project(@p@ C)
set(CMAKE_C_STANDARD 99)

add_library(@p@ STATIC network.c)
target_include_directories(@p@ PUBLIC ${CMAKE_CURRENT_SOURCE_DIR})

if(CMAKE_SOURCE_DIR STREQUAL CMAKE_CURRENT_SOURCE_DIR)
  add_executable(check_network network.c main.c)
  target_compile_definitions(check_network PRIVATE @U@_CHECK)
  enable_testing()
  add_test(NAME check_network COMMAND check_network)
endif()
"""
