"""CIFAR-10 and CIFAR-100 as torchvision stores and verifies them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from spikesearch.config.data import ImageSection, PathText
from spikesearch.data.kind import Inference, Kind, register
from spikesearch.errors import DataError, DataNotFoundError

if TYPE_CHECKING:
    from spikesearch.data.bundle import Source

_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}


class TorchvisionData(ImageSection):
    """CIFAR-10 or CIFAR-100 as torchvision stores them.

    Args:
        path: torchvision's ``root``, which holds ``cifar-10-batches-py`` or ``cifar-100-python``.
        download: Fetch the files when they are missing. Nothing is downloaded unless this is set.
    """

    kind: Literal["cifar10", "cifar100"]
    path: PathText
    download: bool = False


def load(config: TorchvisionData) -> Source:
    """Read both parts of the data set; fetch them first if ``download`` is set.

    Raises:
        DataNotFoundError: If the files are not there, or damaged, and must not be downloaded.
        DataError: If the download fails.
    """
    import numpy as np
    from torchvision import datasets

    from spikesearch.data.augment import image_augmenter
    from spikesearch.data.bundle import ArrayStore, Source

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


def infer(kind: str, folder: Path) -> Inference | None:
    """See :class:`spikesearch.data.Kind`."""
    if not (folder / _FOLDERS[kind]).is_dir():
        return None
    from spikesearch.data.infer import of_images

    return of_images(load(TorchvisionData.model_validate({"kind": kind, "path": str(folder)})))


for _kind, _title in (("cifar10", "CIFAR-10"), ("cifar100", "CIFAR-100")):
    register(
        Kind(
            _kind,
            TorchvisionData,
            f"{_title} through torchvision",
            f"{_FOLDERS[_kind]}/, or --download",
            load,
            partial(infer, _kind),
        )
    )
