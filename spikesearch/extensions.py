"""Things that exist in several kinds, by name: those of spikesearch, of installed packages, and of the running program.

A kind of data, an energy convention, a mixer and an export format are each defined and registered in one file. The
files of spikesearch lie in one folder per registry, which is searched when the registry is first asked; an installed
package adds its own through an entry point of the registry's group, and a program by calling ``register`` (see
``docs/extending.md``). Nothing here imports what is registered before it is asked for.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from spikesearch.errors import did_you_mean

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """What is registered under a name, in alphabetical order, whichever file was imported first.

    Args:
        what: What one entry is, for messages, such as ``"energy convention"``.
        package: A module that registers entries when it is imported, or a folder of such modules, in which names that
            begin with ``_`` are helpers.
        group: Group of entry points, each of which names a module or an object whose import registers something.
    """

    def __init__(self, what: str, *, package: str, group: str) -> None:
        self.what = what
        self.group = group
        self._package = package
        self._entries: dict[str, T] = {}
        self._complete = False

    def register(self, name: str, entry: T) -> T:
        """Add an entry and return it.

        Raises:
            ValueError: If the name is taken by something else.
        """
        known = self._entries.get(name)
        if known is not None and known is not entry:
            raise ValueError(f"The {self.what} {name!r} is registered already: {known!r}.")
        self._entries[name] = entry
        return entry

    def unregister(self, name: str) -> None:
        """Remove an entry that a program has added."""
        del self._entries[name]

    def names(self) -> list[str]:
        """Return the names without importing what they stand for.

        A file, and an entry point, is called like the entry that it registers, a file with ``_`` for ``-``.
        """
        folder = import_module(self._package)
        modules = (module.name for module in pkgutil.iter_modules(getattr(folder, "__path__", ())))
        files = (name.replace("_", "-") for name in modules if not name.startswith("_"))
        points = (point.name for point in entry_points(group=self.group))
        return list(dict.fromkeys((*files, *points, *self._entries)))

    def __getitem__(self, name: str) -> T:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._all()))

    def __len__(self) -> int:
        return len(self._all())

    def expected(self, name: object) -> str:
        """Return the end of a message about an unknown name: what it must be, and which name is the nearest."""
        return f"must be one of {', '.join(self)}, but got {name!r}{did_you_mean(str(name), self)}"

    def _all(self) -> dict[str, T]:
        if not self._complete:
            self._complete = True  # before the imports, which may ask
            try:
                folder = import_module(self._package)
                for module in pkgutil.iter_modules(getattr(folder, "__path__", ())):
                    if not module.name.startswith("_"):
                        import_module(f"{self._package}.{module.name}")
                for point in entry_points(group=self.group):
                    point.load()
            except BaseException:
                self._complete = False
                raise
        return self._entries


# The extension points. Each package re-exports its own with the type of its entries.
DATA_KINDS: Registry[Any] = Registry("kind of data", package="spikesearch.data.kinds", group="spikesearch.data")
CONVENTIONS: Registry[Any] = Registry(
    "energy convention", package="spikesearch.energy.conventions", group="spikesearch.energy"
)
MIXERS: Registry[Any] = Registry("mixer", package="spikesearch.nn.mixers", group="spikesearch.mixers")
EXPORT_FORMATS: Registry[Any] = Registry(
    "export format", package="spikesearch.export.formats", group="spikesearch.export"
)
TARGETS: Registry[Any] = Registry("target", package="spikesearch.device.targets", group="spikesearch.targets")
