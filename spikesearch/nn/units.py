"""What a network is made of, as a list: its layers, their widths, and what enters them. Nothing here needs torch.

A *unit* is a weight layer with its batch-norm and, unless its currents go into a residual stream, its LIF neurons. The
network is written once, in terms of these: plain and elastic modules are built from the list, and energy, parameters,
statistics, drop path, the features of the sampler and the reports of a doctor read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import fsum
from typing import Literal, NamedTuple

from spikesearch.errors import SpaceError
from spikesearch.extensions import MIXERS
from spikesearch.nn.mlp import ChannelMLP
from spikesearch.nn.plan import BranchPlan, Channels, Layer, Spec
from spikesearch.space.architecture import STEM_DIVISOR, Architecture, BlockSpec, StemSpec
from spikesearch.space.genes import LEARNED_TAU
from spikesearch.space.residual import RESIDUALS

Enters = Literal["pixels", "events", "spikes", "sums", "currents", "values"]
"""What a layer multiplies: images, event counts, spikes, or sums of spikes; in networks of other kinds, any values.

Nothing multiplies currents.
"""

HEAD, HEAD_NEURONS = "head", "head_lif"

# Spiking patch splitting (Zhou et al., ICLR 2023): four convolutions, and one that encodes positions.
SPS = (
    Layer("stages.0", None, 1 / 8, "conv"),
    Layer("stages.1", 1 / 8, 1 / 4, "conv"),
    Layer("stages.2", 1 / 4, 1 / 2, "conv"),
    Layer("stages.3", 1 / 2, 1, "conv", ends_branch=True),
    Layer("rpe", 1, 1, "conv", reads_stream=True, ends_branch=True),
)
STEM_STAGES = sum(layer.name.startswith("stages.") for layer in SPS)
STEMS = ("sps", "conv")
MOST_POSITIONS = 20  # on a side, behind the stem of one convolution, if its stride is not stated

DOWN = Layer("conv", 1, 1, "conv", stride=2, reads_stream=True, ends_branch=True)
"""The way into a stage, but for the first; its input has the width of the stage before."""


class Form(NamedTuple):
    """What all networks of a supernet have in common, as far as their units depend on it.

    Args:
        in_channels: Channels of the images.
        num_classes: Number of classes.
        residual: A name of :data:`~spikesearch.space.residual.RESIDUALS`.
        stem: One of :data:`STEMS`.
        stem_stride: Of the convolution of the stem ``conv``.
    """

    in_channels: int = 1
    num_classes: int = 1
    residual: str = "add"
    stem: str = "sps"
    stem_stride: int = 1


def stem_layers(stem: str, stride: int = 1) -> tuple[Layer, ...]:
    """Return the layers of a stem: published patch splitting, or one strided convolution that sees every pixel."""
    if stem == "sps":
        return SPS
    size = max(3, 2 * stride - 1)
    return (Layer("embed", None, Channels("channels"), "conv", size=size, stride=stride, ends_branch=True),)


def frame_bounds(frames: int, time_steps: int) -> list[int]:
    """Return where the frames of each time step begin, and the number of all: adjacent ones are added, none is left."""
    return [step * frames // time_steps for step in range(time_steps + 1)]


def default_stem_stride(image_size: int) -> int:
    """Return the smallest power of two that leaves at most 20 x 20 positions."""
    stride = 1
    while -(-image_size // stride) > MOST_POSITIONS:
        stride *= 2
    return stride


def branch_plans(mixer: str, mlp_ratio: float) -> tuple[BranchPlan, ...]:
    """Return the residual branches of a block, in the order in which they are run; with ratio 0 there is no MLP.

    Raises:
        SpaceError: If there is no such mixer.
    """
    if mixer not in MIXERS:
        raise SpaceError(f"`mixer` {MIXERS.expected(mixer)}")
    return (MIXERS[mixer], ChannelMLP()) if mlp_ratio else (MIXERS[mixer],)


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
        stage: Number of its stage.
        fed_by: Name of the neurons that read the stream for it, or ``None``.
        normed: Whether these have a batch-norm of their own.
        averages: Whether it sees the average over time and tokens: the head, which has neither batch-norm nor neurons.
    """

    name: str
    layer: Layer
    inputs: int
    outputs: int
    spec: Spec
    enters: Enters
    spiking: bool
    stage: int = 0
    fed_by: str | None = None
    normed: bool = False
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
        """Learnable values: weights, two per channel of a batch-norm, or the bias of the head; time constants."""
        inputs = 1 if self.layer.depthwise else self.inputs
        own = (inputs * self.layer.kernel + (1 if self.averages else 2)) * self.outputs * self.layer.groups
        taus = (self.spiking + (self.fed_by is not None)) if self.spec.tau == LEARNED_TAU else 0
        return own + (2 * self.inputs if self.normed else 0) + taus

    @property
    def nbytes(self) -> int:
        """Bytes of its parameters and buffers in a plain network: float32, and a counter per batch-norm."""
        norms = ([] if self.averages else [self.outputs * self.layer.groups]) + ([self.inputs] if self.normed else [])
        return 4 * self.parameters + sum(2 * 4 * channels + 8 for channels in norms)


