"""Networks for devices: integers in place of floats.

:func:`quantise` makes a :class:`Program` of a network; what it computes is defined by
:mod:`spikesearch.device.reference`. The names below are loaded when they are first used: a program needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spikesearch._lazy import lazy_names

if TYPE_CHECKING:
    from spikesearch.device.program import Program
    from spikesearch.device.quantiser import BITS, Normalisation, quantise

__all__ = ["BITS", "Normalisation", "Program", "quantise"]

__getattr__ = lazy_names(
    __name__,
    {
        "BITS": "spikesearch.device.quantiser",
        "Normalisation": "spikesearch.device.quantiser",
        "Program": "spikesearch.device.program",
        "quantise": "spikesearch.device.quantiser",
    },
)
