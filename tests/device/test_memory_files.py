"""Memory files, read back as a circuit's simulator would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spikesearch.device.memory_files import write_memory_files
from tests.device.networks import CASES, Case, network, program


def numbers(folder: Path, name: str, about: dict[str, Any]) -> np.ndarray:
    values = [int(line, 16) for line in (folder / name).read_text().splitlines()]
    bits = about["bits"]
    signed = [value - 2**bits if about["signed"] and value >= 2 ** (bits - 1) else value for value in values]
    return np.array(signed).reshape(about["shape"])


@pytest.mark.parametrize("case", CASES[::7], ids=str)
def test_every_file_holds_what_the_reference_has(case: Case, tmp_path: Path) -> None:
    integers, (_, samples) = program(case), network(case)
    write_memory_files(integers, tmp_path, samples[:3])
    shapes = json.loads((tmp_path / "shapes.json").read_text())
    files = shapes["files"]
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.mem")} == set(files)
    for name, array in integers.arrays.items():
        path = f"arrays/{name}.mem"
        assert np.array_equal(numbers(tmp_path, path, files[path]), array), name
    ((logits, trace),) = integers.traces(samples[:3], currents=True, spikes=True)
    assert np.array_equal(numbers(tmp_path, "golden/logits.mem", files["golden/logits.mem"]), logits)
    for name, currents in trace.currents.items():
        path = f"golden/{name}.currents.mem"
        assert np.array_equal(numbers(tmp_path, path, files[path]), currents), name
    for name, spikes in trace.spikes.items():
        lines = (tmp_path / f"golden/{name}.spikes.mem").read_text().splitlines()
        words = np.array([[int(line, 16) >> c & 1 for c in range(spikes.shape[-1])] for line in lines])
        assert np.array_equal(words.reshape(spikes.shape), spikes), name
    assert [op["target"] for op in shapes["step"]] == [op.target for op in integers.layout.step]
