"""Hardware profiles: what one operation costs, and who published that. A figure that nobody published is left out.

Prices of a chip that were measured hold its memory and its control; those of a process are of an operation alone.
"""

from __future__ import annotations

import os
from itertools import pairwise
from typing import Annotated

import yaml
from pydantic import Field, ValidationError, model_validator

from spikesearch.config.data import Section
from spikesearch.config.messages import explain
from spikesearch.config.reader import read_yaml
from spikesearch.errors import ConfigError, ConfigNotFoundError, did_you_mean
from spikesearch.io import user_path

Picojoules = Annotated[float, Field(ge=0)]
Bits = Annotated[int, Field(ge=1)]


class MemoryPrices(Section):
    """What the convention ``memory`` needs: arithmetic on whole numbers, on-chip memory, and widths.

    Args:
        add_pj: Picojoules of an addition.
        mul_pj: Picojoules of a multiplication, without the addition.
        curve: Points (capacity in bytes, picojoules of one access), ascending; in between, and beyond the last one, a
            straight line.
        access_bits: Width of one access.
        weight_bits: Width of a weight.
        potential_bits: Width of a membrane potential, a current or a bias.
        input_bits: Width of a pixel, an event count or a sum of spikes.
        message_bits: Width of a spike in the queue between two layers: an address.
        queue_messages: Length of such a queue.
    """

    add_pj: Picojoules
    mul_pj: Picojoules
    curve: Annotated[tuple[tuple[Picojoules, Picojoules], ...], Field(min_length=2)]
    access_bits: Bits = 64
    weight_bits: Bits = 8
    potential_bits: Bits = 16
    input_bits: Bits = 8
    message_bits: Bits = 16
    queue_messages: Bits = 1000

    @model_validator(mode="after")
    def _ascending(self) -> MemoryPrices:
        sizes = [size for size, _ in self.curve]
        if any(after <= before for before, after in pairwise(sizes)):
            raise ValueError(f"`curve` must have ascending capacities, but got {sizes}.")
        return self

    @property
    def mac_pj(self) -> float:
        """Picojoules of a multiply-accumulate."""
        return self.mul_pj + self.add_pj

    def access_pj(self, size: float) -> float:
        """Return the picojoules of one access to a memory of ``size`` bytes."""
        points = self.curve
        last = len(points) - 1
        right = next((i for i in range(1, last) if size <= points[i][0]), last)
        (x0, y0), (x1, y1) = points[right - 1], points[right]
        return y0 + (y1 - y0) / (x1 - x0) * (size - x0)


class Hardware(Section):
    """What operations cost on some hardware; ``None`` where no figure is published.

    Args:
        name: Its name, printed beside every number.
        mac_pj: Picojoules of a multiply-accumulate.
        ac_pj: Picojoules of an accumulate, or of a synaptic operation of a chip.
        update_pj: Picojoules of the update of a neuron in a time step; ``None`` takes those of a multiply-accumulate.
        memory: For the convention ``memory``.
        sources: Who published each of these, by its name.
    """

    name: Annotated[str, Field(min_length=1)]
    mac_pj: Picojoules | None = None
    ac_pj: Picojoules | None = None
    update_pj: Picojoules | None = None
    memory: MemoryPrices | None = None
    sources: dict[str, str]

    @model_validator(mode="after")
    def _sourced(self) -> Hardware:
        given = {name for name in ("mac_pj", "ac_pj", "update_pj", "memory") if getattr(self, name) is not None}
        if given != set(self.sources):
            raise ValueError(
                f"`sources` must say where {', '.join(sorted(given)) or 'nothing'} is from, but got "
                f"{', '.join(sorted(self.sources)) or 'nothing'}."
            )
        return self


_HOROWITZ = "Horowitz, ISSCC 2014, 45 nm, 0.9 V"
_INTEGER = MemoryPrices(add_pj=0.1, mul_pj=0.2, curve=((0, 0), (8192, 10), (32768, 20), (1048576, 100)))
_INTEGER_SOURCE = (
    f"{_HOROWITZ}: 32-bit integer addition, 8-bit integer multiplication, static memory of 8 KB, 32 KB and 1 MB per 64 "
    "bits; queues of 1000 messages: Lemaire et al. 2022"
)
_SENECA = "Tang et al., SENECA, Frontiers in Neuroscience 2023, table 3"
_DAVIES = "Davies et al., IEEE Micro 2018"
DEFAULT_HARDWARE = "45nm-fp32"
PROFILES = {
    profile.name: profile
    for profile in (
        Hardware(
            name=DEFAULT_HARDWARE,
            mac_pj=4.6,
            ac_pj=0.9,
            memory=_INTEGER,
            sources={
                "mac_pj": f"{_HOROWITZ}: 32-bit float, multiplication 3.7 and addition 0.9",
                "ac_pj": f"{_HOROWITZ}: 32-bit float addition",
                "memory": _INTEGER_SOURCE,
            },
        ),
        Hardware(
            name="45nm-int8",
            mac_pj=0.23,
            ac_pj=0.03,
            memory=_INTEGER,
            sources={
                "mac_pj": f"{_HOROWITZ}: 8-bit integer, multiplication 0.2 and addition 0.03",
                "ac_pj": f"{_HOROWITZ}: 8-bit integer addition",
                "memory": _INTEGER_SOURCE,
            },
        ),
        Hardware(
            name="loihi1",
            ac_pj=23.6,
            update_pj=81.0,
            sources={
                "ac_pj": f"{_SENECA}, after {_DAVIES}: a synaptic operation, simulated before silicon",
                "update_pj": f"{_SENECA}, after {_DAVIES}: the update of a neuron",
            },
        ),
        Hardware(name="spinnaker2", ac_pj=10.0, sources={"ac_pj": f"{_SENECA}: a synaptic operation"}),
    )
}
"""Profiles by name. There is none for Loihi 2, for which no official figure per operation exists."""


def hardware(what: str | Hardware) -> Hardware:
    """Return a profile: of :data:`PROFILES`, or of a YAML file.

    Raises:
        ConfigError: If there is no such profile, or the file is malformed.
        ConfigNotFoundError: If there is no such file.
    """
    if isinstance(what, Hardware):
        return what
    if what in PROFILES:
        return PROFILES[what]
    if not is_hardware_file(what):
        raise ConfigError(unknown_hardware(what))
    path = user_path(what, "`hardware`", ConfigError)
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigNotFoundError(f"There is no hardware profile {path}.") from None
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a hardware profile must be a mapping of keys.")
    try:
        return Hardware.model_validate({"name": path.stem, **content})
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, Hardware, content)}") from None


def is_hardware_file(what: object) -> bool:
    """Tell whether a name of hardware is that of a YAML file."""
    return isinstance(what, str | os.PathLike) and os.fspath(what).endswith((".yaml", ".yml"))


def unknown_hardware(what: object) -> str:
    """Return the message about a name that is no profile."""
    known = ", ".join(PROFILES)
    hint = did_you_mean(str(what), PROFILES)
    return f"`hardware` must be one of {known}, or a YAML file, but got {what!r}{hint}"


def no_memory_prices(profile: Hardware) -> str:
    """Return the message about hardware that cannot be asked for the convention ``memory``."""
    return (
        f"`convention` memory needs prices of memory, but the hardware {profile.name} has none; use another "
        f"convention, or {DEFAULT_HARDWARE}."
    )
