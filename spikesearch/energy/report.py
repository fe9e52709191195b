"""What energy is reported as: a line per layer, totals, and the convention that they follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from spikesearch.energy.comparison import Comparison


@dataclass(frozen=True)
class LayerEnergy:
    """One line of an energy report; operations and energy are per sample, all time steps together.

    Args:
        name: Name of the layer in the network.
        kind: ``conv``, ``linear``, ``attention`` or ``lif``; also ``shortcut``, and ``product`` of other networks.
        dense_ops: Multiplications without any sparsity.
        input_rate: Mean value of the input per element and step (the firing rate where it is binary).
        macs: Multiply-accumulates.
        acs: Accumulates.
        energy_uJ: Energy in microjoules, of what has a price; of a band, the packed end.
        unpacked_uJ: The other end, of conventions that print a band.
        counts: Accesses and operations by name, of conventions that count accesses.
        unpriced: Operations for which the hardware has no published figure, in words.
    """

    name: str
    kind: str
    dense_ops: float
    input_rate: float
    macs: float
    acs: float
    energy_uJ: float  # noqa: N815 - the unit
    unpacked_uJ: float | None = None  # noqa: N815 - the unit
    counts: Mapping[str, float] | None = None
    unpriced: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, without what the convention does not have."""
        return {name: value for name, value in asdict(self).items() if value not in (None, "")}


@dataclass(frozen=True)
class EnergyReport:
    """Energy of one network on real samples, under one convention.

    Args:
        convention: Its name, such as ``spikformer``, ``strict`` or ``memory``.
        mac_pj: Energy of one MAC in picojoules; ``None`` where the hardware has no published figure.
        ac_pj: Energy of one AC in picojoules; likewise.
        time_steps: Number of simulation steps T.
        n_images: Number of samples that the rates were measured on.
        mean_firing_rate: Spikes per neuron and time step over all LIF neurons.
        layers: One entry per layer.
        first_layer_once_uJ: Total energy with the first layer counted in one time step, as some papers print it for
            images; ``None`` for event frames, of which every time step has its own, and for conventions that count it
            once.
        hardware: Name of the profile that the prices are from.
        prices: Of operations, in words.
        comparison: What a reader should compare the network with.
        unknown: What the network has that nobody can price, and why.
    """

    convention: str
    mac_pj: float | None
    ac_pj: float | None
    time_steps: int
    n_images: int
    mean_firing_rate: float
    layers: tuple[LayerEnergy, ...]
    first_layer_once_uJ: float | None  # noqa: N815 - the unit
    hardware: str
    prices: str
    comparison: Comparison
    unknown: tuple[str, ...] = ()

    @property
    def macs(self) -> float:
        """Multiply-accumulates per sample."""
        return sum(layer.macs for layer in self.layers)

    @property
    def acs(self) -> float:
        """Accumulates per sample."""
        return sum(layer.acs for layer in self.layers)

    @property
    def total_uJ(self) -> float:  # noqa: N802 - the unit
        """Energy per sample in microjoules; of a band, the packed end."""
        return sum(layer.energy_uJ for layer in self.layers)

    @property
    def unpacked_uJ(self) -> float | None:  # noqa: N802 - the unit
        """The other end of a band, per sample; ``None`` of conventions without one."""
        ends = [layer.unpacked_uJ for layer in self.layers if layer.unpacked_uJ is not None]
        return sum(ends) if ends else None

    @property
    def unpriced(self) -> tuple[str, ...]:
        """What is not part of the energy: operations without a price, and what the network has that is not known."""
        lines = (f"{layer.name}: {layer.unpriced} ({self.hardware})" for layer in self.layers if layer.unpriced)
        return (*lines, *self.unknown)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, totals included.

        Of a convention that prints a band, ``packed`` and ``unpacked`` are its ends in microjoules. ``qnn`` is the
        bit-matched quantised network beside it, see :class:`~spikesearch.energy.comparison.Comparison`.
        """
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        band = {} if self.unpacked_uJ is None else {"packed": self.total_uJ, "unpacked": self.unpacked_uJ}
        return {
            **own,
            "layers": [layer.to_dict() for layer in self.layers],
            "macs": self.macs,
            "acs": self.acs,
            "total_uJ": self.total_uJ,
            **band,
            "qnn": self.comparison.qnn_dict(),
            "comparison": self.comparison.to_dict(),
            "unknown": list(self.unknown),
            "unpriced": list(self.unpriced),
        }

    def table(self) -> str:
        """Return the report as text, one line per layer."""
        head = f"{'layer':<26}{'kind':<11}{'dense ops':>13}{'rate':>9}{'MACs':>13}{'ACs':>13}{'uJ':>11}"
        lines = [
            f"{layer.name:<26}{layer.kind:<11}{layer.dense_ops:>13,.0f}{layer.input_rate:>9.4f}"
            f"{layer.macs:>13,.0f}{layer.acs:>13,.0f}{layer.energy_uJ:>11.4f}"
            for layer in self.layers
        ]
        total = f"{'total':<59}{self.macs:>13,.0f}{self.acs:>13,.0f}{self.total_uJ:>11.4f}"
        compared = self.comparison.lines()
        missing = [f"not priced: {what}" for what in self.unpriced]
        notes = f"convention {self.convention!r}, {self.prices}, T = {self.time_steps}, {self.n_images} samples"
        if self.unpacked_uJ is not None:
            notes += f"; from {self.total_uJ:.4f} uJ (packed) to {self.unpacked_uJ:.4f} uJ (unpacked)"
        if self.first_layer_once_uJ is not None:
            notes += f"; first layer counted once: {self.first_layer_once_uJ:.4f} uJ"
        return "\n".join([head, *lines, total, *compared, *missing, notes])
