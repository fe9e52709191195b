"""Fused copies: the same network up to rounding, with nothing left to fold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from spikesearch.energy import EnergyModel
from spikesearch.errors import ExportError
from spikesearch.export import save_network
from spikesearch.nn import Supernet, fuse
from spikesearch.nn.fast import fast_copy
from spikesearch.space import SearchSpace
from tests.nn.conftest import SPACE, trained


@pytest.fixture(scope="module")
def events() -> Supernet:
    return trained(in_channels=2, frames=5)


def check(supernet: Supernet, x: torch.Tensor) -> None:
    arch = SPACE.largest
    net = supernet.extract(arch, supernet.calibrate(arch, x))
    before = {name: value.clone() for name, value in net.state_dict().items() if isinstance(value, torch.Tensor)}
    fused = fuse(net)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in fused.modules())
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    with torch.no_grad():
        # a random network is chaotic: one spike that rounding flips moves others, in few images
        same = (fused(x) - net(x)).abs().amax(1) < 1e-4
        assert same.float().mean() > 0.5
        with torch.autocast("cpu", torch.bfloat16):
            half = fused(x)
    assert torch.corrcoef(torch.stack([half.float().flatten(), net(x).flatten()]).detach())[0, 1] > 0.5


def test_images(supernet: Supernet) -> None:
    check(supernet, torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(1)))


def test_events(events: Supernet) -> None:
    check(events, torch.rand(40, 5, 2, 8, 8, generator=torch.Generator().manual_seed(1)).round())


@pytest.mark.parametrize("residual", ["add", "membrane", "normed"])
@pytest.mark.parametrize("stem", ["sps", "conv"])
def test_a_copy_trains_and_computes_the_same(residual: str, stem: str) -> None:
    lists = {**SPACE.to_dict(), "mixers": ["ssa", "conv", "dwconv", "qk"]}
    net = Supernet(
        SearchSpace.from_dict(lists), in_channels=1, image_size=8, num_classes=4, residual=residual, stem=stem
    ).extract(SearchSpace.from_dict(lists).largest)
    images = torch.rand(8, 1, 8, 8)
    twin = fast_copy(net)
    assert torch.equal(twin.eval()(images), net.eval()(images))
    torch.testing.assert_close(twin.train()(images), net.train()(images))
    for name, value in net.state_dict().items():  # the running statistics too
        torch.testing.assert_close(twin.state_dict()[name], value, msg=name)


def test_a_unit_is_folded_by_hand(supernet: Supernet) -> None:
    net = supernet.extract(SPACE.smallest)
    unit: Any = net.get_submodule("blocks.0.mlp.fc1")
    folded: Any = fuse(net).get_submodule("blocks.0.mlp.fc1")
    scale = (unit.bn.weight.double() / (unit.bn.running_var.double() + unit.bn.eps).sqrt())[:, None]
    shift = unit.bn.bias.double() - scale[:, 0] * unit.bn.running_mean.double()
    torch.testing.assert_close(folded.linear.weight.double(), unit.linear.weight.double() * scale, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(folded.linear.bias.double(), shift, rtol=1e-5, atol=1e-6)


def test_what_can_be_done_with_a_fused_network(supernet: Supernet, tmp_path: Path) -> None:
    net = supernet.extract(SPACE.largest)
    fused, x = fuse(net), torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(fuse(fused)(x), fused(x))
    energy = EnergyModel().report(fused, x)
    assert energy.n_images == 4
    assert energy.total_uJ == pytest.approx(EnergyModel().report(net, x).total_uJ, rel=0.1)
    with pytest.raises(ExportError, match="save the network that it was made from"):
        save_network(tmp_path / "net", fused, {})
    assert not (tmp_path / "net").exists()
