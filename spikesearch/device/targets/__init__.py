"""Kinds of devices that a study may be meant for: what they cannot run, said before anything is trained.

One file each, which registers its target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from spikesearch.errors import ExportError
from spikesearch.extensions import TARGETS as _REGISTRY
from spikesearch.extensions import Registry
from spikesearch.space import Architecture, SearchSpace


@dataclass(frozen=True)
class Plan:
    """What is known of a study's networks before any is trained.

    Args:
        space: Their search space.
        model: What they have in common: keyword arguments of :class:`~spikesearch.Spikformer`.
        static: Whether samples are images; else event frames.
    """

    space: SearchSpace
    model: Mapping[str, Any]
    static: bool

    @property
    def kinds(self) -> Iterator[Architecture]:
        """The largest network, and those that differ from it in one gene: every choice of every gene."""
        yield self.space.largest
        yield from self.space.neighbours(self.space.largest)


@dataclass(frozen=True)
class DeviceTarget:
    """A kind of devices.

    Args:
        name: As in a study file.
        problems: Yields why the device cannot run what a study would search, a sentence each.
        limits: Bounds that hold where the study's ``constraints`` do not say otherwise.
    """

    name: str
    problems: Callable[[Plan], Iterator[str]]
    limits: Mapping[str, float] = field(default_factory=dict)


TARGETS: Registry[DeviceTarget] = _REGISTRY


def register(target: DeviceTarget) -> DeviceTarget:
    """Add a target."""
    return TARGETS.register(target.name, target)


def integer_problems(plan: Plan) -> Iterator[str]:
    """Yield what the integer network cannot hold."""
    from spikesearch.device.size import device_size

    told: set[str] = set()
    for arch in plan.kinds:
        try:
            device_size(arch, plan.model, static=plan.static)
        except ExportError as error:
            if str(error) not in told:
                told.add(str(error))
                yield str(error)
