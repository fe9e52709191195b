"""``spikesearch energy``: a study's network, its drift on other recordings, and networks of any kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from spikesearch.energy import CONVENTIONS
from tests.commands import Result
from tests.study.helpers import TINY

Cli = Callable[..., Result]

NETWORK = """
from spikingjelly.activation_based import layer, neuron
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lif = neuron.LIFNode(tau=2.0, v_threshold=0.1, step_mode="m")
        self.first, self.head = nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, x):
        currents = self.first(x.flatten(1))
        return self.head(self.lif(currents.expand(3, *currents.shape)))

def make():
    return Net()

number = 7
"""


@pytest.fixture
def cli_folder(finished: Path) -> Path:
    """The finished study's folder."""
    return finished


def test_a_study_under_every_convention(cli: Cli) -> None:
    evaluated = cli("subnet", "evaluate", "tiny", "-f", "json").json()
    energy = cli("energy", "tiny", "-f", "json").json()
    assert set(energy["energy"]) == set(CONVENTIONS)
    assert energy["accuracy"] == evaluated["accuracy"]
    assert energy["energy"]["spikformer"]["total_uJ"] == pytest.approx(evaluated["energy_uJ"])
    memory = energy["energy"]["memory"]
    assert memory["packed"] == memory["total_uJ"] < memory["unpacked"]
    assert memory["qnn"] == energy["energy"]["strict"]["qnn"]
    ours, theirs = (each["comparison"]["neurobench"] for each in (evaluated["energy"], energy["energy"]["spikformer"]))
    assert ours["footprint"] == theirs["footprint"]
    assert ours["synaptic_operations"] == pytest.approx(theirs["synaptic_operations"])
    table = cli("energy", "tiny").out
    for convention in CONVENTIONS:
        assert f"convention {convention!r}" in table


def test_hardware_is_named_in_every_report(cli: Cli) -> None:
    reports = cli("energy", "tiny", "--hardware", "loihi1", "-f", "json").json()["energy"]
    assert "memory" not in reports
    assert {report["hardware"] for report in reports.values()} == {"loihi1"}
    assert any("multiply-accumulates (loihi1)" in what for what in reports["strict"]["unpriced"])
    assert "`hardware` must be one of" in cli("energy", "tiny", "--hardware", "loihi2").complaint


def test_drift_on_other_recordings(cli: Cli, cli_folder: Path) -> None:
    same = cli("energy", "tiny", "--data", "tiny.yaml", "-f", "json").json()
    assert set(same) == {"own", "other", "rates"}
    own, other = same["own"], same["other"]
    assert other["energy"]["strict"]["n_images"] == 1797, "all of it, not a split"
    assert own["energy"]["strict"]["n_images"] == 181
    assert other["energy"]["memory"]["total_uJ"] == pytest.approx(own["energy"]["memory"]["total_uJ"], rel=0.1)
    assert {"own", "other"} == set(same["rates"]["head"])
    table = cli("energy", "tiny", "--data", "tiny.yaml").out
    assert "uJ, memory, unpacked" in table
    assert "rate into head" in table
    assert "have no folder" in cli("energy", "tiny", "--data", "somewhere").complaint


def test_other_classes_are_refused(cli: Cli, cli_folder: Path, tmp_path: Path) -> None:
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(10):
            Image.new("L", (8, 8), i * 20).save(tmp_path / "pets" / name / f"{i}.png")
    pets = {**TINY, "data": {"kind": "image-folder", "path": str(tmp_path / "pets"), "image_size": 8}}
    (cli_folder / "pets.yaml").write_text(yaml.safe_dump(pets))
    assert "must have the classes of the study 'tiny'" in cli("energy", "tiny", "--data", "pets.yaml").complaint


def test_any_network(cli: Cli, cli_folder: Path) -> None:
    (cli_folder / "my_nets.py").write_text(NETWORK)
    energy = cli("energy", "my_nets:make", "--data", "tiny.yaml", "-f", "json").json()
    assert set(energy["energy"]) == set(CONVENTIONS)
    strict = energy["energy"]["strict"]
    assert strict["time_steps"] == 3
    assert [layer["name"] for layer in strict["layers"]] == ["first", "head", "membranes"]
    assert strict["macs"] == 64 * 32 + 3 * 32
    assert "--data must say" in cli("energy", "my_nets:make").complaint
    assert "must return a torch module" in cli("energy", "builtins:dict", "--data", "tiny.yaml").complaint
    assert "must be an importable module:factory" in cli("energy", "my_nets:nothing", "--data", "tiny.yaml").complaint
