"""Energy of a spiking network: counted operations times the energy of one operation, under a named convention.

The defaults are 4.6 pJ per multiply-accumulate and 0.9 pJ per accumulate (45 nm CMOS, 32-bit float; Horowitz, ISSCC
2014, as used by the Spikformer family). :mod:`spikesearch.energy.conventions` has the formulas.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spikesearch.config.hardware import DEFAULT_HARDWARE, PROFILES, Hardware, no_memory_prices
from spikesearch.config.hardware import hardware as profile_of
from spikesearch.energy.activity import Activity
from spikesearch.energy.conventions import CONVENTIONS, Prices
from spikesearch.energy.other import measure_any
from spikesearch.energy.qnn import compare
from spikesearch.energy.report import EnergyReport, LayerEnergy

if TYPE_CHECKING:
    from spikesearch.config import ScoringConfig


@dataclass(frozen=True, init=False)
class EnergyModel:
    """Turns measured activity into energy under a named convention; see the module for the formulas.

    Args:
        convention: ``spikformer`` (as published), ``strict``, ``memory``, or another that is registered.
        mac_pj: Energy of one MAC in picojoules, >= 0; by default that of the hardware, ``None`` if it has no figure.
        ac_pj: Energy of one AC in picojoules, >= 0; likewise.
        hardware: A profile, its name, or the path of a YAML file with one; see :mod:`spikesearch.config.hardware`.

    Raises:
        ValueError: If the convention is unknown, an energy is negative, or the convention is ``memory`` and the
            hardware has no prices of memory.
        ConfigError: If there is no such hardware.
    """

    convention: str = "spikformer"
    mac_pj: float | None = field(default=None, kw_only=True)
    ac_pj: float | None = field(default=None, kw_only=True)
    hardware: Hardware = field(default=PROFILES[DEFAULT_HARDWARE], kw_only=True)

    def __init__(
        self,
        convention: str = "spikformer",
        *,
        mac_pj: float | None = None,
        ac_pj: float | None = None,
        hardware: str | Hardware = DEFAULT_HARDWARE,
    ) -> None:
        profile = profile_of(hardware)
        if convention not in CONVENTIONS:
            raise ValueError(f"`convention` {CONVENTIONS.expected(convention)}")
        if convention == "memory" and profile.memory is None:
            raise ValueError(no_memory_prices(profile))
        for name, value in (("mac_pj", mac_pj), ("ac_pj", ac_pj)):
            if value is not None and not value >= 0:
                raise ValueError(f"`{name}` must be at least 0 (picojoules), but got {value!r}.")
        object.__setattr__(self, "convention", convention)
        object.__setattr__(self, "mac_pj", profile.mac_pj if mac_pj is None else mac_pj)
        object.__setattr__(self, "ac_pj", profile.ac_pj if ac_pj is None else ac_pj)
        object.__setattr__(self, "hardware", profile)

    def to_dict(self) -> dict[str, Any]:
        """Return what decides its numbers, in plain JSON types; the usual hardware is left out."""
        own: dict[str, Any] = {"convention": self.convention, "mac_pj": self.mac_pj, "ac_pj": self.ac_pj}
        usual = self.hardware == PROFILES[DEFAULT_HARDWARE]
        return own if usual else {**own, "hardware": self.hardware.model_dump(mode="json")}

    @torch.no_grad()
    def report(self, net: nn.Module, x: Tensor, *, batch_size: int = 256) -> EnergyReport:
        """Measure a network on real samples and price its operations.

        Args:
            net: A :class:`~spikesearch.Spikformer`, a supernet inside ``with supernet.subnet(arch)``, or any other
                network of torch's layers and SpikingJelly's neurons, see
                :func:`~spikesearch.energy.other.measure_other`. It runs in evaluation mode.
            x: Samples ``[N, C, H, W]`` or event frames ``[N, F, C, H, W]``; for other networks, what they take, the
                samples first.
            batch_size: Samples per forward pass.

        Raises:
            ValueError: If there is no sample.
        """
        training = {module: module.training for module in net.modules()}
        net.eval()
        try:
            with measure_any(net) as activity:
                for batch in x.split(batch_size):
                    net(batch)
        finally:
            for module, mode in training.items():
                module.training = mode
        return self.price(activity)

    def price(self, activity: Activity) -> EnergyReport:
        """Turn the activity recorded by :func:`measure_activity` into a report.

        Raises:
            ValueError: As :meth:`report`.
        """
        layers, prices = self._lines(activity), self._prices
        total = sum(layer.energy_uJ for layer in layers)
        banded = any(layer.unpacked_uJ is not None for layer in layers)
        once = None
        images = {name for name, layer in activity.layers.items() if layer.enters == "pixels"}
        if images and not banded and self.mac_pj is not None:
            first = sum(layer.macs for layer in layers if layer.name in images)
            once = total - first * (1 - 1 / activity.time_steps) * self.mac_pj * 1e-6
        return EnergyReport(
            convention=self.convention,
            mac_pj=prices.memory.mac_pj if banded and prices.memory is not None else self.mac_pj,
            ac_pj=prices.memory.add_pj if banded and prices.memory is not None else self.ac_pj,
            time_steps=activity.time_steps,
            n_images=activity.n_images,
            mean_firing_rate=activity.mean_firing_rate,
            layers=tuple(layers),
            first_layer_once_uJ=once,
            hardware=self.hardware.name,
            prices=self.prices(),
            comparison=compare(activity, prices),
            unknown=tuple(activity.unknown),
        )

    def prices(self) -> str:
        """Return the prices of operations in words."""
        if self.convention == "memory":
            return f"operations and memory of {self.hardware.name}"
        named = ((self.mac_pj, "MAC"), (self.ac_pj, "AC"))
        prices = [f"{'no figure' if pj is None else f'{pj} pJ'} per {what}" for pj, what in named]
        usual = self.hardware.name == DEFAULT_HARDWARE
        return ", ".join(prices) + ("" if usual else f" ({self.hardware.name})")

    def price_part(self, activity: Activity) -> float:
        """Return the microjoules per sample of a part of a network; all parts together cost what the whole does.

        If the activity was recorded differentiably, that is a scalar tensor.

        Args:
            activity: Of some of its modules, see :meth:`Activity.part`; the head goes with the neurons in front of it.
        """
        return sum(layer.energy_uJ for layer in self._lines(activity))

    @property
    def _prices(self) -> Prices:
        return replace(Prices.of(self.hardware), mac_pj=self.mac_pj, ac_pj=self.ac_pj)

    def _lines(self, activity: Activity) -> list[LayerEnergy]:
        if activity.n_images == 0:
            raise ValueError("`x` must hold at least one sample, but got none.")
        layers = list(CONVENTIONS[self.convention](activity, self._prices))
        order = {name: position for position, name in enumerate(activity.order)}
        layers.sort(key=lambda layer: order.get(layer.name, len(order)))
        return layers


def energy_model(config: ScoringConfig) -> EnergyModel:
    """Return the energy model that a study file asks for."""
    return EnergyModel(config.convention, mac_pj=config.mac_pj, ac_pj=config.ac_pj, hardware=config.hardware)


def every_model(config: ScoringConfig) -> list[EnergyModel]:
    """Return a model of every convention that the hardware of a study file has prices for."""
    names = [name for name in CONVENTIONS if name != "memory" or profile_of(config.hardware).memory is not None]
    return [energy_model(config.model_copy(update={"convention": name})) for name in names]
