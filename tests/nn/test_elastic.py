"""Every elastic layer against the plain torch layer that holds the sliced weights: exact equality."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from spikesearch.nn.elastic import ElasticBatchNorm, ElasticConv2d, ElasticLinear, channel_stats


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 5), (8, 12), (1, 12), (8, 1)])
def test_convolution(inputs, outputs):
    elastic = ElasticConv2d(8, 12)
    plain = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    plain.weight.data = elastic.weight.data[:outputs, :inputs].clone()
    x = torch.randn(4, inputs, 6, 6)
    assert torch.equal(elastic(x, outputs), plain(x))


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 5), (8, 12), (8, 4)])
@pytest.mark.parametrize("groups", [1, 3])
def test_linear(inputs, outputs, groups):
    elastic = ElasticLinear(8, 12, groups=groups)
    plain = nn.Linear(inputs, groups * outputs, bias=False)
    rows = torch.cat([elastic.weight[g * 12 : g * 12 + outputs, :inputs] for g in range(groups)])
    plain.weight.data = rows.detach().clone()
    x = torch.randn(7, inputs)
    assert torch.equal(elastic(x, outputs), plain(x))


def test_linear_with_a_bias():
    elastic = ElasticLinear(8, 12, bias=True, groups=2)
    out = elastic(torch.zeros(1, 4), 5)
    assert torch.equal(out[0], torch.cat([elastic.bias[:5], elastic.bias[12:17]]))


def test_only_the_slice_gets_a_gradient():
    elastic = ElasticLinear(8, 6, groups=2)
    elastic(torch.randn(5, 4), 3).sum().backward()
    touched = elastic.weight.grad.unflatten(0, (2, 6)) != 0
    assert touched[:, :3, :4].all()
    assert touched.sum() == 2 * 3 * 4


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("shape", [(40,), (10, 4, 4)])
def test_batch_norm_trains_and_evaluates_like_the_plain_one(groups, shape):
    width, largest, gain = 5, 8, 1.7
    elastic = ElasticBatchNorm(largest, groups=groups)
    nn.init.uniform_(elastic.weight)
    nn.init.normal_(elastic.bias)
    kept = torch.cat([torch.arange(width) + g * largest for g in range(groups)])
    plain = (nn.BatchNorm1d if len(shape) == 1 else nn.BatchNorm2d)(groups * width)
    plain.weight.data = elastic.weight.data[kept] * gain
    plain.bias.data = elastic.bias.data[kept] * gain
    samples, *pixels = shape
    for _ in range(3):
        x = 3 * torch.randn(samples, groups * width, *pixels) + 1
        assert torch.equal(elastic(x, torch.tensor(gain)), plain(x))
    assert torch.equal(elastic.running_mean[kept], plain.running_mean)
    assert torch.equal(elastic.running_var[kept], plain.running_var)
    others = torch.ones(groups * largest, dtype=torch.bool)
    others[kept] = False
    assert (elastic.running_mean[others] == 0).all()
    assert (elastic.running_var[others] == 1).all()
    elastic.eval(), plain.eval()
    assert torch.equal(elastic(x, torch.tensor(gain)), plain(x))


def test_channel_stats_are_exact_where_float32_is_not():
    # mean 4096 with a deviation of 1/16: a float32 sum of squares would lose the deviation altogether
    x = 4096 + torch.randn(5000, 3, 2, 2) / 16
    stats = channel_stats(x)
    exact = x.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(stats.mean, exact.mean(1).float())
    torch.testing.assert_close(stats.var, exact.var(1, correction=0).float())
