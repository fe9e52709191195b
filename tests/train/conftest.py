"""A tiny digits study: small enough that an epoch takes a fraction of a second."""

from __future__ import annotations

import pytest

from spikesearch.config import TrainConfig
from spikesearch.data import load_data
from spikesearch.data.kinds.digits import DigitsData
from spikesearch.nn import Supernet
from spikesearch.space import SearchSpace

SPACE = SearchSpace(
    embed_dims=(8, 16),
    depths=(1, 2),
    num_heads=(1, 2),
    mlp_ratios=(1,),
    v_thresholds=(1.0,),
    taus=(1.25, 2.0),
    time_steps=(1, 2),
)
RECIPE = TrainConfig(epochs=3, batch_size=200, lr=5e-3, warmup_epochs=1, random_subnets=1)


@pytest.fixture(scope="session")
def digits():
    return load_data(DigitsData(kind="digits"), seed=0)


@pytest.fixture
def fresh():
    return Supernet(SPACE, in_channels=1, image_size=8, num_classes=10)
