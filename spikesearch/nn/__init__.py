"""The weight-entangled supernet and the plain Spikformer."""

from spikesearch.nn.elastic import ChannelStats
from spikesearch.nn.fast import fuse
from spikesearch.nn.spikformer import Spikformer, count_parameters
from spikesearch.nn.supernet import Stage, SubnetStats, Supernet

__all__ = ["ChannelStats", "Spikformer", "Stage", "SubnetStats", "Supernet", "count_parameters", "fuse"]
