"""``spikesearch study init``: from a folder of data to a study file that works."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from spikesearch.config import StudyConfig
from spikesearch.config.data import SplitConfig
from spikesearch.config.reader import read_yaml
from spikesearch.data.kind import KINDS, Inference
from spikesearch.data.splits import split_indices
from spikesearch.errors import ConfigError, DataError, DataNotFoundError, did_you_mean
from spikesearch.io import atomic_write_text, user_path
from spikesearch.space.genes import LISTS
from spikesearch.space.presets import Preset

UPDATES = 1500  # steps of training that a first study takes
SMALL_IMAGE = 36  # pixels, each way, of what narrow networks can tell apart
THREE_STAGES = 12  # pixels, from which on an image is halved twice
SEARCH_IMAGES = 5000  # more make every trial slower, and its accuracy hardly sharper


def init_study_file(
    folder: Path | str, output: Path | str, kind: str | None = None, *, preset: Preset | None = None
) -> Path:
    """Look at a folder of data and write a commented study file for it.

    Args:
        folder: The data.
        output: The file to write; an existing one is refused.
        kind: Which kind of data to read it as; ``None`` takes the only one that recognises it.
        preset: A network that the space shall contain, with its model settings; its other choices are smaller, see
            :meth:`~spikesearch.space.presets.Preset.space`.

    Returns:
        ``output``.

    Raises:
        DataNotFoundError: If ``folder`` does not exist.
        DataError: If it holds nothing that can be used.
        ConfigError: If ``output`` exists, or the preset has more time steps than the data have frames.
        SpaceError: If the preset does not fit the images.
        StorageError: If ``output`` cannot be written.
    """
    folder, output = user_path(folder, "The folder", DataError), user_path(output, "`output`")
    if not folder.exists():
        raise DataNotFoundError(f"There is no folder {folder}.")
    if output.exists():
        raise ConfigError(f"{output} exists already. Choose another name or delete it.")
    name, facts = infer(folder, kind)
    # what cannot be divided cannot be run: say so before anything is written
    try:
        split_indices(facts.labels, SplitConfig(), seed=0, defined_test=facts.test, class_names=facts.class_names)
    except DataError as error:
        raise DataError(f"{folder}: {error}") from None
    if preset is not None:
        preset.check_image_size(facts.size)
        if facts.frames is not None and preset.arch.time_steps > facts.frames:
            raise ConfigError(
                f"The preset {preset.name!r} has {preset.arch.time_steps} time steps, but the data would have "
                f"{facts.frames} frames; give --time-steps {facts.frames} or fewer."
            )
    text = _render(folder, output, name, facts, preset)
    StudyConfig.from_dict(read_yaml(text), where=str(output))
    atomic_write_text(output, text)
    return output


def infer(folder: Path, kind: str | None = None) -> tuple[str, Inference]:
    """Return the kind of data that a folder holds, and what is known of it.

    Raises:
        ConfigError: If ``kind`` is none that can be recognised.
        DataError: If the folder holds nothing that can be used, or what several kinds recognise.
    """
    able = {name: known.infer for name, known in KINDS.items() if known.infer is not None}
    if kind is not None:
        if kind not in able:
            raise ConfigError(f"`kind` must be one of {', '.join(able)}, but got {kind!r}{did_you_mean(kind, able)}")
        able = {kind: able[kind]}
    outcomes: dict[str, Inference | DataError] = {}
    for name, look in able.items():
        try:
            facts: Inference | DataError | None = look(folder)
        except DataError as error:
            facts = error
        if facts is not None:
            outcomes[name] = facts
    if len(outcomes) > 1:
        raise DataError(f"{folder} holds data of several kinds ({', '.join(outcomes)}); say which with --kind.")
    for name, outcome in outcomes.items():
        if isinstance(outcome, DataError):
            raise outcome
        return name, outcome
    raise DataError(
        f"{folder} holds no images that can be used, nor other data; `spikesearch data list` says what each kind needs."
    )


def _render(folder: Path, output: Path, kind: str, facts: Inference, preset: Preset | None) -> str:
    train = min(max(0.75, 1 - SEARCH_IMAGES / facts.count), 0.99) if facts.test is not None else 0.6
    batch_size = 128 if facts.count >= 2000 else max(2, min(32, int(facts.count * train)))
    steps = max(1, int(facts.count * train) // batch_size)
    epochs = min(200, max(4, round(UPDATES / steps)))
    parts = {
        "folder": folder if str(folder).isprintable() else ascii(str(folder)),
        "comment": facts.comment,
        "name": _text(re.sub(r"[^A-Za-z0-9._-]+", "-", output.stem).strip("-._")[:100] or "mine"),
        "kind": _text(kind),
        "path": _line("path", _relative(folder, output.parent), "relative to this file"),
        "keys": "".join(_line(*line) for line in facts.keys),
        "splits": _splits(facts, train),
        "augment": _augment(facts),
        "space": _space(facts) if preset is None else _space_around(preset),
        "model": _MODEL if preset is None else "".join(_line(key, value, "") for key, value in preset.model.items()),
        "lr": "5.0e-3" if preset is None else "2.0e-3",  # attention blocks bear less
        "epochs": _line("epochs", epochs, f"{epochs * steps} steps; more make it slower and better"),
        "warmup": 2 if epochs >= 10 else 1,
        "batch_size": batch_size,
        "calibration": min(256, max(2, int(facts.count * train))),
    }
    return _TEMPLATE.format(**parts)


def _space(facts: Inference) -> str:
    """Return the choices: stages of ever lower resolution, convolutions early, attention late."""
    wide = facts.channels > 1 or facts.size > SMALL_IMAGE
    lists: dict[str, list[Any]] = {name: list(gene.suggested) for name, gene in LISTS.items()}
    lists["embed_dims"] = [64, 96, 128] if wide else [32, 64, 96]
    lists["stem_channels"] = [16, 32] if wide else [8, 16]
    if facts.frames is None:  # an image needs one time step, at which time constants mean nothing
        lists |= {"time_steps": [1], "taus": [LISTS["taus"].near]}
    else:
        lists["time_steps"] = [steps for steps in (facts.frames // 4, facts.frames // 2, facts.frames) if steps]
    depths = lists.pop("depths")
    mixers = [["conv", "dwconv"], ["conv", "dwconv", "qk"], ["conv", "dwconv", "qk", "ssa"]]
    mixers = mixers if facts.size >= THREE_STAGES else mixers[::2]
    lines = [f"  {name}: {choices}\n" for name, choices in lists.items() if choices]
    stages = [
        f"    - {{width: {'1' if last == 0 else f'1/{2**last}'}, depths: {depths}, mixers: [{', '.join(own)}]}}\n"
        for last, own in zip(reversed(range(len(mixers))), mixers, strict=True)
    ]
    return "".join(
        [
            "space:                      # the choices of every architecture\n",
            *lines,
            "  stages:                   # each halves the resolution; qk and ssa are attention\n",
            *stages,
        ]
    )


def _space_around(preset: Preset) -> str:
    space: dict[str, Any] = preset.space().to_dict()
    stages = "".join(f"    - {_text(stage)}\n" for stage in space.pop("stages", []))
    return "".join(
        [
            f"space:                      # contains {preset.name} ({preset.paper}); its other choices are smaller\n",
            *(_line(name, choices, "") for name, choices in space.items()),
            *(["  stages:\n", stages] if stages else []),
        ]
    )


def _augment(facts: Inference) -> str:
    if not facts.augment:
        return ""
    unit = "images" if facts.frames is None else "recordings"
    lines = "".join(_line(*line, indent=4) for line in facts.augment)
    return f"  augment:                  # of training {unit} only\n{lines}"


def _splits(facts: Inference, train: float) -> str:
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


def _line(key: str, value: object, comment: str, indent: int = 2) -> str:
    line = f"{' ' * indent}{key}: {_text(value)}"
    return f"{line:<27} # {comment}\n" if comment else f"{line}\n"


def _text(value: object) -> str:
    """Return a value as it is written in YAML, in one line; text that some reader takes for a number is quoted."""
    quoted = isinstance(value, str) and re.match(r"[-+.]?\d", value) is not None
    text = yaml.safe_dump(
        value, sort_keys=False, default_flow_style=True, default_style="'" if quoted else None, width=1e9
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _relative(folder: Path, base: Path) -> str:
    folder = folder.resolve()
    try:
        path = os.path.relpath(folder, base.resolve())
    except ValueError:  # another drive
        path = str(folder)
    path = str(folder) if path.startswith("~") else path  # which would be somebody's home
    if os.path.expandvars(path) != path:
        raise DataError(f"{folder} holds the name of an environment variable, which would be expanded. Rename it.")
    return path


_MODEL = """  stem: conv                # one convolution; its stride follows from the size of the images
  residual: normed          # or add, as published for Spikformer; see docs/space.md
"""
_TEMPLATE = """# A study of {folder}: {comment}.
# Written by `spikesearch study init`; every key may be changed, `spikesearch data check` looks at the data.

name: {name}
seed: 0

data:
  kind: {kind}
{path}{keys}{splits}{augment}
{space}
model:
{model}
train:
{epochs}  batch_size: {batch_size}
  lr: {lr}
  warmup_epochs: {warmup}

scoring:
  calibration_images: {calibration}
  convention: spikformer    # or strict, or memory, which counts reads and writes

search:
  n_trials: 100

report:
  beta: 0.02                # F_AEB: halving the energy is worth 1.4 % of the accuracy
  max_accuracy_drop: 0.01
"""
