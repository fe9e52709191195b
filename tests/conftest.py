"""What every test shares: seeds, threads, real data, the command line as a function, and how hypothesis works here."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest

from tests.commands import Result

pytest.register_assert_rewrite("optuna.testing.pytest_samplers")

# A shell's background job is started with Ctrl-C switched off, and passes that on to the commands that are tested.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Two processes of the test run, or a test and the command it starts, would otherwise fight for the same few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The first example imports and compiles things, so a deadline would fail by chance; derandomised, because a test run
# that fails must fail again.
hypothesis.settings.register_profile(
    "spikesearch",
    deadline=None,
    derandomize=True,
    max_examples=50,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "spikesearch"))

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small networks are faster on one thread, and the last bits of a sum do not depend on the machine."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Start every test from the same global random state, whatever ran before it."""
    import torch

    random.seed(0)
    np.random.seed(0)  # libraries still draw from the global generator
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a developer's own storage out of the tests."""
    for name in ("SPIKESEARCH_STORAGE", "OPTUNA_STORAGE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The folder that holds pyproject.toml."""
    return CHECKOUT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; skips the test where it is absent."""
    folder = Path(os.environ.get("SPIKESEARCH_DATA", CHECKOUT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist (set SPIKESEARCH_DATA to the folder that holds it)")
    return folder


@pytest.fixture
def cli_folder(tmp_path: Path) -> Path:
    """Where `cli` runs commands; a module overrides it to run them elsewhere."""
    return tmp_path


@pytest.fixture
def cli(
    cli_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Result]]:
    """Run the command line in this process, in ``cli_folder``."""
    from spikesearch.cli import app

    monkeypatch.chdir(cli_folder)
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["spikesearch", *(str(argument) for argument in arguments)])
        capsys.readouterr()
        status = app._run()
        captured = capsys.readouterr()
        return Result(status, captured.out, captured.err)

    yield run
    signal.signal(signal.SIGTERM, before)
