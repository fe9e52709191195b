"""Networks in integers as ONNX models: weights of 8 bits behind DequantizeLinear, checked with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from spikesearch.errors import ExportError
from spikesearch.export.formats.c import check_integers
from spikesearch.export.formats.onnx import INPUT, MODEL, OLDEST_OPSET, OUTPUT, USAGE, check_opset, runtime
from spikesearch.export.portable import SAME_CLASS
from spikesearch.export.registry import Export, ExportFormat, register
from spikesearch.nn import Spikformer


def _check(net: Spikformer, options: Mapping[str, Any]) -> None:
    check_opset(net, options)
    check_integers(net, options)


def _write(folder: Path, export: Export) -> dict[str, Any]:
    from spikesearch.device.qdq import qdq_model

    opset = export.options.get("opset", OLDEST_OPSET)
    samples, program = export.samples, export.integers
    frames = None if samples.ndim == 4 else samples.shape[1]
    path = folder / MODEL
    path.write_bytes(qdq_model(program, frames=frames, opset=opset, names=(INPUT, OUTPUT)).SerializeToString())
    expected, got = torch.from_numpy(program.run(samples)), runtime(path, opset)(samples)
    same = float((expected.argmax(-1) == got.argmax(-1)).double().mean())
    if same < SAME_CLASS:
        raise ExportError(
            f"The ONNX model does not compute what the integer network computes: {1 - same:.1%} of {len(samples)} "
            "samples get another class. This is a defect; please report it."
        )
    units = (got / program.logit - expected).abs().amax(-1)
    return {"samples": len(samples), "same_class": same, "same_logits": float((units < 1.5).double().mean())}


register(ExportFormat("onnx-int8", (MODEL,), USAGE, _write, _check, options=("opset",), integer=True))
