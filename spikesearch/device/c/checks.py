"""Checksums of what every layer does, as the C program counts them when it is compiled for its test."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikesearch.device.layout import Attention, Layout, Mask
from spikesearch.device.program import Program
from spikesearch.device.reference import Trace
from spikesearch.nn.units import HEAD

FACTOR = 16777619  # also in kernels.c


def checksums(program: Program, trace: Trace, logits: NDArray[np.int32]) -> NDArray[np.uint32]:
    """Return what the program, compiled for its test, counts for every sample: ``[N, checks]``."""
    known = {f"{name} currents": values for name, values in trace.currents.items()}
    known |= {f"{name} spikes": values for name, values in trace.spikes.items()}
    known[f"{HEAD} currents"] = logits[None, :, None]
    return np.stack([_checksum(known[name]) for name in check_names(program.layout)], 1)


def _checksum(values: NDArray[Any]) -> NDArray[np.uint32]:
    """Return ``sum(v[i] * FACTOR ** (n - 1 - i))`` modulo 2 ** 32 of ``[T, N, positions, channels]``, per sample."""
    rows = values.astype(np.int64).swapaxes(0, 1).reshape(values.shape[1], -1).astype(np.uint32).astype(np.uint64)
    factors = np.full(rows.shape[1], FACTOR, np.uint64)
    factors[-1] = 1
    powers = np.multiply.accumulate(factors[::-1])[::-1]  # modulo 2 ** 64, of which 2 ** 32 is a divisor
    sums: NDArray[np.uint32] = ((rows * powers).sum(1, dtype=np.uint64) % 2**32).astype(np.uint32)
    return sums


def check_names(layout: Layout) -> list[str]:
    """Return the names of what has a checksum."""
    layers = [f"{layer.name} currents" for layer in layout.layers]
    neurons = [f"{neurons.name} spikes" for neurons in layout.neurons]
    products = [f"{op.name} spikes" for op in layout.step if isinstance(op, Attention | Mask)]
    return [*layers, *neurons, *products, f"{HEAD} currents"]
