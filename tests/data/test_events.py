"""Event folders and SpikingJelly's data sets: splits, caches, bad recordings."""

from __future__ import annotations

import hashlib
import importlib
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spikesearch.config.data import EventAugment
from spikesearch.data import load_data
from spikesearch.data.bundle import ArrayStore
from spikesearch.data.events import RecordingStore, class_names
from spikesearch.data.frames import Events, Windows, integrate
from spikesearch.data.kinds.events import EventFolderData
from spikesearch.data.kinds.spikingjelly import SpikingJellyData, importable_datasets
from spikesearch.errors import ConfigError, DataError, DataNotFoundError, StorageError


def write(path: Path, seed: int, side: int = 8, count: int = 60, **changes: np.ndarray) -> None:
    rng = np.random.default_rng(seed)
    arrays: dict[str, Any] = {
        "t": np.sort(rng.integers(0, 9000, count)).astype(np.uint32),
        "x": rng.integers(0, side, count).astype(np.uint8),
        "y": rng.integers(0, side, count).astype(np.uint8),
        "p": rng.integers(0, 2, count).astype(np.uint8),
    }
    arrays["x"][0] = arrays["y"][0] = side - 1  # so that the sensor is known from any recording
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **(arrays | changes))


def fill(folder: Path, classes: tuple[str, ...] = ("2", "10"), count: int = 6, seed: int = 0, **kwargs: Any) -> Path:
    for k, name in enumerate(classes):
        for i in range(count):
            write(folder / name / f"{i}.npz", seed + 100 * k + i, **kwargs)
    return folder


def config(path: Path, **keys: Any) -> EventFolderData:
    return EventFolderData(kind="events", path=str(path), **{"frames": 3, **keys})


def everything(data: Any) -> list[bytes]:
    return sorted(
        frames.numpy().tobytes()
        for part in (data.train, data.search, data.test)
        for frames in part.images(range(len(part)))
    )


def test_facts_are_inferred(tmp_path: Path) -> None:
    data = load_data(config(fill(tmp_path)), seed=0)
    assert (data.in_channels, data.image_size, data.frames, data.num_classes) == (2, 8, 3, 2)
    assert data.class_names == ("2", "10")  # numbers in their order
    assert data.train.images([0, 1]).shape == (2, 3, 2, 8, 8)
    assert "12" not in data.summary().split(" train")[0]
    assert "recordings of 3 frames 2x8x8" in data.summary()


def test_no_event_stays_zero_and_the_rest_is_scaled(tmp_path: Path) -> None:
    """A shifted zero would be a spike everywhere; energy counts the non-zero fraction of the input."""
    data = load_data(config(fill(tmp_path)), seed=0)
    images = data.train.images(range(len(data.train)))
    raw = data.train.store.raw(data.train.positions)  # type: ignore[attr-defined]
    assert torch.equal(images == 0, raw == 0)
    assert raw.sum((1, 2, 3, 4)).tolist() == [60.0] * len(data.train)
    assert abs(float(images[images != 0].square().mean()) - 1) < 1e-4


def test_augmentation_is_of_events(tmp_path: Path) -> None:
    data = load_data(config(fill(tmp_path), augment=EventAugment(hflip=0.5, roll=2)), seed=0)
    changed, plain = data.train.augmented(range(6), (1,)), data.train.images(range(6))
    assert not torch.equal(changed, plain)
    assert torch.allclose(changed.sum((-1, -2)), plain.sum((-1, -2)), atol=1e-4)


def test_a_defined_test_split_is_kept(tmp_path: Path) -> None:
    fill(tmp_path / "train", count=8)
    fill(tmp_path / "test", count=3, seed=7000)
    data = load_data(config(tmp_path), seed=0)
    assert (len(data.train), len(data.search), len(data.test)) == (12, 4, 6)
    fill(tmp_path / "test", classes=("3",))
    with pytest.raises(DataError, match=r"only in training none, only in test \['3'\]"):
        load_data(config(tmp_path), seed=0)


