"""What the other commands print."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from spikesearch.fitness import f_aeb
from spikesearch.space import Architecture
from spikesearch.study import load_study
from spikesearch.study.store import open_store
from tests.cli.conftest import environment
from tests.commands import Result
from tests.study.helpers import TINY, new_study, search, space_of

Cli = Callable[..., Result]


@pytest.fixture
def studied(tmp_path: Path) -> Path:
    """A study with twelve trials of a formula; nothing is trained."""
    url = f"sqlite:///{tmp_path}/spikesearch.db"
    search(new_study(url), url=url, total=12)
    return tmp_path


# --- without a study --------------------------------------------------------------------------------------------------


def test_help_is_fast_because_it_imports_nothing_heavy() -> None:
    script = (
        "import sys\nsys.argv = ['spikesearch', *sys.argv[1:]]\nfrom spikesearch.cli import app\nstatus = app._run()\n"
        "print(status, sorted({'torch', 'optuna', 'numpy', 'sklearn'} & set(sys.modules)))"
    )
    for arguments in (
        ["--help"],
        ["--version"],
        ["study", "--help"],
        ["study", "run", "--help"],
        ["supernet", "train", "--help"],
        ["subnet", "export", "x", "--help"],
        ["data", "check", "--help"],
        ["doctor", "--help"],
    ):
        out = subprocess.run(
            [sys.executable, "-c", script, *arguments], env=environment(), capture_output=True, text=True, check=True
        ).stdout
        modules = out.splitlines()[-1]
        assert modules == "0 []", out


def test_the_module_is_the_program(program: Callable[..., Result]) -> None:
    from spikesearch import __version__

    assert program("--version").out == f"spikesearch {__version__}\n"
    result = program("study", "show", "nothing")
    assert result.complaint
    assert program().status == 2


def test_the_kinds_of_data(cli: Cli) -> None:
    kinds = cli("data", "list", "-f", "value").out.split()
    assert "digits" in kinds
    assert [row["kind"] for row in cli("data", "list", "-f", "json").json()] == kinds
    assert all(kind in cli("data", "list").out for kind in kinds)


def test_checking_data(tiny_file: Path, cli: Cli) -> None:
    found = cli("data", "check", tiny_file, "-f", "yaml")
    assert found.status == 0
    facts = yaml.safe_load(found.out)
    assert facts["num_classes"] == 10
    assert cli("data", "check", tiny_file, "-f", "value").out == facts["fingerprint"] + "\n"
    table = cli("data", "check", tiny_file).out
    assert facts["fingerprint"] in table
    assert "Classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9\n" in table


def test_narrow_tables_fold_texts_and_cut_no_number(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    from spikesearch.cli import output

    monkeypatch.setattr("rich.console.Console.width", 60)
    row = (7, "0.047123", "99.17", "D48 L2 T3 heads 2/4 mlp 2/2", "recommended")
    output.print_table("Front", ("trial", "energy uJ", "accuracy %", "architecture", "role"), [row])
    shown = capsys.readouterr().out
    assert "0.047123" in shown
    assert "99.17" in shown
    assert "…" not in shown
    assert "recommended" in shown
    assert "heads 2/4" in " ".join(shown.split())


def test_the_help_says_which_trials_are_counted(cli: Cli) -> None:
    shown = " ".join(cli("study", "run", "--help").out.split())
    assert re.search("--n-trials .*COMPLETE trials, shared by the workers", shown)


def test_files_that_cannot_be_used_are_listed(tmp_path: Path, cli: Cli) -> None:
    from PIL import Image

    for kind in ("cat", "dog"):
        (tmp_path / "images" / kind).mkdir(parents=True)
        for number in range(8):
            Image.new("L", (8, 8), 20 * number).save(tmp_path / "images" / kind / f"{number}.png")
    for number in range(22):
        (tmp_path / "images" / "dog" / f"broken{number:02}.png").write_text("no picture")
    content = {**TINY, "data": {"kind": "image-folder", "path": "images", "image_size": 8}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    shown = cli("data", "check", "mine.yaml").out
    assert shown.count("Unusable: ") == 20
    assert "broken00.png" in shown
    assert "... and 2 more, which -f json lists." in shown
    assert len(cli("data", "check", "mine.yaml", "-f", "json").json()["skipped"]) == 22


def test_a_study_of_somebody_else(tmp_path: Path, cli: Cli) -> None:
    import optuna

    study = optuna.create_study(study_name="theirs", storage=f"sqlite:///{tmp_path}/spikesearch.db")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    for command in (("study", "show"), ("study", "best"), ("study", "run"), ("subnet", "extract")):
        complaint = cli(*command, "theirs").complaint
        assert "'theirs' was not made by spikesearch; `spikesearch study list` tells which were." in complaint
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**TINY, "name": "theirs"}))
    for create in (("study", "run"), ("study", "create", "--skip-if-exists")):
        complaint = cli(*create, "mine.yaml").complaint
        assert "not made by spikesearch; choose another --study-name" in complaint


# --- reading a study --------------------------------------------------------------------------------------------------


def test_creating_and_listing(tiny_file: Path, cli: Cli) -> None:
    assert cli("study", "list").status == 0
    assert cli("study", "list", "-f", "json").json() == []
    assert cli("study", "create", tiny_file) == Result(0, "tiny\n", "")
    assert cli("study", "create", tiny_file, "--study-name", "second").out == "second\n"
    assert cli("study", "create", tiny_file, "--skip-if-exists").out == "tiny\n"
    assert cli("study", "list", "-f", "value").out == "tiny\nsecond\n"
    assert [row["name"] for row in cli("study", "list", "-f", "json").json()] == ["tiny", "second"]
    assert "second" in cli("study", "list").out


@pytest.mark.parametrize("name", ["exp[/1]", "[bold]x", "[link=a]b[/link]"])
def test_names_are_no_markup(tmp_path: Path, cli: Cli, name: str) -> None:
    import optuna

    optuna.create_study(study_name=name, storage=f"sqlite:///{tmp_path}/spikesearch.db")
    assert name in cli("study", "list").out


def test_showing_what_has_not_begun(tiny_file: Path, cli: Cli) -> None:
    cli("study", "create", tiny_file)
    shown = cli("study", "show", "tiny", "-f", "json").json()
    assert shown["states"]["waiting"] == shown["n_trials"] == 1
    assert shown["front"] == []
    assert shown["hypervolume"] is shown["recommended"] is shown["reference"] is None
    assert cli("study", "show", "tiny").status == 0
    assert "not scored yet" in cli("study", "best", "tiny").complaint
    for command in (("study", "report"), ("subnet", "extract"), ("supernet", "info")):
        assert "no trained supernet yet" in cli(*command, "tiny").complaint


def test_showing_agrees_with_optuna(studied: Path, cli: Cli) -> None:
    study = load_study("tiny", storage=f"sqlite:///{studied}/spikesearch.db")
    shown = cli("study", "show", "tiny", "-f", "json").json()
    assert shown == yaml.safe_load(cli("study", "show", "tiny", "-f", "yaml").out)
    assert {trial["number"] for trial in shown["front"]} == {trial.number for trial in study.best_trials}
    energy = study.user_attrs["reference_energy_uJ"]
    for trial in [*shown["front"], shown["recommended"], shown["reference"]]:
        there = study.trials[trial["number"]]
        assert there.values == [trial["accuracy"], trial["energy_uJ"]]
        assert trial["f_aeb"] == pytest.approx(f_aeb(there.values[0], there.values[1], energy))
        assert Architecture.from_dict(trial["architecture"]) == space_of(study).architecture(there.params)
        assert trial["params"] == there.user_attrs["params"]
    assert shown["reference"]["test_accuracy"] is None
    # by brute force on a grid, what the front dominates
    points = [(1 - t.values[0], t.values[1] / energy) for t in study.trials]
    grid = [(i + 0.5) / 200 for i in range(200)]
    covered = sum(any(x <= a and y <= b for x, y in points) for a in grid for b in grid) / len(grid) ** 2
    assert shown["hypervolume"] == pytest.approx(covered, abs=0.01)
    table = cli("study", "show", "tiny").out
    assert "'spikformer' convention" in table
    assert all(f"{trial['energy_uJ']:.4g}" in table for trial in shown["front"])


def test_the_best_under_conditions(studied: Path, cli: Cli) -> None:
    study = load_study("tiny", storage=f"sqlite:///{studied}/spikesearch.db")
    energy, (best, dearest) = study.user_attrs["reference_energy_uJ"], study.trials[0].values

    def best_of(beta: float, allowed: Callable[[float, float], bool]) -> int:
        fits = [t for t in study.trials if allowed(*t.values)]
        return max(fits, key=lambda t: (f_aeb(t.values[0], t.values[1], energy, beta), -t.number)).number

    shown = cli("study", "best", "tiny", "-f", "json").json()
    assert shown["number"] == best_of(0.02, lambda accuracy, _: accuracy >= best - 0.01)
    assert shown == cli("study", "show", "tiny", "-f", "json").json()["recommended"]
    limit = dearest / 3
    value = cli("study", "best", "tiny", "--max-energy", limit, "-f", "value").out
    kept = [t for t in study.trials if t.values[1] <= limit and t.values[0] >= best - 0.01]
    assert int(value) == best_of(
        0.02, lambda accuracy, energy: energy <= limit and (not kept or accuracy >= best - 0.01)
    )
    value = cli("study", "best", "tiny", "--min-accuracy", 0.85, "--beta", 0.5, "-f", "value").out
    assert int(value) == best_of(0.5, lambda accuracy, _: accuracy >= 0.85)
    assert f" {shown['number']} " in cli("study", "best", "tiny").out


def test_deleting_asks(studied: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    url = f"sqlite:///{studied}/spikesearch.db"

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert "nothing was deleted; give --yes" in cli("study", "delete", "tiny").complaint
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    result = cli("study", "delete", "tiny")
    assert (result.status, result.out.strip()) == (1, "")
    assert result.err.endswith("Nothing was deleted.\n")
    assert open_store(url).has("tiny")
    assert cli("study", "delete", "tiny", "--yes") == Result(0, "tiny\n", "")
    assert not open_store(url).has("tiny")
    assert not (studied / "runs" / "tiny").exists()


def test_deleting_leaves_the_files_of_another_database(finished: Path, cli: Cli) -> None:
    from spikesearch.study.session import open_study

    good, other = f"sqlite:///{finished}/spikesearch.db", f"sqlite:///{finished}/other.db"
    assert cli("study", "create", "tiny.yaml", "--storage", other).status == 0
    shared = cli("supernet", "train", "tiny", "--storage", other)
    assert shared.status == 0, "the same training: the weights are shared"
    assert "runs/tiny belongs to another study, with which study 'tiny' shares its supernet" in shared.err
    deleted = cli("study", "delete", "tiny", "--yes", "--storage", other)
    assert deleted.status == 0
    assert "belong to another study of this name; they stay" in deleted.err
    assert open_study("tiny", storage=good).supernet_info()["hash"]
    assert cli("study", "delete", "tiny", "--yes", "--storage", good) == Result(0, "tiny\n", "")
    assert not (finished / "runs" / "tiny").exists()


# --- with a trained supernet ------------------------------------------------------------------------------------------


def test_a_network_is_taken_out(finished: Path, cli: Cli) -> None:
    import torch
    from safetensors.torch import load_file

    from spikesearch import Spikformer
    from spikesearch.study.session import open_trained

    assert cli("subnet", "extract", "tiny", "--trial", 2, "--output", "net").out == "net\n"
    facts = json.loads((finished / "net/model.json").read_text())
    model = {**facts["model"], "pool_stages": tuple(facts["model"]["pool_stages"])}
    net = Spikformer(Architecture.from_dict(facts["architecture"]), **model)
    net.load_state_dict(load_file(finished / "net/model.safetensors"))
    trained = open_trained("tiny", storage=f"sqlite:///{finished}/spikesearch.db")
    images = trained.data.search.images(range(32))
    assert torch.equal(net.eval()(images), trained.scorer().extract(net.arch)(images))
    assert cli("subnet", "extract", "tiny", "--trial", 2, "--output", "net").status == 0
    assert "holds another network" in cli("subnet", "extract", "tiny", "--trial", 3, "--output", "net").complaint
    assert cli("subnet", "extract", "tiny", "--trial", 3).out.strip() == str(finished / "runs/tiny/subnets/3")


def test_a_network_is_measured_again(finished: Path, cli: Cli) -> None:
    trial = load_study("tiny", storage=f"sqlite:///{finished}/spikesearch.db").trials[1]
    again = cli("subnet", "evaluate", "tiny", "--trial", 1, "-f", "json").json()
    assert [again["accuracy"], again["energy_uJ"]] == trial.values
    assert again["energy"]["total_uJ"] == pytest.approx(sum(layer["energy_uJ"] for layer in again["energy"]["layers"]))
    assert "accuracy" in cli("subnet", "evaluate", "tiny", "--trial", 1).out
    test = float(cli("subnet", "evaluate", "tiny", "--trial", 0, "--split", "test", "-f", "value").out)
    assert test == json.loads((finished / "run.json").read_text())["reference"]["test_accuracy"]


def contents(folder: Path) -> dict[str, bytes]:
    """Return what the files of a folder hold; those that SQLite has while a database is open come and go."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and ".db-" not in path.name}


