"""Writing down the operations of a network, from shapes alone, in the order in which it runs its modules."""

from __future__ import annotations

from spikesearch.device.layout import (
    FIXED_BITS,
    INPUT,
    MOST_STEPS,
    STREAM,
    SUMS,
    Attention,
    Buffer,
    Count,
    Fire,
    Kind,
    Layout,
    Mask,
    Neurons,
    Operation,
    Pool,
    Shortcut,
    Sum,
    Tile,
    WeightLayer,
)
from spikesearch.errors import ExportError
from spikesearch.nn.plan import BranchPlan
from spikesearch.nn.units import (
    HEAD,
    SPS,
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
        if steps > MOST_STEPS:
            raise ExportError(
                f"The integer network cannot hold `{name}` at {steps} time steps: potentials behind attention are "
                f"exact, and have 32 bits up to {MOST_STEPS} of them."
            )
        if self.repeats:
            size = 2 if steps <= FIXED_BITS else 4
            state = self._add(Buffer(f"{name}.potential", "potentials", self.side**2, width, kept=True, width=size))
        target = self._bits(name, width)
        self._step(Attention(source, target, name, heads, state))
        return target

    def _head(self) -> None:
        unit = self.units[HEAD]
        x = self._read(unit)
        self._step(Sum(x, self._add(Buffer(SUMS, "sums", 1, unit.inputs, kept=True))))