def test_memory_disk_and_cache_give_the_same(tmp_path: Path) -> None:
    fill(tmp_path / "data")
    cache = tmp_path / "cache" / "frames"
    memory = load_data(config(tmp_path / "data"), seed=0)
    disk = load_data(config(tmp_path / "data", memory_mb=0), seed=0)
    cached = load_data(config(tmp_path / "data", memory_mb=0, cache=str(cache)), seed=0)
    assert isinstance(disk.train.store, RecordingStore)  # type: ignore[attr-defined]
    assert isinstance(cached.train.store, ArrayStore)  # type: ignore[attr-defined]
    assert everything(memory) == everything(disk) == everything(cached)
    written = cache.with_suffix(".npy").stat().st_mtime_ns
    again = load_data(config(tmp_path / "data", memory_mb=0, cache=str(cache)), seed=0)
    assert again.fingerprint == cached.fingerprint == disk.fingerprint == memory.fingerprint
    assert cache.with_suffix(".npy").stat().st_mtime_ns == written
    assert sorted(path.name for path in cache.parent.iterdir()) == ["frames.json", "frames.npy"]


def test_the_fingerprint_of_very_many_frames_is_of_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "data")
    monkeypatch.setattr("spikesearch.data.bundle.HASHED_BYTES", 100)
    cache = str(tmp_path / "frames")
    stores: tuple[dict[str, Any], ...] = ({}, {"memory_mb": 0}, {"memory_mb": 0, "cache": cache})

    def fingerprints() -> set[str]:
        return {load_data(config(tmp_path / "data", **keys), seed=0).fingerprint for keys in stores}

    first = fingerprints()
    write(tmp_path / "data" / "10" / "4.npz", 104, count=61)
    assert len(first) == len(fingerprints()) == 1
    assert fingerprints() != first


def test_a_cache_of_other_frames_is_replaced(tmp_path: Path) -> None:
    fill(tmp_path / "data")
    cache = tmp_path / "frames"
    for frames in (3, 2):
        keys = {"frames": frames, "memory_mb": 0}
        cached = load_data(config(tmp_path / "data", cache=str(cache), **keys), seed=0)
        assert everything(cached) == everything(load_data(config(tmp_path / "data", **keys), seed=0))
    cache.with_suffix(".npy").write_bytes(b"damaged")
    assert load_data(config(tmp_path / "data", cache=str(cache), memory_mb=0), seed=0).frames == 3
    assert np.load(cache.with_suffix(".npy")).shape == (12, 3, 2, 8, 8)
    cache.with_suffix(".npy").unlink()  # a kill in the middle of writing
    assert load_data(config(tmp_path / "data", cache=str(cache), memory_mb=0), seed=0).frames == 3


@pytest.mark.parametrize("name", ["mine.npy", "mine.json", "mine"])
def test_a_cache_never_overwrites_what_is_none(tmp_path: Path, name: str) -> None:
    fill(tmp_path / "data")
    mine = tmp_path / name
    mine.mkdir() if name == "mine" else mine.write_text("[1]")
    with pytest.raises(ConfigError, match=r"`data\.cache` (would overwrite|must name a file)"):
        load_data(config(tmp_path / "data", memory_mb=0, cache=str(tmp_path / "mine")), seed=0)
    assert mine.is_dir() or mine.read_text() == "[1]"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["data", name])


def test_names_of_caches_keep_their_dots(tmp_path: Path) -> None:
    fill(tmp_path / "data")
    for name in ("frames.a", "frames.b"):
        load_data(config(tmp_path / "data", memory_mb=0, cache=str(tmp_path / name)), seed=0)
    assert {path.name for path in tmp_path.glob("frames*")} == {
        f"frames.{name}.{suffix}" for name in "ab" for suffix in ("npy", "json")
    }


def test_classes_that_are_the_same_number_have_one_order(tmp_path: Path) -> None:
    files = [(tmp_path / name / "x.npz", name, False) for name in ("²", "2", "01", "1", "b")]
    assert class_names(files) == class_names(files[::-1]) == ("01", "1", "2", "b", "²")


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "data")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"Cannot write the frames to `data.cache` .*file/frames.npy"):
        load_data(config(tmp_path / "data", memory_mb=0, cache=str(tmp_path / "file" / "frames")), seed=0)