@pytest.mark.parametrize("name", ["spikesearch.db", "notes.md", "photo.md", "run.json"])
def test_the_report_replaces_reports_only(finished: Path, cli: Cli, name: str) -> None:
    (finished / "notes.md").write_text("# Studying\n")
    (finished / "photo.png").write_bytes(b"mine")
    before = contents(finished)
    result = cli("study", "report", "tiny", "--output", name)
    lost = "photo.png" if name == "photo.md" else name
    assert (
        f"{lost} exists, and no report of a study beside it. Remove it, or name another --output." in result.complaint
    )
    assert contents(finished) == before
    for name in ("notes.md", "photo.png"):
        (finished / name).unlink()


def test_the_supernets_facts(finished: Path, cli: Cli) -> None:
    study = load_study("tiny", storage=f"sqlite:///{finished}/spikesearch.db")
    facts = cli("supernet", "info", "tiny", "-f", "json").json()
    assert facts["hash"] == study.user_attrs["supernet_hash"]
    assert facts["architectures"] == space_of(study).size
    assert cli("supernet", "info", "tiny", "-f", "value").out.strip() == facts["hash"]
    assert facts["hash"] in cli("supernet", "info", "tiny").out


def test_the_report(finished: Path, cli: Cli) -> None:
    printed = cli("study", "report", "tiny").out
    for _ in range(2):  # a report may be written anew
        assert cli("study", "report", "tiny", "--output", "report.md").out == "report.md\n"
    link = "![accuracy against energy of all trials](report.png)\n\n"
    written = (finished / "report.md").read_text()
    assert link in written
    assert written.replace(link, "") == printed
    assert (finished / "report.png").read_bytes().startswith(b"\x89PNG")
    shown = json.loads((finished / "run.json").read_text())
    for trial in shown["front"]:
        assert f"| {trial['number']} | {trial['accuracy']:.2%} |" in printed
    assert f"{shown['reference']['test_accuracy']:.2%}" in printed
    assert "`spikformer` convention" in printed
    assert "first layer counted once" in printed


def test_verifying(finished: Path, cli: Cli) -> None:
    good = cli("study", "verify", "tiny", "-f", "json")
    assert good.status == 0
    assert all(check["passed"] for check in good.json())
    assert cli("study", "verify", "tiny").status == 0
    study = load_study("tiny", storage=f"sqlite:///{finished}/spikesearch.db")
    reference = study.trials[0]
    study.add_trial(reference)  # the same architecture once more
    bad = cli("study", "verify", "tiny", "-f", "value")
    assert bad.status == 1
    assert "FAILED architectures" in bad.out
    import sqlite3

    with sqlite3.connect(finished / "spikesearch.db") as connection:
        connection.execute("UPDATE trial_values SET value = 0.99 WHERE objective = 0")
    assert "FAILED score of the reference" in cli("study", "verify", "tiny", "-f", "value").out
