"""The one table of kinds of data, and :func:`load_data`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spikesearch.config import expand_path, resolve_path
from spikesearch.config.data import DataConfig
from spikesearch.data.bundle import DataBundle, Source, bundle
from spikesearch.data.cifar import load_cifar
from spikesearch.data.digits import load_digits_source
from spikesearch.data.events import load_event_folder, load_spikingjelly
from spikesearch.data.idx import load_idx
from spikesearch.data.images import load_image_folder
from spikesearch.data.splits import split_indices
from spikesearch.errors import DataError, DataNotFoundError
from spikesearch.io import not_writable

_IDX_FILES = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte"


@dataclass(frozen=True)
class Kind:
    """A kind of data.

    Args:
        kind: The value of ``data.kind``.
        title: One line for a table.
        needs: What must be on the disk.
        load: Reads it; gets the section of the study file, whose ``path`` exists.
    """

    kind: str
    title: str
    needs: str
    load: Callable[[Any], Source]


KINDS: dict[str, Kind] = {
    kind.kind: kind
    for kind in (
        Kind("digits", "scikit-learn's 1,797 handwritten digits, 8x8", "nothing", load_digits_source),
        Kind(
            "image-folder",
            "your own images, one folder per class (or .tar files of them)",
            "path/<class>/*.png, or path/train/<class>/ and path/test/<class>/",
            load_image_folder,
        ),
        Kind("idx", "MNIST-like idx files (MNIST, Fashion-MNIST, KMNIST)", f"{_IDX_FILES}, plain or .gz", load_idx),
        Kind("cifar10", "CIFAR-10 through torchvision", "cifar-10-batches-py/, or --download", load_cifar),
        Kind("cifar100", "CIFAR-100 through torchvision", "cifar-100-python/, or --download", load_cifar),
        Kind(
            "events",
            "your own event-camera recordings, .npz files of t, x, y, p",
            "path/<class>/*.npz, or path/train/<class>/ and path/test/<class>/",
            load_event_folder,
        ),
        Kind("nmnist", "N-MNIST through SpikingJelly", "events_np/, or Train.zip in download/", load_spikingjelly),
        Kind("cifar10-dvs", "CIFAR10-DVS through SpikingJelly", "events_np/, or --download", load_spikingjelly),
        Kind(
            "dvs128-gesture",
            "DVS128 Gesture through SpikingJelly",
            "events_np/, or download/ with DvsGesture.tar.gz",
            load_spikingjelly,
        ),
    )
}


def load_data(config: DataConfig, *, seed: int, base_dir: Path = Path(), download: bool = False) -> DataBundle:
    """Read data, divide it and say what a network needs to know of it.

    Args:
        config: The ``data`` section of a study file.
        seed: Seed of the division, unless ``data.splits.seed`` is set.
        base_dir: Folder that a relative ``data.path`` is looked for in first; then the working directory.
        download: Fetch what is missing, if the kind of data can be fetched, as if ``data.download`` were true.

    Raises:
        DataNotFoundError: If ``data.path`` does not exist.
        DataError: If the data cannot be used; the message names the file.
    """
    if download and hasattr(config, "download"):
        config = config.model_copy(update={"download": True})
    source = _load_source(config, base_dir)
    try:
        indices = split_indices(
            source.labels,
            config.splits,
            seed=seed if config.splits.seed is None else config.splits.seed,
            defined_test=source.defined_test,
            class_names=source.class_names,
        )
    except DataError as error:
        path = getattr(config, "path", None)
        raise DataError(str(error) if path is None else f"{path}: {error}") from None
    return bundle(source, indices)


def _load_source(config: DataConfig, base_dir: Path) -> Source:
    path = getattr(config, "path", None)
    if path is not None:
        found = resolve_path(path, base_dir)
        if found is None and getattr(config, "download", False):
            found = (base_dir / expand_path(path)).resolve()
            try:
                found.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise not_writable(found, error) from None
        if found is None:
            raise DataNotFoundError(_missing(config, base_dir))
        config = config.model_copy(update={"path": str(found)})
    return KINDS[config.kind].load(config)


def _missing(config: Any, base_dir: Path) -> str:
    looked_in = dict.fromkeys(str(folder) for folder in (base_dir.resolve(), Path.cwd()))
    where = "" if Path(config.path).is_absolute() else " in " + " nor in ".join(looked_in)
    return (
        f"`data.path` is {config.path!r}, but there is no such file or folder{where}. "
        f"Kind {config.kind!r} needs {KINDS[config.kind].needs}. Put the data there "
        "or change `data.path`."
    )
