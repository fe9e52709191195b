from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spikesearch import SearchSpace, Spikformer
from spikesearch.errors import CheckpointError, ExportError, SpikesearchError, StorageError
from spikesearch.export import load_network, read_facts, save_network
from spikesearch.export.folder import describe, new_folder
from tests.export.conftest import ARCH, fresh

SPACE = SearchSpace((8, 16), (1, 2), (1, 2), (1, 2), (0.6, 1.0), (1.25, 2.0), (1, 3))


@pytest.fixture
def folder(tmp_path: Path, net: Spikformer, facts: dict[str, Any]) -> Path:
    return save_network(tmp_path / "a" / "net", net, facts)


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@settings(max_examples=8)
@given(
    seed=st.integers(0, 2**32 - 1),
    stages=st.sampled_from([None, (), (0, 3)]),
    residual=st.sampled_from(["add", "membrane"]),
)
def test_logits_are_the_same_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, digits: Tensor, seed: int, stages: tuple[int, ...] | None, residual: str
) -> None:
    import numpy as np

    net = fresh(SPACE.sample(np.random.default_rng(seed)), pool_stages=stages, residual=residual)
    loaded = load_network(save_network(tmp_path_factory.mktemp("net") / "x", net, {}))
    assert not loaded.training
    assert loaded.arch == net.arch
    assert (loaded.pool_stages, loaded.residual) == (net.pool_stages, residual)
    assert torch.equal(loaded(digits[:64]), net(digits[:64]))


def test_event_frames_too(tmp_path: Path, digits: Tensor) -> None:
    frames = digits[:60].view(12, 5, 1, 8, 8).expand(-1, -1, 2, -1, -1)
    net = fresh(in_channels=2)
    assert torch.equal(load_network(save_network(tmp_path / "x", net, {}))(frames), net(frames))


def test_a_network_in_training_and_its_gradients_are_left_alone(tmp_path: Path, digits: Tensor) -> None:
    net = fresh().train()
    net(digits[:8]).sum().backward()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    save_network(tmp_path / "x", net, {})
    assert net.training
    assert all(parameter.grad is not None for parameter in net.parameters())
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_facts_come_back_and_cannot_pose_as_the_network(tmp_path: Path, net: Spikformer, facts: dict[str, Any]) -> None:
    folder = save_network(tmp_path / "x", net, {**facts, "weights_hash": "mine", "architecture": {}})
    found = read_facts(folder)
    assert {key: found[key] for key in facts} == facts
    assert found["architecture"] == ARCH.to_dict()
    assert torch.equal(load_network(folder).head.weight, net.head.weight)


def test_nothing_else_is_left_behind(folder: Path) -> None:
    assert left(folder) == {"model.json", "model.safetensors"}
    assert left(folder.parent) == {"net"}
    assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "foreign": lambda said: said.update(format="pt"),
    "newer": lambda said: said.update(format_version=2),
    "no version": lambda said: said.update(format_version=None),
    "impossible architecture": lambda said: said["architecture"]["blocks"][0].update(num_heads=3),
    "other architecture": lambda said: said["architecture"].update(embed_dim=32),
    "no model": lambda said: said.pop("model"),
    "impossible model": lambda said: said["model"].update(in_channels=-1),
    "other residual": lambda said: said["model"].update(residual="membrane"),
    "impossible residual": lambda said: said["model"].update(residual="sum"),
    "unknown setting": lambda said: said["model"].update(shape=1),
}


