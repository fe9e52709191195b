"""The comparison at equal energy: what its arms are made of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fronts import published, uniform
from parts.baselines_networks import count_macs
from parts.rivals import rivals

from spikesearch.config import find_study_file, load_study_file
from spikesearch.data import load_data
from spikesearch.space import SearchSpace

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.parametrize("study", ["digits", "digits-spikformer", "nmnist-small"])
def test_uniform_architectures_are_in_the_space_and_alike(study: str) -> None:
    space = load_study_file(find_study_file(study)).space.search_space()
    grid = list(uniform(space))
    assert len(set(grid)) == len(grid) > 10
    for arch in grid:
        assert arch in space
        assert len(set(arch.blocks)) == 1
        assert len(set(arch.depths)) == 1


def test_a_stage_that_does_not_offer_a_mixer_leaves_it_out() -> None:
    space = SearchSpace(
        embed_dims=[16],
        time_steps=[1],
        num_heads=[2],
        mlp_ratios=[1],
        v_thresholds=[1.0],
        taus=[2.0],
        stages=[
            {"width": "1/2", "depths": [1], "mixers": ["conv", "dwconv"]},
            {"width": 1, "depths": [1, 2], "mixers": ["conv", "ssa"]},
        ],
    )
    assert [{block.mixer for block in arch.blocks} for arch in uniform(space)] == [{"conv"}]


def test_rivals_take_images_and_recordings_and_grow_with_their_width() -> None:
    data = load_data(load_study_file(find_study_file("digits")).data, seed=0)
    for family in rivals(data):
        sizes = [count_macs(family.build(width * family.step), data) for width in (2, 4, 6)]
        assert sizes == sorted(set(sizes))
        width = family.nearest(sizes[1] * 1.01, lambda net: count_macs(net, data))
        assert width == 4 * family.step
        net = family.build(width).eval()
        frames = torch.rand(3, 5, 1, 8, 8)
        assert net(frames).shape == (3, 10)
        torch.testing.assert_close(net(frames), net(frames.sum(1)))


@pytest.mark.slow
def test_the_command_runs_in_its_short_form(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "fronts.py"), "--quick", "--arms", "searched", "random", "conventional"]
    command += ["--json", str(tmp_path / "out.json"), "--figure", str(tmp_path / "out.png")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "inverted residuals at 0.25 uJ" in done.stdout
    assert (tmp_path / "out.png").stat().st_size > 10_000


def test_every_published_family_has_a_rival() -> None:
    assert set(published()) == {
        "spikformer",
        "spikingformer",
        "sdt-v2",
        "qkformer",
        "max-former",
        "ms-resnet",
    }
