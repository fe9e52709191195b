"""What a spiking network's energy should be compared with, so that the numbers survive a review."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

FEWEST_SPIKES, MOST_SPIKES = 0.15, 1.38  # per synapse and inference (Dampfhoffer et al., IEEE TETCI 2023)
BREAK_EVEN_RATE = 0.057  # spikes per neuron and time step (Yan et al., 2409.08290, version 4)


@dataclass(frozen=True)
class Band:
    """Microjoules per sample under the convention ``memory``.

    Args:
        packed: If an access to memory delivers as many values as fit into it.
        unpacked: If it delivers one.
    """

    packed: float
    unpacked: float


@dataclass(frozen=True)
class NeuroBench:
    """Metrics under the names and definitions of NeuroBench (Yik et al., Nature Communications 2025); per sample.

    Args:
        footprint: Bytes of parameters and buffers.
        connection_sparsity: Share of the weights of layers that are 0.
        activation_sparsity: Share of the outputs of neurons that are 0.
        dense: Synaptic operations if nothing were 0, without biases and the border of convolutions.
        effective_macs: Those of a weight and an input that both are not 0, where the input is not spikes.
        effective_acs: Those where it is.
        attention_acs: Additions of products of spikes, which NeuroBench does not see.
    """

    footprint: int
    connection_sparsity: float
    activation_sparsity: float
    dense: float
    effective_macs: float
    effective_acs: float
    attention_acs: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, under NeuroBench's names."""
        return {
            "footprint": self.footprint,
            "connection_sparsity": self.connection_sparsity,
            "activation_sparsity": self.activation_sparsity,
            "synaptic_operations": {
                "Effective_MACs": self.effective_macs,
                "Effective_ACs": self.effective_acs,
                "Dense": self.dense,
            },
            "attention_ACs": self.attention_acs,
        }


@dataclass(frozen=True)
class Comparison:
    """What a network is compared with; all energies are under the convention ``memory``, whatever that of the report.

    Args:
        mean_firing_rate: Spikes per neuron and time step.
        spikes_per_synapse: Spikes that a synapse sees per inference, on average over all synapses behind neurons.
        activation_bits: Of the bit-matched quantised network: ``ceil(log2(T + 1))``, enough to count T spikes.
        snn: Of this network; ``None`` where the hardware has no prices of memory.
        qnn: Of the quantised network: the same graph, computed once, with multiplications, 8-bit weights and the same
            prices (Yan et al., 2409.08290); likewise.
        neurobench: ``None`` where operations were not counted in detail.
    """

    mean_firing_rate: float
    spikes_per_synapse: float
    activation_bits: int
    snn: Band | None
    qnn: Band | None
    neurobench: NeuroBench | None

    def qnn_dict(self) -> dict[str, Any] | None:
        """Return the quantised network beside this one in plain JSON types; above a ratio of 1 it costs more."""
        if self.snn is None or self.qnn is None:
            return None
        return {
            "convention": "memory",
            "activation_bits": self.activation_bits,
            **asdict(self.qnn),
            "snn": asdict(self.snn),
            "ratio": {name: _over(getattr(self.qnn, name), getattr(self.snn, name)) for name in ("packed", "unpacked")},
        }

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, without the quantised network."""
        return {
            "spikes_per_synapse": self.spikes_per_synapse,
            "spikes_per_synapse_band": [FEWEST_SPIKES, MOST_SPIKES],
            "mean_firing_rate": self.mean_firing_rate,
            "break_even_rate": BREAK_EVEN_RATE,
            "neurobench": None if self.neurobench is None else self.neurobench.to_dict(),
        }

    def lines(self) -> list[str]:
        """Return sentences, one per comparison."""
        side = "below" if self.mean_firing_rate < BREAK_EVEN_RATE else "not below"
        lines = [
            f"spikes per synapse and inference: {self.spikes_per_synapse:.3f}, {_verdict(self.spikes_per_synapse)} "
            f"(Dampfhoffer et al. 2023: {FEWEST_SPIKES} to {MOST_SPIKES} depends on what it is compared with)",
            f"mean firing rate: {self.mean_firing_rate:.4f}, {side} the {BREAK_EVEN_RATE} of Yan et al. 2026",
        ]
        if self.snn is not None and self.qnn is not None:
            lines.append(
                f"quantised network of the same graph, {self.activation_bits}-bit activations, convention 'memory': "
                f"{self.qnn.packed:.4f} to {self.qnn.unpacked:.4f} uJ; this one: {self.snn.packed:.4f} to "
                f"{self.snn.unpacked:.4f} uJ; ratio {_over(self.qnn.packed, self.snn.packed):.2f} to "
                f"{_over(self.qnn.unpacked, self.snn.unpacked):.2f} (above 1: this one spends less)"
            )
        if (bench := self.neurobench) is not None:
            lines.append(
                f"NeuroBench: footprint {bench.footprint:,} bytes, connection sparsity "
                f"{bench.connection_sparsity:.4f}, activation sparsity {bench.activation_sparsity:.4f}, synaptic "
                f"operations: dense {bench.dense:,.0f}, effective MACs {bench.effective_macs:,.0f}, effective ACs "
                f"{bench.effective_acs:,.0f}; attention ACs {bench.attention_acs:,.0f}"
            )
        return lines


def _verdict(spikes: float) -> str:
    if spikes < FEWEST_SPIKES:
        return "few enough"
    return "in between" if spikes <= MOST_SPIKES else "too many"


def _over(first: float, second: float) -> float:
    return first / second if second else 0.0
