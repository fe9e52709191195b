"""What an integer network does, from shapes alone: operations on named buffers, in their order, without weights.

A layout is a list of operations for every time step, and one of what depends on a static image alone, which is done
once per sample. Tokens are ``[positions, channels]``: positions row by row, channels last. Buffers hold

* ``pixels``: the sample, ``[channels, height, width]`` of unsigned bytes;
* ``bits``: spikes; in C packed into words of 32, where every group of channels begins with a word of its own;
* ``counts``: sums of spikes, unsigned bytes: the stream of networks whose residual connections add spikes;
* ``currents``: signed integers: the stream of the other networks, and currents of the first layer that are kept;
* ``potentials``: signed integers that neurons keep between time steps; with one time step there are none;
* ``sums``: what the head averages, signed words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from spikesearch.errors import ExportError
from spikesearch.nn.plan import BranchPlan
from spikesearch.nn.units import (
    HEAD,
    HEAD_NEURONS,
    SPS,
    STEM_STAGES,
    BlockPlace,
    Form,
    Unit,
    block_places,
    branch_plans,
    network_units,
    stage_module,
)
from spikesearch.space.architecture import Architecture
from spikesearch.space.residual import RESIDUALS

Kind = Literal["pixels", "bits", "counts", "currents", "potentials", "sums"]

INPUT, STREAM, SUMS = "input", "stream", "sums"
WORD = 32  # spikes per word
LARGEST = 255  # of a pixel and of a count
FIXED_BITS = 12  # time steps up to which potentials behind an attention product fit 16 bits, see `Attention`


@dataclass(frozen=True)
class Buffer:
    """A named array.

    Args:
        name: Of what writes it.
        kind: See the module.
        positions: Tokens.
        channels: Of every token.
        groups: Parts of equal size that the channels of ``bits`` are packed in.
        kept: Whether it lives from one time step to the next.
        width: Bytes of a value of ``currents`` and ``potentials``.
    """

    name: str
    kind: Kind
    positions: int
    channels: int
    groups: int = 1
    kept: bool = False
    width: int = 2

    @property
    def words(self) -> int:
        """Words of 32 spikes per position."""
        return self.groups * -(-(self.channels // self.groups) // WORD)

    @property
    def nbytes(self) -> int:
        """Bytes in the C program; a sample belongs to whoever calls it."""
        values = self.positions * self.channels
        sizes = {
            "pixels": 0,
            "bits": 4 * self.positions * self.words,
            "counts": values,
            "currents": self.width * values,
            "potentials": self.width * values,
            "sums": 4 * self.channels,
        }
        return sizes[self.kind]


@dataclass(frozen=True)
class Neurons:
    """Neurons of every position and channel.

    Args:
        name: As in the network.
        channels: Their number at a position.
        potential: Buffer of their potentials; ``None`` with one time step, when they start and end at rest.
        own: Whether every channel has a threshold of its own, as those have that read the stream.
        biased: Whether every channel has a bias current of its own; with one time step it is part of the threshold.
    """

    name: str
    channels: int
    potential: str | None
    own: bool = False
    biased: bool = False


@dataclass(frozen=True)
class Operation:
    """Something that reads a buffer and writes another.

    Args:
        source: What it reads.
        target: What it writes, or adds to.
    """

    source: str
    target: str

    @property
    def reads(self) -> tuple[str, ...]:
        """Buffers whose content it needs."""
        return (self.source, *((self.target,) if self.adds else ()), *filter(None, (self.potential,)))

    @property
    def adds(self) -> bool:
        """Whether it adds to the target."""
        return False

    @property
    def potential(self) -> str | None:
        """The potentials that it changes."""
        return None


@dataclass(frozen=True)
class WeightLayer(Operation):
    """A convolution or linear layer with what stands behind it: neurons, or a sum.

    Args:
        name: Of its unit.
        conv: Whether it is a convolution.
        inputs: Channels of the source.
        outputs: Channels of its currents.
        side: Height and width of the source; 0 for a linear layer.
        positions: Of the target.
        size: Height and width of the kernel; 1 for a linear layer.
        stride: Of the convolution.
        depthwise: Whether every channel is convolved by itself.
        neurons: What integrates its currents; ``None``: they go to the target as they are.
        into: Whether its currents are added to what the target holds.
    """

    name: str
    conv: bool
    inputs: int
    outputs: int
    side: int
    positions: int
    size: int
    stride: int
    depthwise: bool
    neurons: Neurons | None = None
    into: bool = False

    @property
    def adds(self) -> bool:
        return self.into

    @property
    def potential(self) -> str | None:
        return None if self.neurons is None else self.neurons.potential

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of its weight: ``[outputs, inputs]``, of a convolution followed by height and width."""
        inputs = 1 if self.depthwise else self.inputs
        return (self.outputs, inputs, *((self.size, self.size) if self.conv else ()))


