"""Stochastic depth: residual branches that random samples skip while a network is trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from spikesearch.data.keyed import uniforms
from spikesearch.streams import DROP_PATH


class Branched(Protocol):
    """A network of blocks with residual branches, such as :class:`~spikesearch.nn.network.Network`."""

    def branches(self) -> Iterable[tuple[int, nn.Module]]:
        """Return the branches, each with the number of its block."""


class DropPath:
    """Makes random samples skip the residual branches of a network (Huang et al., ECCV 2016).

    timm's ``DropPath`` for spiking networks. As there, the rate grows linearly from 0 in the first block to ``rate`` in
    the last, attention and MLP are skipped independently, and what is not skipped is multiplied by ``1 / (1 - rate)``.
    But a sample skips a branch in all its time steps or in none, and which ones depends on a key and on the sample,
    instead of on torch's generator: training that is resumed, or shared by several processes, skips the same.

    It works from outside, so that the network has neither parameters nor modules for it.

    Args:
        net: A :class:`~spikesearch.Spikformer` or a :class:`~spikesearch.Supernet`, all of whose subnets skip at the
            rates of its own blocks.
        rate: Probability in the last block, at least 0 and below 1.
    """

    def __init__(self, net: Branched, rate: float) -> None:
        from timm.layers import calculate_drop_path_rates

        depths, self._branches = zip(*net.branches(), strict=True)
        rates = torch.tensor(calculate_drop_path_rates(rate, 1 + max(depths))).double()
        self._keep = 1 - rates[list(depths)]
        self._scales: Tensor | None = None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Make the network skip in training mode inside a ``with`` block."""
        handles = [branch.register_forward_hook(self._hook(i)) for i, branch in enumerate(self._branches)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def draw(self, key: Sequence[int], samples: np.ndarray, device: torch.device) -> None:
        """Decide what the samples of the next forward passes skip.

        Args:
            key: Whole numbers, such as (seed, epoch, step).
            samples: Number of every sample in its data set, shape [N].
            device: Where the network is.
        """
        kept = uniforms(DROP_PATH.key(*key), samples, len(self._branches)) < self._keep
        self._scales = (kept / self._keep).float().T.contiguous().to(device)

    def _hook(self, index: int) -> Any:
        def scale(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
            """``out`` is [T, N, tokens, D]."""
            if not module.training or self._scales is None:
                return out
            return out * self._scales[index].to(out.dtype)[:, None, None]

        return scale
