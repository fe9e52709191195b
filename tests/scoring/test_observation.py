"""Observing a network on a split, against one pass over all samples at once."""

from __future__ import annotations

import pytest
import torch

from spikesearch.data import load_data
from spikesearch.energy.measure import measure_activity
from spikesearch.nn import Spikformer
from spikesearch.scoring import observe
from tests.study.helpers import tiny_config


@pytest.mark.parametrize("batch_size", [1 << 10, 50, 7])
def test_every_sample_counts_once(batch_size: int) -> None:
    config = tiny_config()
    split = load_data(config.data, seed=0).search
    net = Spikformer(config.space.search_space().smallest, in_channels=1, image_size=8, num_classes=10).eval()
    seen = observe(net, split, batch_size=batch_size, device=torch.device("cpu"))
    with torch.no_grad(), measure_activity(net) as activity:
        logits = net(split.images(range(len(split))))
    assert torch.equal(seen.right, logits.argmax(-1) == split.labels)
    assert seen.accuracy == seen.right.double().mean().item()
    assert seen.activity.n_images == activity.n_images == len(split)
    assert {name: neurons.rate for name, neurons in seen.activity.neurons.items()} == pytest.approx(
        {name: neurons.rate for name, neurons in activity.neurons.items()}
    )
