"""What an integer network needs on a device, from shapes alone: bytes of constants, bytes of memory, additions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from spikesearch.device.layout import Attention, Layout, Operation, WeightLayer
from spikesearch.device.program import array_shapes, model_layout
from spikesearch.space.architecture import Architecture

ALIGNMENT = 4  # of every buffer in the arena
STACK = 512  # bytes that calls and local variables need at most; a test measures less


@dataclass(frozen=True)
class DeviceSize:
    """Bytes that the C program of a network has, beside its code.

    Args:
        flash: Constants: weights, multipliers, shifts, biases, thresholds.
        ram: Memory: the arena that holds every buffer, exact.
        kept: How much of it lives from one time step to the next.
        input: Bytes of a sample, which belongs to whoever calls the program.
        additions: Of a sample, if every neuron fired and all tokens saw all: an upper bound.
    """

    flash: int
    ram: int
    kept: int
    input: int
    additions: int

    def to_dict(self) -> dict[str, int]:
        """Return plain JSON types."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return sentences for a page."""
        return [
            f"Flash: {self.flash:,} bytes of constants, and the code, whose size depends on the compiler.",
            f"RAM: {self.ram:,} bytes, one static array; {self.kept:,} of them live from one time step to the next, "
            "the others are the peak of what a layer needs.",
            f"Stack: at most {STACK} bytes, and 4 per class in the function that returns a class.",
            f"A sample: {self.input:,} bytes, which belong to the caller.",
            f"Operations: at most {self.additions:,} additions of 8-bit weights per sample, if every neuron fired in "
            "every time step; what no spike causes is not computed.",
        ]


@dataclass(frozen=True)
class Arena:
    """Where every buffer lies.

    Args:
        offsets: Of every buffer and scratch array, by name, in bytes.
        nbytes: Size of the whole.
    """

    offsets: Mapping[str, int]
    nbytes: int


def device_size(arch: Architecture, model: Mapping[str, Any], *, static: bool = True) -> DeviceSize:
    """Return what the network of an architecture needs on a device, with 16 bits for currents and potentials.

    Args:
        arch: The architecture.
        model: Keyword arguments of :class:`~spikesearch.Spikformer`: ``in_channels``, ``image_size``, ``num_classes``,
            ``pool_stages``, ``residual``, and those of the stem.
        static: Whether samples are images; else event frames.
    """
    return layout_size(model_layout(arch, model, static=static))


def layout_size(layout: Layout) -> DeviceSize:
    """Return what the network of a layout needs on a device."""
    frames = 1 if layout.static else layout.arch.time_steps
    kept = [buffer.nbytes for buffer in layout.buffers.values() if buffer.kept]
    return DeviceSize(
        flash=sum(prod(shape) * dtype.itemsize for _, (shape, dtype) in constants(layout)),
        ram=plan_arena(layout).nbytes,
        kept=sum(map(_aligned, kept)),
        input=frames * layout.form.in_channels * layout.image_size**2,
        additions=sum(_additions(layout, op) for op in layout.operations) + layout.head.inputs * layout.head.outputs,
    )


def constants(layout: Layout) -> list[tuple[str, Any]]:
    """Return name, shape and type of the arrays that the C program has.

    Leaks, and thresholds that a whole layer shares, are single numbers, which are part of its code.
    """
    shared = {f"{neurons.name}.threshold" for neurons in layout.neurons if not neurons.own}
    return [(name, about) for name, about in array_shapes(layout) if name not in shared and not name.endswith(".leak")]


def scratch(operation: WeightLayer | Attention, layout: Layout) -> int:
    """Return the bytes that an operation needs for itself: the sums of a position."""
    if isinstance(operation, WeightLayer):
        return 4 * operation.outputs
    return 4 * (layout.buffers[operation.target].channels // operation.heads)


def scratch_name(operation: WeightLayer | Attention) -> str:
    """Return the name of what :func:`scratch` counts."""
    return f"{operation.name} scratch"


def plan_arena(layout: Layout) -> Arena:
    """Give every buffer a place such that those that live at the same time do not overlap.

    The largest ones choose first, and each takes the lowest place that is free while it lives.
    """
    operations = layout.operations
    lives: dict[str, tuple[int, int, int]] = {}
    for time, operation in enumerate(operations):
        for name in (*operation.reads, operation.target):
            buffer = layout.buffers[name]
            if buffer.nbytes:
                first = 0 if buffer.kept else lives.get(name, (0, time, time))[1]
                lives[name] = (buffer.nbytes, first, len(operations) if buffer.kept else time)
        if isinstance(operation, WeightLayer | Attention):
            lives[scratch_name(operation)] = (scratch(operation, layout), time, time)
    offsets: dict[str, int] = {}
    for name in sorted(lives, key=lambda name: (-lives[name][0], name)):
        size, first, last = lives[name]
        taken = sorted(
            (offsets[other], offsets[other] + _aligned(lives[other][0]))
            for other in offsets
            if lives[other][1] <= last and first <= lives[other][2]
        )
        place = 0
        for start, end in taken:
            if place + _aligned(size) <= start:
                break
            place = max(place, end)
        offsets[name] = place
    nbytes = max(offsets[name] + _aligned(lives[name][0]) for name in offsets)
    return Arena(dict(sorted(offsets.items())), nbytes)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _additions(layout: Layout, operation: Operation) -> int:
    steps = 1 if operation in layout.once else layout.arch.time_steps
    if isinstance(operation, WeightLayer):
        return steps * operation.positions * prod(operation.weight_shape)
    if isinstance(operation, Attention):
        target = layout.buffers[operation.target]
        return steps * target.positions**2 * target.channels
    return 0
