from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spikesearch import EnergyModel, Spikformer
from spikesearch.energy import EnergyReport
from spikesearch.errors import ExportError
from spikesearch.export import FORMATS, export_network, load_network, read_facts
from tests.export.conftest import fresh


@pytest.fixture(scope="module")
def energies(net: Spikformer, digits: Tensor) -> list[EnergyReport]:
    return [EnergyModel(convention).report(net, digits[:100]) for convention in ("spikformer", "strict")]


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    net: Spikformer,
    digits: Tensor,
    facts: dict[str, Any],
    energies: list[EnergyReport],
) -> Path:
    target = tmp_path_factory.mktemp("formats") / "net"
    return export_network(net, target, "safetensors", samples=digits[:100], facts=facts, energies=energies)


def test_a_folder_gives_the_same_logits(folder: Path, net: Spikformer, digits: Tensor) -> None:
    assert torch.equal(load_network(folder)(digits), net(digits))
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "model.json", "README.md"}
    assert read_facts(folder)["check"] == {"samples": 100, "same_class": 1.0, "largest_difference": 0.0}


def numbers(card: str, header: str) -> dict[str, list[str]]:
    """The rows of the table that follows a header, by their first cell."""
    section = card.split(f"{header}\n", 1)[1].split("\n#", 1)[0]
    rows = [re.split(r" *\| *", line.strip("| ")) for line in section.splitlines() if line.startswith("|")]
    return {row[0].strip("`"): row[1:] for row in rows[2:]}


def test_the_card_has_every_layer_under_both_conventions(folder: Path, energies: list[EnergyReport]) -> None:
    card = (folder / "README.md").read_text()
    for report in energies:
        rows = numbers(card, f"### Convention `{report.convention}`, by layer")
        assert list(rows) == [layer.name for layer in report.layers]
        assert sum(float(row[-1]) for row in rows.values()) == pytest.approx(report.total_uJ, abs=1e-3)
        cells = numbers(card, "## Energy")[report.convention]
        once = report.first_layer_once_uJ
        assert cells[0].split(" to ")[0] == f"{report.total_uJ:.4f}"
        assert cells[-1] == ("" if once is None else f"{once:.4f}")


def test_the_card_says_what_where_from_and_how_good(folder: Path, net: Spikformer) -> None:
    card = (folder / "README.md").read_text()
    assert card.startswith("# digits, trial 7\n")
    for said in (
        "| test | 94.32% |",
        "| search | 95.10% |",
        "| train | 1,200 |",
        "| block 0 | 2 | 2 | 1.4 | 1.7 |",
        "| stem |  |  | 0.6 | 1.25 |",
        "Classes, in the order of the logits: 0, 1, 2",
        "(raw - mean) / std with mean 4.88 and std 6.02",
        "- supernet: beef",
        "- data: 0123456789abcdef",
        "- versions: torch 2.6",
        f"- weights: {read_facts(folder)['weights_hash']}",
        net.arch.key,
    ):
        assert said in card


def test_a_card_without_facts_claims_nothing(tmp_path: Path, net: Spikformer, digits: Tensor) -> None:
    card = (export_network(net, tmp_path / "x", "safetensors", samples=digits[:2]) / "README.md").read_text()
    assert f"# spikformer-{net.arch.key}" in card
    for header in ("## Accuracy", "## Data", "## Energy", "None", "- study", "- trial"):
        assert header not in card


def test_names_are_known_without_importing_the_formats() -> None:
    code = """
import sys
from spikesearch.extensions import EXPORT_FORMATS
print(*EXPORT_FORMATS.names(), "torch" in sys.modules)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == [*FORMATS, "False"]


@pytest.mark.parametrize("to", ["safetensors", "timm"])
def test_the_usage_in_the_card_works(
    tmp_path: Path, net: Spikformer, digits: Tensor, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_network(net, tmp_path / "FOLDER", to, samples=digits[:8])
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "FOLDER" / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {"images": digits[:8]}
    exec(code, names)
    assert torch.equal(names["logits"], net(digits[:8]))


def test_the_same_network_may_be_exported_again(folder: Path, net: Spikformer, digits: Tensor) -> None:
    before = read_facts(folder)
    export_network(net, folder, "safetensors", samples=digits[:100], facts=before)
    assert read_facts(folder) == before
    with pytest.raises(ExportError, match="in another format"):
        export_network(net, folder, "timm", samples=digits[:8])
    assert read_facts(folder) == before


@pytest.mark.parametrize(
    ("to", "options", "says"),
    [
        (
            "onxx",
            {},
            "`to` must be one of c, memory-files, nir, nir-stem, onnx, onnx-int8, safetensors, timm, torch, "
            "but got 'onxx'; did you mean 'onnx'",
        ),
        ("torch", {"opset": 18}, "`opset` must be left out for the format 'torch': only 'onnx' and 'onnx-int8' have"),
        ("torch", {"colour": "red"}, "`colour` must be left out for the format 'torch': no format has one"),
        ("safetensors", {"samples": torch.zeros(0, 1, 8, 8)}, "`samples` must hold at least one"),
    ],
)
def test_what_cannot_be_asked_for(
    tmp_path: Path, net: Spikformer, digits: Tensor, to: str, options: Mapping[str, Any], says: str
) -> None:
    with pytest.raises(ExportError, match=re.escape(says)):
        export_network(net, tmp_path / "x", to, **{"samples": digits[:8], **options})
    assert list(tmp_path.iterdir()) == []


def test_the_network_itself_is_left_as_it_was(tmp_path: Path, digits: Tensor) -> None:
    net = fresh().train()
    export_network(net, tmp_path / "x", "safetensors", samples=digits[:8])
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
