"""What formats share: neurons made of plain tensor operations, and the comparison with the network itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import torch
from spikingjelly.activation_based.neuron import LIFNode
from torch import Tensor, nn

from spikesearch.errors import ExportError, MissingDependencyError
from spikesearch.nn import Spikformer
from spikesearch.nn.lif import NormedLIF

# Another runtime adds in another order, which may tip a neuron that is at its threshold: classes must agree on 99 % of
# the samples, and the logits of a typical sample must be the same to 1 % of how much logits differ between samples.
SAME_CLASS = 0.99
TYPICAL_DIFFERENCE = 0.01
ROUNDING = 1e-5


class UnrolledLIF(nn.Module):
    """SpikingJelly's LIF node, step by step in operations that every runtime knows; equal bit for bit, not trainable.

    Args:
        tau: Membrane time constant in time steps, > 1.
        v_threshold: Firing threshold, > 0.
    """

    def __init__(self, tau: float, v_threshold: float) -> None:
        super().__init__()
        self.tau = tau
        self.v_threshold = v_threshold

    def forward(self, x_seq: Tensor) -> Tensor:
        v = torch.zeros_like(x_seq[0])
        spikes = []
        for x in x_seq.unbind():
            h = v + (x - v) / self.tau
            fired = h >= self.v_threshold
            spikes.append(fired.to(x.dtype))
            v = torch.where(fired, 0.0, h)
        return torch.stack(spikes)


class UnrolledNormedLIF(UnrolledLIF):
    """The same for neurons with a batch-norm of their own."""

    def __init__(self, node: NormedLIF) -> None:
        super().__init__(node.tau, node.v_threshold)
        self.bn = node.bn

    def forward(self, x_seq: Tensor) -> Tensor:
        return super().forward(self.bn(x_seq.flatten(0, -2)).view(x_seq.shape))


def portable(net: Spikformer) -> Spikformer:
    """Return a copy on the CPU, in evaluation mode, whose neurons are :class:`UnrolledLIF`."""
    net = copy.deepcopy(net).cpu().eval()
    for name, module in list(net.named_modules()):
        if isinstance(module, NormedLIF):
            net.set_submodule(name, UnrolledNormedLIF(module))
        elif isinstance(module, LIFNode):
            net.set_submodule(name, UnrolledLIF(module.tau, module.v_threshold))
    return net.requires_grad_(False)


def trace(net: Spikformer, samples: Tensor) -> torch.export.ExportedProgram:
    """Return the network as a program for any number of samples.

    Args:
        net: The network.
        samples: Real samples ``[N, C, H, W]`` or ``[N, F, C, H, W]``; only their shape is used, and none is stored.
    """
    example = torch.zeros(2, *samples.shape[1:])
    program = torch.export.export(
        portable(net), (example,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False
    )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names files of this machine
    return program


def require(what: str, packages: Iterable[str], extra: str) -> None:
    """Make sure that the packages of an extra of this package can be imported.

    Raises:
        MissingDependencyError: Naming the first that cannot.
    """
    for package in packages:
        try:
            import_module(package)
        except ImportError as error:
            raise MissingDependencyError(
                f"{what} needs the package {package} ({error}): pip install 'spikesearch[{extra}]'"
            ) from None


@torch.no_grad()
def agreement(
    net: Spikformer, run: Callable[[Tensor], Tensor], samples: Tensor, what: str, *, exact: bool = False
) -> dict[str, Any]:
    """Compare an exported network with the network itself on real samples, as one batch and one by one.

    Args:
        net: The network on the CPU, in evaluation mode.
        run: Runs the exported one: samples to logits.
        samples: ``[N, C, H, W]`` or ``[N, F, C, H, W]``.
        what: What was exported, for the message.
        exact: Demand the same logits, bit for bit, from the batch.

    Returns:
        Plain JSON: number of samples, fraction with the same class, largest difference of a logit.

    Raises:
        ExportError: If the two are different networks.
    """
    expected, got = net(samples), run(samples)
    if got.shape != expected.shape:
        raise ExportError(f"{what} gives logits {tuple(got.shape)} instead of {tuple(expected.shape)}.")
    if run(samples[:1]).shape != expected[:1].shape:
        raise ExportError(f"{what} does not work for a batch of another size.")
    difference = (got - expected).abs()
    same = float((got.argmax(-1) == expected.argmax(-1)).double().mean())
    wrong = round((1 - same) * len(samples))
    spread = float(expected.std(0, correction=0).mean())
    allowed = max(TYPICAL_DIFFERENCE * spread, ROUNDING * float(expected.abs().max()))
    alike = wrong <= max(1, (1 - SAME_CLASS) * len(samples)) and float(difference.amax(-1).median()) <= allowed
    if not (torch.equal(got, expected) if exact else alike):
        raise ExportError(
            f"{what} does not compute what the network computes: {wrong} of {len(samples)} samples get another class, "
            f"the logits differ by up to {float(difference.max()):.3g}. This is a defect; please report it."
        )
    return {"samples": len(samples), "same_class": same, "largest_difference": float(difference.max())}
