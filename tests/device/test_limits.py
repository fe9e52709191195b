"""Device limits: known before a trial is spent, kept by everything that is proposed, refused before a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spikesearch.config import StudyConfig
from spikesearch.device.limits import DeviceLimits
from spikesearch.device.size import device_size
from spikesearch.device.targets import TARGETS, Plan
from spikesearch.errors import ConfigError
from spikesearch.space import SearchSpace
from spikesearch.study import run_study

SPACE: dict[str, Any] = {
    "embed_dims": [16, 32],
    "time_steps": [1],
    "stem_channels": [8, 16],
    "num_heads": [2],
    "mlp_ratios": [0, 1],
    "v_thresholds": [1.0],
    "taus": [2.0],
    "stages": [
        {"width": "1/2", "depths": [1], "mixers": ["conv", "dwconv"]},
        {"width": 1, "depths": [1, 2], "mixers": ["conv", "ssa"]},
    ],
}
MODEL = {"in_channels": 1, "image_size": 8, "num_classes": 10, "pool_stages": (), "residual": "normed"}
STEM = {"stem": "conv", "stem_stride": 1}
ONE_BLOCK: dict[str, Any] = {"stages": [], "depths": [1], "mixers": ["conv"], "mlp_ratios": [0]}


def study(name: str = "small", **changes: Any) -> StudyConfig:
    return StudyConfig.from_dict(
        {
            "name": name,
            "data": {"kind": "digits"},
            "space": SPACE,
            "model": {"residual": "normed", **STEM},
            "train": {"epochs": 1, "batch_size": 64, "lr": 5e-3},
            "search": {"n_trials": 24, "population_size": 8},
            **changes,
        }
    )


def plan(space: dict[str, Any] | None = None, *, static: bool = True, **model: Any) -> Plan:
    return Plan(SearchSpace(**{**SPACE, **(space or {})}), {**MODEL, **STEM, **model}, static)


def test_the_excess_is_what_the_device_size_says() -> None:
    planned = plan()
    limits = DeviceLimits(study(constraints={"flash_kB": 20, "ram_kB": 2.5, "energy_uJ": 1}), planned)
    known = limits.known_constraints()
    assert set(known) == {"flash_kB", "ram_kB"}
    rng = np.random.default_rng(0)
    for arch in [planned.space.largest, *(planned.space.sample(rng) for _ in range(20))]:
        size = device_size(arch, planned.model)
        params = planned.space.params(arch)
        assert known["flash_kB"](params) == pytest.approx(size.flash / 1000 - 20)
        assert known["ram_kB"](params) == pytest.approx(size.ram / 1000 - 2.5)


def test_nothing_beyond_the_limits_is_proposed(tmp_path: Path) -> None:
    config = study(constraints={"flash_kB": 12, "ram_kB": 2.5})
    found = run_study(config, storage=f"sqlite:///{tmp_path / 'a.db'}", progress=False)
    space, trials = config.space.search_space(), found.get_trials()
    sizes = [device_size(space.architecture(trial.params), {**MODEL, **STEM}) for trial in trials]
    within = [size.flash <= 12_000 and size.ram <= 2_500 for size in sizes]
    assert within == [False] + [True] * 23  # the reference is the largest network, whatever it needs
    rng = np.random.default_rng(0)
    drawn = [device_size(space.sample(rng), {**MODEL, **STEM}) for _ in range(50)]
    assert sum(size.flash > 12_000 or size.ram > 2_500 for size in drawn) > 10, "the limits bind"
    for trial, size in zip(trials, sizes, strict=True):
        assert trial.constraints["flash_kB"] == pytest.approx(size.flash / 1000 - 12)
        assert trial.constraints["ram_kB"] == pytest.approx(size.ram / 1000 - 2.5)


def test_a_study_that_no_network_fits_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    database = tmp_path / "a.db"
    with pytest.raises(ConfigError, match=r"No network of the space keeps `flash_kB` 1: the smallest needs \d+\.\d"):
        run_study(study(constraints={"flash_kB": 1}), storage=f"sqlite:///{database}", progress=False)
    with pytest.raises(ConfigError, match="The target 'speck' cannot run what would be searched"):
        run_study(study(target="speck"), storage=f"sqlite:///{database}", progress=False)
    assert not database.exists()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("mixers", [["conv", "dwconv"], ["ssa", "qk"], ["ssa", "dwconv"], ["qk", "conv"]])
def test_the_smallest_network_of_a_space_is_found(mixers: list[str]) -> None:
    stages = [{"width": "1/2", "depths": [1], "mixers": mixers}, {"width": 1, "depths": [1], "mixers": mixers[::-1]}]
    planned = plan({"stages": stages, "num_heads": [1, 2]})
    sizes = [device_size(planned.space.at(i), planned.model) for i in range(planned.space.size)]
    for name, bytes_of in (("flash_kB", [size.flash for size in sizes]), ("ram_kB", [size.ram for size in sizes])):
        least = min(bytes_of) / 1000
        DeviceLimits(study(constraints={name: least}), planned).check()
        with pytest.raises(ConfigError, match=f"keeps `{name}` .*: the smallest needs {least:.1f}"):
            DeviceLimits(study(constraints={name: least - 0.001}), planned).check()


def test_a_microcontroller_has_limits_of_its_own_that_constraints_replace() -> None:
    assert DeviceLimits(study(target="mcu"), plan()).bounds == {"flash_kB": 512, "ram_kB": 128}
    config = study(target="mcu", constraints={"ram_kB": 64})
    assert DeviceLimits(config, plan()).bounds == {"flash_kB": 512, "ram_kB": 64}
    assert DeviceLimits(study(), plan()).bounds == {}


def test_a_study_file_without_a_target_says_nothing_of_it() -> None:
    assert "target" not in study().to_dict()
    assert StudyConfig.from_dict(study(target="fpga").to_dict()).target == "fpga"
    with pytest.raises(ConfigError, match=r"`target` must be one of fpga, mcu, speck, but got 'mcv'; did you mean"):
        study(target="mcv")


@pytest.mark.parametrize(
    ("target", "planned", "words"),
    [
        ("mcu", plan(), []),
        ("mcu", plan({"time_steps": [4], "taus": [1.25]}, static=False), []),
        ("fpga", plan({"time_steps": [1, 4], "taus": [2.0, 4.0]}), []),
        ("fpga", plan({"taus": [1.25]}), []),  # nothing leaks at one time step
        ("fpga", plan({"time_steps": [1, 2], "taus": [1.25, 2.0, 3.0]}), ["`space.taus` has 1.25, 3: a leak"]),
        ("fpga", plan({"time_steps": [2], "taus": [0.0]}), ["`space.taus` has learned: a leak is a shift"]),
        ("speck", plan(ONE_BLOCK), []),
        ("speck", plan({**ONE_BLOCK, "time_steps": [2]}), ["`space.time_steps` has 2"]),
        ("speck", plan(ONE_BLOCK, image_size=160), ["160 pixels wide: the chip takes 128"]),
        ("speck", plan(ONE_BLOCK, image_size=128), ["128 positions each way: a core has 64"]),
        ("speck", plan(ONE_BLOCK, image_size=128, stem_stride=2), []),
        (
            "mcu",
            plan({"time_steps": [25]}, static=False),
            [f"cannot hold `stages.1.blocks.{i}.attn.lif` at 25" for i in (0, 1)],
        ),
        ("mcu", plan({"time_steps": [25], "stages": [], "depths": [1], "mixers": ["conv"]}, static=False), []),
        ("speck", plan(ONE_BLOCK, num_classes=16), ["16 classes: the chip reads out 15"]),
        ("speck", plan({**ONE_BLOCK, "embed_dims": [2048]}), ["`space.embed_dims` has 2048"]),
        ("speck", plan(ONE_BLOCK, stem_stride=3), ["a `stem_stride` of 1, 2, 4 or 8"]),
        (
            "speck",
            plan({**ONE_BLOCK, "depths": [2], "mlp_ratios": [0, 1]}),
            ["`mlp_ratios` has more than 0", "read by up to 2 layers and the head"],
        ),
        ("speck", plan(), ["`mixers` has dwconv, ssa", "`mlp_ratios` has more", "up to 4 layers and the head"]),
    ],
)
def test_targets_say_what_they_cannot_run(target: str, planned: Plan, words: list[str]) -> None:
    problems = list(TARGETS[target].problems(planned))
    assert len(problems) == len(words)
    assert all(word in problem for word, problem in zip(words, problems, strict=True))
