"""What an export format is, and which there are; light, so that a format may be registered without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikesearch.extensions import EXPORT_FORMATS, Registry

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from spikesearch.device import Program
    from spikesearch.nn import Spikformer


@dataclass(frozen=True)
class Export:
    """What a format has to write.

    Args:
        net: The network on the CPU, in evaluation mode.
        samples: Real samples, ``[N, C, H, W]`` or ``[N, F, C, H, W]``, on which the result has to agree.
        description: The coming ``model.json``.
        options: Those of the format that were given.
        images: Returns the image that a sample was made of, by its position, in its own size; ``None`` where there is
            none.
        program: The network in integers, for a format that writes that.
    """

    net: Spikformer
    samples: Tensor
    description: Mapping[str, Any]
    options: Mapping[str, Any]
    images: Callable[[int], Image] | None = None
    program: Program | None = None

    @property
    def integers(self) -> Program:
        """The network in integers; of formats that write it."""
        assert self.program is not None
        return self.program


def _anything(net: Spikformer, options: Mapping[str, Any]) -> None:
    pass


@dataclass(frozen=True)
class ExportFormat:
    """One value of ``--to``.

    Args:
        name: The value. The file that registers the format is called like it, with ``_`` for ``-``.
        files: What it writes, besides ``model.json`` and ``README.md``.
        usage: Code for the model card that loads ``FOLDER`` and runs it.
        write: Writes the files into an empty folder, compares the result with the network and returns how they compare.
        check: Fails where nothing can be written, before anything is.
        options: Keyword arguments of :func:`~spikesearch.export.export_network` that this format takes.
        integer: Whether it writes the network in integers.
        language: Of ``usage``; what is no Python takes raw samples.
    """

    name: str
    files: tuple[str, ...]
    usage: str
    write: Callable[[Path, Export], dict[str, Any]]
    check: Callable[[Spikformer, Mapping[str, Any]], object] = _anything
    options: tuple[str, ...] = ()
    integer: bool = False
    language: str = "python"


FORMATS: Registry[ExportFormat] = EXPORT_FORMATS


def register(chosen: ExportFormat) -> ExportFormat:
    """Make a format known to :func:`~spikesearch.export.export_network` and to ``spikesearch subnet export --to``.

    Args:
        chosen: The format.

    Returns:
        The format.

    Raises:
        ValueError: If there is another format of this name.
    """
    return FORMATS.register(chosen.name, chosen)
