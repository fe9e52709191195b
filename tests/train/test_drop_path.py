"""Drop path: timm's in every number, but for whole samples, and drawn from a key."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from timm.layers import DropPath as TimmDropPath
from timm.layers import calculate_drop_path_rates
from torch import Tensor, nn

from spikesearch.nn import Spikformer, Supernet
from spikesearch.nn.network import Network
from spikesearch.space import SearchSpace
from spikesearch.train import SandwichStrategy, Trainer, weights_hash
from spikesearch.train.drop_path import DropPath
from spikesearch.train.network import train_network
from tests.interruptions import interruption
from tests.train.conftest import RECIPE, SPACE

CPU = torch.device("cpu")
DEEP = SearchSpace((16,), (3,), (2,), (1,), (1.0,), (2.0,), (2,))
DROPPING = RECIPE.model_copy(update={"epochs": 2, "drop_path": 0.5, "mixup": 0.3})


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn, self.mlp = nn.Identity(), nn.Identity()


class Branches(nn.Module):
    """Residual branches that give what they get: of ones, the factors by which samples are multiplied."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(depth))

    def branches(self) -> list[tuple[int, nn.Module]]:
        return [(i, branch) for i, block in enumerate(self.blocks) for branch in block.children()]

    def forward(self, x: Tensor) -> list[Tensor]:
        return [branch(x) for _, branch in self.branches()]


