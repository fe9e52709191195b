"""Write a network in some format; what was written is compared with the network on real samples."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from spikesearch.device import Normalisation, Program, quantise
from spikesearch.device.size import layout_size
from spikesearch.energy import EnergyReport
from spikesearch.errors import ExportError
from spikesearch.export.card import model_card
from spikesearch.export.folder import CARD, FACTS, describe, new_folder
from spikesearch.export.registry import FORMATS, Export, ExportFormat
from spikesearch.io import atomic_write_json, atomic_write_text, user_path
from spikesearch.nn import Spikformer


def export_network(
    net: Spikformer,
    folder: str | Path,
    to: str,
    *,
    samples: Tensor,
    facts: Mapping[str, Any] | None = None,
    energies: Sequence[EnergyReport] = (),
    images: Callable[[int], Image] | None = None,
    program: Program | None = None,
    **options: object,
) -> Path:
    """Write a network in some format, with ``model.json`` and a model card, and check it on real samples.

    The folder appears complete and checked, or not at all.

    Args:
        net: The network, on any device.
        folder: Folder to write; one that holds the same network in the same format is replaced.
        to: A key of :data:`spikesearch.export.FORMATS`: ``safetensors``, ``timm``, ``onnx``, ``torch``, ``nir``,
            ``nir-stem``, and of the network in integers ``onnx-int8``, ``c``, ``memory-files``.
        samples: Some real samples ``[N, C, H, W]`` or ``[N, F, C, H, W]``, normalised.
        facts: What else is known of the network, see :func:`~spikesearch.export.card.model_card`.
        energies: For the model card, one report per convention.
        images: Returns the image that a sample was made of, by its position in ``samples``: in its own size, grey or
            RGB as the network takes it. A format that says how images are prepared is checked on them.
        program: The network in integers, for a format that writes it; by default quantised on ``samples``, with the
            ``normalisation`` of ``facts``.
        **options: Those of the format, such as ``opset`` (version of the ONNX operators) of ``onnx``; ``None`` counts
            as not given.

    Returns:
        The folder.

    Raises:
        ExportError: If the format does not exist or cannot hold the network, if the written file computes something
            else, or the folder holds something else.
        MissingDependencyError: Without the extra that the format needs.
        StorageError: If the folder cannot be written.
    """
    folder = user_path(folder, "The folder")
    chosen = check_format(net, to, **options)
    if len(samples) == 0:
        raise ExportError("`samples` must hold at least one sample, but got none.")
    net = copy.deepcopy(net).cpu().eval()
    description = describe(net, facts or {}, (FACTS, CARD, *chosen.files))
    samples = samples.detach().float().cpu()
    if chosen.integer and program is None:
        program = quantise(net, samples, normalisation=_normalisation(description))
    export = Export(net, samples, description, _given(options), images, program)
    with new_folder(folder, description) as scratch, torch.no_grad():
        description["check"] = chosen.write(scratch, export)
        if program is not None:
            description["device"] = layout_size(program.layout).to_dict()
        atomic_write_json(scratch / FACTS, description)
        atomic_write_text(
            scratch / CARD, model_card(net, chosen.usage, description, energies, language=chosen.language)
        )
    return folder


def check_format(net: Spikformer, to: str, **options: object) -> ExportFormat:
    """Fail where :func:`export_network` is bound to fail, before anything is measured or written.

    Args:
        net: The network.
        to: See :func:`export_network`.
        **options: See :func:`export_network`.

    Returns:
        The format.

    Raises:
        ExportError: If the format does not exist, cannot hold the network or has no such option.
        MissingDependencyError: Without the extra that the format needs.
    """
    if to not in FORMATS:
        raise ExportError(f"`to` {FORMATS.expected(to)}")
    chosen, given = FORMATS[to], _given(options)
    for option in given:
        if option not in chosen.options:
            takers = [repr(name) for name, other in FORMATS.items() if option in other.options]
            whose = f"only {' and '.join(takers)} {'has' if len(takers) == 1 else 'have'} one"
            whose = whose if takers else "no format has one"
            raise ExportError(f"`{option}` must be left out for the format {to!r}: {whose}.")
    chosen.check(net, given)
    return chosen


def _normalisation(description: Mapping[str, Any]) -> Normalisation | None:
    known = description.get("normalisation")
    return None if known is None else Normalisation(known["mean"], known["std"])


def _given(options: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in options.items() if value is not None}
