"""Import paths of earlier releases: they still work, and warn with the new path. CONTRIBUTING says for how long."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Modules that are gone, and what took their place; names are looked for in several modules in this order.
MODULES: dict[str, tuple[str, ...]] = {
    "spikesearch.activity": ("spikesearch.energy.activity", "spikesearch.energy.measure"),
    "spikesearch.architecture": ("spikesearch.space.architecture",),
    "spikesearch.config_messages": ("spikesearch.config.messages",),
    "spikesearch.data.cifar": ("spikesearch.data.kinds.cifar",),
    "spikesearch.data.digits": ("spikesearch.data.kinds.digits",),
    "spikesearch.data.idx": ("spikesearch.data.kinds.idx",),
    "spikesearch.data.registry": ("spikesearch.data.load", "spikesearch.data.kind"),
    "spikesearch.data_config": (
        "spikesearch.config.data",
        "spikesearch.data.kinds.digits",
        "spikesearch.data.kinds.image_folder",
        "spikesearch.data.kinds.idx",
        "spikesearch.data.kinds.cifar",
        "spikesearch.data.kinds.events",
        "spikesearch.data.kinds.spikingjelly",
    ),
    "spikesearch.export.nir_graph": ("spikesearch.export.formats.nir_stem",),
    "spikesearch.export.onnx_model": ("spikesearch.export.formats.onnx",),
    "spikesearch.export.timm_hook": ("spikesearch.export.timm.hook",),
    "spikesearch.export.timm_model": ("spikesearch.export.timm.entry",),
    "spikesearch.export.timm_net": ("spikesearch.export.timm.network",),
    "spikesearch.export.torch_program": ("spikesearch.export.formats.torch",),
    "spikesearch.nn.elastic_blocks": ("spikesearch.nn.modules",),
    "spikesearch.nn.spikformer": ("spikesearch.nn.network", "spikesearch.nn.modules", "spikesearch.nn.units"),
    "spikesearch.report.dashboard": ("spikesearch.dashboard",),
    "spikesearch.report.fidelity": ("spikesearch.audit.fidelity_figure",),
    "spikesearch.sampler.acquisition": ("spikesearch.sampler.surrogate.acquisition",),
    "spikesearch.sampler.features": ("spikesearch.sampler.surrogate.features",),
    "spikesearch.sampler.forecast": ("spikesearch.sampler.surrogate.forecast",),
    "spikesearch.sampler.model": ("spikesearch.sampler.surrogate.gaussian_process",),
    "spikesearch.scoring.plain": ("spikesearch.scoring.network",),
    "spikesearch.study.doctor": ("spikesearch.audit.doctor",),
    "spikesearch.study.export": ("spikesearch.subnet.export",),
    "spikesearch.study.fast_storage": ("spikesearch.storage.genome_storage",),
    "spikesearch.study.fidelity": ("spikesearch.audit.fidelity",),
    "spikesearch.study.fidelity_networks": ("spikesearch.audit.candidates",),
    "spikesearch.study.fidelity_stats": ("spikesearch.audit.rank_statistics",),
    "spikesearch.study.identity": ("spikesearch.study.worker",),
    "spikesearch.study.interrupts": ("spikesearch.study.search.interrupts",),
    "spikesearch.study.ledger": ("spikesearch.study.search.ledger",),
    "spikesearch.study.locks": ("spikesearch.storage.locks",),
    "spikesearch.study.owner": ("spikesearch.study.folder",),
    "spikesearch.study.prepare": (
        "spikesearch.study.assembly",
        "spikesearch.study.checks",
        "spikesearch.study.session",
    ),
    "spikesearch.study.progress": ("spikesearch.study.search.progress",),
    "spikesearch.study.recipe": ("spikesearch.recipe.study",),
    "spikesearch.study.recipe_run": ("spikesearch.recipe.run",),
    "spikesearch.study.retrain": ("spikesearch.subnet.retrain",),
    "spikesearch.study.runner": ("spikesearch.study.run",),
    "spikesearch.study.storage": ("spikesearch.storage.urls",),
    "spikesearch.study.trained": (
        "spikesearch.study.session",
        "spikesearch.subnet.evaluate",
        "spikesearch.subnet.extract",
    ),
    "spikesearch.study.trials": ("spikesearch.study.search.trials",),
    "spikesearch.study.verify": ("spikesearch.audit.verify",),
    "spikesearch.study.workers": ("spikesearch.study.search.pool",),
    "spikesearch.train.retrain": ("spikesearch.train.network",),
}
# Names that left a module, or changed with it, as ``module:name``. A module that still exists needs the line
# ``__getattr__ = moved_names(__name__)`` besides.
NAMES: dict[str, dict[str, str]] = {
    "spikesearch.data.bundle": {"Store": "spikesearch.data.bundle:SampleStore"},
    "spikesearch.export.formats": {
        "ExportFormat": "spikesearch.export.registry:ExportFormat",
        "FORMATS": "spikesearch.export.registry:FORMATS",
        "check_format": "spikesearch.export.write:check_format",
        "export_network": "spikesearch.export.write:export_network",
    },
    "spikesearch.nn": {"Stage": "spikesearch.nn.supernet:Segment"},
    "spikesearch.nn.supernet": {"Stage": "spikesearch.nn.supernet:Segment"},
    "spikesearch.study.search": {
        "Finished": "spikesearch.study.search.loop:FinishedTrial",
        **{name: f"spikesearch.study.search.loop:{name}" for name in ("Budget", "Outcome", "Search", "Task")},
    },
    "spikesearch.study.trained": {"Trained": "spikesearch.study.session:Session"},
}


def moved_names(module: str) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a module that looks for names where they are now, and warns."""

    def look(name: str) -> Any:
        home, _, new = NAMES.get(module, {}).get(name, "").partition(":")
        if home:
            _warn(f"`{module}.{name}`", f"`{home}.{new}`")
            return getattr(import_module(home), new)
        if not name.startswith("__"):
            for home in MODULES.get(module, ()):
                if hasattr(import_module(home), name):
                    return getattr(import_module(home), name)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return look


class _OldModules(MetaPathFinder, Loader):
    """Finds the modules that are gone. Python asks it last, so that nothing else waits for it."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """See :class:`importlib.abc.MetaPathFinder`."""
        return ModuleSpec(fullname, self) if fullname in MODULES else None

    def exec_module(self, module: ModuleType) -> None:
        """Fill a module: names are looked up in the modules that took its place when they are asked for."""
        name = module.__name__
        _warn(f"`{name}`", " and ".join(f"`{home}`" for home in MODULES[name]))
        module.__getattr__ = moved_names(name)  # type: ignore[method-assign]


def _warn(old: str, new: str) -> None:
    warnings.warn(f"{old} has moved to {new}; the old path goes in 0.4.", DeprecationWarning, stacklevel=3)


def install() -> None:
    """Make the old paths importable."""
    if not any(isinstance(finder, _OldModules) for finder in sys.meta_path):
        sys.meta_path.append(_OldModules())
