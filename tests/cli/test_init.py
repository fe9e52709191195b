"""From a folder of one's own to a finished study: `study init`, then `study run` on the file as it was written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.commands import Result

Cli = Callable[..., Result]


def write_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(folder / f"{number}.png")


def write_recordings(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(12):
        x, y, p = rng.integers(0, 8, 60), rng.integers(0, 8, 60), rng.integers(0, 2, 60)
        np.savez(folder / f"{number}.npz", t=np.linspace(0, 150_000, 60).astype(int), x=x, y=y, p=p)


def shorten(file: Path, **data: int) -> None:
    """Leave everything as it was written but the budgets."""
    content = yaml.safe_load(file.read_text())
    content["data"].update(data)
    content["train"].update(epochs=1, warmup_epochs=0)
    content["search"].update(n_trials=2)
    file.write_text(yaml.safe_dump(content))


@pytest.mark.parametrize("write", [write_images, write_recordings])
def test_the_written_file_runs_to_the_end(tmp_path: Path, cli: Cli, write: Callable[[Path], None]) -> None:
    for kind in ("cat", "dog"):
        (tmp_path / "mine" / kind).mkdir(parents=True)
        write(tmp_path / "mine" / kind)
    assert cli("study", "init", "mine", "--output", "mine.yaml").out == "mine.yaml\n"
    shorten(tmp_path / "mine.yaml")
    shown = cli("study", "run", "mine.yaml", "-f", "json").json()
    assert shown["states"]["complete"] == 2
    assert 0 <= shown["reference"]["test_accuracy"] <= 1
    # on a machine with less memory
    shorten(tmp_path / "mine.yaml", memory_mb=0)
    assert cli("study", "run", "mine.yaml", "--n-trials", 1, "-f", "json").json()["states"]["complete"] == 3
    assert "mine.yaml exists" in cli("study", "init", "mine", "--output", "mine.yaml").complaint
