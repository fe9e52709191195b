"""Networks as ONNX models: standard operators only, any batch size, checked with ONNX Runtime."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikesearch.errors import ExportError
from spikesearch.export.portable import agreement, require, trace
from spikesearch.export.registry import Export, ExportFormat, register
from spikesearch.nn import Spikformer

MODEL = "model.onnx"
OLDEST_OPSET = 18  # what torch's exporter writes by itself
INPUT, OUTPUT = "images", "logits"
USAGE = f"""import onnxruntime

session = onnxruntime.InferenceSession("FOLDER/{MODEL}")
({OUTPUT},) = session.run(["{OUTPUT}"], {{"{INPUT}": images}})  # float32"""


def _write(folder: Path, export: Export) -> dict[str, Any]:
    opset = export.options.get("opset", OLDEST_OPSET)
    path = folder / MODEL
    path.write_bytes(_convert(export.net, export.samples, opset).SerializeToString())
    return agreement(export.net, runtime(path, opset), export.samples, "The ONNX model")


def check_opset(net: Spikformer, options: Mapping[str, Any]) -> None:
    """Make sure that models can be written here, with the version of the operators that is wanted."""
    require("ONNX export", ("onnx", "onnxscript", "onnxruntime"), "onnx")
    import onnx

    opset, newest = options.get("opset", OLDEST_OPSET), onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise ExportError(
            f"`opset` must be from {OLDEST_OPSET} to {newest} with onnx {onnx.__version__}, but got {opset}."
        )


def _convert(net: Spikformer, samples: Tensor, opset: int) -> Any:
    import onnx

    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.ERROR)  # its progress is of no use to whoever wants a file
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                trace(net, samples),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise ExportError(f"torch cannot write this network with ONNX opset {opset}: {_first_line(error)}") from error
    finally:
        logger.setLevel(level)
    if program is None:
        raise ExportError(f"torch cannot write this network with ONNX opset {opset}.")
    model = program.model_proto
    written = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if written != opset:
        raise ExportError(f"torch wrote ONNX opset {written} where {opset} was asked for; ask for {written}.")
    _forget_origin(model)
    onnx.helper.set_model_props(model, {"spikesearch.architecture": json.dumps(net.arch.to_dict())})
    onnx.checker.check_model(model, full_check=True)
    return model


def runtime(path: Path, opset: int) -> Callable[[Tensor], Tensor]:
    """Return what runs a model: samples to logits."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base
        raise ExportError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load a model of opset {opset}: {_first_line(error)}"
        ) from error

    def run(samples: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {INPUT: samples.numpy()})[0])

    return run


def _forget_origin(model: Any) -> None:
    """Remove what the exporter notes of the traced program; it names modules and files of this machine."""
    graph = model.graph
    del graph.value_info[:]  # every reader infers the shapes in between
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    for item in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


register(ExportFormat("onnx", (MODEL,), USAGE, _write, check_opset, options=("opset",)))