@pytest.mark.parametrize(
    ("cache", "message"), [(".", "must name a file"), ("~nosuchuser/x", "cannot be used as a path")]
)
def test_a_cache_that_is_no_file_is_named(tmp_path: Path, cache: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"`data.cache` .*{message}"):
        load_data(config(fill(tmp_path), memory_mb=0, cache=cache), seed=0)


# --- bad input --------------------------------------------------------------------------------------------------------


def outside(path: Path) -> None:
    write(path, 1, x=np.full(60, 200))


def empty_window(path: Path) -> None:
    write(path, 1, t=np.array([0] * 30 + [9000] * 30))


def damaged(path: Path) -> None:
    path.write_bytes(b"nonsense")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (outside, "lies at x=200, .* outside of the sensor"),
        (empty_window, "frame 1 of 3 holds no event"),
        (damaged, "cannot be read as an .npz file of events"),
    ],
)
def test_a_bad_recording_is_named_and_skipped_only_if_asked(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    bad = fill(tmp_path) / "10" / "4.npz"
    spoil(bad)
    keys: dict[str, Any] = {"sensor": (8, 8), "split_by": "time"}
    with pytest.raises(DataError, match=message) as caught:
        load_data(config(tmp_path, **keys), seed=0)
    assert str(bad) in str(caught.value)
    for memory in (0, 100):
        data = load_data(config(tmp_path, **keys, skip_unreadable=True, memory_mb=memory), seed=0)
        assert len(everything(data)) == 11
        assert len(data.skipped) == 1
        assert str(bad) in data.skipped[0]


def test_half_a_recording_on_disk_is_named_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spikesearch.data.bundle.HASHED_BYTES", 100)
    fill(tmp_path / "train")
    bad = fill(tmp_path / "test", seed=7000) / "10" / "4.npz"
    bad.write_bytes(bad.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"test/10/4.npz cannot be read as an .npz file"):
        load_data(config(tmp_path, memory_mb=0), seed=0)


def test_a_damaged_recording_does_not_hide_the_sensor(tmp_path: Path) -> None:
    damaged(fill(tmp_path) / "10" / "4.npz")
    assert load_data(config(tmp_path, skip_unreadable=True), seed=0).image_size == 8


def test_an_impossible_coordinate_is_named_and_does_not_set_the_sensor(tmp_path: Path) -> None:
    bad = fill(tmp_path) / "10" / "4.npz"
    write(bad, 1, x=np.append(np.zeros(59), 131_071))
    with pytest.raises(DataError, match=r"10/4.npz has an event at coordinate 131071, but .* at most 4096 pixels"):
        load_data(config(tmp_path), seed=0)
    assert load_data(config(tmp_path, skip_unreadable=True), seed=0).image_size == 8
    write(bad, 1, x=np.append(np.zeros(59), 5000))
    assert load_data(config(tmp_path, sensor=(5001, 5001), downsample=64), seed=0).image_size == 79  # if it is stated


def test_recordings_that_are_all_bad_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no recording that can be used: .*frame 0 of 100"):
        load_data(config(fill(tmp_path), frames=100, skip_unreadable=True), seed=0)


@pytest.mark.parametrize(
    ("arrange", "message"),
    [
        (lambda path: None, "holds no .npz recordings in class folders"),
        (lambda path: fill(path, classes=("a",)), "has the single class 'a'"),
    ],
)
def test_a_folder_without_classes_is_named(tmp_path: Path, arrange: Callable[[Path], Any], message: str) -> None:
    arrange(tmp_path)
    with pytest.raises(DataError, match=message):
        load_data(config(tmp_path), seed=0)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="must be a folder of event recordings"):
        load_data(config(fill(tmp_path) / "2" / "0.npz"), seed=0)


def used(data: Any) -> int:
    return len(data.train) + len(data.search) + len(data.test)


@pytest.mark.parametrize("part", ["val", "Validation", "TEST", "testing", "valid"])
def test_every_name_of_the_test_part_is_known(tmp_path: Path, part: str) -> None:
    fill(tmp_path / ("train" if part.islower() else "Training"), count=8)
    fill(tmp_path / part, count=3, seed=7000)
    data = load_data(config(tmp_path), seed=0)
    assert (len(data.train), len(data.search), len(data.test)) == (12, 4, 6)
    assert data.notes == ()


