"""``supernet fidelity`` on the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.commands import Result

COMMAND = ("supernet", "fidelity", "tiny", "--n", 4, "--epochs", 1)


def test_every_format_of_one_measurement(finished: Path, cli: Callable[..., Result]) -> None:
    first = cli(*COMMAND, "-f", "json")
    assert first.status == 0
    found = first.json()
    assert (found["study"], found["split"], found["n"], found["epochs"]) == ("tiny", "search", 4, 1)
    assert set(found["groups"]) == {"all", "top_half", "energy_bins", "fixed_neurons", "two_seeds"}
    assert "Training 4 of" in first.err
    again = cli(*COMMAND, "-f", "yaml")
    assert yaml.safe_load(again.out) == found
    assert "epoch" not in again.err
    value = cli(*COMMAND, "-f", "value").out.strip()
    assert (float(value) if value else None) == found["tau"]
    table = cli(*COMMAND).out
    assert table.startswith("Study tiny: 4 networks trained alone for 1 epochs, in ")
    assert "another seed (the ceiling)" in table
    assert ("a perfect ranking could exceed it" in table) == (found["ceiling"] is not None)
    assert f"{found['dead']['either']} dead" in table
    assert (finished / "runs/tiny/fidelity/scatter.png").exists()
    assert cli("study", "delete", "tiny", "--yes").status == 0
    assert not (finished / "runs").exists() or not list((finished / "runs").rglob("*.*"))


def test_without_matplotlib_only_the_picture_is_missing(
    finished: Path, cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = cli(*COMMAND, "-f", "value")
    assert done.status == 0
    assert "No scatter plot. Pictures need matplotlib: pip install 'spikesearch[plots]'." in done.err
    assert sorted(path.name for path in (finished / "runs/tiny/fidelity").glob("[rs]*")) == ["report.json"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("tiny", "--n", 3), "`n` must be at least 4, but got 3"),
        (("tiny", "--epochs", 0), "`epochs` must be at least 1, but got 0"),
        (("tinny",), "did you mean 'tiny'"),
        (("tiny", "--n", "many"), "--n"),
        (("tiny", "--device", "gpu"), "`device` must be cpu or cuda"),
    ],
)
def test_mistakes(finished: Path, cli: Callable[..., Result], arguments: tuple[object, ...], expected: str) -> None:
    assert expected in cli("supernet", "fidelity", *arguments).complaint
    assert not (finished / "runs/tiny/fidelity").exists()


def test_a_study_without_a_supernet(tiny_file: Path, cli: Callable[..., Result]) -> None:
    assert cli("study", "create", tiny_file).status == 0
    assert "has no trained supernet yet; `spikesearch study run tiny`" in cli("supernet", "fidelity", "tiny").complaint
    assert not list(tiny_file.parent.rglob("fidelity"))
