"""Fidelity of a real, hardly trained supernet: every training once, whatever happens, and the right comparisons."""

from __future__ import annotations

import io
import itertools
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import kendalltau, spearmanr

from spikesearch.audit.candidates import fixed_neurons
from spikesearch.audit.fidelity import measure_fidelity, scoring_facts
from spikesearch.audit.fidelity_figure import fidelity_figure
from spikesearch.audit.fidelity_result import Fidelity, Network
from spikesearch.errors import CheckpointError, StudyError
from spikesearch.nn import Spikformer
from spikesearch.scoring import Score
from spikesearch.scoring.calibration import calibration_images
from spikesearch.scoring.network import calibrate_network
from spikesearch.study.session import Session, open_session, open_trained
from spikesearch.study.store import delete_study
from spikesearch.train.network import train_network
from tests.interruptions import epochs_trained, interruption
from tests.study.helpers import tiny_config

SPACE = tiny_config().space.search_space()


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Fidelity]:
    """A folder with the study and the fidelity of four networks that were trained for an epoch each."""
    folder = tmp_path_factory.mktemp("study")
    open_session(tiny_config(), storage=f"sqlite:///{folder}/s.db").train(progress=False)
    return folder, measure(open_study(folder))


@pytest.fixture
def study(measured: tuple[Path, Fidelity], tmp_path: Path) -> Path:
    """A copy of that folder."""
    shutil.copytree(measured[0], tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def epochs() -> Iterator[list[int]]:
    """The number of every epoch that is trained."""
    with epochs_trained() as numbers:
        yield numbers


def open_study(folder: Path) -> Session:
    return open_trained("tiny", storage=f"sqlite:///{folder}/s.db")


def measure(trained: Session, n: int = 4, epochs: int = 1) -> Fidelity:
    return measure_fidelity(trained, n=n, epochs=epochs, progress=False)


# --- trainings --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_nothing_is_done_twice(measured: tuple[Path, Fidelity], study: Path, epochs: list[int]) -> None:
    first = measured[1].to_dict()
    assert json.loads((study / "runs/tiny/fidelity/report.json").read_text()) == first
    assert measure(open_study(study)).to_dict() == first
    assert epochs == []


def test_one_lost_training_is_repeated_to_the_same_number(
    measured: tuple[Path, Fidelity], study: Path, epochs: list[int]
) -> None:
    kept = sorted((study / "runs/tiny/fidelity").glob("alone-*.json"))
    text = kept[2].read_text()
    kept[2].unlink()
    assert measure(open_study(study)).to_dict() == measured[1].to_dict()
    assert epochs == [1]
    assert kept[2].read_text() == text


def test_more_networks_cost_only_what_is_missing(
    measured: tuple[Path, Fidelity], study: Path, epochs: list[int]
) -> None:
    more = measure(open_study(study), n=5)
    assert more.networks[:4] == measured[1].networks
    assert len(epochs) == len(more.networks[4].alone)
    epochs.clear()
    assert measure(open_study(study)).networks == measured[1].networks
    assert epochs == []


@pytest.mark.slow
def test_a_training_that_was_killed_goes_on(measured: tuple[Path, Fidelity], study: Path, epochs: list[int]) -> None:
    with interruption(3):  # in the middle of the second training
        measure(open_study(study), epochs=2)
    resumed = measure(open_study(study), epochs=2)
    assert epochs == [1, 2] * sum(len(network.alone) for network in resumed.networks)
    assert not list((study / "runs/tiny/fidelity").glob("*.checkpoints"))
    # another recipe has trainings of its own, but the same networks
    assert (resumed.facts["epochs"], resumed.facts["recipe"]["epochs"]) == (2, 2)
    assert [network.inherited for network in resumed.networks] == [each.inherited for each in measured[1].networks]

    for path in (study / "runs/tiny/fidelity").glob(f"alone-{resumed.networks[1].arch.key}-1-*.json"):
        path.unlink()
    assert measure(open_study(study), epochs=2).to_dict() == resumed.to_dict()  # as if nothing had disturbed it


def test_the_numbers_are_those_of_the_search_split(measured: tuple[Path, Fidelity], study: Path) -> None:
    trained, networks = open_study(study), measured[1].networks
    assert [network.inherited for network in networks] == [trained.scorer().score(each.arch) for each in networks]
    network = next(each for each in networks if not each.dead)
    data, recipe = trained.data, trained.config.train.model_copy(update={"epochs": 1})
    assert len(network.alone) == 2
    for seed, score in enumerate(network.alone, start=1):
        torch.manual_seed(seed)
        net = Spikformer(network.arch, in_channels=1, image_size=8, num_classes=10, pool_stages=(2, 3))
        done = train_network(net, data, recipe, seed=seed, folder=study / f"seed{seed}", progress=False)
        calibrate_network(done.net, calibration_images(data, trained.config.scoring))
        logits = done.net(data.search.images(range(len(data.search))))
        right = (logits.argmax(-1) == data.search.labels).double().mean().item()
        assert score.accuracy == pytest.approx(right, abs=1.01 / len(data.search))


def test_the_test_split_is_not_looked_at(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = open_study(study)
    shutil.rmtree(trained.folder / "fidelity")
    split = type(trained.data.test)
    original = split.images

    def images(self, *args):
        assert self is not trained.data.test
        return original(self, *args)

    monkeypatch.setattr(split, "images", images)
    measure(trained)


def test_a_training_that_diverges_counts_as_dead(study: Path) -> None:
    trained = open_study(study)
    recipe = trained.config.train.model_copy(update={"lr": 1e30, "clip_grad": None})
    trained.config = trained.config.model_copy(update={"train": recipe})
    done = measure(trained)
    assert all(network.alone == (None,) for network in done.networks)
    assert done.dead["alone"] == done.dead["either"] == 4
    assert (done.tau, done.ceiling, done.share_of_ceiling.value, done.live) == (None, None, None, ())
    assert json.loads(json.dumps(done.to_dict(), allow_nan=False))["live"] == 0


def test_what_is_kept_goes_with_the_study(study: Path) -> None:
    delete_study("tiny", storage=f"sqlite:///{study}/s.db")
    assert not (study / "runs").exists() or not list((study / "runs").rglob("*.*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 3}, "`n` must be at least 4, but got 3"),
        ({"epochs": 0}, "`epochs` must be at least 1, but got 0"),
        ({"n": SPACE.size + 1}, "`n` must be at most"),
    ],
)
def test_mistakes_are_named(study: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        measure(open_study(study), **options)


def test_a_corrupt_training_is_named(study: Path) -> None:
    kept = next((study / "runs/tiny/fidelity").glob("alone-*.json"))
    kept.write_text(kept.read_text()[:-20])
    with pytest.raises(CheckpointError, match=rf"{kept.name} is corrupt; delete it"):
        measure(open_study(study))


# --- comparisons ------------------------------------------------------------------------------------------------------


def score(accuracy: float, energy: float = 1.0, params: int = 100) -> Score:
    return Score(accuracy, energy, params, 1.0, 1.0, 0.1, n_images=200, dead=accuracy < 0.2)


@pytest.fixture
def mixed() -> Fidelity:
    """Forty networks, the first twelve with two seeds, and of each way to be dead a few."""
    rng = np.random.default_rng(0)
    fixed = fixed_neurons(SPACE)
    networks = []
    for number in range(40):
        arch = (fixed if number % 2 else SPACE).sample(rng)
        quality, energy = rng.uniform(0.5, 0.9), rng.uniform(0.1, 3.0)
        alone = [score(quality + rng.normal(0, 0.05)) for _ in range(2 if number < 12 else 1)]
        inherited = score(quality + rng.normal(0, 0.05), energy, int(rng.integers(100, 110)))
        networks.append(Network(arch, inherited, tuple(alone), arch in fixed))
    for position in (0, 20, 30):
        networks[position] = replace(networks[position], inherited=score(0.1))
    for position in (20, 21):
        networks[position] = replace(networks[position], alone=(score(0.15),))
    networks[22] = replace(networks[22], alone=(None,))
    networks[1] = replace(networks[1], alone=(networks[1].alone[0], score(0.1)))  # its second seed died
    return Fidelity("mixed", Path("nowhere"), {}, "strict", tuple(networks))


def test_dead_networks_are_counted_apart(mixed: Fidelity) -> None:
    assert mixed.dead == {"inherited": 3, "alone": 3, "either": 5}
    assert len(mixed.live) == 35
    assert {name: group.n for name, group in mixed.groups.items()} == {
        "all": 35,
        "top_half": 18,
        "energy_bins": 35,
        "fixed_neurons": sum(network.fixed_neurons for network in mixed.live),
        "two_seeds": 10,
    }


def test_every_group_compares_what_it_says(mixed: Fidelity) -> None:
    live = [network for position, network in enumerate(mixed.networks) if position not in {0, 20, 21, 22, 30}]
    median = sorted(network.alone[0].accuracy for network in live)[17]
    groups = {
        "all": live,
        "top_half": [network for network in live if network.alone[0].accuracy >= median],
        "fixed_neurons": [network for network in live if network.arch in fixed_neurons(SPACE)],
        "two_seeds": list(mixed.networks[2:12]),
    }
    columns = {
        "inherited": lambda network: network.inherited.accuracy,
        "energy": lambda network: network.inherited.energy_uJ,
        "params": lambda network: network.inherited.params,
        "second_seed": lambda network: network.alone[1].accuracy,
    }
    for name, members in groups.items():
        truth = [network.alone[0].accuracy for network in members]
        found = mixed.groups[name].rankings
        assert list(found) == list(columns)[: 4 if name == "two_seeds" else 3]
        for ranking, agreement in found.items():
            values = [columns[ranking](network) for network in members]
            assert agreement.tau.value == pytest.approx(kendalltau(values, truth).statistic)
            assert agreement.spearman.value == pytest.approx(spearmanr(values, truth).statistic)
            assert agreement.tau.low < agreement.tau.value < agreement.tau.high
    whole = mixed.groups["all"]
    assert mixed.tau == whole.rankings["inherited"].tau.value
    inherited, *seeds = (
        [score_of(network).accuracy for network in groups["two_seeds"]]
        for score_of in (lambda each: each.inherited, lambda each: each.alone[0], lambda each: each.alone[1])
    )
    tau = np.mean([kendalltau(inherited, seed).statistic for seed in seeds])
    assert mixed.ceiling == pytest.approx(kendalltau(*seeds).statistic)
    assert mixed.share_of_ceiling.value == pytest.approx(tau / mixed.ceiling)
    shown = mixed.to_dict()
    assert shown["tau_two_seeds"]["value"] == pytest.approx(tau)
    assert shown["share_of_ceiling"] == asdict(mixed.share_of_ceiling)
    for cost in ("energy", "params"):
        difference = mixed.tau - whole.rankings[cost].tau.value
        assert whole.lead[cost].tau.value == pytest.approx(difference)
    assert mixed.groups["energy_bins"].rankings["inherited"].tau.value != mixed.tau


def test_the_picture_shows_the_living_and_the_dead(mixed: Fidelity) -> None:
    def pixels(done: Fidelity) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(fidelity_figure(done))).convert("RGB")).astype(int)

    pictures = [
        pixels(replace(mixed, networks=networks))
        for networks in (mixed.networks, mixed.live, mixed.live[12:], mixed.networks[20:23], ())
    ]
    assert all(picture.shape == (600, 960, 3) for picture in pictures)
    for before, after in itertools.pairwise(pictures):
        assert not np.array_equal(before, after)


def test_what_was_kept_stays_valid_when_scoring_gets_new_keys() -> None:
    """Speed alone (cache, racing, precision of trials) is no part of what a kept training depends on."""
    config = tiny_config(scoring__racing=True, scoring__precision="bfloat16", scoring__cache_mb=3)
    assert scoring_facts(config.scoring).keys() == {
        "batch_size",
        "calibration_images",
        "convention",
        "mac_pj",
        "ac_pj",
    }