def broken(folder: Path, how: str) -> None:
    weights, described = folder / "model.safetensors", folder / "model.json"
    said = json.loads(described.read_text())
    if how in EDITS:
        EDITS[how](said)
        described.write_text(json.dumps(said))
    elif how == "missing folder":
        shutil.rmtree(folder)
    elif how == "empty folder":
        weights.unlink()
        described.unlink()
    elif how == "no weights":
        weights.unlink()
    elif how == "half of the weights":
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    elif how == "not safetensors":
        weights.write_bytes(b"\x80\x04}q\x00.")
    elif how == "other weights":
        save_file({name: value + 1 for name, value in load_file(weights).items()}, weights)
    elif how == "half of the facts":
        described.write_text(described.read_text()[:50])
    else:
        described.write_text("[1]")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing folder", "does not exist"),
        ("empty folder", "model.json is missing"),
        ("no weights", "model.safetensors is missing"),
        ("half of the weights", "model.safetensors is corrupt"),
        ("not safetensors", "model.safetensors is corrupt"),
        ("other weights", "does not hold the weights that model.json describes"),
        ("half of the facts", "model.json is corrupt"),
        ("not a dictionary", "does not describe a network"),
        ("foreign", "does not describe a network"),
        ("newer", "upgrade spikesearch"),
        ("no version", "format version None"),
        ("impossible architecture", "model.json is corrupt .*num_heads"),
        ("other architecture", "does not fit the architecture"),
        ("no model", "model.json is corrupt"),
        ("impossible model", "model.json is corrupt"),
        ("other residual", "does not fit the architecture in model.json: .*_extra_state"),
        ("impossible residual", "model.json is corrupt .*`residual` must be one of add, membrane"),
        ("unknown setting", "unknown `model.shape`"),
    ],
)
def test_what_cannot_be_loaded_says_why_in_one_line(folder: Path, how: str, says: str) -> None:
    broken(folder, how)
    with pytest.raises(CheckpointError, match=says) as caught:
        load_network(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_same_network_replaces_itself(folder: Path, net: Spikformer) -> None:
    save_network(folder, net, {"study": "renamed"})
    assert read_facts(folder)["study"] == "renamed"
    assert left(folder.parent) == {"net"}


def other_weights(folder: Path, net: Spikformer) -> Path:
    nn.init.zeros_(net.head.bias)
    return folder


def a_file(folder: Path, net: Spikformer) -> Path:
    return folder / "model.json"


def notes_beside(folder: Path, net: Spikformer) -> Path:
    (folder / "notes.txt").write_text("mine")
    return folder


def no_network(folder: Path, net: Spikformer) -> Path:
    (folder.parent / "notes.txt").write_text("mine")
    return folder.parent


def other_format(folder: Path, net: Spikformer) -> Path:
    said = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**said, "files": ["model.onnx"]}))
    return folder


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (other_weights, "holds another network"),
        (a_file, "is a file"),
        (notes_beside, "also holds notes.txt"),
        (no_network, "holds no network"),
        (other_format, "in another format"),
    ],
)
def test_what_is_not_the_same_network_is_not_overwritten(tmp_path: Path, folder: Path, prepare: Any, says: str) -> None:
    net = load_network(folder)
    target = prepare(folder, net)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ExportError, match=f"{says}.*choose another --output"):
        save_network(target, net, {})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_empty_folder_may_be_filled(tmp_path: Path, net: Spikformer) -> None:
    save_network(tmp_path, net, {})
    assert left(tmp_path) == {"model.json", "model.safetensors"}


def test_an_error_while_writing_leaves_what_was_there(folder: Path, net: Spikformer) -> None:
    before = (folder / "model.json").read_bytes()

    def fail() -> None:
        with new_folder(folder, describe(net, {})) as scratch:
            (scratch / "model.safetensors").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (folder / "model.json").read_bytes() == before
    assert left(folder.parent) == {"net"}


def test_a_folder_that_cannot_be_moved_stays(folder: Path, net: Spikformer, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "model.json").read_bytes()
    replace = os.replace

    def fail(source: Path, target: Path) -> None:
        if Path(source).name == "new":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StorageError, match="No space left on device"):
        save_network(folder, net, {"study": "renamed"})
    assert (folder / "model.json").read_bytes() == before
    assert left(folder.parent) == {"net"}


def test_values_that_json_does_not_know_are_refused_before_anything_is_there(tmp_path: Path, net: Spikformer) -> None:
    with pytest.raises(ValueError, match="JSON"):
        save_network(tmp_path / "x", net, {"accuracy": float("nan")})
    assert left(tmp_path) == set()


def test_a_place_that_cannot_be_written(tmp_path: Path, net: Spikformer) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Choose a folder that is writable"):
        save_network(tmp_path / "file" / "net", net, {})


def test_every_error_is_one_of_ours(tmp_path: Path) -> None:
    with pytest.raises(SpikesearchError):
        load_network(tmp_path / "nowhere")
