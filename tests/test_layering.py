"""Imports run downwards only, those inside functions included, and never in a circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGE = CHECKOUT / "spikesearch"


class Import(NamedTuple):
    """One module's import of another, or of a name in it."""

    importer: str
    imported: str
    name: str | None
    line: int
    types_only: bool  # under ``if TYPE_CHECKING:``, which never happens when a program runs

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def order() -> list[set[str]]:
    """The layers, the highest first, as CONTRIBUTING.md draws them: the only place where they are written."""
    text = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```layers\n(.*?)```", text, flags=re.DOTALL)
    return [set(line.split()) for line in block.splitlines()]


@cache
def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


@cache
def imports() -> tuple[Import, ...]:
    return tuple(found for name, path in modules().items() for found in imports_of(name, path.read_text("utf-8")))


def imports_of(importer: str, source: str) -> Iterator[Import]:
    def walk(node: ast.AST, types_only: bool) -> Iterator[Import]:
        for imported, name in targets(node):
            yield Import(importer, imported, name, getattr(node, "lineno", 0), types_only)
        guarded: list[ast.stmt] = []
        if isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            guarded = node.body
        for child in ast.iter_child_nodes(node):
            yield from walk(child, types_only or child in guarded)

    yield from walk(ast.parse(source), False)


def targets(node: ast.AST) -> Iterator[tuple[str, str | None]]:
    """The modules of the package that a statement imports, each with the name that is taken from it, if any."""
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert not node.level, "relative imports are not used here"
        origin = node.module or ""
        for alias in node.names:
            inner = f"{origin}.{alias.name}"
            yield from [(inner, None)] if inner in modules() else [(origin, alias.name)] if ours(origin) else []
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"import_module", "importlib.import_module"}:
        names = [str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant)]
    yield from ((name, None) for name in names if ours(name))


def ours(name: str) -> bool:
    return name == "spikesearch" or name.startswith("spikesearch.")


def part(module: str) -> str:
    """The folder or file right under spikesearch/ that a module belongs to; the package itself is ``spikesearch``."""
    return module.split(".")[1] if "." in module else module


def layer(module: str) -> int:
    return next(i for i, parts in enumerate(order()) if part(module) in parts)


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """Return some circle of a graph, its first member repeated at the end; empty if there is none."""
    finished: set[str] = set()

    def search(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node not in finished:
            for other in sorted(arrows.get(node, ())):
                if met := search(other, [*path, node]):
                    return met
            finished.add(node)
        return []

    return next((met for node in sorted(arrows) if (met := search(node, []))), [])


def arrows(*, types: bool = False) -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for found in imports():
        if types or not found.types_only:
            graph.setdefault(found.importer, set()).add(found.imported)
    return graph


def test_every_part_of_the_package_has_one_place_in_the_order() -> None:
    placed = [name for parts in order() for name in parts]
    assert sorted(placed) == sorted({part(module) for module in modules()})


def test_every_import_names_a_module_that_exists() -> None:
    assert not [str(found) for found in imports() if found.imported not in modules()]


@pytest.mark.parametrize("types_only", [False, True], ids=["when it runs", "for types only"])
def test_no_arrow_points_upwards(types_only: bool) -> None:
    upward = [
        str(found)
        for found in imports()
        if found.types_only == types_only and layer(found.imported) < layer(found.importer)
    ]
    assert not upward


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    """Imports for types only cannot make one when a program runs, and are left aside."""
    assert not circle(arrows())


def test_folders_do_not_import_each_other_in_a_circle() -> None:
    """Side by side in a layer, one folder may use another, but not both each other."""
    folders: dict[str, set[str]] = {}
    for importer, imported in arrows().items():
        folders.setdefault(part(importer), set()).update({part(name) for name in imported} - {part(importer)})
    assert not circle(folders)


def test_what_is_private_to_a_folder_stays_there() -> None:
    """A module with an underscore is for its folder and the folders in it, a name with one for its folder alone."""

    def folder(module: str) -> str:
        return module if modules()[module].name == "__init__.py" else module.rpartition(".")[0]

    def private(name: str) -> bool:
        return name.startswith("_") and not name.endswith("__")

    def allowed(found: Import) -> bool:
        home, here = folder(found.imported), folder(found.importer)
        if private(found.name or ""):
            return here == home
        return not private(found.imported.rpartition(".")[2]) or f"{here}.".startswith(f"{home}.")

    assert not [f"{found} ({found.name})" for found in imports() if not allowed(found)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import spikesearch.io", [("spikesearch.io", None, False)]),
        ("from spikesearch import io, f_aeb", [("spikesearch.io", None, False), ("spikesearch", "f_aeb", False)]),
        ("def f():\n    from spikesearch.space import Architecture", [("spikesearch.space", "Architecture", False)]),
        ("import_module('spikesearch.io')", [("spikesearch.io", None, False)]),
        ("if TYPE_CHECKING:\n    import spikesearch.io\nelse:\n    import numpy", [("spikesearch.io", None, True)]),
        ("import optuna\nfrom numpy import array", []),
    ],
)
def test_imports_are_read_wherever_they_are(source: str, expected: list[tuple[str, str | None, bool]]) -> None:
    read = [(found.imported, found.name, found.types_only) for found in imports_of("spikesearch.x", source)]
    assert read == expected


def test_circles_are_met() -> None:
    assert circle({"a": {"b"}, "b": {"c", "d"}, "c": set(), "d": {"b"}}) == ["b", "d", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}}) == []
