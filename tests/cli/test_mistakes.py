"""A user's mistake: one line on stderr that names the thing and the remedy, exit status 2, nothing half-written."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from spikesearch.study import load_study
from tests.cli.conftest import environment
from tests.commands import Result
from tests.study.helpers import TINY, new_study, tiny_config

Cli = Callable[..., Result]


def write(folder: Path, **changes: Any) -> Path:
    """Write the tiny study file with other sections, as ``mine.yaml``."""
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({**TINY, **changes}))
    return path


def left(folder: Path) -> list[str]:
    """What a command has left in a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != "mine.yaml")


@pytest.mark.parametrize("verb", ["create", "run"])
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"trian": {}}, r"mine\.yaml.*'trian'.*did you mean 'train'"),
        ({"train": {"epochs": 0}}, r"mine\.yaml.*`train\.epochs`.*0"),
        ({"space": {**TINY["space"], "num_heads": [3]}}, r"mine\.yaml.*`num_heads`.*3 does not divide 16"),
        ({"space": {**TINY["space"], "taus": [1.0]}}, r"mine\.yaml.*`taus` must be above 1"),
        ({"space": {**TINY["space"], "depths": []}}, r"mine\.yaml.*`depths`"),
        ({"name": "../up"}, r"mine\.yaml.*`name`"),
        ({"constraints": {"energy": 1.0}}, r"mine\.yaml.*'energy'.*did you mean 'energy_uJ'"),
        ({"schema_version": 99}, r"mine\.yaml.*`schema_version` 99 is newer.*upgrade"),
        ({"data": {"kind": "image-folder", "path": "no/such/folder"}}, r"`data\.path`.*no/such/folder"),
        ({"data": {"kind": "digit"}}, r"mine\.yaml.*`data\.kind`.*did you mean 'digits'"),
    ],
)
def test_a_wrong_study_file(tmp_path: Path, cli: Cli, verb: str, changes: dict[str, Any], expected: str) -> None:
    result = cli("study", verb, write(tmp_path, **changes))
    assert re.search(expected, result.complaint)
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: [", "not valid YAML"),
        ("- a\n- b\n", "must be a mapping"),
        ("", "`name` is missing"),
        ("\0", "not valid YAML"),
    ],
)
def test_a_malformed_study_file(tmp_path: Path, cli: Cli, text: str, expected: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    assert expected in cli("study", "run", "mine.yaml").complaint
    assert left(tmp_path) == []


@pytest.mark.parametrize("command", [("study", "create"), ("study", "run"), ("supernet", "train"), ("data", "check")])
def test_a_missing_study_file(tmp_path: Path, cli: Cli, command: tuple[str, ...]) -> None:
    assert "'missing.yaml'" in cli(*command, "missing.yaml").complaint
    assert "did you mean 'digits'" in cli(*command, "digit").complaint
    assert left(tmp_path) == []


@pytest.mark.parametrize("command", [("study", "create"), ("study", "run"), ("data", "check")])
def test_a_folder_instead_of_a_study_file(tmp_path: Path, cli: Cli, command: tuple[str, str]) -> None:
    (tmp_path / "leaves").mkdir()
    assert (
        "leaves is a folder, but a study file was expected; `spikesearch study init`"
        in cli(*command, "leaves").complaint
    )
    (tmp_path / "leaves").rmdir()
    assert "'leaves'" in cli(*command, "leaves").complaint
    assert "''" in cli(*command, "").complaint


def test_images_of_a_wrong_size(tmp_path: Path, cli: Cli) -> None:
    from PIL import Image

    for number, size in enumerate([(8, 8)] * 9 + [(9, 8)]):
        for kind in ("cat", "dog"):
            (tmp_path / "images" / kind).mkdir(parents=True, exist_ok=True)
            Image.new("L", size, 20 * number).save(tmp_path / "images" / kind / f"{number}.png")
    before = left(tmp_path)
    path = write(tmp_path, data={"kind": "image-folder", "path": "images"})
    assert "image_size" in cli("study", "run", path).complaint
    assert left(tmp_path) == before


def images(folder: Path) -> Path:
    for k, kind in enumerate(("cat", "dog")):
        for number in range(9):
            save_image(folder / kind / f"{number}.png", 20 * number + k)
    return folder


def save_image(path: Path, value: int, mode: str = "RGB") -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (8, 8), value).save(path)