@dataclass(frozen=True)
class Fire(Operation):
    """Neurons that read currents."""

    neurons: Neurons

    @property
    def potential(self) -> str | None:
        return self.neurons.potential


@dataclass(frozen=True)
class Pool(Operation):
    """The maximum over 3 x 3 positions with stride 2 and padding 1; of spikes, whether there is any."""

    side: int


@dataclass(frozen=True)
class Tile(Operation):
    """A copy in which channels come again from the first, as often as needed; spikes become counts."""


@dataclass(frozen=True)
class Shortcut(Operation):
    """Cells of 2 x 2 positions, averaged if they are currents, else the maximum; channels as in :class:`Tile`."""

    side: int


@dataclass(frozen=True)
class Count(Operation):
    """Adds spikes to counts."""

    @property
    def adds(self) -> bool:
        return True


@dataclass(frozen=True)
class Attention(Operation):
    """``0.125 * (q @ k.T) @ v`` of spikes and neurons with tau 2 and threshold 0.5, exact.

    In units of ``2 ** -(3 + T)`` a potential is ``(v + (n << T)) >> 1``, where ``n`` is the whole number that the
    product gives, and no bit is lost in T steps. From 8 on, ``n`` makes a neuron fire whatever its potential is.

    Args:
        name: Of its neurons.
        heads: Their number; the source holds q, k and v of every head behind one another.
        state: Buffer of the potentials, or ``None``.
    """

    name: str
    heads: int
    state: str | None

    @property
    def potential(self) -> str | None:
        return self.state


@dataclass(frozen=True)
class Mask(Operation):
    """Q-K token attention: k of a head where q has any spike, which is what its neurons of tau 2 and threshold 0.5 do.

    Args:
        name: Of its neurons.
        heads: Their number; the source holds q and k of every head behind one another.
    """

    name: str
    heads: int


@dataclass(frozen=True)
class Sum(Operation):
    """Adds everything that a channel holds at all positions to the sums of the head."""

    @property
    def adds(self) -> bool:
        return True


@dataclass(frozen=True)
class Head:
    """The last layer, once per sample.

    Args:
        inputs: Channels.
        outputs: Classes.
        largest: The largest value of a sum.
    """

    inputs: int
    outputs: int
    largest: int


