"""``spikesearch study init``: from a folder of data to a study file that works."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml

from spikesearch.config import StudyConfig
from spikesearch.config.data import EventFolderData, IdxData, SplitConfig, TorchvisionData
from spikesearch.data.bundle import Source, check_square
from spikesearch.data.cifar import load_cifar
from spikesearch.data.events import Files, find_recordings, infer_sensor, load_event_folder
from spikesearch.data.frames import read_events
from spikesearch.data.idx import find_idx, load_idx
from spikesearch.data.images import ImageFiles, inspect
from spikesearch.data.splits import split_indices
from spikesearch.errors import ConfigError, DataError, DataNotFoundError
from spikesearch.io import atomic_write_text, user_path

SIZES = (8, 16, 28, 32, 48, 64, 96, 128, 160, 224)
LARGEST_SIZE = 64  # what a CPU can train in an evening; a line of the file says how to raise it
FRAMES = (2, 4, 8)  # frames per recording to choose from
FRAME_MS = 100  # a frame is about as long, as far as FRAMES allow
UPDATES = 1500  # steps of training that a first study takes
_COLORS = {1: "grey", 3: "colour"}
SEARCH_IMAGES = 5000  # more make every trial slower, and its accuracy hardly sharper


@dataclass(frozen=True)
class Facts:
    """What was found in a folder.

    Args:
        kind: Kind of data.
        keys: Further lines of the ``data`` section: key, value, comment.
        labels: Class of every sample, int64 [N].
        test: bool [N], the data set's own test samples; ``None`` where it has none.
        class_names: One name per class.
        size: Height and width that the network sees.
        frames: Frames per recording; ``None`` for images.
        comment: One line of inferred facts.
    """

    kind: str
    keys: tuple[tuple[str, Any, str], ...]
    labels: np.ndarray
    test: np.ndarray | None
    class_names: tuple[str, ...]
    size: int
    frames: int | None
    comment: str

    @property
    def count(self) -> int:
        """Samples that can be trained on or searched with."""
        return len(self.labels) - (0 if self.test is None else int(self.test.sum()))


def init_study_file(folder: Path | str, output: Path | str) -> Path:
    """Look at a folder of data and write a commented study file for it.

    Image folders and tar files, MNIST-like idx files, CIFAR as torchvision stores it and folders of event ``.npz``
    files are recognised.

    Args:
        folder: The data.
        output: The file to write; an existing one is refused.

    Returns:
        ``output``.

    Raises:
        DataNotFoundError: If ``folder`` does not exist.
        DataError: If it holds nothing that can be used.
        ConfigError: If ``output`` exists.
        StorageError: If ``output`` cannot be written.
    """
    folder, output = user_path(folder, "The folder", DataError), user_path(output, "`output`")
    if not folder.exists():
        raise DataNotFoundError(f"There is no folder {folder}.")
    if output.exists():
        raise ConfigError(f"{output} exists already. Choose another name or delete it.")
    facts = infer(folder)
    # what cannot be divided cannot be run: say so before anything is written
    split_indices(facts.labels, SplitConfig(), seed=0, defined_test=facts.test, class_names=facts.class_names)
    text = _render(folder, output, facts)
    StudyConfig.from_dict(yaml.safe_load(text), where=str(output))
    atomic_write_text(output, text)
    return output


def infer(folder: Path) -> Facts:
    """Find out which kind of data a folder holds, and its facts.

    Raises:
        DataError: If it holds nothing that can be used.
    """
    if folder.is_dir():
        for base, kind in (("cifar-10-batches-py", "cifar10"), ("cifar-100-python", "cifar100")):
            if (folder / base).is_dir():
                config = TorchvisionData.model_validate({"kind": kind, "path": str(folder)})
                return _of_source(kind, load_cifar(config))
        if find_idx(folder, ("train",), "images") is not None:
            return _of_source("idx", load_idx(IdxData(kind="idx", path=str(folder))))
        if next(folder.rglob("*.npz"), None) is not None:
            return _infer_events(folder)
    return _infer_images(folder)


def _of_source(kind: str, source: Source) -> Facts:
    check_square(source.store.shape)
    channels, _, size = source.store.shape
    comment = f"{len(source.labels)} {_COLORS[channels]} images {size}x{size}, {len(source.class_names)} classes"
    return Facts(kind, (), source.labels, source.defined_test, source.class_names, size, None, comment)


def _infer_events(folder: Path) -> Facts:
    files = find_recordings(folder)
    sensor = infer_sensor(files, skip_unreadable=True)
    side = sensor[0]
    downsample = -(-side // LARGEST_SIZE)
    duration = _typical_duration(files)
    frames = next((count for count in FRAMES if count * FRAME_MS >= duration), FRAMES[-1])
    # memory_mb 0: every recording is cut once to see whether it can be, and no frame is kept
    source = load_event_folder(
        EventFolderData(
            kind="events",
            path=str(folder),
            sensor=sensor,
            frames=frames,
            downsample=downsample,
            memory_mb=0,
            skip_unreadable=True,
        )
    )
    keys: tuple[tuple[str, Any, str], ...] = (
        ("sensor", [side, side], "height and width in pixels, from the largest coordinate found"),
        ("frames", frames, f"per recording: the median one lasts {duration:.0f} ms; more cost time and energy"),
        ("split_by", "number", "number: equally many events per frame; time: equally long frames"),
        ("downsample", downsample, "sums blocks of this many pixels squared"),
        *_left_out(len(source.skipped), len(files), "recordings"),
    )
    comment = f"{len(source.labels)} recordings of {side}x{side} pixels, {len(source.class_names)} classes"
    size = source.store.shape[-1]
    return Facts("events", keys, source.labels, source.defined_test, source.class_names, size, frames, comment)


def _typical_duration(files: Files) -> float:
    """Return the median duration of up to 200 recordings in milliseconds."""
    durations = []
    for path, _, _ in files[:: -(-len(files) // 200)]:
        try:
            events = read_events(path)
        except DataError:
            continue  # left out below
        durations.append(float(events.t[-1] - events.t[0]) / 1000)
    return median(durations) if durations else 0.0


def _left_out(count: int, everything: int, what: str) -> tuple[tuple[str, Any, str], ...]:
    """Return the line that leaves unusable files out, if there are any."""
    if not count:
        return ()
    return (("skip_unreadable", True, f"{count} of {everything} {what} cannot be used, see `data check`"),)


def _infer_images(folder: Path) -> Facts:
    files = ImageFiles(folder)
    seen = inspect(files, skip_unreadable=True)
    color = "grey" if all(seen.grey) else "rgb"
    sizes = sorted(set(seen.sizes))
    same = len(sizes) == 1 and sizes[0][0] == sizes[0][1]
    typical = int(median(min(size) for size in seen.sizes))
    size = typical if same and typical <= LARGEST_SIZE else _nearest(min(typical, LARGEST_SIZE))
    found = f"{sizes[0][0]}x{sizes[0][1]}" if len(sizes) == 1 else f"{min(sizes)[0]} to {max(sizes)[0]} pixels wide"
    keys = (
        ("image_size", size, f"the images are {found}; larger costs time and energy"),
        (
            "color",
            color,
            "grey and colour are mixed: all become colour" if len(set(seen.grey)) > 1 else "or: rgb, grey, auto",
        ),
        *_left_out(len(files.skipped), len(files.files) + len(files.skipped), "images"),
    )
    kind = "colour" if color == "rgb" else "grey"
    comment = f"{len(files.files)} {kind} images, {len(files.class_names)} classes"
    return Facts("image-folder", keys, files.labels, files.defined_test, files.class_names, size, None, comment)


def _nearest(size: int) -> int:
    return min(SIZES, key=lambda known: (abs(known - size), known))


def _render(folder: Path, output: Path, facts: Facts) -> str:
    train = min(max(0.75, 1 - SEARCH_IMAGES / facts.count), 0.99) if facts.test is not None else 0.6
    batch_size = 128 if facts.count >= 2000 else max(2, min(32, int(facts.count * train)))
    steps = max(1, int(facts.count * train) // batch_size)
    epochs = min(200, max(4, round(UPDATES / steps)))
    parts = {
        "folder": folder,
        "comment": facts.comment,
        "name": re.sub(r"[^A-Za-z0-9._-]+", "-", output.stem).strip("-._") or "mine",
        "kind": facts.kind,
        "path": _line("path", _relative(folder, output.parent), "relative to this file"),
        "keys": "".join(_line(*key) for key in facts.keys),
        "splits": _splits(facts, train),
        "augment": _EVENT_AUGMENT if facts.frames else _IMAGE_AUGMENT.format(padding=max(1, facts.size // 8)),
        "widths": "[32, 48, 64]" if facts.size <= 32 else "[48, 64, 96]",
        "epochs": _line("epochs", epochs, f"{epochs * steps} steps; more make it slower and better"),
        "warmup": 2 if epochs >= 10 else 1,
        "batch_size": batch_size,
        "time_steps": _time_steps(facts.frames or 4),
        "calibration": min(256, max(2, int(facts.count * train))),
    }
    return _TEMPLATE.format(**parts)


def _time_steps(most: int) -> list[int]:
    return [steps for steps in (most // 4, most // 2, most) if steps]


def _splits(facts: Facts, train: float) -> str:
    if facts.test is not None:
        search = round(1 - train, 3)
        return (
            "  splits:                   # the data's own test split is kept; the rest is divided in this proportion\n"
            f"    train: {round(train, 3)}\n    search: {search}\n"
        )
    return (
        "  splits:                   # disjoint and stratified: weights, choice of the architecture, final table\n"
        "    train: 0.6\n    search: 0.2\n    test: 0.2\n"
    )


def _line(key: str, value: Any, comment: str) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")
    return f"{f'  {key}: {text}':<27} # {comment}\n"


def _relative(folder: Path, base: Path) -> str:
    try:
        return os.path.relpath(folder.resolve(), base.resolve())
    except ValueError:  # another drive
        return str(folder.resolve())


_IMAGE_AUGMENT = """  augment:                  # of training images only
    crop_padding: {padding}         # pad by this many pixels, then cut a random window
    hflip: 0.0              # probability of a left-right flip: 0.5 where a mirrored image keeps its class
    auto_augment: null      # timm's RandAugment, such as rand-m9-n1-mstd0.4-inc1
    erase_prob: 0.0
