"""Mixers from outside: one file that registers itself, and the whole package knows it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from spikesearch.config import ScoringConfig, StudyConfig
from spikesearch.data import load_data
from spikesearch.energy import EnergyModel
from spikesearch.errors import SpaceError
from spikesearch.nn import Spikformer, Supernet, count_parameters
from spikesearch.nn.mixers import MIXERS, Mixer, register
from spikesearch.nn.plan import Layer
from spikesearch.scoring import Scorer
from spikesearch.space import Architecture, BlockSpec, SearchSpace, StemSpec


class NeighbourMixer(Mixer):
    """Every token gets the spikes of the next one: no weights between tokens, and no genes."""

    name = "neighbour"
    layers = (Layer("value", 1, 1 / 2, reads_stream=True), Layer("proj", 1 / 2, 1, ends_branch=True))

    def forward(self, branch, x_seq: Tensor, arch: Architecture, spec: BlockSpec) -> Tensor:
        spikes = branch.value(x_seq, arch, spec)
        return branch.proj(spikes.roll(1, dims=2), arch, spec)


@pytest.fixture(autouse=True)
def _neighbour() -> Iterator[None]:
    register(NeighbourMixer())
    yield
    MIXERS.unregister("neighbour")


@pytest.fixture
def space() -> SearchSpace:
    return SearchSpace((16, 32), (1, 2), (2, 4), (1, 2), (0.6, 1.0), (1.25, 2.0), (1, 2), mixers=("ssa", "neighbour"))


def supernet(space: SearchSpace, residual: str) -> Supernet:
    torch.manual_seed(0)
    net = Supernet(space, in_channels=1, image_size=8, num_classes=10, residual=residual)
    rng = np.random.default_rng(0)
    for _ in range(20):
        with net.subnet(space.sample(rng)):
            net(torch.randn(8, 1, 8, 8))
    return net.eval()


@torch.no_grad()
@pytest.mark.parametrize("residual", ["add", "membrane"])
def test_subnets_with_it_are_extracted_counted_and_priced(space: SearchSpace, residual: str) -> None:
    net, rng, x = supernet(space, residual), np.random.default_rng(1), torch.randn(20, 1, 8, 8)
    seen = set()
    for _ in range(12):
        arch = space.sample(rng)
        seen |= {block.mixer for block in arch.blocks}
        stats = net.calibrate(arch, x)
        with net.subnet(arch, stats):
            logits = net(x)
        plain = net.extract(arch, stats)
        assert torch.equal(plain(x), logits)
        assert count_parameters(plain) == net.count_parameters(arch)
        for convention in ("spikformer", "strict"):
            names = {layer.name for layer in EnergyModel(convention).report(plain, x).layers}
            for i, block in enumerate(arch.blocks):
                assert (f"blocks.{i}.neighbour.value.linear" in names) == (block.mixer == "neighbour")
                assert (f"blocks.{i}.attn.product" in names) == (block.mixer == "ssa")
    assert seen == {"ssa", "neighbour"}


def test_scores_with_it_do_not_depend_on_the_cache(space: SearchSpace) -> None:
    study = StudyConfig.from_dict(
        {
            "name": "outside",
            "data": {"kind": "digits", "splits": {"train": 0.1, "search": 0.1, "test": 0.1}},
            "space": {name: list(choices) for name, choices in space.to_dict().items()},
            "train": {"epochs": 1},
            "search": {"n_trials": 3},
        }
    )
    assert study.space.search_space() == space
    data, net = load_data(study.data, seed=0), supernet(space, "add")
    cached = Scorer(net, data, ScoringConfig(calibration_images=32))
    plain = Scorer(net, data, ScoringConfig(calibration_images=32, cache_mb=0))
    arch = space.largest
    for other in (arch, *list(space.neighbours(arch))[:10]):
        assert cached.score(other) == plain.score(other)
    assert cached.work.done < cached.work.needed


def test_heads_are_no_gene_of_a_block_without_them(space: SearchSpace) -> None:
    arch = Architecture(16, 1, StemSpec(1.0, 2.0), (BlockSpec(0, 1.0, 1.0, 2.0, mixer="neighbour"),))
    assert "block0.num_heads" not in space.params(arch)
    assert "num_heads" not in arch.to_dict()["blocks"][0]
    assert Architecture.from_dict(arch.to_dict()) == arch


def test_a_mixer_that_nobody_registered_is_refused_by_name() -> None:
    arch = Architecture(16, 1, StemSpec(1.0, 2.0), (BlockSpec(0, 1.0, 1.0, 2.0, mixer="neighbor"),))
    with pytest.raises(
        SpaceError, match="`mixer` must be one of conv, dwconv, neighbour, qk, ssa, but got 'neighbor'; did you mean"
    ):
        Spikformer(arch, in_channels=1, image_size=8, num_classes=2)
