"""Energy of a spiking network: what it does on real samples, and what that costs under a named convention."""

from __future__ import annotations

from spikesearch.energy.model import Convention, EnergyModel, EnergyReport, LayerEnergy, energy_model

__all__ = ["Convention", "EnergyModel", "EnergyReport", "LayerEnergy", "energy_model"]
