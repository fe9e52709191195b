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

from spikesearch.nn.units import Form
from spikesearch.space.architecture import Architecture
from spikesearch.space.residual import RESIDUALS

Kind = Literal["pixels", "bits", "counts", "currents", "potentials", "sums"]

INPUT, STREAM, SUMS = "input", "stream", "sums"
WORD = 32  # spikes per word
LARGEST = 255  # of a pixel and of a count
MOST_STEPS = 24  # time steps up to which these potentials fit 32 bits
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
