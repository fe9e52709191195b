"""Tiny networks whose neurons fire, and real digits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from spikesearch import Architecture, BlockSpec, Spikformer
from spikesearch.errors import ExportError
from spikesearch.export import FORMATS, Export, ExportFormat, register
from spikesearch.nn.lif import StreamLIF
from spikesearch.space import StemSpec

# Genes that are not exact in binary, so that a wrong order of operations would show.
ARCH = Architecture(16, 3, StemSpec(0.6, 1.25), (BlockSpec(2, 2.0, 1.4, 1.7),))


def all_digits() -> Tensor:
    """All 1,797 digits, normalised: float32 [N, 1, 8, 8]."""
    images = torch.from_numpy(load_digits().images).float()[:, None]
    return (images - images.mean()) / images.std()


def fresh(arch: Architecture = ARCH, **settings: Any) -> Spikformer:
    """A network with random weights whose batch-norms have seen the digits, in evaluation mode."""
    torch.manual_seed(1)
    net = Spikformer(arch, **{"in_channels": 1, "image_size": 8, "num_classes": 10, **settings})
    for module in net.modules():
        if isinstance(module, StreamLIF):  # a gain that was learnt
            module.set_extra_state(module.get_extra_state() * (0.8 + 0.4 * torch.rand(())))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = None  # the plain mean over all batches
    images = all_digits().expand(-1, net.in_channels, -1, -1)
    with torch.no_grad():
        for batch in images[:512].split(256):
            net(batch)
        assert net.eval()(images[:64]).std(0).min() > 0.003  # a dead network would agree with any other
    return net


@pytest.fixture(scope="session")
def digits() -> Tensor:
    return all_digits()


@pytest.fixture(scope="session")
def net() -> Spikformer:
    return fresh()


@pytest.fixture(scope="session")
def membrane() -> Spikformer:
    return fresh(residual="membrane")


@pytest.fixture(scope="session")
def facts() -> dict[str, Any]:
    return {
        "study": "digits",
        "trial": 7,
        "weights": "inherited from the supernet",
        "class_names": [str(digit) for digit in range(10)],
        "normalisation": {"mean": [4.88], "std": [6.02]},
        "frames": None,
        "data": {
            "summary": "1200 train, 300 search, 297 test 1x8x8 images",
            "splits": {"train": 1200, "search": 300, "test": 297},
            "fingerprint": "0123456789abcdef",
        },
        "accuracy": 0.951,
        "test_accuracy": 0.9432,
        "supernet_hash": "beef",
        "versions": {"torch": "2.6"},
    }


def _write(folder: Path, export: Export) -> dict[str, Any]:
    logits = export.net(export.samples)
    times = export.options.get("times", 1)
    (folder / "classes.txt").write_text("\n".join(str(int(label)) for label in logits.argmax(1)) * times)
    return {"samples": len(export.samples)}


def _check(net: Spikformer, options: Mapping[str, Any]) -> None:
    if net.num_classes != 10:
        raise ExportError("Digits only.")


@pytest.fixture
def class_list() -> Iterator[ExportFormat]:
    """A format of another package: the class of every sample, as text."""
    yield register(
        ExportFormat(
            "class-list",
            ("classes.txt",),
            'open("FOLDER/classes.txt")',
            _write,
            _check,
            options=("times",),
        )
    )
    FORMATS.unregister("class-list")
