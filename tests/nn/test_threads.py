"""One network in several threads: the same answers as in one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from spikesearch.nn import fuse
from spikesearch.nn.lif import PlainLIF, StreamLIF
from tests.nn.conftest import SPACE, trained


@torch.no_grad()
@pytest.mark.parametrize("residual", ["add", "membrane"])
@pytest.mark.parametrize("fused", [False, True])
def test_threads_share_a_network(residual: str, fused: bool) -> None:
    net = trained(residual=residual).extract(SPACE.largest)
    net = fuse(net) if fused else net
    batches = [torch.randn(1 + i % 5, 1, 8, 8) for i in range(60)]
    expected = [net(x) for x in batches]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(net, batches))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(answers, expected, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("node", [PlainLIF(0.7, 1.6), StreamLIF(1.3, 3.0)])
def test_a_neuron_remembers_nothing_in_evaluation_and_is_the_same_as_in_training(node: PlainLIF) -> None:
    x = 2 * torch.randn(4, 50)
    training = node.train()(x)
    node.reset()
    node.eval()
    assert torch.equal(node(x), training)
    assert torch.equal(node(x), training), "the second call starts at rest, too"
    assert 0 < float(training.mean()) < 1


def test_gradients_in_evaluation_are_those_of_training() -> None:
    for node in (PlainLIF(0.7, 1.6), StreamLIF(1.3, 3.0)):
        gradients = []
        for mode in (True, False):
            node.train(mode)
            x = torch.linspace(-2, 4, 60).view(4, 15).requires_grad_()
            node(x).square().sum().backward()
            node.reset()
            gradients.append(x.grad)
        torch.testing.assert_close(*gradients)
