"""Training: one loop for the supernet and for plain networks, strategies, checkpoints."""

from spikesearch.train.checkpoint import weights_hash
from spikesearch.train.loop import Trainer
from spikesearch.train.strategies import SandwichStrategy, SingleStrategy, UniformStrategy
from spikesearch.train.supernet import load_supernet, supernet_facts, train_supernet

__all__ = [
    "SandwichStrategy",
    "SingleStrategy",
    "Trainer",
    "UniformStrategy",
    "load_supernet",
    "supernet_facts",
    "train_supernet",
    "weights_hash",
]