def recordings(folder: Path, bad: dict[str, Any]) -> None:
    number = np.arange(40)
    good: dict[str, Any] = {"t": number * 100, "x": number % 8, "y": number // 8, "p": number % 2}
    for kind in ("cat", "dog"):
        (folder / kind).mkdir(parents=True)
        for i in range(9):
            np.savez(folder / kind / f"{i}.npz", **good)
    np.savez(folder / "dog/3.npz", **{**good, **bad})


@pytest.mark.parametrize("command", [("study", "create"), ("study", "run"), ("supernet", "train")])
@pytest.mark.parametrize(
    ("arrange", "data", "expected"),
    [
        (lambda path: (images(path) / "dog/3.png").write_text("no image"), {}, r"dog/3\.png cannot be read.*skip_unr"),
        (lambda path: save_image(images(path) / "lynx/0.png", 1), {}, r"raw: Class 'lynx' has 1 image.*Add images"),
        (
            lambda path: (images(path / "train"), save_image(images(path / "test") / "lynx/0.png", 1)),
            {},
            r"test images in .*raw differ: .*only in test \['lynx'\]\. Make",
        ),
        (
            lambda path: save_image(images(path) / "dog/3.png", 1, "L"),
            {},
            r"dog/3\.png is grey, .*cat/0\.png is colour\. Set `data\.color`",
        ),
        (
            lambda path: recordings(path, {"x": np.full(40, 99)}),
            {"kind": "events", "sensor": [8, 8], "frames": 2},
            r"dog/3\.npz: event 0 lies at x=99, y=0, outside of the sensor \(8x8 pixels\)\. Correct `data\.sensor`",
        ),
        (
            lambda path: recordings(path, {"t": np.append(np.arange(39), 9000)}),
            {"kind": "events", "frames": 3, "split_by": "time"},
            r"dog/3\.npz: frame 1 of 3 holds no event .*Use fewer frames",
        ),
    ],
    ids=["unreadable", "one image", "other classes", "grey and colour", "off the sensor", "empty window"],
)
def test_data_that_cannot_be_used(
    tmp_path: Path, cli: Cli, command: tuple[str, str], arrange: Any, data: dict[str, Any], expected: str
) -> None:
    arrange(tmp_path / "raw")
    before = left(tmp_path)
    path = write(tmp_path, data={"kind": "image-folder", "path": "raw", **data})
    assert re.search(expected, cli(*command, path).complaint)
    assert left(tmp_path) == before


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("nonsense", r"`storage` must be a URL"),
        ("sqlite:////no/such/folder/a.db", r"no folder /no/such/folder"),
        ("mysql://user@host/db", r"`storage` must be a URL"),
        ("sqlite:///.", r"it is a folder"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [("study", "run", "mine.yaml"), ("study", "create", "mine.yaml"), ("study", "show", "x"), ("study", "list")],
)
def test_a_storage_that_cannot_be_opened(
    tmp_path: Path, cli: Cli, command: tuple[str, ...], url: str, expected: str
) -> None:
    write(tmp_path)
    assert re.search(expected, cli(*command, "--storage", url).complaint)
    assert left(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no folder here that even root cannot write to")
def test_a_folder_that_cannot_be_written(tmp_path: Path, cli: Cli) -> None:
    path = write(tmp_path)
    assert "/proc/nowhere" in cli("study", "run", path, "--run-dir", "/proc/nowhere").complaint
    (tmp_path / "runs").write_text("a file")
    assert "runs/tiny" in cli("study", "run", path).complaint
    assert left(tmp_path) == ["runs"]


LONG = "a" * 300


@pytest.mark.parametrize("path", [LONG, f"there/{LONG}", "~nosuchuser/x", "loop"])
@pytest.mark.parametrize(
    "command",
    [
        ("study", "create", "{}"),
        ("study", "run", "{}"),
        ("study", "run", "mine.yaml", "--run-dir", "{}"),
        ("study", "run", "mine.yaml", "--storage", "sqlite:///{}"),
        ("study", "list", "--storage", "sqlite:///{}"),
        ("study", "create", "mine.yaml", "--kind", "recipe", "--arch", "{}"),
        ("study", "init", "{}", "--output", "new.yaml"),
        ("study", "init", "images", "--output", "{}"),
        ("data", "check", "{}"),
    ],
)
def test_a_path_that_the_system_refuses(tmp_path: Path, cli: Cli, command: tuple[str, ...], path: str) -> None:
    write(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    complaint = cli(*(part.format(path) for part in command)).complaint
    assert re.search(r"cannot be used as a path: (File name too|Could not det|.*symbolic links)", complaint)
    assert len(complaint) < 200
    assert left(tmp_path) == ["loop"]


@pytest.mark.parametrize("path", [LONG, "a" * 400, "~nosuchuser/x", "a\0b"])
@pytest.mark.parametrize("data", [{"kind": "image-folder"}, {"kind": "cifar10", "download": True}])
def test_a_data_path_that_the_system_refuses(tmp_path: Path, cli: Cli, data: dict[str, Any], path: str) -> None:
    mine = write(tmp_path, data={**data, "path": path})
    for command in (("study", "create"), ("study", "run"), ("data", "check")):
        assert re.search(r"`data\.path` .* cannot be used as a path: ", cli(*command, mine).complaint)
    assert left(tmp_path) == []


@pytest.mark.slow
def test_an_output_that_cannot_be_written(finished: Path, cli: Cli) -> None:
    def files() -> set[str]:
        return {path for path in left(finished) if not path.startswith("spikesearch.db-")}  # those come and go

    before = files()
    for command in (("extract",), ("export",), ("retrain", "--epochs", 1)):
        for path in (LONG, "~nosuchuser/x", "tiny.yaml", "tiny.yaml/x/y", "runs"):
            result = cli("subnet", *command, "tiny", "--trial", 0, "--output", path)
            assert re.search("cannot be used as a path|is a file|holds no network", result.complaint)
    for path in (LONG, ".", "report.png", "/", "runs"):
        result = cli("study", "report", "tiny", "--output", path)
        assert re.search(
            "cannot be used as a path|must be a Markdown file|runs exists, and no report", result.complaint
        )
    assert files() == before


@pytest.mark.parametrize("command", ["show", "best", "report", "verify", "delete"])
def test_a_study_that_does_not_exist(tmp_path: Path, cli: Cli, command: str) -> None:
    assert "there is no storage" in cli("study", command, "tiny").complaint.lower()
    assert left(tmp_path) == []
    new_study(f"sqlite:///{tmp_path}/spikesearch.db")
    assert "did you mean 'tiny'" in cli("study", command, "tinny").complaint


def test_a_changed_study_file_is_refused(tmp_path: Path, cli: Cli) -> None:
    url = f"sqlite:///{tmp_path}/spikesearch.db"
    before = new_study(url).user_attrs
    path = write(tmp_path, scoring={"calibration_images": 64, "convention": "strict"})
    for verb in (("run",), ("create", "--skip-if-exists")):
        assert "`scoring.convention` 'spikformer', but got 'strict'" in cli("study", *verb, path).complaint
    assert load_study("tiny", storage=url).user_attrs == before
    assert "--skip-if-exists" in cli("study", "create", path).complaint
    assert cli("study", "create", path, "--study-name", "strict").out == "strict\n"


def test_a_newer_study_is_refused(tmp_path: Path, cli: Cli) -> None:
    new_study(f"sqlite:///{tmp_path}/spikesearch.db").set_user_attr("schema_version", 7)
    for command in (("study", "run"), ("study", "show"), ("supernet", "info"), ("subnet", "extract")):
        assert re.search("`schema_version` 7, newer .* upgrade", cli(*command, "tiny").complaint)


def test_a_name_that_means_two_things(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "digits").write_text(yaml.safe_dump(TINY))
    assert re.search("both a file here and the id", cli("study", "run", "digits").complaint)
    (tmp_path / "digits").rename(tmp_path / "tiny")
    new_study(f"sqlite:///{tmp_path}/spikesearch.db")
    assert re.search("both a study in .* and a file here", cli("study", "run", "tiny").complaint)
    from spikesearch.study import create_study

    create_study(tiny_config(), storage=f"sqlite:///{tmp_path}/spikesearch.db", study_name="digits")
    assert re.search("both a study in .* and the id of a shipped", cli("study", "run", "digits").complaint)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--n-trials", 0), "`n_trials` must be at least 1, but got 0"),
        (("--workers", 0), "`workers` must be at least 1"),
        (("--timeout", 0), "`timeout` must be above 0"),
        (("--device", "gpu"), "`device` must be cpu or cuda"),
        (("--device", "mps"), "`device` must be cpu or cuda, but got 'mps'"),
        (("--device", "cuda:99"), "`device` 'cuda:99' is not available"),
        (("--study-name", "a/b"), "`study_name` must start with"),
        (("--n-trials", "many"), "--n-trials"),
        (("--study-name", ""), "`study_name` must start with"),
        (("--nothing",), "See spikesearch study run --help."),
        (("another",), "(another). See spikesearch study run --help."),
        (("-f", "xml"), "Invalid value for '--format' / '-f': 'xml' is not one of"),
    ],
)
def test_wrong_options(tmp_path: Path, cli: Cli, arguments: tuple[object, ...], expected: str) -> None:
    assert expected in cli("study", "run", write(tmp_path), *arguments).complaint
    assert left(tmp_path) == []


@pytest.mark.parametrize("damage", ["cut", "foreign", "not json", "newer", "missing weights"])
def test_a_supernet_that_is_corrupt_or_foreign(finished: Path, cli: Cli, damage: str) -> None:
    import json

    weights, facts = (finished / "runs/tiny" / f"supernet.{suffix}" for suffix in ("safetensors", "json"))
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "foreign":
        from safetensors.torch import save_file
        from torch import zeros

        save_file({"w": zeros(3)}, weights)
    elif damage == "not json":
        facts.write_text("{")
    elif damage == "newer":
        facts.write_text(json.dumps({**json.loads(facts.read_text()), "format_version": 99}))
    else:
        weights.unlink()
    url = f"sqlite:///{finished}/spikesearch.db"
    trials = load_study("tiny", storage=url).trials
    for command in (("study", "run"), ("subnet", "extract"), ("supernet", "info")):
        result = cli(*command, "tiny")
        assert result.status == 2
        assert "runs/tiny" in result.err.splitlines()[-1]
        assert "Traceback" not in result.err
    assert load_study("tiny", storage=url).trials == trials
    assert cli("study", "verify", "tiny").status == 1
    assert cli("study", "show", "tiny").status == 0


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_supernet_of_another_space(finished: Path, cli: Cli, is_finished: bool) -> None:
    elsewhere = finished / "elsewhere"
    shutil.copytree(finished / "runs/tiny", elsewhere)
    (elsewhere / "owner.json").unlink()
    if not is_finished:
        state = elsewhere / "checkpoints/epoch-000001"
        state.mkdir(parents=True)
        for ending in ("json", "safetensors"):
            (elsewhere / f"supernet.{ending}").rename(state / f"state.{ending}")
    before = {file: file.read_bytes() for file in elsewhere.rglob("*") if file.is_file()}
    path = write(finished, name="other", space={**TINY["space"], "embed_dims": [16, 32]})
    result = cli("study", "run", path, "--run-dir", "elsewhere")
    assert result.status == 2
    where = r"supernet\.json" if is_finished else "checkpoints/epoch-000001"
    pattern = rf"elsewhere/{where} belongs to another training: its `space` is .* Use another"
    assert re.search(pattern, result.err.splitlines()[-1])
    assert "other" not in cli("study", "list").out
    assert {file: file.read_bytes() for file in elsewhere.rglob("*") if file.is_file()} == before


def test_an_opset_that_is_missing(finished: Path, cli: Cli) -> None:
    pytest.importorskip("onnxscript")
    complaint = cli(
        "subnet", "export", "tiny", "--trial", 0, "--to", "onnx", "--opset", 99, "--output", "net"
    ).complaint
    assert re.search(r"`opset` must be from 18 to \d+ with onnx .*, but got 99", complaint)
    assert not (finished / "net").exists()


def test_trials_that_do_not_exist(finished: Path, cli: Cli) -> None:
    assert "no COMPLETE trial 77; COMPLETE are 0, 1, 2" in cli("subnet", "evaluate", "tiny", "--trial", 77).complaint
    assert "No trial of study 'tiny'" in cli("study", "best", "tiny", "--max-energy", 1e-9).complaint
    for beta in (0, "inf", "nan"):
        assert "`beta` must be above 0" in cli("study", "best", "tiny", "--beta", beta).complaint


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize(
    ("arguments", "unbuffered"), [("--version", ""), ("study list -f json", ""), ("study list", "1")]
)
def test_a_result_that_nobody_can_read(tmp_path: Path, arguments: str, unbuffered: str) -> None:
    new_study(f"sqlite:///{tmp_path}/spikesearch.db")

    def run(redirection: str) -> tuple[int, str]:
        script = f'"$0" -m spikesearch {arguments} {redirection}'
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", script, sys.executable],
            cwd=tmp_path,
            env={**environment(), "PYTHONUNBUFFERED": unbuffered},
            capture_output=True,
            text=True,
        )
        assert done.stdout == ""
        return done.returncode, done.stderr

    assert run(">&-") == (0, ""), "the caller wants no result"
    assert run("<&- >&- 2>&-") == (0, "")
    status, err = run("> /dev/full")
    assert status == 2
    assert re.fullmatch("spikesearch: error: Cannot write the result: No space left on device.*\n", err)
    assert run("> /dev/full 2> /dev/full") == (2, "")
    assert run("| exec true") == (1, ""), "as click has it"


def test_a_defect_is_not_hidden(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("spikesearch.study.run_study", broken)
    with pytest.raises(ZeroDivisionError):
        cli("study", "run", write(tmp_path))


def test_a_storage_that_fails_in_the_middle(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    from spikesearch.storage import urls as storage

    monkeypatch.setattr(storage, "BUSY_TIMEOUT_S", 0.01)
    url = f"sqlite:///{tmp_path}/spikesearch.db"
    new_study(url)
    blocker = sqlite3.connect(tmp_path / "spikesearch.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    try:
        assert "The storage failed: database is locked" in cli("study", "delete", "tiny", "--yes").complaint
    finally:
        blocker.close()