@dataclass
class Layout:
    """The operations of one network, and the buffers they work on.

    Args:
        arch: The architecture.
        form: See :class:`~spikesearch.nn.units.Form`.
        image_size: Height and width of a sample.
        static: Whether a sample is one image, and not as many frames as there are time steps.
        wide: Whether currents and potentials have 32 bits instead of 16.
        buffers: By name.
        once: Done once per sample, before the first time step.
        step: Done in every time step.
        streams: Buffers of the residual stream, one per stage.
    """

    arch: Architecture
    form: Form
    image_size: int
    static: bool
    wide: bool
    buffers: dict[str, Buffer] = field(default_factory=dict)
    once: list[Operation] = field(default_factory=list)
    step: list[Operation] = field(default_factory=list)
    streams: list[str] = field(default_factory=list)

    @property
    def operations(self) -> list[Operation]:
        """All of them, in their order."""
        return [*self.once, *self.step]

    @property
    def layers(self) -> list[WeightLayer]:
        """The weight layers, but for the head."""
        return [op for op in self.operations if isinstance(op, WeightLayer)]

    @property
    def neurons(self) -> list[Neurons]:
        """The neurons whose thresholds are integers of the program."""
        own = [op.neurons for op in self.operations if isinstance(op, WeightLayer | Fire)]
        return [neurons for neurons in own if neurons is not None]

    @property
    def head(self) -> Head:
        """The last layer."""
        largest = 1 if RESIDUALS[self.form.residual].currents else self.largest_count
        positions = self.buffers[self.streams[-1]].positions
        return Head(self.arch.widths[-1], self.form.num_classes, self.arch.time_steps * positions * largest)

    @property
    def largest_count(self) -> int:
        """The largest value that the sum of spikes can have: one for what begins it, and one per branch."""
        return 1 + sum(isinstance(op, Count) for op in self.step)

    def largest(self, buffer: str) -> int:
        """Return the largest value that a layer may read from a buffer."""
        return {"pixels": LARGEST, "counts": self.largest_count}.get(self.buffers[buffer].kind, 1)


def build_layout(
    arch: Architecture,
    form: Form,
    *,
    image_size: int,
    pool_stages: tuple[int, ...] = (),
    static: bool = True,
    wide: bool = False,
) -> Layout:
    """Return the operations of a network.

    Args:
        arch: Its architecture.
        form: What it shares with all networks of its supernet.
        image_size: Height and width of the images.
        pool_stages: Stages of the stem ``sps`` that end in a max-pooling.
        static: Whether samples are images; else event frames.
        wide: Whether currents and potentials have 32 bits instead of 16.

    Raises:
        ExportError: If a mixer is one that no operation here computes.
    """
    return _Builder(arch, form, image_size, pool_stages, static, wide).layout


