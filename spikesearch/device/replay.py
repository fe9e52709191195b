"""A network that does what its integer twin does, so that it can be measured: its neurons repeat the twin's spikes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from spikesearch.device.layout import Mask
from spikesearch.nn.lif import PlainLIF
from spikesearch.nn.network import Spikformer

if TYPE_CHECKING:
    from spikesearch.device.program import Program

STEM_READER = "stem.rpe_lif"  # sees maps with their channels last


def replay(net: Spikformer, program: Program) -> Spikformer:
    """Return a copy of a network whose neurons give the spikes, and which returns the logits, of its integer twin.

    Whatever measures a network, such as :class:`~spikesearch.EnergyModel`, so measures the integer one, in the same
    words.

    Args:
        net: The network that ``program`` was made of.
        program: The integer network.
    """
    twin = copy.deepcopy(net).eval()
    spikes: dict[str, Tensor] = {}
    logits: list[Tensor] = []
    masks = {operation.name for operation in program.layout.step if isinstance(operation, Mask)}

    def run(module: nn.Module, args: tuple[Tensor]) -> None:
        batches = list(program.traces(args[0].cpu().numpy(), spikes=True))
        logits[:] = [torch.from_numpy(np.concatenate([part for part, _ in batches]) * program.logit).float()]
        for name in batches[0][1].spikes:
            own = np.concatenate([trace.spikes[name] for _, trace in batches], axis=1)
            spikes[name] = torch.from_numpy(own).to(args[0])

    def answer(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        return logits[0].to(out)

    def neuron(name: str) -> Callable[..., Tensor]:
        return lambda module, args, out: _shaped(name, spikes[name], out, masks)

    twin.register_forward_pre_hook(run)
    twin.register_forward_hook(answer)
    for name, module in twin.named_modules():
        if isinstance(module, PlainLIF):
            module.register_forward_hook(neuron(name))
    return twin


def _shaped(name: str, spikes: Tensor, like: Tensor, masks: set[str]) -> Tensor:
    """Return spikes ``[T, N, positions, channels]`` in the shape of what a module gives."""
    if name in masks:  # [T, N, heads, positions, 1]
        return spikes.transpose(2, 3).unsqueeze(-1)
    if like.ndim == 5 and name != STEM_READER:  # maps, with their channels in front
        spikes = spikes.transpose(2, 3)
    return spikes.reshape(like.shape)
