"""What ``spikesearch data list`` and ``spikesearch data check`` say."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spikesearch.config.data import DataSection
from spikesearch.data.bundle import DataBundle, StoredSplit, count_unusable
from spikesearch.data.kind import KINDS
from spikesearch.data.load import load_data

RARE_SHARE = 0.1
LARGE_SHARE = 1.5  # of what it would be if all classes were as frequent
NAMES_SHOWN = 10


def list_kinds() -> list[dict[str, str]]:
    """Return one row per kind of data: ``kind``, ``title`` and what it ``needs`` on the disk."""
    return [{"kind": kind.name, "title": kind.title, "needs": kind.needs} for kind in KINDS.values()]


def check_data(
    config: DataSection, *, seed: int = 0, base_dir: Path = Path(), download: bool = False
) -> dict[str, Any]:
    """Read every sample once and report what was found; plain JSON types.

    Files that cannot be used are listed, not raised; everything else that makes data useless is raised.

    Args:
        config: The ``data`` section of a study file.
        seed: Seed of the division.
        base_dir: See :func:`spikesearch.data.load_data`.
        download: See :func:`spikesearch.data.load_data`.

    Returns:
        ``kind``, ``summary``, ``num_classes``, ``in_channels``, ``image_size``, ``frames``, ``fingerprint``,
        ``splits`` (counts and counts per class), ``value_range`` (smallest and largest raw value), ``skipped`` (one
        message per unusable file), ``notes`` and ``warnings`` (lists of sentences).

    Raises:
        DataNotFoundError: If ``data.path`` does not exist.
        DataError: If the data cannot be used at all.
    """
    asked_to_skip = getattr(config, "skip_unreadable", None)
    if asked_to_skip is False:
        config = config.model_copy(update={"skip_unreadable": True})
    data = load_data(config, seed=seed, base_dir=base_dir, download=download)
    splits = {"train": data.train, "search": data.search, "test": data.test}
    digests, smallest, largest = _read_everything(splits)
    warnings = _overlaps(digests) + _rare_classes(data) + _majority(data)
    if asked_to_skip is False and data.skipped:
        unusable = count_unusable(data.skipped)
        warnings.insert(0, f"{unusable}: a study stops at the first unless `data.skip_unreadable` is true.")
    return {
        "kind": config.kind,
        "summary": data.summary(),
        "num_classes": data.num_classes,
        "in_channels": data.in_channels,
        "image_size": data.image_size,
        "frames": data.frames,
        "fingerprint": data.fingerprint,
        "splits": {
            name: {
                "images": len(split),
                "per_class": dict(zip(data.class_names, _counts(split.labels, data.num_classes), strict=True)),
            }
            for name, split in splits.items()
        },
        "value_range": [smallest, largest],
        "notes": list(data.notes),
        "skipped": list(data.skipped),
        "warnings": warnings,
    }


def split_overlaps(data: DataBundle) -> list[str]:
    """Return one sentence for every two splits that hold the same sample, pixel for pixel."""
    digests, _, _ = _read_everything({"train": data.train, "search": data.search, "test": data.test})
    return _overlaps(digests)


def _read_everything(splits: dict[str, Any]) -> tuple[dict[str, list[bytes]], float, float]:
    digests: dict[str, list[bytes]] = {}
    smallest, largest = float("inf"), float("-inf")
    for name, split in splits.items():
        assert isinstance(split, StoredSplit)
        digests[name] = []
        for start in range(0, len(split), 256):
            raw = split.store.raw(split.positions[start : start + 256])
            smallest, largest = min(smallest, float(raw.min())), max(largest, float(raw.max()))
            digests[name] += [hashlib.sha256(sample.numpy().tobytes()).digest() for sample in raw]
    return digests, smallest, largest


def _overlaps(digests: dict[str, list[bytes]]) -> list[str]:
    sentences = []
    for first, second in (("train", "search"), ("train", "test"), ("search", "test")):
        known = set(digests[first])
        count = sum(digest in known for digest in digests[second])
        if count:
            sentences.append(
                f"{count} of the {second} samples are also in {first}, pixel for pixel: accuracy on {second} flatters."
            )
    return sentences


def _rare_classes(data: DataBundle) -> list[str]:
    counts = _counts(data.train.labels, data.num_classes)
    most = max(counts)
    rare = [name for name, count in zip(data.class_names, counts, strict=True) if count < RARE_SHARE * most]
    if not rare:
        return []
    shown = ", ".join(rare[:NAMES_SHOWN])
    return [f"Rare classes (fewer than {RARE_SHARE:.0%} of the most frequent one): {shown}. Accuracy hardly sees them."]


def _majority(data: DataBundle) -> list[str]:
    if data.majority_share < LARGE_SHARE / data.num_classes:
        return []
    counts = _counts(data.search.labels, data.num_classes)
    name = data.class_names[counts.index(max(counts))]
    return [
        f"Always answering {name!r}, the most frequent class, would score {data.majority_share:.1%} on the search "
        "split."
    ]


def _counts(labels: torch.Tensor, num_classes: int) -> list[int]:
    return [int(count) for count in np.bincount(labels.numpy(), minlength=num_classes)]
