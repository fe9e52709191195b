"""Networks as ONNX models: standard operators only, any batch size, checked with ONNX Runtime."""

from __future__ import annotations

import json
import logging
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikesearch.errors import ExportError, MissingDependencyError
from spikesearch.export.portable import agreement, trace
from spikesearch.nn import Spikformer

MODEL = "model.onnx"
OLDEST_OPSET = 18  # what torch's exporter writes by itself
INPUT, OUTPUT = "images", "logits"


def write_onnx(folder: Path, net: Spikformer, samples: Tensor, *, opset: int | None = None) -> dict[str, Any]:
    """Write ``model.onnx``: input ``images``, output ``logits``, the first axis of both is free.

    Args:
        folder: Existing folder.
        net: The network on the CPU, in evaluation mode.
        samples: Real samples, ``[N, C, H, W]`` or ``[N, F, C, H, W]``, on which ONNX Runtime has to agree.
        opset: Version of the ONNX operators; ``None`` for the oldest that torch can write.

    Returns:
        See :func:`~spikesearch.export.portable.agreement`.

    Raises:
        MissingDependencyError: Without the extra ``onnx``.
        ExportError: If the opset is not available, or ONNX Runtime computes something else.
    """
    opset = check_onnx(opset)
    path = folder / MODEL
    model = _convert(net, samples, opset)
    path.write_bytes(model.SerializeToString())
    return agreement(net, _runtime(path, opset), samples, "The ONNX model")


def check_onnx(opset: int | None = None) -> int:
    """Make sure that an opset can be written here, and return it; ``None`` is the oldest that torch can write.

    Raises:
        MissingDependencyError: Without the extra ``onnx``.
        ExportError: If the opset is not available.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            import_module(package)
        except ImportError as error:
            raise MissingDependencyError(
                f"ONNX export needs the package {package} ({error}): pip install 'spikesearch[onnx]'"
            ) from None
    import onnx

    opset = OLDEST_OPSET if opset is None else opset
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise ExportError(
            f"`opset` must be from {OLDEST_OPSET} to {newest} with onnx {onnx.__version__}, but got {opset}."
        )
    return opset


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
    onnx.helper.set_model_props(model, {"spikesearch.space.architecture": json.dumps(net.arch.to_dict())})
    onnx.checker.check_model(model, full_check=True)
    return model


def _runtime(path: Path, opset: int) -> Any:
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