def test_recordings_are_read_wherever_they_lie_in_their_class(tmp_path: Path) -> None:
    fill(tmp_path)
    for k, name in enumerate(("2", "10")):
        for i, inner in enumerate(("7.NPZ", "day2/8.npz", "day2/left/9.Npz")):
            write(tmp_path / name / "x.npz", 5000 + 10 * k + i)
            (tmp_path / name / inner).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / "x.npz").rename(tmp_path / name / inner)
    data = load_data(config(tmp_path), seed=0)
    assert (used(data), data.class_names) == (18, ("2", "10"))
    (note,) = data.notes
    assert note.startswith("4 recordings, such as ")
    assert note.endswith("are of the class of the first folder, '10', and not of a sub-folder's.")
    assert data.rereads == data.notes


def test_what_is_no_recording_is_said(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "frames").mkdir()
    np.save(tmp_path / "frames" / "1.npy", np.zeros(3))
    (tmp_path / "2" / "._0.npz").write_bytes(b"")
    (tmp_path / "events.aedat4").write_bytes(b"")
    data = load_data(config(tmp_path), seed=0)
    assert used(data) == 12
    assert [note.replace(f"{tmp_path}/", "") for note in data.notes] == [
        "2 files, such as events.aedat4, are not used: recordings end in .npz.",
        "2/._0.npz is not used: a system put them there.",
        f"No class without recordings: frames in {tmp_path} holds none.",
    ]


def test_loose_recordings_are_refused(tmp_path: Path) -> None:
    write(fill(tmp_path) / "loose.npz", 1)
    with pytest.raises(DataError, match=r"holds recordings outside of class folders, such as loose.npz"):
        load_data(config(tmp_path), seed=0)


def test_recordings_beside_those_of_spikingjelly_are_said(tmp_path: Path) -> None:
    fill(tmp_path / "events_np")
    fill(tmp_path / "frames_number_4", count=2)
    data = load_data(config(tmp_path), seed=0)
    assert used(data) == 12
    assert data.notes[0].startswith("4 recordings, such as ")
    assert data.notes[0].endswith("are not used: only events_np is.")


@pytest.mark.parametrize("memory_mb", [0, 100])
def test_a_stated_unit_is_kept_everywhere(tmp_path: Path, memory_mb: int) -> None:
    fill(tmp_path / "us", count=6)
    for file in (tmp_path / "us").rglob("*.npz"):
        copy = tmp_path / "s" / file.relative_to(tmp_path / "us")
        copy.parent.mkdir(parents=True, exist_ok=True)
        with np.load(file) as arrays:
            np.savez(copy, **{**arrays, "t": 1.7e9 + arrays["t"] / 1e6})
    for keys in ({"split_by": "time"}, {"frame_ms": 2.0}, {}):
        plain = load_data(config(tmp_path / "us", memory_mb=memory_mb, **keys), seed=0)
        seconds = load_data(config(tmp_path / "s", memory_mb=memory_mb, time_unit="s", **keys), seed=0)
        assert everything(plain) == everything(seconds)
    with pytest.raises(DataError, match=r"must hold whole microseconds.* 11 more cannot be used"):
        load_data(config(tmp_path / "s", memory_mb=memory_mb), seed=0)


def test_doubtful_times_are_counted(tmp_path: Path) -> None:
    fill(tmp_path)
    for name in ("2/1.npz", "10/3.npz"):
        write(tmp_path / name, 1, t=np.arange(60))
    data = load_data(config(tmp_path, sensor=(8, 8)), seed=0)
    assert data.notes == (
        f"2 recordings, such as {tmp_path / '2' / '1.npz'}, are shorter than 1 ms: are the times in `data.time_unit`?",
    )


# --- SpikingJelly -----------------------------------------------------------------------------------------------------


def jelly(kind: str, path: Path, **keys: Any) -> SpikingJellyData:
    return SpikingJellyData.model_validate({"kind": kind, "path": str(path), "frames": 2, **keys})


