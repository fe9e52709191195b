"""Kinds of data are registered where they are defined: by spikesearch, by a program, and by an installed package."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest
import torch
import yaml
from pydantic import Field

from spikesearch.config import StudyConfig, load_study_file
from spikesearch.config.data import DataSection, PathText
from spikesearch.data import (
    KINDS,
    ArrayStore,
    Inference,
    Kind,
    Source,
    check_data,
    init_study_file,
    list_kinds,
    load_data,
    register,
)
from spikesearch.errors import ConfigError, DataError
from tests.commands import Result


class TextData(DataSection):
    """Numbers in a text file: a class, then nine grey values; the whole kind is this class and two functions."""

    kind: Literal["text"]
    path: PathText
    scale: Annotated[int, Field(ge=1)] = 1


def load(config: TextData) -> Source:
    file = Path(config.path) / "numbers.txt"
    rows = np.loadtxt(file, dtype=np.int64)
    if not (rows[:, 1:] < 256 // config.scale).all():
        raise DataError(f"{file} holds numbers that are too large.")
    images = (rows[:, 1:] * config.scale).astype(np.uint8).reshape(-1, 1, 3, 3)
    return Source(ArrayStore(images), rows[:, 0], tuple(f"class {k}" for k in np.unique(rows[:, 0])))


def infer(folder: Path) -> Inference | None:
    if not (folder / "numbers.txt").is_file():
        return None
    source = load(TextData(kind="text", path=str(folder)))
    return Inference(
        source.labels, None, source.class_names, 3, "rows of numbers", keys=(("scale", 2, "doubles every number"),)
    )


TEXT = Kind("text", TextData, "numbers in a text file", "path/numbers.txt", load, infer)


@pytest.fixture
def text() -> Iterator[Kind[TextData]]:
    yield register(TEXT)
    KINDS.unregister("text")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    rng = np.random.default_rng(0)
    np.savetxt(folder / "numbers.txt", np.c_[np.arange(30) % 2, rng.integers(0, 100, (30, 9))], fmt="%d")
    return folder


def test_the_shipped_kinds_are_found_in_alphabetical_order() -> None:
    assert list(KINDS) == [
        *("cifar10", "cifar10-dvs", "cifar100", "digits", "dvs128-gesture", "events", "idx", "image-folder", "nmnist")
    ]
    for name, kind in KINDS.items():
        assert kind.name == name
        assert name in str(kind.model.model_fields["kind"].annotation)


@pytest.mark.usefixtures("text")
def test_a_kind_from_outside_is_read_checked_and_listed(folder: Path) -> None:
    data = load_data(TextData(kind="text", path=str(folder), scale=2), seed=0)
    assert (len(data.train), len(data.search), len(data.test)) == (18, 6, 6)
    assert (data.class_names, data.image_size, data.in_channels) == (("class 0", "class 1"), 3, 1)
    assert torch.equal(next(data.search.batches(6))[1], data.search.images(range(6)))
    report = check_data(TextData(kind="text", path=str(folder)))
    assert (report["kind"], report["value_range"][1] < 100) == ("text", True)
    assert {"kind": "text", "title": TEXT.title, "needs": TEXT.needs} in list_kinds()


@pytest.mark.usefixtures("text")
def test_a_kind_from_outside_has_study_files(folder: Path, tmp_path: Path, cli: Callable[..., Result]) -> None:
    output = tmp_path / "mine.yaml"
    assert init_study_file(folder, output) == output
    config = load_study_file(output)
    assert isinstance(config.data, TextData)
    assert (config.data.scale, config.data.path) == (2, str(folder))
    assert StudyConfig.from_dict(config.to_dict()) == config
    assert "augment" not in yaml.safe_load(output.read_text())["data"]
    assert "text" in cli("data", "list", "-f", "value").out.splitlines()
    assert cli("data", "check", output).out.startswith("18 train, 6 search, 6 test 1x3x3 images, 2 classes")
    output.write_text(output.read_text().replace("scale: 2", "scle: 2"))
    with pytest.raises(ConfigError, match=r"`data` has no key 'scle'; did you mean 'scale'\?"):
        load_study_file(output)
    output.write_text(output.read_text().replace("scle: 2", "scale: 0"))
    with pytest.raises(ConfigError, match=r"`data.scale` must be greater than or equal to 1, but got 0"):
        load_study_file(output)


def test_a_kind_that_is_gone_is_unknown(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no images that can be used, nor other data"):
        init_study_file(folder, tmp_path / "mine.yaml")
    register(TEXT)
    init_study_file(folder, tmp_path / "mine.yaml")
    KINDS.unregister("text")
    with pytest.raises(ConfigError, match=r"`data.kind` must be one of cifar10, .*, but got 'text'"):
        load_study_file(tmp_path / "mine.yaml")


@pytest.mark.usefixtures("text")
def test_a_name_is_taken_once() -> None:
    assert register(TEXT) is TEXT
    with pytest.raises(ValueError, match="The kind of data 'digits' is registered already"):
        register(Kind("digits", TextData, "numbers", "nothing", load))


@pytest.mark.usefixtures("text")
def test_a_folder_of_two_kinds_is_asked_about(folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (folder / name).mkdir()
        for i in range(6):
            bits = np.arange(20) % 2
            np.savez(folder / name / f"{i}.npz", x=bits, y=bits, p=bits, t=np.arange(20))
    output = tmp_path / "mine.yaml"
    with pytest.raises(DataError, match=r"holds data of several kinds \(events, text\); say which with --kind"):
        init_study_file(folder, output)
    with pytest.raises(ConfigError, match=r"`kind` must be one of .*, but got 'txt'; did you mean 'text'?"):
        init_study_file(folder, output, "txt")
    for kind in ("events", "text"):
        init_study_file(folder, output, kind)
        assert load_study_file(output).data.kind == kind
        output.unlink()


def test_an_installed_package_adds_kinds_by_entry_points(tmp_path: Path) -> None:
    """A distribution is a module and a folder of metadata on the path."""
    (tmp_path / "textkind.py").write_text(
        "from typing import Literal\n"
        "from spikesearch.config.data import DataSection\n"
        "from spikesearch.data import Kind, register\n"
        "class TextData(DataSection):\n    kind: Literal['text']\n"
        "register(Kind('text', TextData, 'numbers', 'nothing', lambda config: None))\n"
    )
    metadata = tmp_path / "textkind-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: textkind\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[spikesearch.data]\ntext = textkind\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    listed = subprocess.run(
        [sys.executable, "-m", "spikesearch", "data", "list", "-f", "value"],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert "text" in listed.stdout.splitlines()
