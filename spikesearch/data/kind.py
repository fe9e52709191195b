"""What a kind of data is, and :func:`register`, with which its file adds it to those that a study file may name.

Importing this, or a file of :mod:`spikesearch.data.kinds`, does not import torch: study files are checked without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from spikesearch.config.data import DataSection
from spikesearch.extensions import DATA_KINDS, Registry

if TYPE_CHECKING:
    import numpy as np

    from spikesearch.data.bundle import Source

M = TypeVar("M", bound=DataSection)
Lines = tuple[tuple[str, object, str], ...]
"""Lines of a study file: key, value, and a comment that may be empty."""


@dataclass(frozen=True)
class Inference:
    """What ``study init`` learns about a folder.

    Args:
        labels: Class of every sample, int64 [N].
        test: bool [N], the data set's own test samples; ``None`` where it has none.
        class_names: One name per class.
        size: Height and width that the network sees.
        comment: The samples in one line, such as ``30 grey images 6x6, 3 classes``.
        keys: Lines of the ``data`` section besides ``kind``, ``path`` and ``splits``.
        augment: Lines of ``data.augment``; without any, the section is not written.
        frames: Frames per sample of event data; ``None`` for static images.
        channels: Of images; more of them make ``study init`` suggest wider networks.
    """

    labels: np.ndarray
    test: np.ndarray | None
    class_names: tuple[str, ...]
    size: int
    comment: str
    keys: Lines = ()
    augment: Lines = ()
    frames: int | None = None
    channels: int = 1

    @property
    def count(self) -> int:
        """Samples that can be trained on or searched with."""
        return len(self.labels) - (0 if self.test is None else int(self.test.sum()))


@dataclass(frozen=True)
class Kind(Generic[M]):
    """A kind of data.

    Args:
        name: The value of ``data.kind``.
        model: The keys of its ``data`` section; the type of its ``kind`` is ``Literal["its-name"]``.
        title: One line for ``spikesearch data list``.
        needs: What must be on the disk.
        load: Reads the data of a checked section, whose ``path``, if it has one, exists. Raises
            :class:`~spikesearch.errors.DataError` for data that cannot be used.
        infer: Looks at the folder or file that ``study init`` was given. Returns ``None`` if that is not of this kind,
            and raises :class:`~spikesearch.errors.DataError` if it is, but cannot be used. A kind without it must be
            written into a study file by hand.
    """

    name: str
    model: type[M]
    title: str
    needs: str
    load: Callable[[M], Source]
    infer: Callable[[Path], Inference | None] | None = None


KINDS: Registry[Kind[Any]] = DATA_KINDS


def register(kind: Kind[M]) -> Kind[M]:
    """Add a kind of data to those that a study file may name.

    Raises:
        ValueError: If the name is taken.
    """
    return KINDS.register(kind.name, kind)
