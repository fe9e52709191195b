"""Energy of a spiking network: counted operations times the energy of one operation, under a named convention.

The defaults are 4.6 pJ per multiply-accumulate and 0.9 pJ per accumulate (45 nm CMOS, 32-bit float; Horowitz, ISSCC
2014, as used by the Spikformer family). :mod:`spikesearch.energy.conventions` has the formulas.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from spikesearch.energy.activity import Activity
from spikesearch.energy.conventions import CONVENTIONS, Prices
from spikesearch.energy.measure import measure_activity
from spikesearch.energy.report import EnergyReport, LayerEnergy

if TYPE_CHECKING:
    from spikesearch.config import ScoringConfig


@dataclass(frozen=True)
class EnergyModel:
    """Turns measured activity into energy under a named convention; see the module for the formulas.

    Args:
        convention: ``spikformer`` (as published), ``strict``, or another that is registered.
        mac_pj: Energy of one MAC in picojoules, >= 0.
        ac_pj: Energy of one AC in picojoules, >= 0.

    Raises:
        ValueError: If the convention is unknown or an energy is negative.
    """

    convention: str = "spikformer"
    mac_pj: float = field(default=4.6, kw_only=True)
    ac_pj: float = field(default=0.9, kw_only=True)

    def __post_init__(self) -> None:
        if self.convention not in CONVENTIONS:
            raise ValueError(f"`convention` {CONVENTIONS.expected(self.convention)}")
        for name in ("mac_pj", "ac_pj"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must be at least 0 (picojoules), but got {getattr(self, name)!r}.")

    @torch.no_grad()
    def report(self, net: nn.Module, x: Tensor, *, batch_size: int = 256) -> EnergyReport:
        """Measure a network on real samples and price its operations.

        Args:
            net: A :class:`~spikesearch.Spikformer`, or a supernet inside ``with supernet.subnet(arch)``. It runs in
                evaluation mode.
            x: Samples ``[N, C, H, W]`` or event frames ``[N, F, C, H, W]``.
            batch_size: Samples per forward pass.

        Raises:
            ValueError: If there is no sample, or ``net`` is another kind of network, or wrapped in one.
        """
        training = {module: module.training for module in net.modules()}
        net.eval()
        try:
            with measure_activity(net) as activity:
                for batch in x.split(batch_size):
                    net(batch)
        finally:
            for module, mode in training.items():
                module.training = mode
        return self.price(activity)

    def price(self, activity: Activity) -> EnergyReport:
        """Turn the activity recorded by :func:`measure_activity` into a report.

        If it was recorded differentiably, every number of the report that depends on spikes is a scalar tensor.

        Raises:
            ValueError: As :meth:`report`.
        """
        if activity.n_images == 0:
            raise ValueError("`x` must hold at least one sample, but got none.")
        layers = self._lines(activity)
        images = {name for name, layer in activity.layers.items() if layer.enters == "pixels"}
        first = sum(layer.macs for layer in layers if layer.name in images)
        repeated = first * (1 - 1 / activity.time_steps) * self.mac_pj * 1e-6
        total = sum(layer.energy_uJ for layer in layers)
        neurons = activity.neurons.values()
        return EnergyReport(
            convention=self.convention,
            mac_pj=self.mac_pj,
            ac_pj=self.ac_pj,
            time_steps=activity.time_steps,
            n_images=activity.n_images,
            mean_firing_rate=sum(layer.spikes for layer in neurons) / sum(layer.elements for layer in neurons),
            layers=tuple(layers),
            first_layer_once_uJ=total - repeated if activity.static else None,
        )

    def price_part(self, activity: Activity) -> float:
        """Return the microjoules per sample of a part of a network; all parts together cost what the whole does.

        Args:
            activity: Of some of its modules, see :meth:`Activity.part`; the head goes with the neurons in front of it.
        """
        return sum(layer.energy_uJ for layer in self._lines(activity))

    def _lines(self, activity: Activity) -> list[LayerEnergy]:
        layers = list(CONVENTIONS[self.convention](activity, Prices(self.mac_pj, self.ac_pj)))
        order = {name: position for position, name in enumerate(activity.order)}
        layers.sort(key=lambda layer: order.get(layer.name, len(order)))
        return layers


def energy_model(config: ScoringConfig) -> EnergyModel:
    """Return the energy model that a study file asks for."""
    return EnergyModel(config.convention, mac_pj=config.mac_pj, ac_pj=config.ac_pj)
