"""``subnet quantise``, and exports of networks in integers, on a study of its own."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from spikesearch.device import Program
from spikesearch.errors import ExportError, StudyError
from spikesearch.export import load_network, read_facts
from spikesearch.study import run_study
from spikesearch.study.session import Session, open_trained
from spikesearch.subnet.export import export_subnet
from spikesearch.subnet.quantise import quantise_subnet
from spikesearch.subnet.retrain import retrain_subnet
from tests.commands import Result
from tests.study.helpers import tiny_config


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study of two trials."""
    folder = tmp_path_factory.mktemp("work")
    run_study(tiny_config(search__n_trials=2), storage=f"sqlite:///{folder / 'spikesearch.db'}", progress=False)
    return folder


@pytest.fixture
def cli_folder(workplace: Path) -> Path:
    """The command line works where the study is."""
    return workplace


@pytest.fixture(scope="module")
def trained(workplace: Path) -> Session:
    return open_trained("tiny", storage=f"sqlite:///{workplace / 'spikesearch.db'}")


def test_from_the_command_line(workplace: Path, trained: Session, cli: Callable[..., Result]) -> None:
    result = cli("subnet", "quantise", "tiny", "--trial", 1, "--format", "json", "--output", "q1")
    assert result.status == 0, result.err
    told = json.loads(result.out)
    program = Program.load(workplace / "q1")
    search = trained.data.search
    right = program.run(search.images(range(len(search)))).argmax(-1) == search.labels.numpy()
    assert told["int8"]["accuracy"] == pytest.approx(right.mean())
    assert told["float"]["accuracy"] == trained.study.trials[1].values[0]
    assert set(told["int8"]["energy_uJ"]) == {"memory", "spikformer", "strict"}
    flash = sum(array.nbytes for name, array in program.arrays.items() if not name.endswith(".leak"))
    assert told["int8"]["size"]["flash"] <= flash
    assert read_facts(workplace / "q1")["int8"]["accuracy"] == told["int8"]["accuracy"]
    assert load_network(workplace / "q1").arch == trained.scorer().extract(program.layout.arch).arch


def test_the_table_and_the_value(cli: Callable[..., Result]) -> None:
    table = cli("subnet", "quantise", "tiny", "--split", "test")
    assert table.status == 0, table.err
    assert "On the test split" in table.out
    assert re.search(r"float32 +│? *\d|float32", table.out)
    value = cli("subnet", "quantise", "tiny", "--format", "value")
    assert 0 <= float(value.out) <= 1


def test_again_is_the_same_folder_and_another_network_is_refused(trained: Session, tmp_path: Path) -> None:
    first = quantise_subnet(trained, 0, output=tmp_path / "q", progress=False)
    files = {path.name: path.read_bytes() for path in first.folder.iterdir()}
    again = quantise_subnet(trained, 0, output=tmp_path / "q", progress=False)
    assert {path.name: path.read_bytes() for path in again.folder.iterdir()} == files
    with pytest.raises(ExportError, match="holds another network"):
        quantise_subnet(trained, 1, output=tmp_path / "q", progress=False)


def test_fine_tuning_changes_the_network_that_is_rounded(trained: Session, tmp_path: Path) -> None:
    plain = quantise_subnet(trained, 0, output=tmp_path / "plain", progress=False)
    tuned = quantise_subnet(trained, 0, output=tmp_path / "tuned", epochs=1, progress=False)
    assert tuned.floats.accuracy == plain.floats.accuracy
    before, after = (Program.load(folder).arrays["head.weight"] for folder in (plain.folder, tuned.folder))
    assert not np.array_equal(before, after)
    assert not [path for path in tmp_path.iterdir() if path.name not in ("plain", "tuned")]


def test_a_retrained_network_and_its_c_program(trained: Session, tmp_path: Path) -> None:
    retrained = retrain_subnet(trained, 0, epochs=1, progress=False)
    quantised = quantise_subnet(trained, network=retrained.folder, output=tmp_path / "q", progress=False)
    folder = export_subnet(trained, to="c", network=quantised.folder, output=tmp_path / "c")
    facts = read_facts(folder)
    assert facts["device"] == quantised.size.to_dict()
    assert facts["int8"] == read_facts(quantised.folder)["int8"]
    assert facts["check"]["differences"] == (0 if shutil.which("cc") else facts["check"]["differences"])
    card = (folder / "README.md").read_text()
    assert "```c\n" in card
    assert f"RAM: {quantised.size.ram:,} bytes" in card
    assert "unsigned bytes `[1, 8, 8]`" in card
    assert "#ifndef TINY_0_H" in (folder / "network.h").read_text()


def test_exports_of_a_trial_hold_the_same_integers(
    workplace: Path, trained: Session, cli: Callable[..., Result]
) -> None:
    for to in ("onnx-int8", "memory-files", "c"):
        result = cli("subnet", "export", "tiny", "--trial", 1, "--to", to, "--output", f"as-{to}")
        assert result.status == 0, result.err
    program = Program.load(quantise_subnet(trained, 1, progress=False).folder)
    samples = trained.data.test.images(range(50))
    session = onnxruntime.InferenceSession(workplace / "as-onnx-int8" / "model.onnx")
    (logits,) = session.run(["logits"], {"images": samples.numpy()})
    assert np.array_equal(logits.argmax(-1), program.run(samples).argmax(-1))
    weight = (workplace / "as-memory-files" / "arrays" / "head.weight.mem").read_text().split()
    assert len(weight) == program.arrays["head.weight"].size
    assert read_facts(workplace / "as-onnx-int8")["check"]["same_class"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--bits", 4), "`bits` must be 8, but got 4."),
        (("--epochs", -1), "`epochs` must be at least 0, but got -1."),
        (("--trial", 99), "99"),
        (("--network", "nowhere"), "nowhere does not exist"),
        (("--network", "nowhere", "--trial", 0), "not both"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[object, ...], message: str, cli: Callable[..., Result]) -> None:
    result = cli("subnet", "quantise", "tiny", *arguments)
    assert result.status != 0
    (line,) = result.err.strip().splitlines()
    assert message in line


def test_a_folder_of_something_else_is_refused_before_anything_is_trained(trained: Session, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("text")
    with pytest.raises(ExportError, match="is not empty"):
        quantise_subnet(trained, 0, output=tmp_path, epochs=10_000, progress=False)
    with pytest.raises(StudyError, match="not both"):
        quantise_subnet(trained, 0, network=tmp_path, progress=False)
