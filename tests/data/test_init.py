"""`study init`: from a folder to a study file that loads, with the facts that were found."""

from __future__ import annotations

import gzip
import pickle
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from torchvision import datasets

from spikesearch.config import load_study_file
from spikesearch.data import init_study_file, load_data
from spikesearch.errors import ConfigError, DataError, DataNotFoundError


def fill(folder: Path, sizes: list[tuple[int, int]], color: bool = True, count: int = 10) -> Path:
    rng = np.random.default_rng(0)
    for k, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            width, height = sizes[(i + k) % len(sizes)]
            shape = (height, width, 3) if color else (height, width)
            Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / name / f"{i}.png")
    return folder


def init(folder: Path, output: Path) -> Any:
    assert init_study_file(folder, output) == output
    config = load_study_file(output)
    data = load_data(config.data, seed=config.seed)
    return config, data


def test_images_of_one_size_keep_it(tmp_path: Path) -> None:
    config, data = init(fill(tmp_path / "my pictures: 1", [(20, 20)]), tmp_path / "mine.yaml")
    assert config.name == "mine"
    assert config.data.kind == "image-folder"
    assert (data.image_size, data.in_channels, data.num_classes) == (20, 3, 2)
    assert config.space.search_space().size >= 100_000
    text = (tmp_path / "mine.yaml").read_text()
    assert "20 colour images, 2 classes" in text
    assert "path: 'my pictures: 1'" in text


def test_images_of_many_sizes_are_resized(tmp_path: Path) -> None:
    config, data = init(fill(tmp_path / "photos", [(300, 200), (150, 400)], color=False), tmp_path / "a b!.yaml")
    assert config.name == "a-b"
    assert (data.image_size, data.in_channels) == (64, 1)


def test_a_mixture_becomes_colour_and_bad_images_are_skipped(tmp_path: Path) -> None:
    folder = fill(tmp_path / "photos", [(16, 16)], color=False)
    Image.new("RGB", (16, 16)).save(folder / "cat" / "3.png")
    (folder / "dog" / "4.png").write_bytes(b"oops")
    config, data = init(folder, tmp_path / "mine.yaml")
    assert config.data.color == "rgb"
    assert config.data.skip_unreadable
    assert "1 of 20 images cannot be used" in (tmp_path / "mine.yaml").read_text()
    assert len(data.train) + len(data.search) + len(data.test) == 19


def test_a_few_large_images_do_not_set_the_size(tmp_path: Path) -> None:
    folder = fill(tmp_path / "photos", [(28, 28)])
    for i, side in enumerate((300, 400)):
        Image.new("RGB", (side, side)).save(folder / "cat" / f"large{i}.png")
    _, data = init(folder, tmp_path / "mine.yaml")
    assert data.image_size == 28


def test_sixteen_bit_images_are_left_out_or_refused(tmp_path: Path) -> None:
    folder = fill(tmp_path / "scans", [(16, 16)], color=False)
    deep = Image.fromarray(np.full((16, 16), 300, np.uint16))
    deep.save(folder / "cat" / "3.png")
    config, data = init(folder, tmp_path / "mine.yaml")
    assert config.data.skip_unreadable
    assert len(data.skipped) == 1
    for file in folder.rglob("*.png"):
        deep.save(file)
    with pytest.raises(DataError, match=r"holds no image that can be used: .*0.png has pixels of mode 'I(;16)?'"):
        init_study_file(folder, tmp_path / "other.yaml")


def test_a_defined_test_split_is_said(tmp_path: Path) -> None:
    fill(tmp_path / "photos" / "train", [(8, 8)])
    fill(tmp_path / "photos" / "test", [(8, 8)], count=4)
    _, data = init(tmp_path / "photos", tmp_path / "mine.yaml")
    assert len(data.test) == 8
    assert "the data's own test split is kept" in (tmp_path / "mine.yaml").read_text()


def record(folder: Path, width: int = 130, milliseconds: int = 300) -> Path:
    rng = np.random.default_rng(0)
    for name in ("left", "right"):
        (folder / name).mkdir(parents=True)
        for i in range(5):
            arrays: dict[str, Any] = {
                "t": np.linspace(7, 7 + 1000 * milliseconds, 40).astype(int),
                "p": rng.integers(0, 2, 40),
                "x": rng.integers(0, width, 40),
                "y": rng.integers(0, 90, 40),
            }
            arrays["x"][0] = width - 1
            np.savez(folder / name / f"{i}.npz", **arrays)
    return folder