class _Builder:
    """Writes the operations down, in the order in which a network runs its modules."""

    def __init__(
        self, arch: Architecture, form: Form, image_size: int, pool_stages: tuple[int, ...], static: bool, wide: bool
    ) -> None:
        self.layout = Layout(arch, form, image_size, static, wide)
        self.units = {unit.name: unit for unit in network_units(arch, form)}
        self.currents = RESIDUALS[form.residual].currents
        self.repeats = arch.time_steps > 1
        self.width = 4 if wide else 2
        self._add(Buffer(INPUT, "pixels", image_size**2, form.in_channels))
        self.side = image_size
        self.stream = ""
        self._stem(pool_stages)
        stage = 0
        for place in block_places(arch):
            if place.stage != stage:
                stage = place.stage
                self._down(f"{stage_module(arch, stage)}down", stage)
            for plan in branch_plans(place.spec.mixer, place.spec.mlp_ratio):
                self._branch(plan, place)
        self._head()

    # --- words ----------------------------------------------------------------------------------------------------

    def _add(self, buffer: Buffer) -> str:
        self.layout.buffers[buffer.name] = buffer
        return buffer.name

    def _step(self, operation: Operation) -> None:
        self.layout.step.append(operation)

    def _new_stream(self, stage: int) -> str:
        kind: Kind = "currents" if self.currents else "counts"
        channels = self.layout.arch.widths[stage]
        self.stream = self._add(Buffer(f"{STREAM}.{stage}", kind, self.side**2, channels, width=self.width))
        self.layout.streams.append(self.stream)
        return self.stream

    def _neurons(self, name: str, channels: int, *, own: bool = False, biased: bool = False) -> Neurons:
        potential = None
        if self.repeats:
            buffer = Buffer(f"{name}.potential", "potentials", self.side**2, channels, kept=True, width=self.width)
            potential = self._add(buffer)
        return Neurons(name, channels, potential, own, biased and self.repeats)

    def _bits(self, name: str, channels: int, groups: int = 1) -> str:
        return self._add(Buffer(name, "bits", self.side**2, channels, groups))

    def _weights(self, unit: Unit, source: str, target: str, neurons: Neurons | None, *, into: bool) -> WeightLayer:
        layer = unit.layer
        conv = layer.op == "conv"
        return WeightLayer(
            source,
            target,
            name=unit.name,
            conv=conv,
            inputs=unit.inputs,
            outputs=unit.outputs * layer.groups,
            side=self.before if conv else 0,
            positions=self.side**2,
            size=layer.size if conv else 1,
            stride=layer.stride if conv else 1,
            depthwise=layer.depthwise,
            neurons=neurons,
            into=into,
        )

    def _unit(self, unit: Unit, source: str, *, groups: int = 1) -> str:
        """Add a layer with neurons; return the buffer of their spikes."""
        assert unit.neurons is not None
        self._enter(unit)
        channels = unit.outputs * unit.layer.groups
        neurons = self._neurons(unit.neurons, channels)
        target = self._bits(unit.neurons, channels, groups)
        if source == INPUT and self.layout.static and self.repeats:
            kept = self._kept(unit, channels)
            self._step(Fire(kept, target, neurons))
        else:
            self._step(self._weights(unit, source, target, neurons, into=False))
        return target

    def _kept(self, unit: Unit, channels: int) -> str:
        """Add the first layer, once per sample; return the buffer of its currents."""
        kept = self._add(Buffer(unit.name, "currents", self.side**2, channels, kept=True, width=self.width))
        self.layout.once.append(self._weights(unit, INPUT, kept, None, into=False))
        return kept

    def _enter(self, unit: Unit) -> None:
        """Take the resolution behind a layer."""
        self.before = self.side
        if unit.layer.op == "conv":
            self.side = (self.side - 1) // unit.layer.stride + 1

    def _read(self, unit: Unit) -> str:
        """Return what a layer that reads the stream gets."""
        if unit.fed_by is None:
            return self.stream
        channels = self.layout.buffers[self.stream].channels
        neurons = self._neurons(unit.fed_by, channels, own=True, biased=unit.normed)
        target = self._bits(unit.fed_by, channels)
        self._step(Fire(self.stream, target, neurons))
        return target

    def _end(self, unit: Unit, source: str) -> None:
        """Add the layer at the end of a branch, whose output is added to the stream."""
        if unit.spiking:
            self._step(Count(self._unit(unit, source), self.stream))
        else:
            self._enter(unit)
            self._step(self._weights(unit, source, self.stream, None, into=True))

    # --- parts ----------------------------------------------------------------------------------------------------

    def _stem(self, pool_stages: tuple[int, ...]) -> None:
        if self.layout.form.stem == "conv":
            self._conv_stem(self.units["stem.embed"])
            return
        *stages, rpe = [self.units[f"stem.{layer.name}"] for layer in SPS]
        x = INPUT
        for i, unit in enumerate(stages):
            if unit.spiking:
                x = self._unit(unit, x)
                if i in pool_stages:
                    x = self._pool(x, f"{unit.name}.pool", unit.outputs)
                continue
            self._enter(unit)
            if i in pool_stages:
                x = self._step_currents(unit, x)
                side, self.side = self.side, (self.side + 1) // 2
                self._step(Pool(x, self._new_stream(0), side))
            else:
                self._step(self._weights(unit, x, self._new_stream(0), None, into=False))
        if self.currents:
            self._end(rpe, self._read(rpe))
        else:
            positions = self._unit(rpe, x)
            self._step(Tile(x, self._new_stream(0)))
            self._step(Count(positions, self.stream))
        assert len(stages) == STEM_STAGES

    def _pool(self, source: str, name: str, channels: int) -> str:
        side, self.side = self.side, (self.side + 1) // 2
        target = self._bits(name, channels)
        self._step(Pool(source, target, side))
        return target

    def _step_currents(self, unit: Unit, source: str) -> str:
        """Add a layer whose currents are needed for a moment; return their buffer."""
        target = self._add(Buffer(unit.name, "currents", self.side**2, unit.outputs, width=self.width))
        self._step(self._weights(unit, source, target, None, into=False))
        return target

    def _conv_stem(self, unit: Unit) -> None:
        if unit.spiking:
            x = self._unit(unit, INPUT)
            self._step(Tile(x, self._new_stream(0)))
            return
        self._enter(unit)
        if self.layout.static and self.repeats:
            x = self._kept(unit, unit.outputs)
        elif unit.outputs == self.layout.arch.widths[0]:
            self._step(self._weights(unit, INPUT, self._new_stream(0), None, into=False))
            return
        else:
            x = self._step_currents(unit, INPUT)
        self._step(Tile(x, self._new_stream(0)))

    def _down(self, name: str, stage: int) -> None:
        unit = self.units[f"{name}.conv"]
        x, old, side = self._read(unit), self.stream, self.side
        self.side = (side + 1) // 2
        self._step(Shortcut(old, self._new_stream(stage), side))
        self.side = side
        self._end(unit, x)

    def _branch(self, plan: BranchPlan, place: BlockPlace) -> None:
        prefix = f"{place.prefix}.{plan.module}"
        units = [self.units[f"{prefix}.{layer.name}"] for layer in plan.layers]
        x = self._read(units[0])
        name = getattr(plan, "name", plan.module)
        if plan.chain:
            for unit in units[:-1]:
                x = self._unit(unit, x)
        elif name in ("ssa", "qk"):
            heads = place.spec.num_heads
            x = self._unit(units[0], x, groups=units[0].layer.groups * heads)
            neurons, width = f"{prefix}.lif", units[0].outputs
            if name == "ssa":
                x = self._attention(x, neurons, width, heads)
            else:
                source, x = x, self._bits(neurons, width)
                self._step(Mask(source, x, neurons, heads))
        else:
            raise ExportError(
                f"The integer network cannot hold `{prefix}`: it knows chains of layers, 'ssa' and 'qk', but not the "
                f"mixer {name!r}."
            )
        self._end(units[-1], x)

    def _attention(self, source: str, name: str, width: int, heads: int) -> str:
        steps, state = self.layout.arch.time_steps, None
        if self.repeats:
            size = 2 if steps <= FIXED_BITS else 4
            state = self._add(Buffer(f"{name}.potential", "potentials", self.side**2, width, kept=True, width=size))
        target = self._bits(name, width)
        self._step(Attention(source, target, name, heads, state))
        return target

    def _head(self) -> None:
        unit = self.units[HEAD]
        x = self._read(unit)
        assert unit.fed_by in (None, HEAD_NEURONS)
        self._step(Sum(x, self._add(Buffer(SUMS, "sums", 1, unit.inputs, kept=True))))


def roots(layout: Layout) -> Mapping[str, list[int]]:
    """Return, for every buffer of currents that are no neurons' own, which currents share a unit: a number per channel.

    A channel that a wider stage repeats keeps its unit, so that a copy and an average need no multiplication.
    """
    known: dict[str, list[int]] = {}
    streams = set(layout.streams)
    fired = {op.source for op in layout.step if isinstance(op, Fire)} - streams
    for op in layout.operations:
        target = layout.buffers[op.target]
        if target.kind != "currents" or op.target in known or op.target in fired:
            continue
        before = known.get(op.source, list(range(target.channels)))
        known[op.target] = [before[c % len(before)] for c in range(target.channels)]
    return known
