"""Networks as ``torch.export`` programs: run by PyTorch alone, without this package and without SpikingJelly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikesearch.export.portable import agreement, trace
from spikesearch.nn import Spikformer

PROGRAM = "model.pt2"


def write_program(folder: Path, net: Spikformer, samples: Tensor) -> dict[str, Any]:
    """Write ``model.pt2``, load it again and compare it with the network on real samples.

    Args:
        folder: Existing folder.
        net: The network on the CPU, in evaluation mode.
        samples: Real samples, ``[N, C, H, W]`` or ``[N, F, C, H, W]``.

    Returns:
        See :func:`~spikesearch.export.portable.agreement`.
    """
    path = folder / PROGRAM
    torch.export.save(trace(net, samples), path)
    loaded = torch.export.load(path).module()
    return agreement(net, loaded, samples, "The torch.export program", exact=True)
