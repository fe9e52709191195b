"""Profiles: what they price, what they do not, and who says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from spikesearch.config import ScoringConfig, StudyConfig, load_study_file
from spikesearch.config.hardware import PROFILES, Hardware, hardware
from spikesearch.energy import EnergyModel, energy_model
from spikesearch.energy.model import every_model
from spikesearch.errors import ConfigError, ConfigNotFoundError
from spikesearch.train.loop import recipe_identity
from tests.energy.test_energy import network
from tests.study.helpers import TINY, tiny_config

OWN = {"ac_pj": 2.0, "mac_pj": 7.0, "sources": {"ac_pj": "a measurement", "mac_pj": "the same"}}


@pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))
def test_every_number_has_a_source(profile: Hardware) -> None:
    assert profile.sources
    assert all(len(source) > 20 for source in profile.sources.values())


def test_there_are_no_figures_that_nobody_published() -> None:
    assert not any("loihi2" in name or "loihi-2" in name for name in PROFILES)
    assert PROFILES["loihi1"].mac_pj is None
    assert PROFILES["spinnaker2"].update_pj is None


def test_a_study_of_before_says_nothing_of_hardware() -> None:
    config = tiny_config()
    scoring = config.to_dict()["scoring"]
    assert "hardware" not in scoring
    assert (scoring["mac_pj"], scoring["ac_pj"]) == (4.6, 0.9)
    assert StudyConfig.from_dict(config.to_dict()) == config
    assert energy_model(config.scoring).to_dict() == {"convention": "spikformer", "mac_pj": 4.6, "ac_pj": 0.9}


def test_prices_come_from_the_profile_unless_they_are_stated() -> None:
    scoring = ScoringConfig(hardware="45nm-int8", ac_pj=0.5)
    assert (scoring.mac_pj, scoring.ac_pj) == (0.23, 0.5)
    assert ScoringConfig.model_validate(scoring.model_dump(mode="json")) == scoring
    model = energy_model(scoring)
    assert (model.mac_pj, model.ac_pj, model.hardware.name) == (0.23, 0.5, "45nm-int8")


def test_the_identity_of_a_recipe_knows_other_hardware() -> None:
    config = tiny_config(train__energy_weight=0.02).train
    usual, other = (recipe_identity(config, EnergyModel(hardware=name)) for name in ("45nm-fp32", "45nm-int8"))
    assert usual["energy_model"] == {"convention": "spikformer", "mac_pj": 4.6, "ac_pj": 0.9}
    assert other["energy_model"]["hardware"]["name"] == "45nm-int8"


def test_a_file_is_read_beside_the_study_file_and_its_numbers_are_stored(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(OWN))
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**TINY, "scoring": {"hardware": "mine.yaml"}}))
    scoring = load_study_file(tmp_path / "study.yaml").scoring
    assert (scoring.mac_pj, scoring.ac_pj) == (7.0, 2.0)
    (tmp_path / "mine.yaml").unlink()
    again = ScoringConfig.model_validate(scoring.model_dump(mode="json"))
    assert energy_model(again).hardware.name == "mine"


def test_operations_without_a_figure_are_named_and_not_counted() -> None:
    net, x = network(residual="membrane"), torch.randn(3, 1, 8, 8)
    report = EnergyModel("strict", hardware="loihi1").report(net, x)
    (line,) = (line for line in report.layers if line.unpriced)
    assert line.name == "stem.stages.0.conv"
    assert line.energy_uJ == 0
    assert report.unpriced == (f"stem.stages.0.conv: {line.macs:,.0f} multiply-accumulates (loihi1)",)
    membranes = report.layers[-1]
    assert membranes.energy_uJ == pytest.approx(membranes.macs * 81e-6)
    assert report.first_layer_once_uJ is None
    assert report.comparison.qnn is None
    assert [model.convention for model in every_model(ScoringConfig(hardware="loihi1"))] == ["spikformer", "strict"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"ac_pj": 1.0}, "`sources` is missing"),
        ({"ac_pj": 1.0, "sources": {}}, "`sources` must say where ac_pj is from, but got nothing"),
        ({**OWN, "mac": 1.0}, "has no key 'mac'|there is no key 'mac'"),
        ("text", "must be a mapping of keys"),
        (
            {"memory": {"add_pj": 1, "mul_pj": 1, "curve": [[8, 1], [4, 1]]}, "sources": {"memory": "x"}},
            "ascending capacities",
        ),
    ],
)
def test_malformed_files_are_refused(content: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=message):
        hardware(str(path))


def test_unknown_hardware_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'loihi'; did you mean 'loihi1'"):
        hardware("loihi")
    with pytest.raises(ConfigNotFoundError):
        hardware(str(tmp_path / "nothing.yaml"))
    with pytest.raises(ConfigError, match=r"`scoring\.hardware` must be one of 45nm-fp32"):
        StudyConfig.from_dict({**TINY, "scoring": {"hardware": "loihi2"}})
    with pytest.raises(ConfigError, match="memory needs prices of memory, but the hardware loihi1 has none"):
        StudyConfig.from_dict({**TINY, "scoring": {"hardware": "loihi1", "convention": "memory"}})
    with pytest.raises(ValueError, match="needs prices of memory"):
        EnergyModel("memory", hardware="spinnaker2")
