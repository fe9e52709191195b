"""The weight-entangled supernet and the plain Spikformer.

The names below are loaded when they are first used: the lists of units and mixers need no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spikesearch._lazy import lazy_names

if TYPE_CHECKING:
    from spikesearch.nn.elastic import ChannelStats
    from spikesearch.nn.fast import fuse
    from spikesearch.nn.network import Spikformer, count_parameters
    from spikesearch.nn.supernet import Segment, SubnetStats, Supernet

__all__ = ["ChannelStats", "Segment", "Spikformer", "SubnetStats", "Supernet", "count_parameters", "fuse"]

__getattr__ = lazy_names(
    __name__,
    {
        "ChannelStats": "spikesearch.nn.elastic",
        "Spikformer": "spikesearch.nn.network",
        "Segment": "spikesearch.nn.supernet",
        "SubnetStats": "spikesearch.nn.supernet",
        "Supernet": "spikesearch.nn.supernet",
        "count_parameters": "spikesearch.nn.network",
        "fuse": "spikesearch.nn.fast",
    },
)
