"""The doctor: every finding is provoked for real, and a healthy study has none."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from spikesearch.audit.doctor import batch_norm_drift, borders, describe_neurons, diagnose, firing_rates, size_order
from spikesearch.nn.units import Form, network_neurons
from spikesearch.scoring import Scorer
from spikesearch.space import Architecture, BlockSpec, StemSpec
from spikesearch.study import create_study, run_study
from spikesearch.study.results import read_results
from spikesearch.study.session import Session, open_trained
from tests.commands import Result
from tests.study.helpers import tiny_config

KINDS = {
    *("dead layer", "saturated layer", "batch-norm drift"),
    *("largest below smallest", "no better than a guess", "split overlap", "border of the space"),
}


@pytest.fixture(scope="module", params=["add", "membrane"])
def url(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('doctor')}/s.db"
    changes = {
        "train__epochs": 4 if request.param == "add" else 8,  # fewer spikes at first, so that it learns later
        "train__batch_size": 32,
        "search__n_trials": 2,
        "scoring__calibration_images": 256,
    }
    space = {"space__time_steps": [2], "space__v_thresholds": [1.0], "space__taus": [2.0]}
    config = tiny_config(**changes, **space, model__residual=request.param)
    run_study(config, storage=url, progress=False)
    return url


@pytest.fixture
def trained(url: str) -> Session:
    return open_trained("tiny", storage=url)


def edit(scorer: Scorer, change: Callable[[torch.nn.Module], object]) -> Scorer:
    """The same scorer with a damaged supernet."""
    with torch.no_grad():
        change(scorer.supernet)
    return scorer


def test_a_healthy_study_has_no_findings(trained: Session, url: str, cli: Callable[..., Result]) -> None:
    assert diagnose(trained) == []
    result = cli("doctor", "tiny", "--storage", url)
    assert result.status == 0
    assert result.out.startswith("Nothing found in study tiny: ")
    assert cli("doctor", "tiny", "--storage", url, "-f", "json").json() == []


@pytest.mark.parametrize(
    ("shift", "kind"), [(-50.0, "dead layer"), (50.0, "saturated layer")], ids=["dead", "saturated"]
)
def test_layers_that_never_or_always_fire(trained: Session, shift: float, kind: str) -> None:
    scorer = edit(trained.scorer(), lambda net: net.get_parameter("blocks.0.mlp.fc1.bn.bias").fill_(shift))
    largest = scorer.supernet.space.largest
    findings = [finding for finding in firing_rates(scorer, "reference", largest) if "fc1" in finding.where]
    assert [finding.kind for finding in findings] == [kind]
    assert findings[0].where == "blocks.0.mlp.fc1 of the reference network (v_threshold 1, tau 2)"
    assert f"{0 if shift < 0 else 1}.0000 spikes" in findings[0].found
    assert "space.v_thresholds" in findings[0].advice


def test_neurons_that_read_a_stream_are_named_with_their_genes() -> None:
    stem, block = StemSpec(0.6, 4.0), BlockSpec(1, 1.0, 1.4, 1.25)
    arch = Architecture(16, 2, stem, (BlockSpec(1, 1.0, 1.0, 2.0), block))
    words = {name: describe_neurons(spec) for name, spec in network_neurons(arch, Form(residual="membrane")).items()}
    for neurons in ("blocks.1.mlp.lif_in", "blocks.1.attn.qkv.lif", "head_lif"):
        assert words[neurons] == "v_threshold 1.4, tau 1.25"
    assert words["stem.rpe_lif"] == words["stem.stages.0.lif"] == "v_threshold 0.6, tau 4"
    assert words["blocks.0.attn.lif"] == "attention, threshold and tau are fixed"


def test_a_part_of_the_attention_is_named(trained: Session) -> None:
    def silence_the_keys(net: Any) -> None:
        bias = net.blocks[0].attn.qkv.bn.bias
        bias.view(3, -1)[1] = -50

    scorer = edit(trained.scorer(), silence_the_keys)
    where = [finding.where.split()[0] for finding in firing_rates(scorer, "reference", scorer.supernet.space.largest)]
    assert "blocks.0.attn.k" in where
    assert "blocks.0.attn" in where, "without keys the product is zero, so that nothing fires on it"
    assert "blocks.0.attn.q" not in where


def test_statistics_of_too_few_images_drift(trained: Session) -> None:
    few = trained.config.scoring.model_copy(update={"calibration_images": 2})
    scorer = Scorer(trained.scorer().supernet, trained.data, few)
    (finding,) = batch_norm_drift(scorer, "reference", scorer.supernet.space.largest)
    assert finding.kind == "batch-norm drift"
    assert "Raise scoring.calibration_images (2, of " in finding.advice
    assert finding.where.endswith("of the reference network")


def test_a_largest_network_that_is_worse_than_the_smallest(trained: Session) -> None:
    def ruin_what_only_the_largest_has(net: Any) -> None:
        net.blocks[1].mlp.fc2.bn.bias.fill_(50.0)  # every token gets the same spikes added

        torch.nn.init.normal_(net.head.weight[:, 16:], std=50)

    space = trained.scorer().supernet.space
    assert list(size_order(trained.scorer(), space)) == []
    scorer = edit(trained.scorer(), ruin_what_only_the_largest_has)
    (finding,) = size_order(scorer, space)
    small, large = scorer.score(space.smallest).accuracy, scorer.score(space.largest).accuracy
    assert finding.found == f"accuracy on the search split: largest {large:.2%}, smallest {small:.2%}"
    assert small > large


def front(tmp_path: Path, chosen: Callable[[int], dict[str, Any]], **space: list[float]) -> Any:
    """Findings about a study of a reference and five better trials with these neuron genes and time steps."""
    config = tiny_config(**{f"space__{key}": value for key, value in {"taus": [2.0], **space}.items()})
    study = create_study(config, storage=f"sqlite:///{tmp_path}/s.db")
    offered = config.space.search_space()
    generator = np.random.default_rng(0)
    study.set_user_attr("reference_energy_uJ", 1.0)
    for number in range(6):
        arch = offered.largest if number == 0 else offered.sample(generator)
        params = {**offered.params(arch)}
        if number:
            for key in params:
                params[key] = next((v for part, v in chosen(number).items() if part in key), params[key])
        study.add_trial(
            optuna.trial.create_trial(
                params=params,
                distributions=dict(offered.distributions(arch.depth)),
                values=[0.8 - 0.001 * number, 1.0 - 0.1 * number],
            )
        )
    return list(borders(offered, read_results(study, "here")))


def test_a_front_at_the_border_of_the_space(tmp_path: Path) -> None:
    found = front(
        tmp_path, lambda _: {"tau": 4.0, "v_threshold": 0.6}, taus=[1.25, 2.0, 4.0], v_thresholds=[0.6, 1.0, 1.4]
    )
    texts = {finding.where: (finding.found, finding.advice) for finding in found if "time" not in finding.where}
    assert set(texts) == {"space.taus", "space.v_thresholds"}
    assert texts["space.taus"][0].endswith("have the largest choice, 4")
    assert "add a larger choice to space.taus" in texts["space.taus"][1]
    assert texts["space.v_thresholds"][0].endswith("have the smallest choice, 0.6")
    assert "add a smaller choice" in texts["space.v_thresholds"][1]


def test_time_steps_at_the_border(tmp_path: Path) -> None:
    (found,) = front(tmp_path, lambda _: {"time_steps": 4}, time_steps=[1, 2, 4], v_thresholds=[1.0])
    assert found.where == "space.time_steps"
    assert "larger choice to space.time_steps (event data: at most data.frames)" in found.advice


def test_a_recommended_network_with_the_most_time_steps(tmp_path: Path) -> None:
    steps = {1: 1, 2: 2, 3: 2, 4: 1, 5: 4}
    (found,) = front(tmp_path, lambda number: {"time_steps": steps[number]}, time_steps=[1, 2, 4], v_thresholds=[1.0])
    assert found.found == "the recommended network takes the most time steps (4)"


@pytest.mark.parametrize("steps", [[1, 2, 3], [4]])
def test_a_front_in_the_middle_or_without_a_choice(tmp_path: Path, steps: list[float]) -> None:
    middle = {"time_steps": 2 if len(steps) > 1 else 4}
    assert front(tmp_path, lambda _: middle, time_steps=steps, v_thresholds=[1.0]) == []


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """Digits of two classes as pictures, of which forty are copies of others."""
    images, labels = load_digits(return_X_y=True)
    for wanted in (0, 1):
        folder = tmp_path / "pictures" / str(wanted)
        folder.mkdir(parents=True)
        chosen = images[labels == wanted][:60].reshape(-1, 8, 8)
        for index, image in enumerate([*chosen, *chosen[:20]]):
            Image.fromarray((image * 15).astype(np.uint8)).save(folder / f"{index}.png")
    return tmp_path


def test_copies_in_two_splits_and_the_command(copies: Path, cli: Callable[..., Result]) -> None:
    data = copy.deepcopy(tiny_config().to_dict())
    data["data"] = {"kind": "image-folder", "path": str(copies / "pictures"), "image_size": 8}
    data["train"]["epochs"] = data["search"]["n_trials"] = 1
    config = type(tiny_config()).from_dict(data)
    run_study(config, storage=f"sqlite:///{copies}/spikesearch.db", progress=False)
    told = cli("doctor", "tiny", "-f", "json")
    assert told.status == 0
    findings = told.json()
    overlap = [finding for finding in findings if finding["kind"] == "split overlap"]
    assert overlap
    assert {finding["kind"] for finding in findings} <= KINDS
    assert "pixel for pixel" in overlap[0]["found"]
    assert "Remove the copies" in overlap[0]["advice"]
    table = cli("doctor", "tiny")
    assert (table.status, table.out.count("split overlap: data\n")) == (0, len(overlap))
    value = cli("doctor", "tiny", "-f", "value")
    assert (value.status, value.out.split("\n")[:-1]) == (0, [finding["kind"] for finding in findings])