@pytest.mark.parametrize(
    ("kind", "side", "has_test"), [("nmnist", 34, True), ("dvs128-gesture", 128, True), ("cifar10-dvs", 128, False)]
)
def test_data_sets_of_spikingjelly_are_read(tmp_path: Path, kind: str, side: int, has_test: bool) -> None:
    root = tmp_path / "events_np"
    if has_test:
        fill(root / "train", side=side)
        fill(root / "test", count=2, side=side, seed=999)
    else:
        fill(root, side=side)
    data = load_data(jelly(kind, tmp_path), seed=0)
    assert (data.image_size, data.in_channels, data.frames, data.num_classes) == (side, 2, 2, 2)
    assert len(data.test) == (4 if has_test else 2)
    plain = load_data(config(tmp_path, frames=2, sensor=(side, side)), seed=0)
    assert everything(plain) == everything(data)
    small = load_data(jelly(kind, tmp_path, downsample=2), seed=0)
    assert small.image_size == side // 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events_np"]  # nothing was written


@pytest.mark.parametrize(
    ("kind", "file", "fetch"),
    [
        ("nmnist", "Train.zip", False),
        ("dvs128-gesture", "DvsGesture.tar.gz", False),
        ("cifar10-dvs", "airplane.zip", True),
    ],
)
def test_nothing_is_downloaded_unless_asked(tmp_path: Path, kind: str, file: str, fetch: bool) -> None:
    with pytest.raises(DataNotFoundError, match=f"holds neither events_np/ nor download/{file}") as caught:
        load_data(jelly(kind, tmp_path), seed=0)
    assert ("--download" in str(caught.value)) == fetch
    assert list(tmp_path.iterdir()) == []


def test_spikingjelly_converts_downloaded_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """N-MNIST's own format: 40 bits per event, x, y, then polarity and a time of 23 bits."""
    with importable_datasets():
        dataset = importlib.import_module("spikingjelly.datasets.n_mnist").NMNIST
    (tmp_path / "download").mkdir()
    rng = np.random.default_rng(0)
    recordings = []
    resources = []
    for part in ("Train", "Test"):
        packed = tmp_path / "download" / f"{part}.zip"
        with zipfile.ZipFile(packed, "w") as file:
            for i in range(8):
                x, y, p = rng.integers(0, 34, 50), rng.integers(0, 34, 50), rng.integers(0, 2, 50)
                t = np.sort(rng.integers(0, 300_000, 50))
                fields = np.stack([x, y, (p << 7) | (t >> 16), (t >> 8) & 255, t & 255], 1)
                file.writestr(f"{part}/{i % 2}/{i:05}.bin", fields.astype(np.uint8).tobytes())
                recordings.append(Events(t, x, y, p.astype(bool)))
        resources.append((packed.name, "nowhere", hashlib.md5(packed.read_bytes()).hexdigest()))  # noqa: S324
    monkeypatch.setattr(dataset, "resource_url_md5", classmethod(lambda cls: resources))
    data = load_data(jelly("nmnist", tmp_path), seed=0)
    assert len(data.test) == 8
    expected = {integrate(events, Windows(2, "number"), (34, 34)).astype(np.float32).tobytes() for events in recordings}
    parts = (data.train, data.search, data.test)
    assert {raw.numpy().tobytes() for part in parts for raw in part.store.raw(part.positions)} == expected  # type: ignore[attr-defined]


def test_a_half_prepared_data_set_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "events_np" / "train")
    (tmp_path / "events_np.building").touch()
    with pytest.raises(DataError, match=r"was left half prepared. Delete .*events_np and .*events_np.building"):
        load_data(jelly("nmnist", tmp_path), seed=0)


def test_what_spikingjelly_refuses_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "events_np" / "train")  # no test part
    with pytest.raises(DataError, match="SpikingJelly cannot prepare nmnist"):
        load_data(jelly("nmnist", tmp_path), seed=0)


def test_a_broken_torchaudio_does_not_matter_and_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "torchaudio":
                raise RuntimeError("built for another torch")

    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio" or "spikingjelly.datasets" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(RuntimeError, match="built for another torch"):
        importlib.import_module("torchaudio")
    with importable_datasets():
        assert importlib.import_module("spikingjelly.datasets.n_mnist").NMNIST.get_H_W() == (34, 34)
    assert "torchaudio" not in sys.modules
