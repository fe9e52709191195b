"""``subnet retrain`` and studies of recipes on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from spikesearch.recipe.study import describe_recipes
from spikesearch.study.search.pool import available_cores
from spikesearch.study.store import find_study, open_store
from tests.commands import Result
from tests.interruptions import epochs_trained
from tests.study.helpers import tiny_config

CONFIG = tiny_config(train__epochs=3, train__batch_size=64, data__splits__train=0.2)


@pytest.mark.slow
def test_retrain_once_in_every_format(finished: Path, cli: Callable[..., Result]) -> None:
    command = ("subnet", "retrain", "tiny", "--trial", 0, "--from", "scratch", "--epochs", 1)
    first = cli(*command, "-f", "json")
    assert first.status == 0
    shown = first.json()
    assert [row["role"] for row in shown["networks"]] == ["inherited", "retrained"]
    assert shown["energy_convention"] == "spikformer"
    assert shown["recipe"]["epochs"] == 1
    again = cli(*command, "-f", "value")
    assert float(again.out) == shown["networks"][1]["test_accuracy"]
    assert "epoch" not in again.err
    table = cli(*command, "--output", "net").out
    assert "'spikformer' convention" in table
    assert table.startswith("Network in net\n")
    assert (finished / "net" / "model.safetensors").exists()
    saving = cli("subnet", "retrain", "tiny", "--trial", 0, "--epochs", 1, "--energy-weight", 0.5, "-f", "json").json()
    assert saving["recipe"] == {**shown["recipe"], "energy_weight": 0.5}
    assert (
        "a finite number of at least 0, but got nan"
        in cli("subnet", "retrain", "tiny", "--energy-weight", "nan").complaint
    )
    assert "`epochs` must be at least 1" in cli("subnet", "retrain", "tiny", "--epochs", 0).complaint


def test_a_study_of_recipes(cli: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(CONFIG.to_dict()))
    (tmp_path / "arch.json").write_text(json.dumps(CONFIG.space.search_space().smallest.to_dict()))
    create = ("study", "create", "tiny.yaml", "--kind", "recipe", "--arch", "arch.json", "--from", "scratch")
    assert cli(*create).out == "tiny-recipe\n"
    threads: list[int] = []
    try:
        with epochs_trained(lambda number: threads.append(torch.get_num_threads())):
            shown = cli("study", "run", "tiny-recipe", "--n-trials", 1, "--threads", 2, "-f", "json").json()
    finally:
        torch.set_num_threads(1)
    assert set(threads) == {2}
    assert shown["best"] == 0
    study = find_study(open_store("sqlite:///spikesearch.db"), "tiny-recipe")
    assert shown["trials"][0]["accuracy"] == study.trials[0].value
    assert cli("study", "show", "tiny-recipe", "-f", "json").json() == shown
    assert cli("study", "show", "tiny-recipe", "-f", "value").out == "0\n"
    assert "weight_decay" in cli("study", "show", "tiny-recipe").out
    assert shown == json.loads(json.dumps(describe_recipes(study, shown["storage"])))
    complaint = cli("study", "run", "tiny-recipe", "--workers", max(2, available_cores())).complaint
    assert "start the command several times, each with --threads 1." in complaint
    assert "--kind recipe only" in cli("study", "create", "tiny.yaml", "--trial", 1).complaint
    assert "one of recipes" in cli("study", "best", "tiny-recipe").complaint
