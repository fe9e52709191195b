"""Event-camera recordings in ``.npz`` files: which there are, how large the sensor is, and where frames are kept."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spikesearch.config import expand_path
from spikesearch.config.data import EventSection
from spikesearch.data.augment import EventAugmenter
from spikesearch.data.bundle import ArrayStore, SampleStore, Source
from spikesearch.data.class_folders import list_files, listed, notes_on, place
from spikesearch.data.frames import DOUBTS, Events, Unit, Windows, check_event_file, doubts, integrate, read_events
from spikesearch.errors import ConfigError, DataError, DataNotFoundError, StorageError
from spikesearch.io import atomic_write_json

ENDINGS = (".npz",)
Recordings = list[tuple[Path, str, bool]]
"""File, class name, and whether it is for testing."""

LARGEST_SENSOR = 4096  # pixels each way; a coordinate beyond is an error of the recording


@dataclass(frozen=True)
class RecordingStore:
    """Recordings that stay on disk; every access integrates.

    One after the other: NumPy parses a file's header with Python's ``ast``, which fails at random when two threads use
    it at once in some releases of Python 3.11 (gh-106905).

    Args:
        files: Their ``.npz`` files.
        windows: How they are cut.
        sensor: Height and width.
        downsample: See :func:`spikesearch.data.frames.integrate`.
        unit: Of their times.
    """

    files: tuple[Path, ...]
    windows: Windows
    sensor: tuple[int, int]
    downsample: int
    unit: Unit = "us"

    @property
    def shape(self) -> tuple[int, ...]:
        """See :attr:`spikesearch.data.bundle.SampleStore.shape`."""
        size = -(-max(self.sensor) // self.downsample)
        return (self.windows.frames, 2, size, size)

    def __len__(self) -> int:
        return len(self.files)

    def frames(self, position: int) -> np.ndarray:
        """Return uint16 [T, 2, S, S]."""
        path = self.files[position]
        return integrate(
            read_events(path, self.unit), self.windows, self.sensor, downsample=self.downsample, name=str(path)
        )

    def stored(self, positions: np.ndarray) -> np.ndarray:
        """See :meth:`spikesearch.data.bundle.SampleStore.stored`."""
        return np.stack([self.frames(position) for position in positions.tolist()])

    def raw(self, positions: np.ndarray) -> torch.Tensor:
        """See :meth:`spikesearch.data.bundle.SampleStore.raw`."""
        return torch.from_numpy(self.stored(positions).astype(np.float32))

    def files_hash(self) -> str:
        """Return a hash of the files' names and sizes and of how they are cut."""
        unit = () if self.unit == "us" else (self.unit,)
        digest = hashlib.sha256(repr((self.windows, self.sensor, self.downsample, *unit)).encode())
        for path in self.files:
            digest.update(f"{path.parent.name}/{path.name}:{path.stat().st_size}\n".encode())
        return digest.hexdigest()


def find_recordings(path: Path) -> tuple[Recordings, list[str], list[str]]:
    """List the recordings of a folder, class by class.

    Returns:
        The recordings, notes, and which of these are of what spikesearch 0.1.0 did not read.

    Raises:
        DataError: If there are none, their classes cannot be told, or those of the parts differ.
    """
    if not path.is_dir():
        raise DataNotFoundError(f"`data.path` must be a folder of event recordings, but {path} is none.")
    root = path / "events_np" if (path / "events_np").is_dir() else path
    files = list_files(root, ENDINGS)
    if not files.usable:
        raise DataError(f"{path} holds no .npz recordings in class folders (path/<class>/*.npz).")
    placing = place(files.usable, root, "recordings", files.empty)
    notes = [*notes_on(files, placing.homes, root, "recordings", ENDINGS), *placing.notes]
    if root != path:
        beside = [path / name for name in sorted(list_files(path, ENDINGS).usable) if not name.startswith("events_np/")]
        notes += [f"{listed(beside, 'recordings')} not used: only events_np is."] if beside else []
    placed = sorted(placing.files, key=lambda file: (file.test, _natural(file.label), root / file.path))
    return [(root / file.path, file.label, file.test) for file in placed], notes, placing.nested


def class_names(files: Recordings) -> tuple[str, ...]:
    """Return the classes of some recordings, numbers in their order first."""
    return tuple(sorted({name for _, name, _ in files}, key=_natural))


def survey(
    files: Recordings, sensor: tuple[int, int] | None, unit: Unit, *, skip_unreadable: bool
) -> tuple[tuple[int, int], list[str]]:
    """Read every recording once.

    Args:
        files: The recordings.
        sensor: Height and width in pixels; ``None`` infers them.
        unit: Of their times.
        skip_unreadable: Do not count recordings that cannot be used.

    Returns:
        ``sensor``, or the smallest square one that holds all events, and what is doubtful about times.

    Raises:
        DataError: If a recording cannot be read or has a coordinate beyond any sensor, and must be counted; or if none
            is left. The message names the file.
    """
    side, problems = 0, []
    doubtful: dict[str, list[Path]] = {}
    for path, _, _ in files:
        try:
            events = read_events(path, unit)
            side = max(side, _needed_side(events, path) if sensor is None else 1)
        except DataError as error:
            problems.append(str(error))
            continue
        for doubt in doubts(events, unit):
            doubtful.setdefault(doubt, []).append(path)
    if problems and not skip_unreadable:
        others = f" {len(problems) - 1} more cannot be used, either; `spikesearch data check` names them."
        raise DataError(problems[0] + (others if len(problems) > 1 else ""))
    if not side:
        raise DataError(f"No recording can be used: {problems[0]}")
    notes = []
    for doubt, sentence in DOUBTS.items():
        if paths := doubtful.get(doubt):
            notes.append(sentence.format(listed(paths, "recordings")))
    return sensor or (side, side), notes


