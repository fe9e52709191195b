"""Studies of recipes: created, run, pruned, killed, resumed, and used."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from PIL import Image

from spikesearch.errors import CheckpointError, SpaceError, StudyError, StudyNotFoundError
from spikesearch.recipe.run import run_recipe_study
from spikesearch.recipe.study import (
    RecipeStudy,
    best_recipe,
    create_recipe_study,
    read_architecture,
)
from spikesearch.space import Architecture
from spikesearch.study import load_study, run_study
from spikesearch.study.release import release_host
from spikesearch.study.resolve import resolve
from spikesearch.study.session import open_session, open_trained
from spikesearch.study.store import delete_study, find_study, list_studies, open_store, summary
from spikesearch.subnet.retrain import retrain_subnet
from tests.cli.conftest import command, environment
from tests.interruptions import Interrupted, epochs_trained, interruption
from tests.study.helpers import deleted_at, tiny_config

CONFIG = tiny_config(train__epochs=3, search__n_trials=2, train__batch_size=64, data__splits__train=0.2)
SCRATCH: dict[str, Any] = {"source": "scratch", "arch": CONFIG.space.search_space().smallest}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/spikesearch.db"


@pytest.fixture
def study(url: str) -> optuna.Study:
    return create_recipe_study(CONFIG, storage=url, **SCRATCH)


def again(url: str, name: str = "tiny-recipe") -> optuna.Study:
    return find_study(open_store(url), name)


def curves(study: optuna.Study) -> dict[tuple[tuple[str, Any], ...], dict[int, float]]:
    """What was reported, by recipe, of the trials that ended."""
    ended = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    return {tuple(sorted(trial.params.items())): trial.intermediate_values for trial in ended}


@pytest.mark.filterwarnings("error::optuna.exceptions.ExperimentalWarning")
def test_nothing_of_optunas_warns(url: str) -> None:
    create_recipe_study(CONFIG, storage=url, **SCRATCH)


def test_the_first_trial_is_the_study_files_recipe(study: optuna.Study, url: str) -> None:
    assert study.study_name == "tiny-recipe"
    assert [direction.name for direction in study.directions] == ["MAXIMIZE"]
    run_recipe_study("tiny-recipe", storage=url, n_trials=1, progress=False)
    (trial,) = again(url).trials
    train = CONFIG.train
    assert trial.params == {
        "lr": train.lr,
        "weight_decay": train.weight_decay,
        "label_smoothing": train.label_smoothing,
        "mixup": train.mixup,
        "epochs": train.epochs,
        "surrogate_slope": train.surrogate_slope,
    }, "no drop path: the only block is never skipped"
    assert trial.state == TrialState.COMPLETE
    assert list(trial.intermediate_values) == [1, 2, 3]
    assert trial.value == trial.intermediate_values[3]


def test_it_runs_to_the_number_of_trials_and_its_best_is_usable(url: str, tmp_path: Path) -> None:
    run_study(CONFIG, storage=url, progress=False)
    with pytest.raises(StudyError, match="There is no study 'other' to take an architecture from"):
        create_recipe_study(tiny_config(name="other"), storage=url)
    study = create_recipe_study("tiny", storage=url, trial=1)
    about = RecipeStudy.of(study)
    assert about.source == "inherited"
    assert about.architecture.key == load_study("tiny", storage=url).trials[1].user_attrs["arch"]
    study.set_user_attr("recipe", {**about.to_dict(), "n_trials": 4})
    run_recipe_study("tiny-recipe", storage=url, progress=False)
    run_recipe_study("tiny-recipe", storage=url, progress=False)
    study = again(url)
    assert len(study.trials) == 4
    assert all(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in study.trials)
    ranges: dict[str, Any] = about.distributions()
    for trial in study.trials:
        assert all(ranges[name].low <= value <= ranges[name].high for name, value in trial.params.items())
        assert len(trial.intermediate_values) <= trial.params["epochs"]
    assert not any((tmp_path / "runs" / "tiny-recipe").glob("trials/*"))
    best = max((t for t in study.trials if t.state == TrialState.COMPLETE), key=lambda trial: trial.values[0])
    assert {"surrogate_slope", "weight_decay"} < best.params.keys()
    recipe, _ = best_recipe("tiny-recipe", CONFIG.train, storage=url)
    assert {name: getattr(recipe, name) for name in best.params} == best.params
    assert recipe.batch_size == CONFIG.train.batch_size

    done = retrain_subnet(open_trained("tiny", storage=url), 1, recipe_from="tiny-recipe", progress=False)
    assert done.retrained.search_accuracy == pytest.approx(best.value)
    assert done.source == "inherited"


def test_deep_networks_are_searched_for_all_keys_around_the_study_files_recipe(study: optuna.Study) -> None:
    about = replace(RecipeStudy.of(study), architecture=CONFIG.space.search_space().largest)
    ranges: dict[str, Any] = about.distributions()
    assert set(ranges) == {
        *("lr", "weight_decay", "label_smoothing", "mixup", "drop_path", "epochs", "surrogate_slope"),
    }
    assert (ranges["surrogate_slope"].low, ranges["surrogate_slope"].high) == (1.0, 16.0)
    first = about.first()
    assert first["surrogate_slope"] == 4.0
    assert first["drop_path"] == 0.0
    steep = CONFIG.train.model_copy(update={"drop_path": 0.9, "surrogate_slope": 10.0, "lr": 0.01})
    moved = replace(about, config=CONFIG.model_copy(update={"train": steep})).first()
    assert moved["drop_path"] == ranges["drop_path"].high
    assert (moved["surrogate_slope"], moved["lr"]) == (10.0, 0.01)
    for distribution in ranges.values():
        assert distribution.low < distribution.high or distribution.single()


@pytest.mark.parametrize("line", ["Trial 0: ", "epoch 1/3", "epoch 3/3"])
def test_a_study_that_vanishes_is_one_line(study: optuna.Study, url: str, line: str) -> None:
    gone = pytest.raises(StudyNotFoundError, match="'tiny-recipe' was deleted from")
    with gone, deleted_at(line, url, "tiny-recipe"):
        run_recipe_study("tiny-recipe", storage=url, n_trials=2, progress=False)


def test_bad_recipes_are_pruned_between_epochs(study: optuna.Study, url: str) -> None:
    """Beside trials that were very good after one epoch, real ones do not get all their epochs."""
    about = RecipeStudy.of(study)
    for number in range(5):
        study.add_trial(
            optuna.trial.create_trial(
                params=about.first(),
                distributions=about.distributions(),
                value=0.99,
                intermediate_values=dict.fromkeys((1, 2, 3), 0.99),
                system_attrs={"completed_rung_0": 0.98 + 0.001 * number},  # where Hyperband keeps it
            )
        )
    for _ in range(3):
        study.enqueue_trial(about.first())
    run_recipe_study("tiny-recipe", storage=url, n_trials=4, progress=False)
    pruned = again(url).get_trials(states=(TrialState.PRUNED,))
    assert pruned
    assert {len(trial.intermediate_values) for trial in pruned} == {1}
    assert all(trial.value == trial.intermediate_values[1] for trial in pruned)


def test_a_recipe_that_diverges_is_pruned(study: optuna.Study, url: str) -> None:
    wild = CONFIG.model_copy(update={"train": CONFIG.train.model_copy(update={"lr": 1e30, "clip_grad": None})})
    study.set_user_attr("recipe", {**RecipeStudy.of(study).to_dict(), "study_file": wild.to_dict()})
    study.tell(study.ask().number, state=TrialState.FAIL)  # the tame one that waits
    study.enqueue_trial(RecipeStudy.of(study).first())
    run_recipe_study("tiny-recipe", storage=url, n_trials=1, progress=False)
    trial = again(url).trials[-1]
    assert trial.state == TrialState.PRUNED
    assert trial.user_attrs["diverged"]


@pytest.mark.parametrize("epochs", [1, 2], ids=["after a checkpoint", "before a checkpoint"])
def test_an_interrupted_trial_is_repeated_from_its_checkpoint(study: optuna.Study, url: str, epochs: int) -> None:
    with interruption(epochs, before_save=epochs == 2):
        run_recipe_study("tiny-recipe", storage=url, n_trials=1, progress=False)
    with epochs_trained() as numbers:
        run_recipe_study("tiny-recipe", storage=url, n_trials=1, progress=False)
    assert numbers == [2, 3], "the first epoch had a checkpoint"
    first, second = again(url).trials
    assert (first.state, second.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert second.user_attrs["retry_of"] == 0
    assert first.params == second.params
    undisturbed = f"{url}-undisturbed"
    create_recipe_study(CONFIG, storage=undisturbed, **SCRATCH)
    run_recipe_study("tiny-recipe", storage=undisturbed, n_trials=1, progress=False)
    assert curves(again(undisturbed)) == curves(again(url))


def test_a_trial_of_another_machine_is_repeated_once_that_is_said_to_be_gone(study: optuna.Study, url: str) -> None:
    with interruption(1):
        run_recipe_study("tiny-recipe", storage=url, n_trials=1, progress=False)
    theirs = {**study.trials[0].user_attrs["worker"], "host": "node-a"}
    study._storage.set_trial_user_attr(study.trials[0]._trial_id, "worker", theirs)
    run_recipe_study("tiny-recipe", storage=url, n_trials=1, progress=False)
    assert [trial.state for trial in again(url).trials] == [TrialState.RUNNING, TrialState.COMPLETE]
    assert release_host("tiny-recipe", "node-a", storage=url) == [0]
    run_recipe_study("tiny-recipe", storage=url, n_trials=1, progress=False)
    trials = again(url).trials
    assert [trial.state for trial in trials] == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    assert trials[2].user_attrs["retry_of"] == 0


@pytest.mark.slow
def test_kill_9_and_the_same_command_again(tmp_path: Path, url: str) -> None:
    long = CONFIG.model_copy(update={"train": CONFIG.train.model_copy(update={"epochs": 15})})
    create_recipe_study(long, storage=url, **SCRATCH)
    running = subprocess.Popen(
        command("-q", "study", "run", "tiny-recipe", "--n-trials", 1),
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.DEVNULL,
    )
    try:
        while not any((tmp_path / "runs/tiny-recipe/trials/0").glob("epoch-*/state.json")):
            assert running.poll() is None
            time.sleep(0.05)
    finally:
        running.kill()
        running.wait()
    assert again(url).trials[0].state == TrialState.RUNNING
    with epochs_trained() as numbers:
        run_recipe_study("tiny-recipe", storage=url, n_trials=1, progress=False)
    assert 1 not in numbers
    first, second = again(url).trials
    assert (first.state, second.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert list(second.intermediate_values) == list(range(1, 16))


def draw_images(folder: Path, numbers: range) -> None:
    """Add noise of two classes to a folder."""
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in numbers:
            pixels = np.random.default_rng([number, ord(label)]).integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")


def test_weights_that_may_have_seen_the_search_images_are_not_inherited(tmp_path: Path, url: str) -> None:
    """Other data are divided anew, so that images to judge recipes on would have trained the supernet."""
    draw_images(tmp_path / "images", range(20))
    data = {"kind": "image-folder", "path": str(tmp_path / "images"), "image_size": 8, "color": "grey", "augment": None}
    config = tiny_config(data=data, train__epochs=1)
    open_session(config, storage=url).train(progress=False)
    arch = SCRATCH["arch"]
    create_recipe_study(config, storage=url, arch=arch)
    supernet = load_study("tiny", storage=url).user_attrs["supernet_hash"]
    assert again(url).user_attrs["supernet_hash"] == supernet

    draw_images(tmp_path / "images", range(20, 23))
    with pytest.raises(StudyError, match=r"'tiny' was made with `data_fingerprint`.*--from scratch"):
        create_recipe_study(config, storage=url, arch=arch, study_name="leak")
    assert [study.study_name for study in list_studies(url)] == ["tiny", "tiny-recipe"]
    with pytest.raises(StudyError, match="data_fingerprint"):
        run_recipe_study("tiny-recipe", storage=url, progress=False)
    scratch = create_recipe_study(config, storage=url, arch=arch, source="scratch", study_name="fresh")
    assert "supernet_hash" not in scratch.user_attrs


def test_all_trials_begin_with_one_supernet(url: str) -> None:
    open_session(CONFIG, storage=url).train(progress=False)
    inherited = {"arch": SCRATCH["arch"], "load_if_exists": True}
    study = create_recipe_study(CONFIG, storage=url, **inherited)
    study.set_user_attr("supernet_hash", None)  # as 0.1.0 left it
    run_recipe_study("tiny-recipe", storage=url, n_trials=1, progress=False)
    assert study.user_attrs["supernet_hash"] == load_study("tiny", storage=url).user_attrs["supernet_hash"]
    delete_study("tiny", storage=url)
    other = CONFIG.model_copy(update={"train": CONFIG.train.model_copy(update={"lr": 0.02})})
    open_session(other, storage=url).train(progress=False)
    with pytest.raises(StudyError, match="the study 'tiny' has another supernet now"):
        run_recipe_study("tiny-recipe", storage=url, progress=False)
    with pytest.raises(StudyError, match="the study 'tiny' has another supernet now"):
        create_recipe_study(CONFIG, storage=url, **inherited)
    assert len(again(url).trials) == 1


def test_what_exists_and_what_is_something_else(study: optuna.Study, url: str) -> None:
    with pytest.raises(StudyError, match=r"exists in .*study run tiny-recipe"):
        create_recipe_study(CONFIG, storage=url, **SCRATCH)
    create_recipe_study(CONFIG, storage=url, load_if_exists=True, **SCRATCH)
    largest = {**SCRATCH, "arch": CONFIG.space.search_space().largest}
    with pytest.raises(StudyError, match="about something else"):
        create_recipe_study(CONFIG, storage=url, load_if_exists=True, **largest)
    with pytest.raises(StudyError, match="There is no study 'tiny' to inherit weights from"):
        create_recipe_study(CONFIG, storage=url, arch=SCRATCH["arch"], study_name="x")
    with pytest.raises(StudyError, match="`trial` and `arch` both"):
        create_recipe_study(CONFIG, storage=url, trial=1, **SCRATCH)
    foreign = Architecture.from_dict({**SCRATCH["arch"].to_dict(), "embed_dim": 32})
    with pytest.raises(SpaceError):
        create_recipe_study(CONFIG, storage=url, source="scratch", arch=foreign, study_name="x")
    with pytest.raises(StudyError, match="one of recipes, not of architectures"):
        load_study("tiny-recipe", storage=url)
    with pytest.raises(StudyError, match="No trial of study 'tiny-recipe' is COMPLETE yet"):
        best_recipe("tiny-recipe", CONFIG.train, storage=url)
    cases: list[tuple[dict[str, Any], str]] = [({"n_trials": 0}, "n_trials"), ({"timeout": 0}, "timeout")]
    for options, name in cases:
        with pytest.raises(StudyError, match=f"`{name}` must be"):
            run_recipe_study("tiny-recipe", storage=url, **options)
    assert summary(list_studies(url)[0])["made_by"] == "spikesearch"
    assert resolve("tiny-recipe", storage=url).kind == "recipe"
    assert resolve(CONFIG, storage=url).kind == "architecture"
    assert again(url).study_name
    delete_study("tiny-recipe", storage=url)
    assert list_studies(url) == []


def test_a_study_whose_creation_was_cut_is_completed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "enqueue_trial", lambda *args, **options: (_ for _ in ()).throw(Interrupted()))
        with pytest.raises(Interrupted):
            create_recipe_study(CONFIG, storage=url, **SCRATCH)
    assert len(create_recipe_study(CONFIG, storage=url, **SCRATCH).trials) == 1


def test_an_architecture_from_a_file(tmp_path: Path) -> None:
    arch = SCRATCH["arch"]
    for content in (arch.to_dict(), {"architecture": arch.to_dict(), "study": "tiny"}):
        (tmp_path / "arch.json").write_text(json.dumps(content))
        assert read_architecture(tmp_path / "arch.json") == arch
    for text in ("[]", "{", None):
        path = tmp_path / ("arch.json" if text else "missing.json")
        path.write_text(text) if text else None
        with pytest.raises(CheckpointError, match=path.name):
            read_architecture(path)
