"""What trials with the same first genes have in common, in a bounded amount of memory.

The output of a stage (see :class:`~spikesearch.nn.supernet.Segment`) depends on the genes up to it and on nothing else,
batch-norm calibration included. Offspring share the first genes with their parents, so that the outputs of a finished
trial are kept, as a tree: a node holds what one stage adds to the state of its ancestors, mostly one bit per neuron and
time step (with residual connections by membrane currents a float32 number), and the state behind it is the sum along
the path from the root, or from the last stage that halves the resolution.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from spikesearch.energy.activity import Activity
from spikesearch.nn import ChannelStats
from spikesearch.scoring.packing import Packed

Key = tuple[Hashable, ...]
Entry = tuple[float, int, Key]  # worth, when it was used, which node

_RECORD_BYTES = 1024  # what one layer's sums or statistics cost beside their tensors: a handful of Python objects


@dataclass(frozen=True)
class Node:
    """What one stage did behind given earlier stages.

    Args:
        stats: Batch-norm statistics of its layers.
        activity: Its activity on the images that are scored.
        calibration: Its output on the calibration images.
        batches: Its output on the images that are scored, batch by batch.
        energies: What it cost on them, in microjoules per sample, batch by batch.
    """

    stats: Mapping[str, ChannelStats]
    activity: Activity
    calibration: Packed
    batches: tuple[Packed, ...]
    energies: tuple[float, ...]

    @cached_property
    def nbytes(self) -> int:
        """Memory of the node."""
        spikes = self.calibration.nbytes + sum(batch.nbytes for batch in self.batches)
        stats = sum(one.mean.nbytes + one.var.nbytes for one in self.stats.values())
        activity = self.activity
        records = len(activity.layers) + len(activity.attention) + len(activity.neurons) + len(self.stats)
        return spikes + stats + (1 + records + len(self.batches)) * _RECORD_BYTES


class PrefixCache:
    """A tree of nodes in which those give way that are old and cheap to compute again, leaves first.

    The rule is GreedyDual-Size (Cao and Irani, "Cost-aware WWW proxy caching algorithms", USITS 1997): least recently
    used, but a node ages the slower the more multiplications it saves per byte. Plain age would drop stems, most of the
    work of a small network in a few of its bits, for the many outputs of blocks. An ancestor is worth at least what its
    descendants are, so that no node outlives an ancestor.

    Args:
        limit: Bytes that all nodes together never exceed.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        self._nodes: dict[Key, Node] = {}
        self._worth: dict[Key, Entry] = {}
        self._age = 0.0  # worth of the last node that gave way
        self._queue: list[Entry] = []  # cheapest first; entries may be out of date
        self._uses = 0

    def __len__(self) -> int:
        return len(self._nodes)

    def find(self, genes: Sequence[Hashable]) -> list[Node]:
        """Return the nodes of the longest known prefix, from the root on.

        Args:
            genes: Of all stages, first to last.
        """
        path = []
        for length in range(1, len(genes) + 1):
            node = self._nodes.get(tuple(genes[:length]))
            if node is None:
                break
            path.append(node)
        self._use(genes[: len(path)])
        return path

    def add(self, genes: Sequence[Hashable], nodes: Sequence[Node]) -> None:
        """Keep the nodes behind a known prefix, as many as fit into the limit; others give way.

        Args:
            genes: Of all stages, first to last.
            nodes: Of the last stages; their ancestors are known.
        """
        known = len(genes) - len(nodes)
        while nodes and not self.make_room(sum(node.nbytes for node in nodes), genes[:known]):
            nodes = nodes[:-1]
        for node in nodes:
            known += 1
            self._nodes[tuple(genes[:known])] = node
            self.nbytes += node.nbytes
            self._use(genes[:known])

    def make_room(self, size: int, ancestors: Sequence[Hashable]) -> bool:
        """Drop nodes until ``size`` bytes are free, but none of the ``ancestors``; False if that is impossible."""
        spared = set(_prefixes(ancestors))
        if size + sum(self._nodes[key].nbytes for key in spared) > self.limit:
            return False
        later = []
        while self.nbytes + size > self.limit:
            entry = heapq.heappop(self._queue)
            worth, _, key = entry
            if self._worth.get(key) is not entry:
                continue
            if key in spared:
                later.append(entry)
                continue
            self._age = worth
            self.nbytes -= self._nodes.pop(key).nbytes
            del self._worth[key]
        for entry in later:
            heapq.heappush(self._queue, entry)
        return True

    def _use(self, genes: Sequence[Hashable]) -> None:
        """Renew the worth of a node and of its ancestors."""
        least = 0.0
        for key in _prefixes(genes):
            node = self._nodes[key]
            least = max(least, self._age + node.activity.dense_ops / node.nbytes)
            if key in self._worth:
                least = max(least, self._worth[key][0])
            self._uses += 1  # of equal worth the least recently used goes first; ancestors are used after the node
            self._worth[key] = entry = least, self._uses, key
            heapq.heappush(self._queue, entry)
        if len(self._queue) > 100 + 4 * len(self._nodes):
            self._queue = [entry for entry in self._queue if self._worth.get(entry[2]) is entry]
            heapq.heapify(self._queue)


def _prefixes(genes: Sequence[Hashable]) -> Iterator[Key]:
    """Yield the keys of a node and of its ancestors, the node first."""
    return (tuple(genes[:length]) for length in range(len(genes), 0, -1))
