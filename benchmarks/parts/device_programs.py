"""C programs of networks, compiled for this machine and for a Cortex-M: sizes, latency, instructions."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np

from spikesearch.device import Program
from spikesearch.device.c.project import FLAGS

PARTS = Path(__file__).resolve().parent / "cortex_m"
CORTEX = ("arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-Os")
MACHINE = ("qemu-system-arm", "-M", "mps2-an386", "-nographic", "-semihosting", "-icount", "shift=0")
TICK_NS = 40  # the clock of that machine is 25 MHz; with shift 0 an instruction takes 1 ns
PREFIX = "net"


def output(command: Sequence[str | Path], folder: Path) -> str:
    """Run a command and return what it prints, on either stream."""
    return subprocess.check_output(command, cwd=folder, text=True, stderr=subprocess.STDOUT)


def compiled_sizes(folder: Path, compiler: Sequence[str] = ("cc", "-Os")) -> dict[str, int]:
    """Return bytes of the constants, of the code and of the static memory of a compiled program."""
    output([*compiler, *FLAGS.split(), "-c", "network.c", "-o", "size.o"], folder)
    tools = compiler[0].removesuffix("gcc") if compiler[0].endswith("gcc") else ""
    symbols = re.findall(r"^\w+ (\w+) (\w) (\w+)$", output([f"{tools}nm", "-S", "size.o"], folder), re.MULTILINE)
    text, data, bss = map(int, output([f"{tools}size", "size.o"], folder).splitlines()[1].split()[:3])
    constants = sum(int(size, 16) for size, _, name in symbols if re.fullmatch(rf"{PREFIX}_c\d+", name))
    return {"constants": constants, "code": text + data - constants, "ram": bss}


def host_program(folder: Path, program: Program) -> Callable[[np.ndarray], np.ndarray]:
    """Return the program, compiled for this machine: one raw sample to logits."""
    output(["cc", *FLAGS.split(), "-O3", "-march=native", "-shared", "-fPIC", "network.c", "-o", "network.so"], folder)
    run = getattr(ctypes.CDLL(str(folder / "network.so")), f"{PREFIX}_run")
    logits = np.zeros(program.layout.form.num_classes, np.int32)

    def call(raw: np.ndarray) -> np.ndarray:
        run(ctypes.c_void_p(raw.ctypes.data), ctypes.c_void_p(logits.ctypes.data))
        return logits

    return call


def interleaved(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median microseconds of calls that take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = perf_counter()
            call()
            seconds[name].append(perf_counter() - start)
    return {name: 1e6 * float(np.median(values)) for name, values in seconds.items()}


def cortex_instructions(folder: Path, classes: int) -> tuple[int, int]:
    """Run a program on QEMU's Cortex-M4; return instructions per sample, and logits that differ.

    QEMU counts instructions: it has no model of cycles.
    """
    macros = [f"-DRUN={PREFIX}_run", f"-DCLASSES={classes}"]
    sources = [str(PARTS / "start.c"), "network.c"]
    linking = ["-nostartfiles", "-T", str(PARTS / "link.ld"), "-lc", "--specs=nano.specs"]
    compiler = [CORTEX[0], *CORTEX[1:-1], "-O2", "-std=gnu99", "-I."]
    output([*compiler, *macros, *sources, *linking, "-o", "cortex.elf"], folder)
    told = dict(line.split() for line in output([*MACHINE, "-kernel", "cortex.elf"], folder).splitlines())
    return round(TICK_NS * int(told["ticks"]) / int(told["runs"])), int(told["wrong"])


def has(*tools: str) -> bool:
    """Whether programs are installed."""
    return all(shutil.which(tool) for tool in tools)
