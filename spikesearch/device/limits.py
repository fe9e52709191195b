"""Bounds on what a network needs of a device, known before it is trained or scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from spikesearch.device.size import DeviceSize, device_size
from spikesearch.device.targets import TARGETS, Plan
from spikesearch.errors import ConfigError
from spikesearch.space import Architecture

if TYPE_CHECKING:
    from spikesearch.config import StudyConfig
    from spikesearch.nn import Supernet

KILOBYTE = 1000  # bytes; a device with 512 KiB has more than 512
SIZES: Mapping[str, Callable[[DeviceSize], int]] = {
    "flash_kB": lambda size: size.flash,
    "ram_kB": lambda size: size.ram,
}
"""What is bounded, by its name among the constraints of a study, in bytes."""


def plan_of(supernet: Supernet, *, static: bool) -> Plan:
    """Return what is known of the networks of a supernet, trained or not.

    Args:
        supernet: The supernet.
        static: Whether its samples are images; else event frames.
    """
    return Plan(supernet.space, supernet.settings, static)


class DeviceLimits:
    """How far networks are from the device limits of a study.

    Args:
        config: The study file: its ``constraints`` and its ``target``.
        plan: What is known of its networks.
    """

    def __init__(self, config: StudyConfig, plan: Plan) -> None:
        self._plan = plan
        self._target = None if config.target is None else TARGETS[config.target]
        given = {name: bound for name, bound in config.constraints.items() if name in SIZES}
        self.bounds: dict[str, float] = {**(self._target.limits if self._target else {}), **given}
        self._size = cache(lambda arch: device_size(arch, plan.model, static=plan.static))

    def excess(self, arch: Architecture) -> dict[str, float]:
        """Return by how many kB an architecture is beyond each bound: at most 0 where it keeps it."""
        return {name: SIZES[name](self._size(arch)) / KILOBYTE - bound for name, bound in self.bounds.items()}

    def known_constraints(self) -> dict[str, Callable[[dict[str, Any]], float]]:
        """Return them as functions of Optuna parameters, for :class:`~spikesearch.ESNNSampler`."""
        return {name: self._of_parameters(name) for name in self.bounds}

    def _of_parameters(self, name: str) -> Callable[[dict[str, Any]], float]:
        return lambda params: self.excess(self._plan.space.architecture(params))[name]

    def check(self) -> None:
        """Look at the whole space, before anything is trained.

        Raises:
            ConfigError: If the target cannot run what would be searched, or no network keeps the bounds.
        """
        if target := self._target:
            reasons = " ".join(target.problems(self._plan))
            if reasons:
                raise ConfigError(f"The target {target.name!r} cannot run what would be searched. {reasons}")
        for name, bound in self.bounds.items():
            smallest = self._smallest(name)
            if smallest > bound:
                raise ConfigError(
                    f"No network of the space keeps `{name}` {bound:g}: the smallest needs {smallest:.1f}. Offer "
                    "smaller `embed_dims`, depths or `stem_channels`, or allow more."
                )

    def _smallest(self, name: str) -> float:
        """Return the least that a network needs, in kB, as far as steps from gene to gene lead there."""

        def need(arch: Architecture) -> tuple[int, int]:
            size = self._size(arch)
            return SIZES[name](size), size.flash + size.ram

        best = self._plan.space.smallest
        while True:
            better = min(self._plan.space.neighbours(best), key=need, default=best)
            if need(better) >= need(best):
                return need(best)[0] / KILOBYTE
            best = better
