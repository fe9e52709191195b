"""Scores of plain networks: the same measurements as for subnets, for weights that are the network's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from spikesearch.energy import energy_model
from spikesearch.nn import Spikformer, count_parameters
from spikesearch.nn.elastic import channel_stats
from spikesearch.scoring.observation import observe
from spikesearch.scoring.scorer import Score, SplitName

if TYPE_CHECKING:
    from spikesearch.config import ScoringConfig
    from spikesearch.data import DataBundle, Split


@torch.no_grad()
def calibrate_network(net: nn.Module, images: Tensor) -> None:
    """Set the running statistics of every batch-norm to those of these images, as a subnet's are before it is scored.

    One pass in evaluation mode in which each batch-norm takes mean and variance (float64 sums) of what arrives and
    normalises with them, so that it is measured behind layers that are already calibrated.

    Args:
        net: A plain network; changed in place.
        images: ``[N, C, H, W]`` or ``[N, F, C, H, W]``, on the network's device.
    """
    training = net.training
    net.eval()
    handles = [
        module.register_forward_pre_hook(_take_statistics) for module in net.modules() if isinstance(module, _BatchNorm)
    ]
    try:
        net(images)
    finally:
        for handle in handles:
            handle.remove()
        net.train(training)


def score_network(net: Spikformer, data: DataBundle, config: ScoringConfig, split: SplitName = "search") -> Score:
    """Score a plain network as :meth:`Scorer.score` scores a subnet; it is left in evaluation mode.

    Args:
        net: The network, with the batch-norm statistics that it is to be judged with.
        data: Images and labels.
        config: Batch size, energy convention and constants.
        split: ``search``, or ``test`` for the final report only.
    """
    images: Split = getattr(data, split)
    seen = observe(net.eval(), images, batch_size=config.batch_size, device=next(net.parameters()).device)
    report = energy_model(config).price(seen.activity)
    return Score.of(seen.accuracy, report, params=count_parameters(net), data=data)


def _take_statistics(module: nn.Module, args: tuple[Tensor]) -> None:
    assert isinstance(module, _BatchNorm)
    assert module.running_mean is not None
    assert module.running_var is not None
    stats = channel_stats(args[0])
    module.running_mean.copy_(stats.mean)
    module.running_var.copy_(stats.var)
