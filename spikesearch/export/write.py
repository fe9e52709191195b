"""The formats that a network can be exported to; each is checked against the network on real samples."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikesearch.energy import EnergyReport
from spikesearch.errors import ExportError, did_you_mean
from spikesearch.export import nir_stem, onnx, torch_program
from spikesearch.export.card import model_card
from spikesearch.export.folder import CARD, FACTS, WEIGHTS, describe, load_network, new_folder, write_weights
from spikesearch.export.portable import agreement
from spikesearch.export.timm import network as timm_network
from spikesearch.io import atomic_write_json, atomic_write_text, user_path
from spikesearch.nn import Spikformer


@dataclass(frozen=True)
class Job:
    """What a format has to write.

    Args:
        net: The network on the CPU, in evaluation mode.
        samples: Real samples, ``[N, C, H, W]`` or ``[N, F, C, H, W]``.
        described: The coming ``model.json``.
        opset: Version of the ONNX operators; ``None`` for the usual one.
    """

    net: Spikformer
    samples: Tensor
    described: Mapping[str, Any]
    opset: int | None


@dataclass(frozen=True)
class ExportFormat:
    """One value of ``--to``.

    Args:
        files: What it writes, besides ``model.json`` and ``README.md``.
        write: Writes them into an empty folder and returns how the result compares with the network.
        check: Fails where nothing can be written, before anything is.
    """

    files: tuple[str, ...]
    write: Callable[[Path, Job], dict[str, Any]]
    check: Callable[[Spikformer, int | None], object] = lambda net, opset: None


def export_network(
    net: Spikformer,
    folder: str | Path,
    to: str,
    *,
    samples: Tensor,
    facts: Mapping[str, Any] | None = None,
    energies: Sequence[EnergyReport] = (),
    opset: int | None = None,
) -> Path:
    """Write a network in some format, with ``model.json`` and a model card, and check it on real samples.

    The folder appears complete and checked, or not at all.

    Args:
        net: The network, on any device.
        folder: Folder to write; one that holds the same network in the same format is replaced.
        to: ``safetensors``, ``timm``, ``onnx``, ``torch`` or ``nir-stem``.
        samples: Some real samples ``[N, C, H, W]`` or ``[N, F, C, H, W]``, normalised.
        facts: What else is known of the network, see :func:`~spikesearch.export.card.model_card`.
        energies: For the model card, one report per convention.
        opset: Version of the ONNX operators, for ``onnx`` alone.

    Returns:
        The folder.

    Raises:
        ExportError: If the format does not exist or cannot hold the network, if the written file computes something
            else, or the folder holds something else.
        MissingDependencyError: Without the extra that the format needs.
        StorageError: If the folder cannot be written.
    """
    folder = user_path(folder, "The folder")
    chosen = check_format(net, to, opset)
    if len(samples) == 0:
        raise ExportError("`samples` must hold at least one sample, but got none.")
    net = copy.deepcopy(net).cpu().eval()
    described = describe(net, facts or {}, (FACTS, CARD, *chosen.files))
    job = Job(net, samples.detach().float().cpu(), described, opset)
    with new_folder(folder, described) as scratch, torch.no_grad():
        described["check"] = chosen.write(scratch, job)
        atomic_write_json(scratch / FACTS, described)
        atomic_write_text(scratch / CARD, model_card(net, to, described, energies))
    return folder


def check_format(net: Spikformer, to: str, opset: int | None = None) -> ExportFormat:
    """Fail where :func:`export_network` is bound to fail, before anything is measured or written.

    Args:
        net: The network.
        to: See :func:`export_network`.
        opset: See :func:`export_network`.

    Returns:
        The format.

    Raises:
        ExportError: If the format does not exist or cannot hold the network, or there is no such opset.
        MissingDependencyError: Without the extra that the format needs.
    """
    if to == "nir":
        nir_stem.refuse_network(net)  # no format, but whoever asks for it shall know why
    if to not in FORMATS:
        raise ExportError(f"`to` must be one of {', '.join(FORMATS)}, but got {to!r}{did_you_mean(to, FORMATS)}")
    if opset is not None and to != "onnx":
        raise ExportError(f"`opset` must be left out for the format {to!r}: only 'onnx' has one.")
    FORMATS[to].check(net, opset)
    return FORMATS[to]


def _write_safetensors(folder: Path, job: Job) -> dict[str, Any]:
    write_weights(folder, job.net)
    atomic_write_json(folder / FACTS, job.described)
    return agreement(job.net, load_network(folder), job.samples, "The folder", exact=True)


def _write_timm(folder: Path, job: Job) -> dict[str, Any]:
    return timm_network.write_timm(folder, job.net, job.samples, job.described)


def _write_onnx(folder: Path, job: Job) -> dict[str, Any]:
    return onnx.write_onnx(folder, job.net, job.samples, opset=job.opset)


def _write_torch(folder: Path, job: Job) -> dict[str, Any]:
    return torch_program.write_program(folder, job.net, job.samples)


def _write_stem(folder: Path, job: Job) -> dict[str, Any]:
    return nir_stem.write_stem(folder, job.net, job.samples)


FORMATS: dict[str, ExportFormat] = {
    "safetensors": ExportFormat((WEIGHTS,), _write_safetensors),
    "timm": ExportFormat((WEIGHTS, timm_network.CONFIG), _write_timm),
    "onnx": ExportFormat((onnx.MODEL,), _write_onnx, lambda net, opset: onnx.check_onnx(opset)),
    "torch": ExportFormat((torch_program.PROGRAM,), _write_torch),
    "nir-stem": ExportFormat((nir_stem.GRAPH,), _write_stem, lambda net, opset: nir_stem.check_stem(net)),
}
