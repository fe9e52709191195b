"""Conventions: how activity becomes operations, and operations energy. One file each, which registers its function.

Published numbers of one network differ by an order of magnitude between conventions, so that every number that is
printed names its own. A convention depends on what a layer is and on what enters it, never on observed values.

Batch-norms are folded into the layer in front of them. ``spikformer`` and ``strict`` price the multiply-accumulates
(MAC) and accumulates (AC) of one sample at the measured activity; memory traffic is not part of them, and biases are
ignored. In both, spiking self-attention costs ``T * N * D * d_head * (min(f_k, f_v) + f_q)`` ACs for N tokens of width
D, the number of the order ``q (k.T v)``, whatever order executes it; Q-K token attention costs an AC per spike of q, as
masking is a choice and no arithmetic; the first layer on event frames costs its dense MACs times the fraction of
non-zero inputs. ``memory`` counts reads and writes as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from spikesearch.config.hardware import Hardware, MemoryPrices
from spikesearch.energy.activity import Activity
from spikesearch.energy.report import LayerEnergy
from spikesearch.extensions import CONVENTIONS as _REGISTRY
from spikesearch.extensions import Registry


@dataclass(frozen=True)
class Prices:
    """Energy of one operation; ``None`` where the hardware has no published figure.

    Args:
        mac_pj: Of a multiply-accumulate, in picojoules.
        ac_pj: Of an accumulate, in picojoules.
        update_pj: Of a neuron in a time step, in picojoules; ``None`` takes ``mac_pj``.
        memory: For conventions that count reads and writes.
    """

    mac_pj: float | None
    ac_pj: float | None
    update_pj: float | None = None
    memory: MemoryPrices | None = None

    @classmethod
    def of(cls, hardware: Hardware) -> Prices:
        """Return the prices of a profile."""
        return cls(hardware.mac_pj, hardware.ac_pj, hardware.update_pj, hardware.memory)

    def line(
        self,
        name: str,
        kind: str,
        *,
        dense: float,
        rate: float,
        macs: float = 0.0,
        acs: float = 0.0,
        updates: float = 0.0,
    ) -> LayerEnergy:
        """Return a line of a report; operations are per sample.

        Args:
            name: Of the layer.
            kind: Of the layer.
            dense: Multiplications without any sparsity.
            rate: Mean value of the input.
            macs: Multiply-accumulates.
            acs: Accumulates.
            updates: Of neurons; they are shown with the multiply-accumulates.
        """
        update_pj = self.mac_pj if self.update_pj is None else self.update_pj
        picojoules = 0.0
        unpriced = []
        for what, count, price in (
            ("multiply-accumulates", macs, self.mac_pj),
            ("neuron updates", updates, update_pj),
            ("accumulates", acs, self.ac_pj),
        ):
            if price is not None:
                picojoules = picojoules + count * price
            elif count:
                unpriced.append(f"{count:,.0f} {what}")
        energy = picojoules * 1e-6  # picojoules to microjoules
        return LayerEnergy(name, kind, dense, rate, macs + updates, acs, energy, unpriced=" and ".join(unpriced))


Convention = Callable[[Activity, Prices], Iterator[LayerEnergy]]
"""Prices what a network, or a part of one, did: yields a line per layer, in any order."""

CONVENTIONS: Registry[Convention] = _REGISTRY


def register(name: str) -> Callable[[Convention], Convention]:
    """Make a function available as the convention ``name``, as a decorator.

    Raises:
        ValueError: If the name is taken.
    """
    return lambda function: CONVENTIONS.register(name, function)
