"""Presets on the command line: listed, trained by themselves, exported, and as the middle of a new study."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from spikesearch.export.folder import load_network
from spikesearch.space import presets
from tests.commands import Result
from tests.interruptions import epochs_trained

Cli = Callable[..., Result]
SIZE = ("--preset", "qkformer-4-384", "--embed-dim", 16, "--depths", "1,1,0", "--num-heads", 2, "--time-steps", 1)
SMALL = presets.get("qkformer-4-384", embed_dim=16, depths=(1, 1, 0), num_heads=2, time_steps=1)


@pytest.fixture
def study(cli: Cli, tiny_file: Path) -> Path:
    """A study that has been created, and no more."""
    assert cli("study", "create", tiny_file).out == "tiny\n"
    return tiny_file


def test_they_are_listed_in_every_format(cli: Cli) -> None:
    rows = cli("space", "presets", "-f", "json").json()
    assert [row["name"] for row in rows] == presets.names()
    first = next(row for row in rows if row["name"] == "ms-resnet18")
    assert (first["embed_dim"], first["depths"], first["published_parameters"]) == (512, [2, 2, 2, 2], 11_690_000)
    assert (first["parameters"], first["model"]["residual"]) == (11_515_688, "membrane")
    assert first["differs"][0].startswith("Every convolution has a shortcut of its own")
    assert yaml.safe_load(cli("space", "presets", "-f", "yaml").out) == rows
    assert cli("space", "presets", "-f", "value").out.split() == presets.names()
    table = cli("space", "presets").out
    assert all(name in table for name in presets.names())
    assert "Hu et al., MS-ResNet, TNNLS 2024; not as published:\n- Every convolution" in table


def test_one_is_trained_by_itself_once_and_exported(study: Path, cli: Cli) -> None:
    shown = cli("subnet", "retrain", "tiny", *SIZE, "--epochs", 1, "-f", "json").json()
    assert (shown["preset"], shown["from"], shown["recipe"]["epochs"]) == ("qkformer-4-384", "scratch", 1)
    assert [(row["role"], row["trial"]) for row in shown["networks"]] == [("retrained", None)]
    net = load_network(shown["folder"])
    assert net.arch == SMALL.arch
    assert (net.residual, net.stem_kind, net.stem_stride) == ("add", "conv", 1)
    with epochs_trained() as epochs:
        table = cli("subnet", "retrain", "tiny", *SIZE, "--epochs", 1, "--output", "net").out
    assert epochs == []
    assert table.startswith("Preset qkformer-4-384 in net\n")
    exported = cli("subnet", "export", "tiny", "--network", "net").out.strip()
    assert "trained alone, from scratch" in Path(exported, "README.md").read_text()
    assert load_network(exported).arch == SMALL.arch
    assert json.loads(Path("net/model.json").read_text())["preset"] == "qkformer-4-384"
    refused = cli("subnet", "retrain", "tiny", *SIZE[:-1], 2, "--output", "net")
    assert (refused.status, refused.out) == (2, "")
    assert "holds another network" in refused.err.splitlines()[-1]


def test_beside_it_is_what_the_study_recommends(finished: Path, cli: Cli) -> None:
    shown = cli("subnet", "retrain", "tiny", *SIZE, "--epochs", 1, "-f", "json").json()
    assert [row["role"] for row in shown["networks"]] == ["retrained", "recommended", "largest"]
    best = cli("study", "best", "tiny", "-f", "json").json()
    assert (shown["networks"][1]["trial"], shown["networks"][2]["trial"]) == (best["number"], 0)
    assert shown["networks"][1]["test_accuracy"] == best["test_accuracy"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--preset", "qkformer"), "There is no preset 'qkformer'; did you mean 'qkformer-4-384' or"),
        (("--preset", "ms-resnet18"), "images of 33 x 33 pixels or more, but got 8 x 8"),
        (("--preset", "qkformer-4-384", "--embed-dim", 48), "8 does not divide 12"),
        (("--preset", "qkformer-4-384", "--depths", "1,x"), "--depths must be numbers with commas, but got '1,x'"),
        (("--embed-dim", 48), "--embed-dim goes with --preset only"),
        ((*SIZE, "--trial", 0), "leave out --trial and --from"),
        ((*SIZE, "--from", "inherited"), "leave out --trial and --from"),
    ],
)
def test_mistakes_are_named(study: Path, cli: Cli, options: tuple[object, ...], expected: str) -> None:
    refused = cli("subnet", "retrain", "tiny", *options)
    assert (refused.status, refused.out) == (2, "")
    last = refused.err.splitlines()[-1]  # data that had to be read first are named before it
    assert last.startswith("spikesearch: error: ")
    assert expected in last
    assert not Path("runs/tiny/retrained").exists()


def test_a_new_study_contains_one(tmp_path: Path, cli: Cli) -> None:
    rng = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        (tmp_path / "mine" / kind).mkdir(parents=True)
        for number in range(12):
            Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(tmp_path / "mine" / kind / f"{number}.png")
    assert (
        "pixels or more, but got 8 x 8"
        in cli("study", "init", "mine", "--output", "mine.yaml", "--preset", "ms-resnet18").complaint
    )
    assert cli("study", "init", "mine", "--output", "mine.yaml", *SIZE).out == "mine.yaml\n"
    text = Path("mine.yaml").read_text()
    assert "contains qkformer-4-384 (Zhou et al., QKFormer, NeurIPS 2024)" in text
    content = yaml.safe_load(text)
    assert content["model"] == SMALL.model
    content["train"].update(epochs=1, warmup_epochs=0)
    content["search"].update(n_trials=2)
    Path("mine.yaml").write_text(yaml.safe_dump(content))
    assert cli("study", "run", "mine.yaml", "-f", "json").json()["states"]["complete"] == 2
