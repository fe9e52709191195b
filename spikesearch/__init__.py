"""Search for spiking vision transformers that are accurate and spend little energy.

The names below are the public interface. They are loaded when they are first used: importing ``spikesearch`` costs
nothing, and only what needs torch imports it.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from spikesearch import _moved
from spikesearch._lazy import lazy_names
from spikesearch.export.timm.hook import register_with_timm

if TYPE_CHECKING:
    from spikesearch.energy import EnergyModel, EnergyReport
    from spikesearch.fitness import f_aeb
    from spikesearch.nn import Spikformer, Supernet
    from spikesearch.sampler import ESNNSampler
    from spikesearch.space import Architecture, BlockSpec, SearchSpace
    from spikesearch.study import create_study, load_study, run_study

try:
    __version__ = version("spikesearch")
except PackageNotFoundError:  # a source tree on the path that nobody installed
    __version__ = "0+unknown"

__all__ = [
    "Architecture",
    "BlockSpec",
    "ESNNSampler",
    "EnergyModel",
    "EnergyReport",
    "SearchSpace",
    "Spikformer",
    "Supernet",
    "__version__",
    "create_study",
    "f_aeb",
    "load_study",
    "run_study",
]

_HOMES = {
    "Architecture": "spikesearch.space",
    "BlockSpec": "spikesearch.space",
    "ESNNSampler": "spikesearch.sampler",
    "EnergyModel": "spikesearch.energy",
    "EnergyReport": "spikesearch.energy",
    "SearchSpace": "spikesearch.space",
    "Spikformer": "spikesearch.nn",
    "Supernet": "spikesearch.nn",
    "create_study": "spikesearch.study",
    "f_aeb": "spikesearch.fitness",
    "load_study": "spikesearch.study",
    "run_study": "spikesearch.study",
}


__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_moved.install()
register_with_timm()  # without importing timm
