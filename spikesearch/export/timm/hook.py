"""Makes timm know ``spikesearch_spikformer`` as soon as both packages are imported, in either order.

timm has no entry points: a model exists for it once its function has been registered. Importing timm takes seconds and
``import spikesearch`` must not, so where timm is not imported yet, the registration waits for it. Only the standard
library is used here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

_WATCHED = "timm"
_REGISTRATION = "spikesearch.export.timm.entry"


def register_with_timm() -> None:
    """Register now if timm is imported, else right after it will be."""
    if _WATCHED in sys.modules:
        import_module(_REGISTRATION)
    elif not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())


class _AfterImport:
    """Finds timm like the other finders do, and has the module registered behind its own code."""

    def __init__(self) -> None:
        self.searching = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _WATCHED or self.searching:
            return None
        self.searching = (
            True  # another finder may ask all finders as well: such as that of a second copy of this module
        )
        try:
            for finder in sys.meta_path:
                find = getattr(finder, "find_spec", None)
                spec: ModuleSpec | None = find(name, path, target) if find else None
                if spec is not None:
                    _register_behind(spec)
                    return spec
            return None
        finally:
            self.searching = False


def _register_behind(spec: ModuleSpec) -> None:
    loader = spec.loader
    if loader is None or not hasattr(loader, "exec_module"):
        return
    execute = loader.exec_module

    def execute_and_register(module: ModuleType) -> None:
        execute(module)
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _AfterImport)]
        import_module(_REGISTRATION)

    loader.exec_module = execute_and_register  # type: ignore[method-assign]