def network(residual: str = "add") -> Spikformer:
    torch.manual_seed(1)
    return Spikformer(DEEP.largest, in_channels=1, image_size=8, num_classes=10, residual=residual).train()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_samples_skip_with_all_their_steps_and_the_rest_is_scaled_as_by_timm(dtype: torch.dtype) -> None:
    net = Branches().train()
    drop_path = DropPath(net, 0.6)
    drop_path.draw((0, 0, 0), np.arange(100), CPU)
    ones = torch.ones(4, 100, 5, 3, dtype=dtype)
    with drop_path.attached():
        factors = net(ones)
    for index, factor in enumerate(factors):
        rate = cast(float, calculate_drop_path_rates(0.6, 3)[index // 2])
        assert factor.dtype == dtype
        assert torch.equal(factor, factor[:1, :, :1, :1].expand_as(factor)), "time steps and tokens stay together"
        expected = TimmDropPath(rate).train()(torch.ones(1000, 1, dtype=dtype)).unique()  # timm masks the first axis
        torch.testing.assert_close(factor.unique(), expected)


def test_the_rate_is_kept_over_many_draws_and_branches_are_independent() -> None:
    drop_path = DropPath(cast(Network, Branches()), 0.6)
    drawn = []
    for step in range(50):
        drop_path.draw((0, 0, step), np.arange(200), CPU)
        assert drop_path._scales is not None
        drawn.append(drop_path._scales)
    scales = torch.cat(drawn, 1)
    assert scales.mean(1).tolist() == pytest.approx([1.0] * 6, abs=0.05)
    skipped = (scales == 0).double()
    assert skipped.mean(1).tolist() == pytest.approx([0, 0, 0.3, 0.3, 0.6, 0.6], abs=0.02)
    assert (torch.corrcoef(skipped[2:]) - torch.eye(4)).abs().max() < 0.05


def test_what_is_skipped_depends_on_key_and_sample_alone() -> None:
    drop_path = DropPath(cast(Network, Branches()), 0.6)

    def drawn(key: tuple[int, ...], samples: list[int]) -> Tensor:
        drop_path.draw(key, np.array(samples), CPU)
        assert drop_path._scales is not None
        return drop_path._scales

    whole = drawn((3, 1, 2), [5, 9, 2, 7])
    torch.manual_seed(99)
    assert torch.equal(drawn((3, 1, 2), [2, 5]), whole[:, [2, 0]])
    many = list(range(100))
    assert not any(torch.equal(drawn((3, 1, 2), many), drawn(key, many)) for key in [(4, 1, 2), (3, 2, 1), (3, 1, 3)])


@pytest.mark.parametrize("residual", ["add", "membrane"])
def test_evaluation_and_what_is_outside_of_training_stay_as_they_are(residual: str) -> None:
    net, x = network(residual), torch.randn(10, 1, 8, 8)
    state, modules = list(net.state_dict()), [name for name, _ in net.named_modules()]
    trained, evaluated = net(x), copy.deepcopy(net).eval()
    drop_path = DropPath(net, 0.9)
    drop_path.draw((0, 0, 0), np.arange(10), CPU)
    assert torch.equal(net(x), trained)
    with drop_path.attached():
        assert not torch.equal(net(x), trained)
        evaluated.load_state_dict(net.state_dict())
        assert torch.equal(net.eval()(x), evaluated(x))
    assert torch.equal(net.train()(x), trained)
    assert (list(net.state_dict()), [name for name, _ in net.named_modules()]) == (state, modules)


def test_a_supernets_blocks_have_the_same_rates_in_every_subnet() -> None:
    supernet, x = Supernet(SPACE, in_channels=1, image_size=8, num_classes=10).train(), torch.randn(30, 1, 8, 8)
    drop_path = DropPath(supernet, 0.5)
    drop_path.draw((0, 0, 0), np.arange(30), CPU)
    with supernet.subnet(SPACE.smallest):
        shallow = supernet(x)
        with drop_path.attached():
            assert torch.equal(supernet(x), shallow), "the first block is never skipped"
    with supernet.subnet(SPACE.largest), drop_path.attached():
        skipped = (drop_path._scales == 0).tolist()
        last: list[Tensor] = []
        supernet.blocks[-1].mlp.register_forward_hook(lambda module, args, out: last.append(out))
        supernet(x)
        assert 0 < sum(skipped[-1]) < 30
        assert not last[0][:, skipped[-1]].any()
        assert last[0][:, [not each for each in skipped[-1]]].any()


def test_training_without_it_is_what_it_was(digits, tmp_path: Path) -> None:
    net = network()
    results = [
        train_network(net, digits, recipe, seed=1, folder=tmp_path / str(i), progress=False)
        for i, recipe in enumerate([RECIPE, RECIPE.model_copy(update={"drop_path": 0.0}), DROPPING])
    ]
    hashes = [weights_hash(result.net) for result in results]
    assert hashes[0] == hashes[1] != hashes[2]
    assert not any(module._forward_hooks for module in results[2].net.modules())


@pytest.mark.parametrize("changes", [{}, {"surrogate_slope": 8.0}])
def test_interrupted_training_skips_the_same(digits, tmp_path: Path, changes) -> None:
    recipe = DROPPING.model_copy(update=changes)

    def train(name: str) -> str:
        return weights_hash(
            train_network(network(), digits, recipe, seed=1, folder=tmp_path / name, progress=False).net
        )

    whole = train("whole")
    with interruption():
        train("cut")
    torch.manual_seed(7)
    assert train("cut") == whole


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_trainer_draws_for_the_images_that_it_shows(
    digits, fresh, accumulate: int, tmp_path: Path, monkeypatch
) -> None:
    recipe = DROPPING.model_copy(update={"accumulate": accumulate, "batch_size": 50, "mixup": 0.0})
    trainer = Trainer(
        fresh,
        SandwichStrategy(SPACE, seed=0, random_subnets=1),
        digits.train,
        recipe,
        num_classes=10,
        seed=4,
        identity={},
        folder=tmp_path,
    )
    asked: list[tuple[tuple[int, ...], list[int]]] = []
    draw = trainer.drop_path.draw

    def noted(key: tuple[int, ...], samples: np.ndarray, device: torch.device) -> None:
        asked.append((key, samples.tolist()))
        draw(key, samples, device)

    monkeypatch.setattr(trainer.drop_path, "draw", noted)
    indices = np.arange(100, 150)
    trainer._backward(indices, 2, 7)
    assert {key for key, _ in asked} == {(4, 2, 7)}
    assert [sample for _, samples in asked for sample in samples] == indices.tolist()
    assert len(asked) == accumulate
