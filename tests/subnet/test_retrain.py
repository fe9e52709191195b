"""Retraining a trial: once, resumable, measured by an independent count, compared in one table."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from spikesearch.errors import CheckpointError, ExportError, StudyError, StudyNotFoundError, TrainingError
from spikesearch.export.folder import load_network, read_facts
from spikesearch.scoring.calibration import calibration_images
from spikesearch.scoring.network import calibrate_network
from spikesearch.study import run_study
from spikesearch.study.session import Session, open_trained
from spikesearch.subnet.export import export_subnet
from spikesearch.subnet.extract import extract_subnet
from spikesearch.subnet.retrain import retrain_subnet
from spikesearch.train import supernet_facts, weights_hash
from spikesearch.train.loop import Trainer
from tests.interruptions import Interrupted, epochs_trained, interruption
from tests.study.helpers import deleted_at, tiny_config


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a study of two trials whose supernet is hardly trained; every test uses recipes of its own."""
    url = f"sqlite:///{tmp_path_factory.mktemp('study')}/s.db"
    run_study(tiny_config(train__epochs=1, search__n_trials=2), storage=url, progress=False)
    return url


@pytest.fixture
def trained(study: str) -> Session:
    return open_trained("tiny", storage=study)


def hashes(trained: Session) -> dict[str, str]:
    folders = (trained.folder / "retrained").glob("[0-9]*")
    return {folder.name: read_facts(folder)["weights_hash"] for folder in folders if not folder.suffix}


def test_the_kept_network_has_the_scores_that_are_shown(trained: Session) -> None:
    done = retrain_subnet(trained, 1, epochs=2, progress=False)
    assert [row.role for row in done.rows] == ["inherited", "retrained", "largest"]
    net = load_network(done.folder)
    for split, shown in (("search", done.retrained.search_accuracy), ("test", done.retrained.test_accuracy)):
        images = getattr(trained.data, split)
        right = (net(images.images(range(len(images)))).argmax(-1) == images.labels).double().mean().item()
        assert shown == pytest.approx(right, abs=1.01 / len(images))
    inherited, largest = done.rows[0], done.rows[2]
    assert [inherited.search_accuracy, inherited.energy_uJ] == trained.study.trials[1].values
    assert [largest.search_accuracy, largest.energy_uJ] == trained.study.trials[0].values
    assert inherited.params == done.retrained.params < largest.params
    before = weights_hash(net)
    calibrate_network(net, calibration_images(trained.data, trained.config.scoring))
    assert all(
        abs(value - load_network(done.folder).state_dict()[name]).max() < 1e-4
        for name, value in net.state_dict().items()
        if "running" in name
    ), "the statistics are those of the calibration images"
    assert before == read_facts(done.folder)["weights_hash"]


