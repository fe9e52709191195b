"""What energy is reported as: a line per layer, totals, and the convention that they follow."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class LayerEnergy:
    """One line of an energy report; operations and energy are per sample, all time steps together.

    Args:
        name: Name of the layer in the network.
        kind: ``conv``, ``linear``, ``attention`` or ``lif``.
        dense_ops: Multiplications without any sparsity.
        input_rate: Mean value of the input per element and step (the firing rate where it is binary).
        macs: Multiply-accumulates.
        acs: Accumulates.
        energy_uJ: Energy in microjoules.
    """

    name: str
    kind: str
    dense_ops: float
    input_rate: float
    macs: float
    acs: float
    energy_uJ: float  # noqa: N815 - the unit


@dataclass(frozen=True)
class EnergyReport:
    """Energy of one network on real samples, under one convention.

    Args:
        convention: Its name, such as ``spikformer`` or ``strict``.
        mac_pj: Energy of one MAC in picojoules.
        ac_pj: Energy of one AC in picojoules.
        time_steps: Number of simulation steps T.
        n_images: Number of samples that the rates were measured on.
        mean_firing_rate: Spikes per neuron and time step over all LIF neurons.
        layers: One entry per layer.
        first_layer_once_uJ: Total energy with the first layer counted in one time step, as some papers print it for
            images; ``None`` for event frames, of which every time step has its own.
    """

    convention: str
    mac_pj: float
    ac_pj: float
    time_steps: int
    n_images: int
    mean_firing_rate: float
    layers: tuple[LayerEnergy, ...]
    first_layer_once_uJ: float | None  # noqa: N815 - the unit

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
        """Energy per sample in microjoules."""
        return sum(layer.energy_uJ for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, totals included."""
        data = asdict(self)
        data["layers"] = [asdict(layer) for layer in self.layers]
        return {**data, "macs": self.macs, "acs": self.acs, "total_uJ": self.total_uJ}

    def table(self) -> str:
        """Return the report as text, one line per layer."""
        head = f"{'layer':<26}{'kind':<11}{'dense ops':>13}{'rate':>9}{'MACs':>13}{'ACs':>13}{'uJ':>11}"
        lines = [
            f"{layer.name:<26}{layer.kind:<11}{layer.dense_ops:>13,.0f}{layer.input_rate:>9.4f}"
            f"{layer.macs:>13,.0f}{layer.acs:>13,.0f}{layer.energy_uJ:>11.4f}"
            for layer in self.layers
        ]
        total = f"{'total':<59}{self.macs:>13,.0f}{self.acs:>13,.0f}{self.total_uJ:>11.4f}"
        notes = (
            f"convention {self.convention!r}, {self.mac_pj} pJ per MAC, {self.ac_pj} pJ per AC, T = {self.time_steps}, "
            f"{self.n_images} samples"
        )
        if self.first_layer_once_uJ is not None:
            notes += f"; first layer counted once: {self.first_layer_once_uJ:.4f} uJ"
        return "\n".join([head, *lines, total, notes])