def spoil(file: Path, **changes: np.ndarray) -> None:
    with np.load(file) as arrays:
        changed = {**arrays, **changes}
    np.savez(file, **changed)


@pytest.mark.parametrize(("width", "downsample", "size"), [(64, 2, 45), (130, 3, 44), (1280, 20, 64), (4096, 64, 64)])
def test_event_recordings_are_recognised(tmp_path: Path, width: int, downsample: int, size: int) -> None:
    config, data = init(record(tmp_path / "events", width), tmp_path / "mine.yaml")
    assert config.data.sensor == (max(width, 90),) * 2
    assert config.data.downsample == downsample
    assert (data.image_size, data.frames, data.in_channels) == (size, 4, 2)
    assert not config.data.skip_unreadable


@pytest.mark.parametrize(
    ("milliseconds", "frames", "time_steps"),
    [(0, 2, (1, 2)), (200, 2, (1, 2)), (201, 4, (1, 2, 4)), (9000, 8, (2, 4, 8))],
)
def test_longer_recordings_get_more_frames(
    tmp_path: Path, milliseconds: int, frames: int, time_steps: tuple[int, ...]
) -> None:
    folder = record(tmp_path / "events", milliseconds=milliseconds)
    spoil(folder / "left" / "3.npz", t=np.linspace(0, 1e8, 40).astype(int))  # a single long one does not matter
    config, data = init(folder, tmp_path / "mine.yaml")
    assert (config.data.frames, data.frames) == (frames, frames)
    assert config.space.time_steps == time_steps
    assert f"the median one lasts {milliseconds} ms" in (tmp_path / "mine.yaml").read_text()


def test_bad_recordings_are_left_out(tmp_path: Path) -> None:
    folder = record(tmp_path / "events")
    spoil(folder / "left" / "2.npz", x=np.full(40, 65535))
    (folder / "right" / "4.npz").write_bytes(b"oops")
    config, data = init(folder, tmp_path / "mine.yaml")
    assert config.data.sensor == (130, 130)
    assert "2 of 10 recordings cannot be used" in (tmp_path / "mine.yaml").read_text()
    assert [Path(message.split(":")[0].split()[0]).name for message in data.skipped] == ["2.npz", "4.npz"]


def write_idx(folder: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        (folder / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


def test_idx_files_are_recognised(tmp_path: Path) -> None:
    folder = tmp_path / "mnist"
    folder.mkdir()
    write_idx(folder, "train", np.zeros((30, 6, 6)), np.arange(30) % 3)
    config, data = init(folder, tmp_path / "mine.yaml")
    assert config.data.kind == "idx"
    assert (data.num_classes, data.image_size) == (3, 6)
    assert "30 grey images 6x6, 3 classes" in (tmp_path / "mine.yaml").read_text()


def test_cifar_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["train", None]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test", None]])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": "meta", "key": "label_names", "md5": None})
    for name in ("train", "test"):
        content = {"data": np.zeros((20, 3072), np.uint8), "labels": [i % 2 for i in range(20)]}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "meta").write_bytes(pickle.dumps({"label_names": ["a", "b"]}))
    config, data = init(tmp_path / "data", tmp_path / "mine.yaml")
    assert config.data.kind == "cifar10"
    assert data.image_size == 32


def test_large_data_gets_a_small_search_split(tmp_path: Path) -> None:
    folder = tmp_path / "mnist"
    folder.mkdir()
    for part, count in (("train", 50_000), ("t10k", 10)):
        write_idx(folder, part, np.zeros((count, 2, 2)), np.arange(count) % 10)
    _, data = init(folder, tmp_path / "mine.yaml")
    assert (len(data.train), len(data.search), len(data.test)) == (45_000, 5_000, 10)


# --- bad input --------------------------------------------------------------------------------------------------------