"""

_EVENT_AUGMENT = """  augment:                  # of training recordings only
    hflip: 0.0              # probability of a left-right flip: 0.5 where a mirrored recording keeps its class
    roll: 2                 # pixels, each way
    drop_frames: 0.05       # probability that a frame is emptied
"""

_TEMPLATE = """# A study of {folder}: {comment}.
# Written by `spikesearch study init`; every key may be changed, `spikesearch data check` looks at the data.

name: {name}
seed: 0

data:
  kind: {kind}
{path}{keys}{splits}{augment}
space:                      # the choices of every architecture
  embed_dims: {widths}
  depths: [1, 2]
  num_heads: [2, 4]
  mlp_ratios: [1, 2, 3]
  v_thresholds: [0.6, 1.0, 1.4]
  taus: [1.25, 2.0, 4.0]
  time_steps: {time_steps}

model:
  pool_stages: null         # which stages of the stem halve the size; null chooses by image size
  residual: add             # or membrane, see README.md

train:
{epochs}  batch_size: {batch_size}
  lr: 2.0e-3
  warmup_epochs: {warmup}

scoring:
  calibration_images: {calibration}
  convention: spikformer    # or strict

search:
  n_trials: 100

report:
  beta: 0.02                # F_AEB: halving the energy is worth 1.4 % of the accuracy
  max_accuracy_drop: 0.01
"""
