"""A small space and a supernet that has seen some training batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from spikesearch.nn import Supernet
from spikesearch.space import SearchSpace

SPACE = SearchSpace(
    embed_dims=(16, 24, 32),
    depths=(1, 2, 3),
    num_heads=(2, 4),
    mlp_ratios=(1, 2.5),
    v_thresholds=(0.6, 1.0, 1.4),
    taus=(1.25, 2.0, 4.0),
    time_steps=(1, 2, 4),
)


def trained(image_size: int = 8, in_channels: int = 1, frames: int | None = None, **options: Any) -> Supernet:
    torch.manual_seed(0)
    supernet = Supernet(SPACE, in_channels=in_channels, image_size=image_size, num_classes=7, **options)
    for name, parameter in supernet.named_parameters():
        if name.endswith("log_gain"):  # as after training: the gains of the neuron genes have moved apart
            parameter.data += 0.5 + 0.2 * torch.randn_like(parameter)
    torch.nn.init.normal_(supernet.get_parameter("head.bias"))
    supernet.train()
    rng = np.random.default_rng(0)
    size = (16, in_channels, image_size, image_size)
    for _ in range(40):
        with supernet.subnet(SPACE.sample(rng)):
            supernet(torch.randn(*size) if frames is None else torch.rand(16, frames, *size[1:]).round())
    return supernet.eval()


@pytest.fixture(scope="module", params=["add", "membrane"])
def supernet(request):
    return trained(residual=request.param)
