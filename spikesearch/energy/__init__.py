"""Energy of a spiking network: what it does on real samples, and what that costs under a named convention.

The names below are loaded when they are first used: conventions need no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spikesearch._lazy import lazy_names

if TYPE_CHECKING:
    from spikesearch.energy.activity import Activity
    from spikesearch.energy.conventions import CONVENTIONS, Convention, Prices, register
    from spikesearch.energy.measure import measure_activity
    from spikesearch.energy.model import EnergyModel, energy_model, every_model
    from spikesearch.energy.report import EnergyReport, LayerEnergy

__all__ = [
    "CONVENTIONS",
    "Activity",
    "Convention",
    "EnergyModel",
    "EnergyReport",
    "LayerEnergy",
    "Prices",
    "energy_model",
    "every_model",
    "measure_activity",
    "register",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Activity": "spikesearch.energy.activity",
        "CONVENTIONS": "spikesearch.energy.conventions",
        "Convention": "spikesearch.energy.conventions",
        "EnergyModel": "spikesearch.energy.model",
        "EnergyReport": "spikesearch.energy.report",
        "LayerEnergy": "spikesearch.energy.report",
        "Prices": "spikesearch.energy.conventions",
        "energy_model": "spikesearch.energy.model",
        "every_model": "spikesearch.energy.model",
        "measure_activity": "spikesearch.energy.measure",
        "register": "spikesearch.energy.conventions",
    },
)