def test_nothing_is_written_where_nothing_can_be_run(tmp_path: Path) -> None:
    output = tmp_path / "mine.yaml"
    with pytest.raises(DataNotFoundError, match="There is no folder"):
        init_study_file(tmp_path / "nowhere", output)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images that can be used"):
        init_study_file(tmp_path / "empty", output)
    with pytest.raises(DataError, match="Class 'cat' has 2 images to divide"):
        init_study_file(fill(tmp_path / "few", [(8, 8)], count=2), output)
    folder = fill(tmp_path / "broken", [(8, 8)])
    for file in folder.rglob("*.png"):
        file.write_bytes(b"oops")
    with pytest.raises(DataError, match=r"holds no image that can be used: .*0.png cannot be read"):
        init_study_file(folder, output)
    (tmp_path / "wide").mkdir()
    write_idx(tmp_path / "wide", "train", np.zeros((30, 6, 8)), np.arange(30) % 3)
    with pytest.raises(DataError, match="Images must be square, but got 6x8 pixels"):
        init_study_file(tmp_path / "wide", output)
    folder = record(tmp_path / "wild")
    for file in folder.rglob("*.npz"):
        spoil(file, x=np.full(40, 65535))
    with pytest.raises(DataError, match=r"No recording can be used: .*left/0.npz has an event at coordinate 65535"):
        init_study_file(folder, output)
    (tmp_path / "same").mkdir()
    write_idx(tmp_path / "same", "train", np.zeros((30, 6, 6)), np.zeros(30))
    with pytest.raises(DataError, match=r"same: The data set has the single class '0', but at least two are needed"):
        init_study_file(tmp_path / "same", output)
    assert not output.exists()


@pytest.mark.parametrize(
    "name",
    [
        *("yes", "no", "on", "off", "true", "y", "null", "Null", "~"),
        *("1e3", "1.5", "0x10", "0o17", "017", "1_000", "2024-01-01", "12", "-1", ".5", ".inf", "1:30", "="),
        *("a: b", "a #b", "[a]", "{a}", "*a", "&a", "!a", "%a", "@a", "`a", "'a", '"a"', "a\nb", "é ü", "<<"),
    ],
)
def test_names_that_yaml_reads_as_something_else_stay_text(tmp_path: Path, name: str) -> None:
    folder = fill(tmp_path / name / name, [(8, 8)])
    output = tmp_path / name / f"{name}.yaml"
    init_study_file(folder, output)
    written = yaml.safe_load(output.read_text())
    assert written["data"]["path"] == (str(folder) if name == "~" else name)
    assert isinstance(written["name"], str)
    if re.fullmatch(r"[a-z0-9A-Z_]+", name):
        assert written["name"] == name
    if re.match(r"[\d.]", name):  # other readers of YAML know more numbers than PyYAML
        assert f"path: '{name}'" in output.read_text()
    assert load_study_file(output).data.path == str(folder)  # type: ignore[attr-defined]


def test_a_ground_is_chosen_on_which_transparent_images_can_be_seen(tmp_path: Path) -> None:
    folder = tmp_path / "icons"
    for k, name in enumerate("ab"):
        (folder / name).mkdir(parents=True)
        for i in range(6):
            image = Image.new("LA", (8, 8), (0, 0))
            image.paste((255, 255), (k, i % 4, k + 4, i % 4 + 4))
            image.save(folder / name / f"{i}.png")
    config, data = init(folder, tmp_path / "mine.yaml")
    assert config.data.background == "black"
    assert not config.data.skip_unreadable
    assert data.train.store.raw(np.arange(12)).flatten(1).max(1).values.tolist() == [255] * 12
    _, data = init(fill(tmp_path / "opaque", [(8, 8)]), tmp_path / "other.yaml")
    assert "background" not in (tmp_path / "other.yaml").read_text()


@pytest.mark.parametrize(("factor", "unit"), [(1e-6, "s"), (1e-3, "ms")])
def test_the_unit_of_times_with_fractions_is_guessed_and_said(tmp_path: Path, factor: float, unit: str) -> None:
    folder = record(tmp_path / "events", milliseconds=900)
    for file in folder.rglob("*.npz"):
        with np.load(file) as arrays:
            spoil(file, t=arrays["t"] * factor + 1.7e9 * 1e6 * factor)
    config, data = init(folder, tmp_path / "mine.yaml")
    assert (config.data.time_unit, data.frames) == (unit, 8)
    text = (tmp_path / "mine.yaml").read_text()
    assert "guessed from its fractions" in text
    assert "the median one lasts 900 ms" in text


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    output = tmp_path / "mine.yaml"
    output.write_text("precious")
    with pytest.raises(ConfigError, match=r"mine.yaml exists already"):
        init_study_file(fill(tmp_path / "photos", [(8, 8)]), output)
    assert output.read_text() == "precious"
