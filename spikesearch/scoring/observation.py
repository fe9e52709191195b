"""What a network does on a split: which samples it gets right, and how active its layers are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from spikesearch.energy.activity import Activity
from spikesearch.energy.other import measure_any

if TYPE_CHECKING:
    from spikesearch.data import Split


@dataclass(frozen=True)
class Observation:
    """One pass over a split.

    Args:
        right: Which samples are classified correctly, bool ``[N]`` on the CPU.
        activity: What the layers did, over all samples.
    """

    right: Tensor
    activity: Activity

    @property
    def accuracy(self) -> float:
        """Share of the samples that are classified correctly, as a fraction."""
        return int(self.right.sum()) / len(self.right)


@torch.no_grad()
def observe(model: nn.Module, split: Split, *, batch_size: int, device: torch.device) -> Observation:
    """Run a network, or a supernet with a chosen subnet, once over a split.

    Args:
        model: The network, on ``device``, in the mode that it is to be observed in; of any kind that
            :class:`~spikesearch.EnergyModel` takes. It returns logits ``[N, classes]``, or ``[T, N, classes]``.
        split: Its samples, in order.
        batch_size: Samples per forward pass.
        device: Where to compute.
    """
    right = []
    with measure_any(model) as activity:
        for _, images, labels in split.batches(batch_size):
            logits = model(images.to(device))
            if logits.ndim == 3:  # of every time step
                logits = logits.mean(0)
            right.append(logits.argmax(-1).cpu() == labels)
    return Observation(torch.cat(right), activity)
