"""CIFAR-10 and CIFAR-100 as torchvision stores and verifies them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spikesearch.config.data import TorchvisionData
from spikesearch.data.augment import image_augmenter
from spikesearch.data.bundle import ArrayStore, Source
from spikesearch.errors import DataError, DataNotFoundError


def load_cifar(config: TorchvisionData) -> Source:
    """Read both parts of the data set; fetch them first if ``download`` is set.

    Raises:
        DataNotFoundError: If the files are not there, or damaged, and must not be downloaded.
        DataError: If the download fails.
    """
    from torchvision import datasets

    dataset = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[config.kind]
    try:
        parts = [dataset(config.path, train=train, download=config.download) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        if config.download:
            raise DataError(f"{config.kind} could not be downloaded into {config.path}: {error}") from None
        folder = Path(config.path) / dataset.base_folder
        raise DataNotFoundError(
            f"{folder} is missing or damaged. Unpack {dataset.filename} into {config.path}, or run with --download (or "
            "`data.download: true`) to fetch it."
        ) from None
    images = np.concatenate([part.data for part in parts]).transpose(0, 3, 1, 2)
    labels = np.concatenate([np.asarray(part.targets, dtype=np.int64) for part in parts])
    return Source(
        ArrayStore(np.ascontiguousarray(images)),
        labels,
        tuple(parts[0].classes),
        defined_test=np.arange(len(labels)) >= len(parts[0]),
        augment=None if config.augment is None else image_augmenter(config.augment),
    )
