"""``subnet export`` on a study of its own: what a user types, and what comes out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from spikesearch.config import StudyConfig
from spikesearch.data.bundle import StoredSplit
from spikesearch.energy import CONVENTIONS
from spikesearch.errors import ExportError, StudyError
from spikesearch.export import ExportFormat, export_network, load_network, read_facts, save_network
from spikesearch.study import run_study
from spikesearch.study.results import find_trial
from spikesearch.study.session import Session, open_trained
from spikesearch.subnet.export import export_subnet
from tests.commands import Result
from tests.study.helpers import tiny_config


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study of two trials."""
    folder = tmp_path_factory.mktemp("work")
    run_study(tiny_config(search__n_trials=2), storage=f"sqlite:///{folder / 'spikesearch.db'}", progress=False)
    return folder


@pytest.fixture
def cli_folder(workplace: Path) -> Path:
    """The command line works where the study is."""
    return workplace


@pytest.fixture(scope="module")
def trained(workplace: Path) -> Session:
    return open_trained("tiny", storage=f"sqlite:///{workplace / 'spikesearch.db'}")


def test_a_trial_for_timm_from_the_command_line(workplace: Path, trained: Session, cli: Callable[..., Result]) -> None:
    done = cli("subnet", "export", "tiny", "--trial", 1, "--to", "timm", "--output", "net")
    assert (done.status, done.out) == (0, "net\n"), done.err
    model = timm.create_model(f"local-dir:{workplace / 'net'}", pretrained=True).eval()
    images = trained.data.test.images(range(100))
    net = trained.scorer().extract(find_trial(trained.study, 1).architecture)
    assert torch.equal(model(images), net(images))


def test_what_nir_cannot_hold_is_one_line_and_leaves_nothing(workplace: Path, cli: Callable[..., Result]) -> None:
    done = cli("subnet", "export", "tiny", "--trial", 0, "--to", "nir", "--output", "a/b")
    assert (done.status, done.out) == (2, "")
    (line,) = done.err.strip().splitlines()
    assert line.startswith("spikesearch: error: NIR cannot hold `blocks.0.attn`")
    assert not (workplace / "a").exists()


def test_the_command_line_takes_a_format_of_another_package(
    class_list: ExportFormat, workplace: Path, cli: Callable[..., Result]
) -> None:
    result = cli("subnet", "export", "tiny", "--trial", 0, "--to", "class-list", "--output", "list")
    assert (result.status, result.out) == (0, "list\n"), result.err
    labels = (workplace / "list" / "classes.txt").read_text().split()
    assert len(labels) == read_facts(workplace / "list")["check"]["samples"]
    assert "'--to': 'class-lists' is not one of" in cli("subnet", "export", "tiny", "--to", "class-lists").complaint


def test_the_card_and_the_facts_are_those_of_the_trial(trained: Session) -> None:
    folder = export_subnet(trained, 0)
    assert folder == trained.folder / "exports" / "0-safetensors"
    trial, facts = find_trial(trained.study, 0), read_facts(folder)
    card = (folder / "README.md").read_text()
    assert facts["accuracy"] == trial.accuracy
    assert trial.test is not None
    assert facts["test_accuracy"] == trial.test["accuracy"]
    assert facts["data"]["splits"] == {name: len(getattr(trained.data, name)) for name in ("train", "search", "test")}
    assert f"| `{trained.config.scoring.convention}` | {trial.energy_uJ:.4f} |" in card  # measured again, the same
    assert all(f"### Convention `{name}`, by layer" in card for name in CONVENTIONS)
    assert facts["data"]["fingerprint"] in card
    images = trained.data.test.images(range(50))
    assert torch.equal(load_network(folder)(images), trained.scorer().extract(trial.architecture)(images))