class BlockPlace(NamedTuple):
    """A block of a network: how the names of its units begin, its stage, and its genes."""

    prefix: str
    stage: int
    spec: BlockSpec


def stage_module(arch: Architecture, stage: int) -> str:
    """Return how the names of a stage's modules begin."""
    return f"stages.{stage}." if arch.stages else ""


def block_places(arch: Architecture) -> Iterator[BlockPlace]:
    """Yield the blocks of a network."""
    for stage, blocks in enumerate(arch.blocks_of_stages):
        for i, spec in enumerate(blocks):
            yield BlockPlace(f"{stage_module(arch, stage)}blocks.{i}", stage, spec)


def network_units(arch: Architecture, form: Form) -> Iterator[Unit]:
    """Yield the units of a network from the images to the head.

    Args:
        arch: The architecture.
        form: What all networks of its supernet have in common.

    Raises:
        SpaceError: If the architecture does not go with the stem.
    """
    residual = RESIDUALS[form.residual]

    def unit(
        prefix: str, layer: Layer, spec: Spec, reader: str, stream: Enters, stage: int, inputs: int | None = None
    ) -> Unit:
        width = arch.widths[stage]
        reads = layer.reads_stream and residual.currents
        if inputs is None:
            inputs = form.in_channels if layer.inputs is None else layer.width(layer.inputs, width, spec)
        outputs = layer.width(layer.outputs, width, spec)
        read: Enters = stream if layer.reads_stream and not residual.currents else "spikes"
        enters: Enters = "pixels" if layer.inputs is None else read
        spiking = not (layer.ends_branch and residual.currents)
        fed_by = f"{prefix}.{reader}" if reads else None
        return Unit(
            f"{prefix}.{layer.name}",
            layer,
            inputs,
            outputs,
            spec,
            enters,
            spiking,
            stage,
            fed_by,
            reads and residual.normed,
        )

    if form.stem == "sps" and (arch.stem.channels or arch.widths[0] % STEM_DIVISOR):
        raise SpaceError(
            f"The stem `sps` needs a first stage whose width is a multiple of {STEM_DIVISOR}, and no `stem_channels`, "
            f"but got width {arch.widths[0]} and {arch.stem.channels or 'no'} channels; use `model.stem: conv`."
        )
    for layer in stem_layers(form.stem, form.stem_stride):  # before its own branch is added, the stream is binary
        yield unit("stem", layer, arch.stem, "rpe_lif", "spikes", 0)
    stage = 0
    for place in block_places(arch):
        if place.stage != stage:
            stage, before = place.stage, arch.widths[place.stage - 1]
            down = f"{stage_module(arch, stage)}down"
            yield unit(down, DOWN, arch.stages[stage], "lif_in", "sums", stage, before)
        for plan in branch_plans(place.spec.mixer, place.spec.mlp_ratio):
            for layer in plan.layers:
                yield unit(f"{place.prefix}.{plan.module}", layer, place.spec, "lif_in", "sums", stage)
    last = Layer(HEAD, 1, 1, reads_stream=True)
    enters: Enters = "spikes" if residual.currents else "sums"
    fed_by = HEAD_NEURONS if residual.currents else None
    yield Unit(
        HEAD,
        last,
        arch.embed_dim,
        form.num_classes,
        arch.blocks[-1],
        enters,
        False,
        stage,
        fed_by,
        residual.normed,
        averages=True,
    )


def network_neurons(arch: Architecture, form: Form) -> dict[str, Spec | None]:
    """Return whose threshold and time constant the neurons of a network have, by name; ``None``: fixed ones."""
    specs: dict[str, Spec | None] = {}
    for unit in network_units(arch, form):
        if unit.fed_by is not None:
            specs[unit.fed_by] = unit.spec
        if unit.neurons is not None:
            specs[unit.neurons] = unit.spec
    for place in block_places(arch):
        for plan in branch_plans(place.spec.mixer, place.spec.mlp_ratio):
            specs |= {f"{place.prefix}.{plan.module}.{name}": None for name in plan.fixed_neurons}
    return specs


def stem_share() -> float:
    """Return the multiplications per position of patch splitting over ``width ** 2``, without the one on the images."""
    return sum(layer.dense_share(StemSpec(1.0, 2.0), 1) for layer in SPS if layer.inputs is not None)


def block_share(spec: BlockSpec, width: int) -> float:
    """Return the multiplications per token of a block's layers over ``width ** 2``, without products of spikes."""
    # fsum: the sampler's features, and so its proposals, must not depend on the order of the layers.
    plans = branch_plans(spec.mixer, spec.mlp_ratio)
    return fsum(layer.dense_share(spec, width) for plan in plans for layer in plan.layers)
