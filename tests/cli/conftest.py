"""A tiny study on real digits, and the command line as a program."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.commands import Result
from tests.study.helpers import TINY

CHECKOUT = Path(__file__).resolve().parents[2]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "spikesearch", *(str(argument) for argument in arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., Result]:
    """Run the command line in a process of its own, in ``tmp_path``."""

    def run(*arguments: object, timeout: float = 180) -> Result:
        done = subprocess.run(
            command(*arguments), cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=timeout
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def tiny_file(tmp_path: Path) -> Path:
    """The tiny study file, as ``tiny.yaml`` in ``tmp_path``."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which ``study run tiny.yaml`` has been run once, without any disturbance."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    done = subprocess.run(
        command("study", "run", "tiny.yaml", "-f", "json"),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (folder / "run.json").write_text(done.stdout)
    (folder / "run.err").write_text(done.stderr)
    return folder


@pytest.fixture
def finished(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of the undisturbed study in ``tmp_path``."""
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    return tmp_path
