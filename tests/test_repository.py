"""What the files around the package say of each other is true: workflows, hooks, citation, documentation."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parent.parent
GITHUB = sorted((CHECKOUT / ".github").rglob("*.yml"))
WORKFLOWS = [path for path in GITHUB if path.parent.name == "workflows"]
PAGES = [
    *sorted((CHECKOUT / "docs").glob("*.md")),
    *(CHECKOUT / f"{n}.md" for n in ("README", "CONTRIBUTING", "SECURITY")),
]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def sessions() -> set[str]:
    """The sessions of the noxfile, which is read instead of imported: the tests need no nox."""
    tree = ast.parse((CHECKOUT / "noxfile.py").read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {f.name for f in functions if any("nox.session" in ast.unparse(item) for item in f.decorator_list)}


def named_sessions(workflow: Any) -> set[str]:
    """Every session that a workflow runs; those from a matrix, too."""
    names: set[str] = set()
    for job in workflow["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {})
        for step in job["steps"]:
            for name in re.findall(r"nox -s (\$\{\{ matrix\.session \}\}|\S+)", step.get("run", "")):
                names.update(matrix["session"] if name.startswith("$") else [name])
    return names


def test_the_sessions_are_read() -> None:
    assert {"lint", "types", "tests", "minimums", "wheel", "bench"} == sessions()


@pytest.mark.parametrize("path", [*GITHUB, CHECKOUT / ".pre-commit-config.yaml", CHECKOUT / "CITATION.cff"], ids=str)
def test_it_is_plain_yaml(path: Path) -> None:
    assert isinstance(read(path), dict)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_sessions_that_exist(path: Path) -> None:
    assert named_sessions(read(path)) <= sessions()


def test_every_session_is_run_by_some_workflow() -> None:
    assert set().union(*(named_sessions(read(path)) for path in WORKFLOWS)) == sessions()


def test_every_python_and_system_that_is_promised_is_tested() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    promised = {match[1] for line in project["classifiers"] if (match := re.search(r"Python :: (3\.\d+)$", line))}
    matrix = read(CHECKOUT / ".github" / "workflows" / "checks.yml")["jobs"]["tests"]["strategy"]["matrix"]
    assert set(matrix["python"]) == promised
    assert {name.partition("-")[0] for name in matrix["system"]} == {"ubuntu", "macos", "windows"}


def test_hooks_and_sessions_run_the_same_ruff() -> None:
    (hooks,) = (
        r for r in read(CHECKOUT / ".pre-commit-config.yaml")["repos"] if r["repo"].endswith("/ruff-pre-commit")
    )
    assert f"ruff=={hooks['rev'].removeprefix('v')}" in (CHECKOUT / "constraints.txt").read_text(encoding="utf-8")


def test_the_citation_is_of_this_version() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = read(CHECKOUT / "CITATION.cff")
    assert citation["version"] == project["version"]
    assert f"## [{citation['version']}] - {citation['date-released']}" in (CHECKOUT / "CHANGELOG.md").read_text("utf-8")
    assert citation["repository-code"] == project["urls"]["Source"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target:
            file, _, heading = target.partition("#")
            page = (path.parent / file).resolve() if file else path
            assert page.exists(), target
            if heading:
                titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
                assert heading in {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}, target


def test_the_readme_is_short() -> None:
    assert len((CHECKOUT / "README.md").read_text(encoding="utf-8").splitlines()) < 200