def _needed_side(events: Events, path: Path) -> int:
    largest = int(max(events.x.max(), events.y.max()))
    if largest >= LARGEST_SENSOR:
        raise DataError(
            f"{path} has an event at coordinate {largest}, but a sensor of at most {LARGEST_SENSOR} pixels each way is "
            "expected. Repair or remove it, or set `data.sensor`."
        )
    return max(1, largest + 1)  # a negative one is named, with its place, when the recording is cut


def event_source(files: Recordings, config: EventSection, sensor: tuple[int, int], unit: Unit = "us") -> Source:
    """Return the frames of some recordings.

    Args:
        files: The recordings.
        config: How they are cut, and where frames are kept.
        sensor: Height and width in pixels.
        unit: Of their times.

    Raises:
        DataError: If a recording cannot be used and none may be left out.
    """
    windows = Windows(config.frames, config.split_by, None if config.frame_ms is None else config.frame_ms * 1000)
    names = class_names(files)
    skipped: tuple[str, ...] = ()
    recordings = RecordingStore(tuple(path for path, _, _ in files), windows, sensor, config.downsample, unit)
    if config.skip_unreadable:
        broken = {i: problem for i in range(len(files)) if (problem := _problem(recordings, i))}
        if broken:
            files = [file for i, file in enumerate(files) if i not in broken]
            if not files:
                raise DataError(f"{config.path} holds no recording that can be used: {broken[0]}")
            skipped = tuple(broken.values())
            recordings = RecordingStore(tuple(path for path, _, _ in files), windows, sensor, config.downsample, unit)
    labels = np.array([names.index(name) for _, name, _ in files], dtype=np.int64)
    test = np.array([is_test for _, _, is_test in files])
    settings = config.augment
    return Source(
        _store(recordings, config),
        labels,
        names,
        defined_test=test if test.any() else None,
        augment=None if settings is None else lambda _: EventAugmenter(settings),
        events=True,
        skipped=skipped,
        files_hash=recordings.files_hash,
    )


def _problem(recordings: RecordingStore, position: int) -> str | None:
    try:
        recordings.frames(position)
    except DataError as error:
        return str(error)
    return None


def _store(recordings: RecordingStore, config: EventSection) -> SampleStore:
    shape = (len(recordings), *recordings.shape)
    size = 2 * int(np.prod(shape, dtype=np.int64))
    if size <= config.memory_mb * 2**20:
        array = np.empty(shape, np.uint16)
        _fill(array, recordings)
        return ArrayStore(array)
    if config.cache is not None:
        return _cached(recordings, expand_path(config.cache, "data.cache"))
    for path in recordings.files:
        check_event_file(path)  # before anything is trained
    return recordings


def _fill(array: np.ndarray, recordings: RecordingStore) -> None:
    for position in range(len(array)):
        array[position] = recordings.frames(position)


def _cached(recordings: RecordingStore, path: Path) -> ArrayStore:
    """Return the frames in a memory-mapped file, which is written first where it is missing or of other recordings."""
    if not path.name or path.is_dir():
        raise ConfigError(f"`data.cache` must name a file, but got {str(path)!r}.")
    if path.suffix != ".npy":
        path = path.with_name(f"{path.name}.npy")
    facts = path.with_suffix(".json")
    wanted: dict[str, Any] = {"content": recordings.files_hash(), "shape": [len(recordings), *recordings.shape]}
    shape = tuple(wanted["shape"])
    known = _cache_facts(path, facts, wanted.keys())
    frames = _mapped(path, shape) if known == wanted else None
    if frames is None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_json(facts, {**wanted, "content": None})  # ours, but not finished
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            os.close(handle)
            try:
                array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint16, shape=shape)
                _fill(array, recordings)
                array.flush()
                os.replace(temporary, path)
            finally:
                Path(temporary).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"Cannot write the frames to `data.cache` {path}: {error.strerror or error}.") from None
        atomic_write_json(facts, wanted)
        frames = np.load(path, mmap_mode="r")
    return ArrayStore(frames)


def _cache_facts(path: Path, facts: Path, keys: Set[str]) -> dict[str, Any] | None:
    """Return what is known of a cache, ``None`` if there is none; refuse files that somebody else wrote."""
    if not path.exists() and not facts.exists():
        return None
    try:
        known = json.loads(facts.read_text())
    except (OSError, ValueError):
        known = None
    if not isinstance(known, dict) or known.keys() != keys:
        raise ConfigError(
            f"`data.cache` would overwrite {path if path.exists() else facts}, which is no cache of frames; name "
            f"another file, or remove {path} and {facts}."
        )
    return known


def _mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return the frames in a file; ``None`` if it is missing or damaged."""
    try:
        frames: np.ndarray = np.load(path, mmap_mode="r")
    except (OSError, ValueError):
        return None
    return frames if frames.shape == shape and frames.dtype == np.uint16 else None


def _natural(name: Path | str) -> tuple[int, int, str]:
    text = name.name if isinstance(name, Path) else name
    return (0, int(text), text) if text.isdecimal() else (1, 0, text)
