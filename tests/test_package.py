from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import pytest
import yaml

import spikesearch
from spikesearch.config import load_study_file

CHECKOUT = Path(__file__).resolve().parent.parent

DESIGN = {
    *("Architecture", "BlockSpec", "SearchSpace", "Spikformer", "Supernet", "EnergyModel", "EnergyReport"),
    *("f_aeb", "ESNNSampler", "create_study", "load_study", "run_study"),
}


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


EXAMPLES = [
    pytest.param(page, number, id=f"{page.name}-{number}")
    for page in (CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md")))
    for number in range(len(python_blocks(page)))
]


def python(code: str, *, cwd: Path | None = None) -> str:
    """Run code in a fresh interpreter and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def project(checkout: Path) -> dict[str, Any]:
    return tomllib.loads((checkout / "pyproject.toml").read_text())["project"]


def test_the_public_names_are_those_of_the_design() -> None:
    assert set(spikesearch.__all__) == DESIGN | {"__version__"}
    assert set(dir(spikesearch)) >= set(spikesearch.__all__)


@pytest.mark.parametrize("name", sorted(DESIGN))
def test_every_public_name_loads_and_is_documented(name: str) -> None:
    thing = getattr(spikesearch, name)
    assert thing.__name__ == name
    assert thing.__doc__
    assert getattr(importlib.import_module(thing.__module__), name) is thing
    assert vars(spikesearch)[name] is thing  # kept, so that the second access costs nothing


def test_type_checkers_see_the_names_that_are_loaded_late(checkout: Path) -> None:
    """The imports under TYPE_CHECKING and the table of homes say the same."""
    text = (checkout / "spikesearch" / "__init__.py").read_text()
    declared = {
        name: home
        for home, names in re.findall(r"^    from (\S+) import (.+)$", text, flags=re.MULTILINE)
        for name in names.split(", ")
    }
    assert declared == spikesearch._HOMES


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="module 'spikesearch' has no attribute 'Spikeformer'"):
        spikesearch.Spikeformer  # noqa: B018


@pytest.mark.parametrize(
    "statement",
    [
        "import spikesearch",
        "from spikesearch import Architecture, BlockSpec, SearchSpace, f_aeb",
        "import spikesearch.sampler; spikesearch.ESNNSampler(seed=0)",
        "import spikesearch.config",
        "from spikesearch.config import load_study_file, find_study_file; load_study_file(find_study_file('digits'))",
        "import spikesearch.data; list(spikesearch.data.KINDS)",
        "import spikesearch.cli",
    ],
)
def test_what_needs_no_torch_does_not_import_it(statement: str) -> None:
    heavy = "{'torch', 'torchvision', 'timm'}"
    code = f"{statement}; import sys; print(sorted({{m.partition('.')[0] for m in sys.modules}} & {heavy}))"
    assert python(code) == "[]"


def test_loading_a_supernet_does_not_import_timm() -> None:
    code = "from spikesearch.train import load_supernet; import sys; print('timm' in sys.modules)"
    assert python(code) == "False"


def test_import_alone_loads_neither_optuna_nor_numpy() -> None:
    code = "import spikesearch, sys; print(sorted({'numpy', 'optuna', 'pydantic', 'torch'} & set(sys.modules)))"
    assert python(code) == "[]"


def test_the_help_of_the_command_does_not_wait_for_torch() -> None:
    code = (
        "import sys; sys.argv = ['spikesearch', '--help']\n"
        "from spikesearch.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print('torch' in sys.modules)"
    )
    printed = python(code).splitlines()
    assert printed[-1] == "False"
    assert any("study" in line for line in printed)


def test_version_is_the_one_of_the_project(project: dict[str, Any]) -> None:
    assert spikesearch.__version__ in {version("spikesearch"), "0+unknown"}
    assert version("spikesearch") == project["version"]


def test_the_command_is_installed() -> None:
    (script,) = entry_points(group="console_scripts", name="spikesearch")
    assert script.value == "spikesearch.cli:main"
    assert callable(script.load())


def test_the_package_says_that_it_is_typed(checkout: Path) -> None:
    assert (checkout / "spikesearch" / "py.typed").is_file()


def test_every_version_in_the_constraints_is_exact_and_names_no_place(checkout: Path) -> None:
    lines = [line for line in (checkout / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line), line
    names = [re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in lines]
    assert names == sorted(set(names))


def test_constraints_name_every_direct_dependency(checkout: Path, project: dict[str, Any]) -> None:
    wanted = project["dependencies"] + project["optional-dependencies"]["test"]
    names = {re.sub(r"[-_.]+", "-", re.split(r"[\[><=]", item)[0]).lower() for item in wanted}
    held = {
        re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower()
        for line in (checkout / "constraints.txt").read_text().splitlines()
    }
    assert names <= held


def test_the_changelog_knows_the_version(checkout: Path, project: dict[str, Any]) -> None:
    assert f"## [{project['version']}]" in (checkout / "CHANGELOG.md").read_text()


def test_the_readme_opens_with_exactly_two_commands(checkout: Path) -> None:
    readme = (checkout / "README.md").read_text()
    start = readme.index("\n## Start")
    commands = re.findall(r"```bash\n(.*?)```", readme[start : readme.index("\n## ", start + 1)], re.DOTALL)
    assert len(commands) == 2
    job, tests = (command.strip() for command in commands)
    assert job.endswith("spikesearch study run digits")
    assert "nox" in tests
    assert "\n" not in job + tests


@pytest.mark.parametrize(("page", "number"), EXAMPLES)
def test_the_examples_of_the_documentation_run(page: Path, number: int, tmp_path: Path) -> None:
    python(python_blocks(page)[number], cwd=tmp_path)


def test_readme_and_documentation_have_examples() -> None:
    assert {example.values[0].name for example in EXAMPLES} >= {"README.md", "python.md", "extending.md"}


def test_the_study_file_of_the_documentation_is_valid(checkout: Path, tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (checkout / "docs" / "data.md").read_text(), re.DOTALL)
    (tmp_path / "leaves.yaml").write_text(block)
    config = load_study_file(tmp_path / "leaves.yaml")
    assert config.name == "leaves"
    assert config.space.search_space().size > 100_000


def test_continuous_integration_runs_the_command_of_the_readme(checkout: Path) -> None:
    script = (checkout / ".ci" / "run").read_text()
    assert "README.md" in script
    assert (checkout / ".ci" / "run").stat().st_mode & 0o111


def test_shipped_study_files_are_plain_yaml(checkout: Path) -> None:
    files = sorted((checkout / "studies").glob("*.yaml"))
    assert "digits.yaml" in {file.name for file in files}
    for file in files:
        assert isinstance(yaml.safe_load(file.read_text()), dict), file.name
