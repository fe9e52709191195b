"""What a doctor says of mixers: of synthetic trials, and of supernets that were really trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from spikesearch.audit.mixers import hardly_trained, never_competitive
from spikesearch.nn import Supernet
from spikesearch.space import Architecture, SearchSpace
from spikesearch.study.results import TrialResult

SPACE = SearchSpace(
    embed_dims=(16, 32),
    time_steps=(1,),
    mlp_ratios=(0, 1),
    num_heads=(2,),
    v_thresholds=(1.0,),
    taus=(2.0,),
    stages=[
        {"width": "1/2", "depths": [1, 2], "mixers": ["conv", "dwconv"]},
        {"width": 1, "depths": [1, 2], "mixers": ["conv", "qk", "ssa"]},
    ],
)
SAMPLES = 2000


def has(arch: Architecture, stage: int, mixer: str) -> bool:
    return any(block.mixer == mixer for block in arch.blocks_of_stages[stage])


def trials(
    score: Callable[[Architecture], float], count: int = 200, noise: float = 0.01, space: SearchSpace = SPACE
) -> list[TrialResult]:
    """Random architectures; accuracy grows with the logarithm of the energy, and as ``score`` says."""
    rng = np.random.default_rng(0)
    results = []
    for number in range(count):
        arch = space.sample(rng)
        energy = arch.embed_dim * arch.depth * float(rng.uniform(0.5, 2))
        accuracy = 0.7 + 0.03 * np.log(energy / 16) + score(arch) + noise * rng.normal()
        results.append(TrialResult(number, arch, float(accuracy), energy, None, feasible=True))
    return results


def named(results: Sequence[TrialResult], space: SearchSpace = SPACE) -> list[str]:
    return [finding.where for finding in never_competitive(space, results, SAMPLES)]


def test_a_mixer_that_never_pays_is_named_with_its_stage() -> None:
    results = trials(lambda arch: -0.1 * has(arch, 1, "ssa"))
    (finding,) = never_competitive(SPACE, results, SAMPLES)
    assert (finding.kind, finding.where) == ("mixer never competitive", "ssa in space.stages[1].mixers")
    own = sum(has(trial.architecture, 1, "ssa") for trial in results)
    assert finding.found.startswith(f"its {own} trials are ")
    assert "best with conv or qk alone" in finding.found
    lost = float(finding.found.split("and ")[1].split()[0])
    assert 9 < lost < 11, "ten points, as they were made"
    assert "Leave it out of the list" in finding.advice


def test_a_space_of_one_stage_has_one_list() -> None:
    space = SearchSpace((16,), (1, 2), (2,), (1,), (1.0,), (2.0,), (1, 2), mixers=("ssa", "conv"))
    results = trials(lambda arch: -0.1 * has(arch, 0, "ssa"), space=space)
    cheap = next(i for i, trial in enumerate(results) if not has(trial.architecture, 0, "ssa"))
    results[cheap] = replace(results[cheap], energy_uJ=4.0, accuracy=0.66)  # the cheapest is always on a front
    assert named(results, space) == ["ssa in space.mixers"]


@pytest.mark.parametrize("seed", range(5))
def test_mixers_that_differ_by_chance_are_not_named(seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert named(trials(lambda arch: 0.005 * float(rng.normal()), noise=0.0)) == []


def test_a_mixer_that_is_best_where_energy_is_scarce_is_not_named() -> None:
    def cheap(arch: Architecture) -> float:
        pays = arch.embed_dim == 16 and arch.depth == 2
        return (0.05 if pays else -0.15) * has(arch, 0, "dwconv")

    assert "dwconv in space.stages[0].mixers" not in named(trials(cheap))


def test_one_good_trial_is_enough() -> None:
    results = trials(lambda arch: -0.1 * has(arch, 1, "ssa"))
    index = next(i for i, trial in enumerate(results) if has(trial.architecture, 1, "ssa"))
    results[index] = replace(results[index], accuracy=0.95)
    assert named(results) == []


def test_few_trials_say_nothing() -> None:
    results = trials(lambda arch: -0.1 * has(arch, 1, "ssa"))
    without = [trial for trial in results if not has(trial.architecture, 1, "ssa")]
    few = [trial for trial in results if has(trial.architecture, 1, "ssa")][:9]
    assert named(without + few) == []
    assert named([]) == []


def trained(draw: Iterator[Architecture], steps: int = 16) -> Supernet:
    torch.manual_seed(0)
    net = Supernet(SPACE, in_channels=1, image_size=8, num_classes=4, residual="normed", stem="conv").train()
    optimiser = torch.optim.AdamW(net.parameters(), 0.01)
    for _, arch in zip(range(steps), draw, strict=False):
        with net.subnet(arch):
            logits = net(torch.randn(8, 1, 8, 8))
        torch.nn.functional.cross_entropy(logits, torch.randint(4, (8,))).backward()
        optimiser.step()
        optimiser.zero_grad()
    return net


def draws(*, unless: Callable[[Architecture], bool] = lambda arch: False) -> Iterator[Architecture]:
    rng = np.random.default_rng(1)
    while True:
        arch = SPACE.sample(rng)
        if not unless(arch):
            yield arch


def test_a_supernet_whose_mixers_had_their_turns_has_no_findings() -> None:
    assert list(hardly_trained(trained(draws()))) == []


def test_a_supernet_that_was_never_trained_has_none_either() -> None:
    assert list(hardly_trained(trained(draws(), steps=0))) == []


def test_a_mixer_that_never_had_a_turn_is_named() -> None:
    (finding,) = hardly_trained(trained(draws(unless=lambda arch: has(arch, 1, "qk"))))
    assert (finding.kind, finding.where) == ("mixer hardly trained", "qk in space.stages[1].mixers")
    assert finding.found.startswith("shifts of its batch-norms have moved by 0, those of the others by 0.")
    assert "train.epochs" in finding.advice