def test_the_facts_say_how_raw_images_are_normalised(trained: Session) -> None:
    from sklearn.datasets import load_digits

    facts = read_facts(export_subnet(trained, 0))
    images = trained.data.test.images(range(20)).flatten(1)
    raw = torch.from_numpy(load_digits().images).float().flatten(1)
    ours = (raw - facts["normalisation"]["mean"][0]) / facts["normalisation"]["std"][0]
    assert (
        float(torch.cdist(images, ours, compute_mode="donot_use_mm_for_euclid_dist").min(1).values.max()) < 1e-4
    )  # every test image is one of the digits


def test_a_retrained_network_is_exported_with_its_own_weights(trained: Session, tmp_path: Path) -> None:
    net = trained.scorer().extract(find_trial(trained.study, 0).architecture)
    torch.nn.init.normal_(net.get_parameter("head.weight"))
    facts = {"study": "tiny", "trial": 0, "test_accuracy": 0.5, "retrained": {"from": "scratch"}}
    source = save_network(tmp_path / "retrained", net, facts)
    folder = export_subnet(trained, network=source, output=tmp_path / "out")
    images = trained.data.test.images(range(50))
    assert torch.equal(load_network(folder)(images), net(images))
    assert read_facts(folder)["weights"] == "trained alone, from scratch"
    assert read_facts(folder)["test_accuracy"] == 0.5
    with pytest.raises(StudyError, match="Give either a trial or the folder of a network"):
        export_subnet(trained, 0, network=source)
    stranger = save_network(tmp_path / "stranger", net, {"study": "other"})
    with pytest.raises(StudyError, match="a network of the study 'other', but this is 'tiny'"):
        export_subnet(trained, network=stranger)


def test_an_opset_without_onnx_is_refused_before_the_test_split_is_touched(trained: Session) -> None:
    before = set(trained.study.user_attrs)
    with pytest.raises(ExportError, match="`opset` must be left out"):
        export_subnet(trained, 1, to="torch", opset=18)
    assert set(trained.study.user_attrs) == before


def test_images_of_any_shape_are_prepared_by_timm_as_in_the_study(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label in ("dark", "light"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(24):
            height, width = rng.integers(9, 60, 2)
            pixels = rng.integers(0, 160, (height, width, 3)) + (90 if label == "light" else 0)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data" / label / f"{i}.png")
    data = {"kind": "image-folder", "path": str(tmp_path / "data"), "image_size": 8, "memory_mb": 0}
    config = StudyConfig.from_dict({**tiny_config(search__n_trials=1).to_dict(), "data": data, "name": "shapes"})
    run_study(config, storage=f"sqlite:///{tmp_path / 'spikesearch.db'}", progress=False)
    trained = open_trained("shapes", storage=f"sqlite:///{tmp_path / 'spikesearch.db'}")
    folder = export_subnet(trained, 0, to="timm")
    search = trained.data.search
    assert read_facts(folder)["check"]["prepared_by_timm"] == len(search)

    # and by hand: from the files, in the order of the data set
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    files = sorted((tmp_path / "data").rglob("*.png"), key=lambda path: (path.parent.name, path.name))
    prepared = torch.stack([transform(Image.open(path)) for path in files])
    distances = torch.cdist(trained.data.test.images(range(9)).flatten(1), prepared.flatten(1))
    assert float(distances.min(1).values.max()) < 1e-2


def test_images_that_timm_prepares_otherwise_are_refused(trained: Session, tmp_path: Path) -> None:
    net, search = trained.scorer().extract(find_trial(trained.study, 0).architecture), trained.data.search
    assert isinstance(search, StoredSplit)
    facts = read_facts(export_subnet(trained, 0))
    samples = search.images(range(5))
    folder = export_network(net, tmp_path / "x", "timm", samples=samples, facts=facts, images=search.whole)
    assert read_facts(folder)["check"]["prepared_by_timm"] == 5
    with pytest.raises(ExportError, match="timm prepares images otherwise than spikesearch: 5 of 5 get other pixels"):
        export_network(
            net, tmp_path / "y", "timm", samples=samples, facts=facts, images=lambda i: search.whole(i).rotate(90)
        )
    assert not (tmp_path / "y").exists()
