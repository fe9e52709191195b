"""Networks for devices: integers in place of floats.

:func:`quantise` makes a :class:`Program` of a network; what it computes is defined by
:mod:`spikesearch.device.reference`. The names below are loaded when they are first used: a program needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spikesearch._lazy import lazy_names

if TYPE_CHECKING:
    from spikesearch.device.c.project import write_project
    from spikesearch.device.memory_files import write_memory_files
    from spikesearch.device.program import Program
    from spikesearch.device.quantiser import BITS, Normalisation, quantise
    from spikesearch.device.size import DeviceSize, device_size

__all__ = [
    "BITS",
    "DeviceSize",
    "Normalisation",
    "Program",
    "device_size",
    "quantise",
    "write_memory_files",
    "write_project",
]

__getattr__ = lazy_names(
    __name__,
    {
        "BITS": "spikesearch.device.quantiser",
        "DeviceSize": "spikesearch.device.size",
        "Normalisation": "spikesearch.device.quantiser",
        "Program": "spikesearch.device.program",
        "device_size": "spikesearch.device.size",
        "quantise": "spikesearch.device.quantiser",
        "write_memory_files": "spikesearch.device.memory_files",
        "write_project": "spikesearch.device.c.project",
    },
)
