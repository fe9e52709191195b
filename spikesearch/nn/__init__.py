"""The weight-entangled supernet and the plain Spikformer.

The names below are loaded when they are first used: the lists of units and mixers need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spikesearch.nn.elastic import ChannelStats
    from spikesearch.nn.fast import fuse
    from spikesearch.nn.network import Spikformer, count_parameters
    from spikesearch.nn.supernet import Stage, SubnetStats, Supernet

__all__ = ["ChannelStats", "Spikformer", "Stage", "SubnetStats", "Supernet", "count_parameters", "fuse"]

_HOMES = {
    "ChannelStats": "spikesearch.nn.elastic",
    "Spikformer": "spikesearch.nn.network",
    "Stage": "spikesearch.nn.supernet",
    "SubnetStats": "spikesearch.nn.supernet",
    "Supernet": "spikesearch.nn.supernet",
    "count_parameters": "spikesearch.nn.network",
    "fuse": "spikesearch.nn.fast",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'spikesearch.nn' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
