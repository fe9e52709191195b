"""N-MNIST, CIFAR10-DVS and DVS128 Gesture as SpikingJelly unpacks and converts them."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spikesearch.config.data import EventSection
from spikesearch.data.kind import Kind, register
from spikesearch.errors import DataError, DataNotFoundError

if TYPE_CHECKING:
    from spikesearch.data.bundle import Source

# kind -> module, class, whether it has its own test split
_CLASSES = {
    "nmnist": ("n_mnist", "NMNIST", True),
    "cifar10-dvs": ("cifar10_dvs", "CIFAR10DVS", False),
    "dvs128-gesture": ("dvs128_gesture", "DVS128Gesture", True),
}


class SpikingJellyData(EventSection):
    """N-MNIST, CIFAR10-DVS or DVS128 Gesture through SpikingJelly's dataset classes.

    Args:
        download: Let SpikingJelly fetch the files where it can (CIFAR10-DVS). Nothing is downloaded unless this is set.
    """

    kind: Literal["nmnist", "cifar10-dvs", "dvs128-gesture"]
    download: bool = False


def load(config: SpikingJellyData) -> Source:
    """Read N-MNIST, CIFAR10-DVS or DVS128 Gesture; SpikingJelly unpacks and converts them at the first use.

    Raises:
        DataNotFoundError: If the files are not there and must not (or cannot) be downloaded.
        DataError: If SpikingJelly cannot prepare them.
    """
    from spikesearch.data.class_folders import check_same_classes
    from spikesearch.data.events import event_source

    module, name, has_test = _CLASSES[config.kind]
    with importable_datasets():
        dataset = getattr(importlib.import_module(f"spikingjelly.datasets.{module}"), name)
    _check_present(dataset, config)
    files = []
    try:
        for train in (True, False) if has_test else (None,):
            part = dataset(config.path, **({} if train is None else {"train": train}), data_type="event")
            files += [(Path(path), part.classes[k], train is False) for path, k in part.samples]
    except (RuntimeError, NotImplementedError, OSError) as error:
        raise DataError(f"SpikingJelly cannot prepare {config.kind} in {config.path}: {error}") from None
    learnt, tested = ({label for _, label, test in files if test is part} for part in (False, True))
    if tested:
        check_same_classes(Path(config.path), learnt, tested, "recordings")
    height, width = dataset.get_H_W()
    return event_source(files, config, (int(height), int(width)))


def _check_present(dataset: Any, config: SpikingJellyData) -> None:
    root = Path(config.path)
    marker = root / "events_np.building"
    if marker.exists():
        raise DataError(f"{root} was left half prepared. Delete {root / 'events_np'} and {marker}, then try again.")
    if (root / "events_np").is_dir():
        return
    needed = [name for name, _, _ in dataset.resource_url_md5()]
    missing = [name for name in needed if not (root / "download" / name).is_file()]
    if not missing or (config.download and dataset.downloadable()):
        return
    fetch = ", or run with --download (or `data.download: true`)" if dataset.downloadable() else ""
    raise DataNotFoundError(
        f"{root} holds neither events_np/ nor download/{missing[0]}. Put {', '.join(needed)} "
        f"in {root / 'download'}{fetch}."
    )


@contextmanager
def importable_datasets() -> Iterator[None]:
    """Let ``spikingjelly.datasets`` be imported where torchaudio is missing or broken.

    That package imports torchaudio for one audio data set. The stand-in is removed again, because other libraries ask
    whether torchaudio is there.
    """
    try:
        importlib.import_module("torchaudio")
    except Exception:
        before = {name for name in sys.modules if name.split(".")[0] == "torchaudio"}
        for name in before:
            del sys.modules[name]
        sys.modules["torchaudio"] = types.ModuleType("torchaudio")
        try:
            yield
        finally:
            del sys.modules["torchaudio"]
    else:
        yield


for _kind, _title, _needs in (
    ("nmnist", "N-MNIST", "Train.zip in download/"),
    ("cifar10-dvs", "CIFAR10-DVS", "--download"),
    ("dvs128-gesture", "DVS128 Gesture", "download/ with DvsGesture.tar.gz"),
):
    register(Kind(_kind, SpikingJellyData, f"{_title} through SpikingJelly", f"events_np/, or {_needs}", load))