def test_it_is_never_done_twice(trained: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = retrain_subnet(trained, 0, source="scratch", epochs=1, progress=False)
    monkeypatch.setattr(Trainer, "run", lambda *args, **options: pytest.fail("trained again"))
    again = retrain_subnet(trained, 0, source="scratch", epochs=1, output=tmp_path / "net", progress=False)
    assert again.rows == first.rows
    assert weights_hash(load_network(tmp_path / "net")) == weights_hash(load_network(first.folder))
    assert read_facts(tmp_path / "net") == read_facts(first.folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("")
    with pytest.raises(ExportError, match="holds no network"):
        retrain_subnet(trained, 0, source="scratch", epochs=1, output=tmp_path / "other", progress=False)


def test_every_way_to_train_has_its_own_result(trained: Session) -> None:
    changes: list[dict[str, Any]]
    changes = [{"seed": 1}, {"seed": 2}, {"source": "scratch"}, {"seed": 1, "epochs": 2}, {"energy_weight": 5.0}]
    for options in changes:
        retrain_subnet(trained, 1, **{"epochs": 1, "progress": False, **options})
    stored = [key for key in trained.study.user_attrs if key.startswith("retrained:")]
    assert len(stored) == len(hashes(trained)) == len(set(hashes(trained).values()))


def test_energy_in_the_loss_is_counted_as_the_study_counts_it(tmp_path: Path) -> None:
    config = tiny_config(
        train__epochs=2, train__energy_weight=0.1, scoring__convention="strict", scoring__ac_pj=0.8, search__n_trials=2
    )
    url = f"sqlite:///{tmp_path}/s.db"
    run_study(config, storage=url, progress=False)
    trained = open_trained("tiny", storage=url)
    with interruption():
        retrain_subnet(trained, 1, progress=False)
    (checkpoint,) = trained.folder.glob("retrained/*.checkpoints/*/*.json")
    for facts in (supernet_facts(trained.folder), json.loads(checkpoint.read_text())):
        recipe = facts["identity"]["recipe"]
        assert recipe["energy_weight"] == 0.1
        assert recipe["energy_model"] == {"convention": "strict", "mac_pj": 4.6, "ac_pj": 0.8}
    assert retrain_subnet(trained, 1, progress=False).recipe["energy_weight"] == 0.1
    assert "energy_weight" not in retrain_subnet(trained, 1, energy_weight=0, progress=False).recipe


def test_the_largest_is_shown_retrained_if_that_was_done(trained: Session) -> None:
    options: dict[str, Any] = {"source": "scratch", "seed": 9, "epochs": 1, "progress": False}
    largest = retrain_subnet(trained, 0, **options)
    assert [row.role for row in largest.rows] == ["inherited", "retrained"]
    done = retrain_subnet(trained, 1, **options)
    assert [row.role for row in done.rows] == ["inherited", "retrained", "largest", "largest, retrained"]
    assert done.rows[3].test_accuracy == largest.retrained.test_accuracy


def test_an_interrupted_one_goes_on(study: str) -> None:
    options: dict[str, Any] = {"seed": 4, "epochs": 3, "progress": False}
    with interruption(2):
        retrain_subnet(open_trained("tiny", storage=study), 1, **options)
    trained = open_trained("tiny", storage=study)
    with epochs_trained() as epochs:
        done = retrain_subnet(trained, 1, **options)
    assert epochs == [3]
    assert len(read_facts(done.folder)["history"]) == 3
    assert not list((trained.folder / "retrained").glob("*.checkpoints"))


def test_a_crash_before_the_study_knows_costs_nothing(trained: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"seed": 5, "epochs": 1, "progress": False}
    with monkeypatch.context() as patch:
        patch.setattr(type(trained.study), "set_user_attr", lambda *args: (_ for _ in ()).throw(Interrupted()))
        with pytest.raises(Interrupted):
            retrain_subnet(trained, 1, **options)
    monkeypatch.setattr(Trainer, "run", lambda *args, **options: pytest.fail("trained again"))
    done = retrain_subnet(trained, 1, **options)
    attrs = trained.study.user_attrs.values()
    assert any(isinstance(value, dict) and value == read_facts(done.folder)["retrained"] for value in attrs)


@pytest.mark.parametrize("line", ["Training the network of trial 1", "epoch 1/1"])
def test_a_study_that_vanishes_is_one_line(study: str, tmp_path: Path, line: str) -> None:
    folder = Path(study.removeprefix("sqlite:///")).parent
    shutil.copytree(folder, tmp_path / "copy")
    url = f"sqlite:///{tmp_path}/copy/s.db"
    trained = open_trained("tiny", storage=url)
    gone = pytest.raises(StudyNotFoundError, match="'tiny' was deleted from")
    with gone, deleted_at(line, url, "tiny"):
        retrain_subnet(trained, 1, seed=6, epochs=1, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "`epochs` must be at least 1, but got 0"),
        ({"energy_weight": -0.1}, "`energy_weight` must be a finite number of at least 0, but got -0.1"),
        ({"energy_weight": float("inf")}, "`energy_weight` must be a finite number of at least 0, but got inf"),
        ({"source": "teacher"}, "`source` must be 'inherited' or 'scratch', but got 'teacher'"),
        ({"number": 99}, "no COMPLETE trial 99; COMPLETE are 0, 1"),
    ],
)
def test_mistakes_are_named(trained: Session, options: dict, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        retrain_subnet(trained, progress=False, **options)


def test_a_recipe_that_diverges_is_a_users_mistake(trained: Session) -> None:
    recipe = trained.config.train.model_copy(update={"lr": 1e30, "epochs": 1, "clip_grad": None})
    with pytest.raises(TrainingError, match=r"lower `train\.lr`"):
        retrain_subnet(trained, 1, recipe=recipe, progress=False)


def test_a_damaged_result_is_refused(trained: Session) -> None:
    options: dict[str, Any] = {"seed": 6, "epochs": 1, "progress": False}
    done = retrain_subnet(trained, 1, **options)
    facts = json.loads((done.folder / "model.json").read_text())
    (done.folder / "model.json").write_text(json.dumps({**facts, "weights_hash": "0" * 64}))
    remedy = re.escape(f"describes. Delete {done.folder} to train that network again.")
    with pytest.raises(CheckpointError, match=f"does not hold the weights .*{remedy}"):
        retrain_subnet(trained, 1, **options)
    shutil.rmtree(done.folder)
    assert retrain_subnet(trained, 1, **options).rows == done.rows


@pytest.mark.parametrize("there", ["another trial", "another start", "another recipe", "inherited", "another format"])
def test_an_output_with_another_network_is_refused_before_the_training(
    trained: Session, tmp_path: Path, there: str
) -> None:
    output = tmp_path / "net"
    if there == "inherited":
        extract_subnet(trained, 1, output)
    else:
        others: dict[str, dict[str, Any]] = {"another trial": {"number": 0}, "another start": {"source": "inherited"}}
        epochs = 2 if there == "another recipe" else 1
        options: dict[str, Any] = {"number": 1, "source": "scratch", "epochs": epochs, **others.get(there, {})}
        retrain_subnet(trained, **options, energy_weight=0.0625, output=output, progress=False)
    if there == "another format":
        facts = json.loads((output / "model.json").read_text())
        (output / "model.json").write_text(json.dumps({**facts, "files": [*facts["files"], "model.onnx"]}))
        (output / "model.onnx").touch()
    else:  # what is trained in the end has not been trained yet
        for folder in (trained.folder / "retrained").glob("1-scratch-*"):
            shutil.rmtree(folder)
    before = hashes(trained)
    with epochs_trained() as numbers, pytest.raises(ExportError, match=r"holds .*; choose another --output"):
        retrain_subnet(trained, 1, source="scratch", epochs=1, energy_weight=0.0625, output=output, progress=False)
    assert (numbers, hashes(trained)) == ([], before)


def test_an_output_with_the_same_network_is_written_again(trained: Session, tmp_path: Path) -> None:
    for _ in range(2):
        done = retrain_subnet(trained, 1, epochs=1, energy_weight=0.125, output=tmp_path / "net", progress=False)
        assert read_facts(tmp_path / "net")["retrained"]["from"] == "inherited"
        shutil.rmtree(next((trained.folder / "retrained").glob("1-inherited-*")), ignore_errors=done is None)


def test_an_export_with_another_network_in_its_folder_is_refused_before_the_test_split(
    trained: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_subnet(trained, 1, output=tmp_path / "net")

    def looked(*args: object) -> None:
        raise AssertionError("the test split was scored")

    monkeypatch.setattr(Session, "final_score", looked)
    with pytest.raises(ExportError, match="holds another network"):
        export_subnet(trained, 0, output=tmp_path / "net")
