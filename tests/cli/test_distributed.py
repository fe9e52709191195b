"""The command line under ``torchrun``: all processes train, the first one does everything else, once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.trial import TrialState

from spikesearch.study import load_study
from tests.cli.conftest import Result, environment

pytestmark = pytest.mark.slow


@pytest.fixture
def torchrun(tmp_path: Path) -> Callable[..., Result]:
    """Run the command line in two processes, in ``tmp_path``."""

    def run(*arguments: object) -> Result:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        done = subprocess.run(
            [*launcher, "-m", "spikesearch", *map(str, arguments)],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )
        ours = [line for line in done.stdout.splitlines(keepends=True) if not line.startswith("[Gloo]")]  # of torch 2.8
        return Result(done.returncode, "".join(ours), done.stderr)

    return run


@pytest.mark.skipif(os.name != "posix", reason="torchrun needs signals")
def test_supernet_is_trained_by_all_processes_and_searched_by_one(torchrun, cli, tiny_file, tmp_path):
    trained = torchrun("supernet", "train", "tiny.yaml")
    assert trained.status == 0, trained.err
    assert trained.out == "tiny\n"
    assert trained.err.count("Study 'tiny' in") == 1
    assert sorted(path.name for path in (tmp_path / "runs" / "tiny").glob("super*")) == [
        "supernet.json",
        "supernet.safetensors",
    ]
    facts = cli("supernet", "info", "tiny", "-f", "json").json()
    assert facts["last_epoch"]["processes"] == 2

    searched = torchrun("study", "run", "tiny", "--n-trials", "3", "-f", "value")
    assert searched.status == 0, searched.err
    assert "epoch" not in searched.err
    study = load_study("tiny", storage=f"sqlite:///{tmp_path}/spikesearch.db")
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 3
    assert len({trial.user_attrs["worker"]["pid"] for trial in study.trials}) == 1
    assert len(searched.out.split()) == len(study.best_trials)
    assert study.user_attrs["supernet_hash"] == facts["hash"]


@pytest.mark.parametrize(
    ("command", "before", "after", "message"),
    [
        ("study run", "epochs: 3", "epochs: -3", "`train.epochs` must be greater than or equal to 1, but got -3."),
        ("supernet train", "batch_size: 16", "batch_size: 3", "must hold at least 4 images"),  # found by both processes
    ],
)
def test_a_mistake_is_told_once_and_ends_all_processes(torchrun, tiny_file, command, before, after, message):
    tiny_file.write_text(tiny_file.read_text().replace(before, after))
    failed = torchrun(*command.split(), "tiny.yaml")
    assert failed.status != 0
    assert failed.out == ""
    assert [message in line for line in failed.err.splitlines() if line.startswith("spikesearch:")] == [True], (
        failed.err
    )
