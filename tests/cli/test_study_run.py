"""``study run``: the whole job, again, in parts, by several workers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import torch

from spikesearch.study import load_study, run_study
from spikesearch.study import run as runner
from spikesearch.study.search.pool import WorkerOrder, available_cores
from spikesearch.study.store import open_store
from tests.cli.conftest import command, environment
from tests.commands import Result
from tests.study.helpers import TINY, check_study, space_of, tiny_config


def study_in(folder: Path, name: str = "tiny") -> optuna.Study:
    return load_study(name, storage=f"sqlite:///{folder}/spikesearch.db")


@pytest.mark.slow
def test_the_whole_job(undisturbed: Path) -> None:
    study = study_in(undisturbed)
    check_study(study)
    assert len(study.trials) == TINY["search"]["n_trials"]
    assert (undisturbed / "runs/tiny/supernet.safetensors").exists()
    shown = json.loads((undisturbed / "run.json").read_text())
    assert shown["name"] == "tiny"
    assert shown["states"] == {"complete": 6, "failed": 0, "pruned": 0, "running": 0, "waiting": 0}
    assert shown["reference"]["number"] == 0
    assert 0 <= shown["reference"]["test_accuracy"] <= 1
    assert shown["reference"]["energy_uJ"] == study.user_attrs["reference_energy_uJ"]
    assert 0 < shown["hypervolume"] < 1
    front = {trial["number"] for trial in shown["front"]}
    assert front == {trial.number for trial in study.best_trials}
    assert set(shown["front"][0]) == {
        *("number", "accuracy", "energy_uJ", "f_aeb", "params", "macs", "acs", "architecture")
    }
    reported = [shown["reference"], *([shown["recommended"]] if shown["recommended"] else [])]
    tested = {key.removeprefix("test:") for key in study.user_attrs if key.startswith("test:")}
    assert tested == {study.trials[trial["number"]].user_attrs["arch"] for trial in reported}
    err = (undisturbed / "run.err").read_text()
    assert "sqlite:///" in err
    assert "fingerprint" in err


def test_the_scores_are_those_of_the_extracted_networks(undisturbed: Path) -> None:
    """An independent oracle: extract every architecture, run it on the search split, count."""
    from spikesearch.energy import EnergyModel
    from spikesearch.study.session import open_trained

    trained = open_trained("tiny", storage=f"sqlite:///{undisturbed}/spikesearch.db")
    images = trained.data.search.images(range(len(trained.data.search)))
    for trial in trained.study.trials[:3]:
        net = trained.scorer().extract(space_of(trained.study).architecture(trial.params))
        accuracy = (net(images).argmax(-1) == trained.data.search.labels).double().mean().item()
        assert trial.values[0] == pytest.approx(accuracy, abs=1 / len(images) + 1e-9)
        energy = EnergyModel("spikformer").report(net, images).total_uJ
        assert trial.values[1] == pytest.approx(energy, rel=1e-3)


def test_doing_it_again_does_nothing(finished: Path, cli: Callable[..., Result]) -> None:
    before = (finished / "runs/tiny/supernet.safetensors").stat().st_mtime_ns
    attrs, trials = study_in(finished).user_attrs, study_in(finished).trials
    for what in ("tiny", "tiny.yaml"):
        result = cli("study", "run", what, "-f", "json")
        assert result.status == 0
        assert result.json() == json.loads((finished / "run.json").read_text()) | {"storage": result.json()["storage"]}
    assert (finished / "runs/tiny/supernet.safetensors").stat().st_mtime_ns == before
    assert study_in(finished).trials == trials
    assert study_in(finished).user_attrs == attrs


@pytest.mark.slow
def test_further_trials_by_two_workers(finished: Path, program: Callable[..., Result]) -> None:
    result = program("study", "run", "tiny", "--n-trials", 7, "--workers", 2, "-f", "value")
    assert result.status == 0, result.err
    study = study_in(finished)
    check_study(study)
    assert len(study.trials) == 13
    assert [int(line) for line in result.out.split()] == [
        trial.number for trial in sorted(study.best_trials, key=lambda trial: trial.values[1])
    ]


def test_threads_are_divided_among_workers(
    finished: Path, cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: list[tuple[WorkerOrder, int]] = []
    monkeypatch.setattr(runner, "available_cores", lambda: 8)
    monkeypatch.setattr(runner, "run_workers", lambda order, count, on_trial: orders.append((order, count)) or "done")
    before = torch.get_num_threads()
    try:
        assert cli("study", "run", "tiny", "--n-trials", 4, "--threads", 4, "--workers", 2).status == 0
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
    ((order, count),) = orders
    assert (order.threads, count) == (2, 2)
    assert "--threads" in cli("study", "run", "tiny", "--threads", 0).complaint


@pytest.mark.slow
def test_two_runs_at_once_share_training_and_trials(tmp_path: Path, tiny_file: Path, undisturbed: Path) -> None:
    runs = [
        subprocess.Popen(command("study", "run", tiny_file), cwd=tmp_path, env=environment(), stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    errors = [run.communicate(timeout=180)[1].decode() for run in runs]
    assert [run.returncode for run in runs] == [0, 0], errors
    study, alone = study_in(tmp_path), study_in(undisturbed)
    check_study(study)
    assert len(study.trials) == 6
    assert sum("epoch 3/3" in error for error in errors) == 1
    assert study.user_attrs["supernet_hash"] == alone.user_attrs["supernet_hash"]
    scores = {trial.user_attrs["arch"]: trial.values for trial in alone.trials}
    assert all(scores.get(trial.user_attrs["arch"], trial.values) == trial.values for trial in study.trials)


def test_from_python(undisturbed: Path, tmp_path: Path) -> None:
    study = run_study(tiny_config(), storage=f"sqlite:///{tmp_path}/b.db", n_trials=2, progress=False)
    assert type(study) is optuna.Study
    assert [trial.params for trial in study.trials] == [trial.params for trial in study_in(undisturbed).trials[:2]]
    assert [trial.values for trial in study.trials] == [trial.values for trial in study_in(undisturbed).trials[:2]]
    again = run_study("tiny", storage=study._storage, n_trials=1, progress=False)
    assert len(again.trials) == 3
    memory = optuna.storages.InMemoryStorage()
    folder = tmp_path / "runs" / "tiny"
    inside = run_study(tiny_config(), storage=memory, n_trials=2, run_dir=folder, progress=False)
    assert [trial.values for trial in inside.trials] == [trial.values for trial in study.trials[:2]]
    assert len(run_study("tiny", storage=memory, n_trials=1, run_dir=folder, progress=False).trials) == 3


def test_files_elsewhere_are_found_again(tmp_path: Path, tiny_file: Path, cli: Callable[..., Result]) -> None:
    assert cli("supernet", "train", tiny_file, "--run-dir", tmp_path / "there").out == "tiny\n"
    assert (tmp_path / "there/supernet.safetensors").exists()
    assert [trial.state.name for trial in study_in(tmp_path).trials] == ["WAITING"]
    before = (tmp_path / "there/supernet.safetensors").stat().st_mtime_ns
    assert cli("study", "run", "tiny", "--n-trials", 1).status == 0
    assert (tmp_path / "there/supernet.safetensors").stat().st_mtime_ns == before
    assert not (tmp_path / "runs/tiny/supernet.safetensors").exists()
    assert str(tmp_path / "there") in cli("supernet", "info", "tiny", "-f", "json").json()["file"]


def test_lost_files_are_trained_again_and_must_be_the_same(finished: Path, cli: Callable[..., Result]) -> None:
    for name in ("supernet.safetensors", "supernet.json"):
        (finished / "runs/tiny" / name).unlink()
    assert "supernet train tiny" in cli("supernet", "info", "tiny").complaint
    assert cli("study", "run", "tiny", "--n-trials", 1).status == 0
    check_study(study_in(finished))
    assert len(study_in(finished).trials) == 7


def test_another_supernet_is_refused(finished: Path, cli: Callable[..., Result]) -> None:
    study = study_in(finished)
    study.set_user_attr("supernet_hash", "0" * 64)
    result = cli("study", "run", "tiny", "--n-trials", 1)
    assert result.status == 2
    assert "`supernet_hash`" in result.err.splitlines()[-1]
    assert len(study_in(finished).trials) == 6


def test_other_data_are_refused(finished: Path, cli: Callable[..., Result]) -> None:
    study_in(finished).set_user_attr("data_fingerprint", "0" * 16)
    for arguments in (("study", "run", "tiny"), ("study", "report", "tiny"), ("subnet", "evaluate", "tiny")):
        result = cli(*arguments)
        assert result.status == 2
        assert "`data_fingerprint`" in result.err.splitlines()[-1]


def test_a_study_in_the_environments_storage(
    tmp_path: Path, tiny_file: Path, cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTUNA_STORAGE", f"sqlite:///{tmp_path}/theirs.db")
    assert cli("study", "create", tiny_file).out == "tiny\n"
    assert open_store(f"sqlite:///{tmp_path}/theirs.db").study_names() == ["tiny"]
    assert not (tmp_path / "spikesearch.db").exists()


SCRIPTS = {
    "at once": "run_study('tiny.yaml', n_trials=2, workers=2, progress=False)",
    "after other calls": "print(run_study('tiny.yaml', n_trials=1, progress=False).study_name)\n"
    "run_study('tiny', n_trials=2, workers=2, progress=False)",
    "whatever is raised is caught": "try:\n    run_study('tiny.yaml', n_trials=2, workers=2, progress=False)\n"
    "except Exception as error:\n    raise SystemExit(f'{type(error).__name__}: {error}')",
    "another thing fails": "import os\nos.mkdir('once')\nrun_study('tiny.yaml', n_trials=2, workers=2, progress=False)",
}


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_workers_of_a_script_without_a_main_guard_are_one_error(finished: Path, script: str) -> None:
    if available_cores() < 2:
        pytest.skip("one core has one worker")
    before = len(study_in(finished).trials)
    (finished / "mine.py").write_text(f"from spikesearch import run_study\n{SCRIPTS[script]}\n")
    ended = subprocess.run(
        [sys.executable, "mine.py"], cwd=finished, env=environment(), capture_output=True, text=True, timeout=180
    )
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert "StudyError: A worker of the study 'tiny' could not start" in last
    assert "mine.py" in last
    assert 'Put what the script does under `if __name__ == "__main__":`' in last
    assert ended.stderr.count("StudyError: ") == 1
    if script != "another thing fails":  # the worker's own words say what
        assert ended.stderr.count("Traceback") <= 1
        assert len(ended.stderr.splitlines()) < 15
    assert len(study_in(finished).trials) == before + (script == "after other calls")


@pytest.mark.slow
def test_a_script_that_cannot_be_run_again_is_to_be_saved(finished: Path) -> None:
    script = "from spikesearch import run_study\nif __name__ == '__main__':\n    " + SCRIPTS["at once"]
    ended = subprocess.run(
        [sys.executable, "-"],
        input=script,
        cwd=finished,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert ended.returncode == 1
    assert "<stdin> cannot be run again. Save the script as a file, or ask for one worker." in ended.stderr


@pytest.mark.slow
def test_a_script_with_a_main_guard_has_workers(finished: Path) -> None:
    script = "from spikesearch import run_study\nif __name__ == '__main__':\n    " + SCRIPTS["at once"]
    (finished / "mine.py").write_text(script)
    before = len(study_in(finished).trials)
    ended = subprocess.run(
        [sys.executable, "mine.py"], cwd=finished, env=environment(), capture_output=True, timeout=180
    )
    assert ended.returncode == 0
    assert len(study_in(finished).trials) == before + 2
