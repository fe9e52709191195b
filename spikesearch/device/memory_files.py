"""An integer network as memory files that ``$readmemh`` reads, and what every layer does on some samples."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spikesearch.device.program import Program
from spikesearch.io import atomic_write_text

if TYPE_CHECKING:
    from spikesearch.device.program import Samples


RULES = {
    "input": "byte = clip(round(sample * std + mean), 0, 255); the first layer multiplies byte - input.zero",
    "rounded(x, n)": "floor(x / 2^n + 1/2)",
    "saturated(x)": "clip(x, -largest_current - 1, largest_current); whatever is kept as currents or potentials",
    "WeightLayer": "rounded(sum * multiplier, shift) + bias per output; convolutions are padded with size // 2 zeros "
    "(input.zero for bytes) on every side; positions row by row",
    "Fire, neurons of a layer": "c = saturated(current + bias, if there is one); one time step: spike = c >= "
    "threshold; several: h = v + rounded((c - v) * multiplier, shift) of .leak, spike = h >= threshold, v = 0 if "
    "spike else h",
    "Attention": "n = min(8, sum over positions j of popcount(q_i & k_j) * v_j); one time step: spike = n >= 8; T of "
    "them: h = (state + n * 2^T) >> 1, spike = h >= 4 * 2^T, state = 0 if spike else h",
    "Mask": "k of a head where q has any spike in that head, else 0",
    "Tile": "channels again from the first, as often as the target is wider",
    "Count": "adds spikes to counts",
    "Shortcut": "2x2 positions, those beyond the edge left out: currents as rounded mean, counts as maximum; channels "
    "as Tile",
    "Pool": "a 3x3 window of stride 2, padded with zeros: any spike, or the largest count",
    "Sum": "spikes of all positions and time steps per channel; the head multiplies these",
}
"""What the operations compute, beside their shapes; docs/device.md says it at length."""


def write_memory_files(program: Program, folder: str | Path, samples: Samples) -> None:
    """Write ``shapes.json``, ``arrays/`` and ``golden/`` into an existing folder.

    A file holds one number per line, in hexadecimal two's complement, the last index fastest; one of spikes holds a
    token per line, whose lowest bit is the first channel.

    Args:
        program: The integer network.
        folder: Where to write.
        samples: As :meth:`Program.run` takes them; all of them are ``golden``.
    """
    path, layout = Path(folder), program.layout
    for name in ("arrays", "golden"):
        (path / name).mkdir()
    files: dict[str, dict[str, Any]] = {}

    def write(name: str, values: NDArray[Any], axes: str, bits: int = 0) -> None:
        lines = _words(values) if bits else _numbers(values)
        atomic_write_text(path / name, "".join(f"{line}\n" for line in lines))
        width = bits or 8 * values.dtype.itemsize
        signed = not bits and values.dtype.kind == "i"
        files[name] = {"shape": list(values.shape), "axes": axes, "bits": width, "signed": signed}

    for name, array in sorted(program.arrays.items()):
        axes = "outputs, inputs, height, width" if array.ndim > 1 else "channels"
        if name.endswith(".leak"):
            axes = "multiplier and shift"
        write(f"arrays/{name}.mem", array, axes.partition(", height")[0] if array.ndim == 2 else axes)
    write("golden/input.mem", program.raw(samples), "samples, steps, channels, height, width")
    batches = list(program.traces(samples, currents=True, spikes=True))
    write("golden/logits.mem", np.concatenate([logits for logits, _ in batches]), "samples, classes")
    axes = "steps, samples, positions, channels"
    for name in batches[0][1].currents:
        values = np.concatenate([trace.currents[name] for _, trace in batches], 1)
        write(f"golden/{name}.currents.mem", values, axes)
    for name in batches[0][1].spikes:
        values = np.concatenate([trace.spikes[name] for _, trace in batches], 1)
        write(f"golden/{name}.spikes.mem", values, axes, bits=values.shape[-1])
    shapes = {
        "time_steps": layout.arch.time_steps,
        "static": layout.static,
        "largest_current": program.limit,
        "input": {"mean": list(program.mean), "std": list(program.std)},
        "logit": program.logit,
        "rules": RULES,
        "buffers": [asdict(buffer) for buffer in layout.buffers.values()],
        "once": [{"operation": type(op).__name__, **asdict(op)} for op in layout.once],
        "step": [{"operation": type(op).__name__, **asdict(op)} for op in layout.step],
        "head": asdict(layout.head),
        "files": files,
    }
    atomic_write_text(path / "shapes.json", json.dumps(shapes, indent=1) + "\n")


def _numbers(values: NDArray[Any]) -> Iterator[str]:
    digits = 2 * values.dtype.itemsize
    mask = (1 << (4 * digits)) - 1
    return (f"{int(value) & mask:0{digits}x}" for value in values.ravel().tolist())


def _words(spikes: NDArray[Any]) -> Iterator[str]:
    digits = -(-spikes.shape[-1] // 4)
    for row in spikes.reshape(-1, spikes.shape[-1]):
        yield f"{int(''.join(map(str, row[::-1].tolist())), 2):0{digits}x}"
