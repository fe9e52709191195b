"""What 0.1.0 made keeps working: its studies open and resume, with the same scores and the same next proposals.

``data/v0.1.0`` was written by that release: a database with two studies, their supernets, a retrained network and
exports; ``expected.json`` holds what it answered.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from spikesearch import EnergyModel, load_study, run_study
from spikesearch.export import load_network
from spikesearch.study.session import Session, open_trained
from spikesearch.train.strategies import ArchitectureDeck

FROZEN = Path(__file__).parent / "data" / "v0.1.0"
STUDIES = ("tiny", "membrane")
EXPECTED: dict[str, Any] = json.loads((FROZEN / "expected.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frozen")
    shutil.copy(FROZEN / "study.sqlite3", folder / "spikesearch.db")
    shutil.copytree(FROZEN / "files", folder / "runs")
    return folder


@pytest.fixture
def url(folder: Path) -> str:
    return f"sqlite:///{folder}/spikesearch.db"


@pytest.fixture(scope="module", params=STUDIES)
def trained(request: pytest.FixtureRequest, folder: Path) -> Session:
    return open_trained(request.param, storage=f"sqlite:///{folder}/spikesearch.db")


@pytest.mark.parametrize("name", STUDIES)
def test_the_next_proposals_are_the_same(name: str, url: str) -> None:
    study = load_study(name, storage=url)
    assert [study.sampler.propose(study, number) for number in (16, 17, 40)] == EXPECTED[name]["next"]


def test_the_space_is_the_same(trained: Session) -> None:
    expected = EXPECTED[trained.study.study_name]
    space = trained.config.space.search_space()
    assert space.size == expected["space"]["size"]
    assert [space.at(index).key for index in (0, 777, space.size - 1)] == expected["space"]["keys"]
    for name in ("largest", "smallest", "middle"):
        assert getattr(space, name).key == expected["space"][name]
    assert {name: list(d.choices) for name, d in space.distributions().items()} == expected["distributions"]
    arch = space.architecture(trained.study.trials[12].params)
    assert space.params(arch) == expected["params"]
    assert arch.to_dict() == expected["arch"]
    assert [other.key for other in space.neighbours(arch)] == expected["neighbours"]


def test_training_draws_the_same_subnets(trained: Session) -> None:
    deck = ArchitectureDeck(trained.config.space.search_space(), trained.config.seed)
    drawn = [deck.draw(epoch, index).key for epoch in (0, 5) for index in range(6)]
    assert drawn == EXPECTED[trained.study.study_name]["deck"]


def test_every_trial_gets_the_same_score_again(trained: Session) -> None:
    images = len(trained.data.search)
    for trial in trained.study.trials:
        score = trained.scorer().score(trained.config.space.search_space().architecture(trial.params))
        # another processor may decide a tie otherwise
        assert score.accuracy == pytest.approx(trial.values[0], abs=1.01 / images)
        assert score.energy_uJ == pytest.approx(trial.values[1], rel=1e-3)
        assert score.params == trial.user_attrs["params"]


@pytest.mark.parametrize("number", ["0", "1", "12", "13"])
def test_every_layer_costs_the_same(trained: Session, number: str) -> None:
    expected = EXPECTED[trained.study.study_name]["layers"][number]
    arch = trained.config.space.search_space().architecture(trained.study.trials[int(number)].params)
    net, images = trained.scorer().extract(arch), trained.data.search.images(range(64))
    for convention in ("spikformer", "strict"):
        report = EnergyModel(convention).report(net, images)
        assert [layer.name for layer in report.layers] == list(expected[convention])
        for layer in report.layers:
            kind, *numbers = expected[convention][layer.name]
            assert layer.kind == kind
            assert [layer.macs, layer.acs, layer.energy_uJ] == pytest.approx(numbers, rel=1e-3)
    assert EnergyModel().report(net, images).first_layer_once_uJ == pytest.approx(
        expected["first_layer_once_uJ"], rel=1e-3
    )
    assert trained.scorer().count_parameters(arch) == expected["params"]


@pytest.mark.parametrize(
    ("made", "place"),
    [
        ("export-safetensors", "export-safetensors"),
        ("export-membrane", "export-membrane"),
        ("runs/tiny/retrained/12-inherited-d7e931ed01d5", "files/tiny/retrained/12-inherited-d7e931ed01d5"),
    ],
)
def test_networks_compute_the_same(made: str, place: str, folder: Path) -> None:
    images = open_trained("tiny", storage=f"sqlite:///{folder}/spikesearch.db").data.test.images(range(6))
    torch.testing.assert_close(load_network(FROZEN / place)(images), torch.tensor(EXPECTED[made]))


def test_timm_reads_an_exported_folder() -> None:
    timm = pytest.importorskip("timm")
    net = timm.create_model(f"local-dir:{FROZEN / 'export-timm'}", pretrained=True).eval()
    same = load_network(FROZEN / "export-safetensors")
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(net(x), same(x))


def test_a_study_resumes_with_its_next_proposal(tmp_path: Path) -> None:
    shutil.copy(FROZEN / "study.sqlite3", tmp_path / "spikesearch.db")
    shutil.copytree(FROZEN / "files", tmp_path / "runs")
    study = run_study("tiny", storage=f"sqlite:///{tmp_path}/spikesearch.db", n_trials=1, progress=False)
    assert len(study.trials) == 17
    assert study.trials[16].state == optuna.trial.TrialState.COMPLETE
    assert study.trials[16].params == EXPECTED["tiny"]["next"][0]
