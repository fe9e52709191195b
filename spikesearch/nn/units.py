"""What a network is made of, as a list: its layers, their widths, and what enters them. Nothing here needs torch.

A *unit* is a weight layer with its batch-norm and, unless its currents go into a residual stream, its LIF neurons. The
network is written once, in terms of these: plain and elastic modules are built from the list, and energy, parameters,
statistics, drop path, the features of the sampler and the reports of a doctor read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import fsum
from typing import Literal

from spikesearch.errors import SpaceError
from spikesearch.extensions import MIXERS
from spikesearch.nn.mlp import ChannelMLP
from spikesearch.nn.plan import BranchPlan, Layer, Spec
from spikesearch.space.architecture import Architecture, BlockSpec, StemSpec
from spikesearch.space.residual import RESIDUALS

Enters = Literal["pixels", "events", "spikes", "sums"]
"""What a layer multiplies: images, event counts, spikes, or sums of spikes."""

HEAD, HEAD_NEURONS = "head", "head_lif"

# Spiking patch splitting (Zhou et al., ICLR 2023): four convolutions, and one that encodes positions.
STEM = (
    Layer("stages.0", None, 1 / 8, "conv"),
    Layer("stages.1", 1 / 8, 1 / 4, "conv"),
    Layer("stages.2", 1 / 4, 1 / 2, "conv"),
    Layer("stages.3", 1 / 2, 1, "conv", ends_branch=True),
    Layer("rpe", 1, 1, "conv", reads_stream=True, ends_branch=True),
)
STEM_STAGES = sum(layer.name.startswith("stages.") for layer in STEM)


def branch_plans(mixer: str) -> tuple[BranchPlan, ...]:
    """Return the residual branches of a block, in the order in which they are run.

    Raises:
        SpaceError: If there is no such mixer.
    """
    if mixer not in MIXERS:
        raise SpaceError(f"`mixer` {MIXERS.expected(mixer)}")
    return MIXERS[mixer], ChannelMLP()


@dataclass(frozen=True)
class Unit:
    """A layer of one network.

    Args:
        name: Of its module in the network.
        layer: What it is.
        inputs: Channels of its input.
        outputs: Channels of its output, of one group.
        spec: The genes of its neurons.
        enters: What it multiplies; ``pixels`` become ``events`` when a batch holds event frames.
        spiking: Whether it has neurons.
        fed_by: Name of the neurons that read the stream for it, or ``None``.
        averages: Whether it sees the average over time and tokens: the head, which has neither batch-norm nor neurons.
    """

    name: str
    layer: Layer
    inputs: int
    outputs: int
    spec: Spec
    enters: Enters
    spiking: bool
    fed_by: str | None = None
    averages: bool = False

    @property
    def weights(self) -> str:
        """Name of the module that holds the weights."""
        return self.name if self.averages else f"{self.name}.{self.layer.op}"

    @property
    def neurons(self) -> str | None:
        """Name of its neurons, or ``None``."""
        return f"{self.name}.lif" if self.spiking else None

    @property
    def parameters(self) -> int:
        """Learnable values: weights, and two per channel for the batch-norm, or the bias of the head."""
        return (self.inputs * self.layer.kernel + (1 if self.averages else 2)) * self.outputs * self.layer.groups


def network_units(arch: Architecture, *, in_channels: int, num_classes: int, residual: str) -> Iterator[Unit]:
    """Yield the units of a network from the images to the head.

    Args:
        arch: The architecture.
        in_channels: Channels of the images.
        num_classes: Number of classes.
        residual: A name of :data:`~spikesearch.space.residual.RESIDUALS`.
    """

    def unit(prefix: str, layer: Layer, spec: Spec, reader: str, stream: Enters) -> Unit:
        fed_by = f"{prefix}.{reader}" if layer.reads_stream and currents else None
        inputs = in_channels if layer.inputs is None else layer.width(layer.inputs, arch.embed_dim, spec)
        outputs = layer.width(layer.outputs, arch.embed_dim, spec)
        read: Enters = stream if layer.reads_stream and not currents else "spikes"
        enters: Enters = "pixels" if layer.inputs is None else read
        spiking = not (layer.ends_branch and currents)
        return Unit(f"{prefix}.{layer.name}", layer, inputs, outputs, spec, enters, spiking, fed_by)

    currents = RESIDUALS[residual].currents
    for layer in STEM:  # whose own branch is the first to be added to the stream: before, that is binary
        yield unit("stem", layer, arch.stem, "rpe_lif", "spikes")
    for i, spec in enumerate(arch.blocks):
        for plan in branch_plans(spec.mixer):
            for layer in plan.layers:
                yield unit(f"blocks.{i}.{plan.module}", layer, spec, "lif_in", "sums")
    last = Layer(HEAD, 1, 1, reads_stream=True)
    enters: Enters = "spikes" if currents else "sums"
    fed_by = HEAD_NEURONS if currents else None
    yield Unit(HEAD, last, arch.embed_dim, num_classes, arch.blocks[-1], enters, False, fed_by, averages=True)


def network_neurons(arch: Architecture, residual: str) -> dict[str, Spec | None]:
    """Return whose threshold and time constant the neurons of a network have, by name; ``None``: fixed ones."""
    specs: dict[str, Spec | None] = {}
    for unit in network_units(arch, in_channels=1, num_classes=1, residual=residual):
        if unit.fed_by is not None:
            specs[unit.fed_by] = unit.spec
        if unit.neurons is not None:
            specs[unit.neurons] = unit.spec
    for i, spec in enumerate(arch.blocks):
        for plan in branch_plans(spec.mixer):
            specs |= {f"blocks.{i}.{plan.module}.{name}": None for name in plan.fixed_neurons}
    return specs


def stem_share() -> float:
    """Return the multiplications per position of a stem over ``embed_dim ** 2``, without the layer on the images."""
    return sum(layer.dense_share(StemSpec(1.0, 2.0)) for layer in STEM if layer.inputs is not None)


def block_share(spec: BlockSpec) -> float:
    """Return the multiplications per token of a block's layers over ``embed_dim ** 2``, without products of spikes."""
    # fsum: the sampler's features, and so its proposals, must not depend on the order of the layers.
    return fsum(layer.dense_share(spec) for plan in branch_plans(spec.mixer) for layer in plan.layers)
