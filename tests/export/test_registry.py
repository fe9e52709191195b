"""A format that is defined outside of the package (see ``class_list``) is taken like those of the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from spikesearch import Spikformer
from spikesearch.errors import ExportError
from spikesearch.export import FORMATS, ExportFormat, export_network, read_facts, register


def test_python_exports_to_it(class_list: ExportFormat, tmp_path: Path, net: Spikformer, digits: Tensor) -> None:
    folder = export_network(net, tmp_path / "x", "class-list", samples=digits[:5], times=1)
    assert {path.name for path in folder.iterdir()} == {"classes.txt", "model.json", "README.md"}
    assert (folder / "classes.txt").read_text().split() == [str(int(label)) for label in net(digits[:5]).argmax(1)]
    assert 'open("FOLDER/classes.txt")' in (folder / "README.md").read_text()
    assert read_facts(folder)["check"] == {"samples": 5}


def test_its_own_check_comes_first(class_list: ExportFormat, tmp_path: Path, net: Spikformer, digits: Tensor) -> None:
    small = Spikformer(net.arch, in_channels=1, image_size=8, num_classes=3)
    with pytest.raises(ExportError, match=r"Digits only\."):
        export_network(small, tmp_path / "x", "class-list", samples=torch.zeros(1, 1, 8, 8))
    assert list(tmp_path.iterdir()) == []


def test_a_name_is_given_once(class_list: ExportFormat) -> None:
    assert register(class_list) is class_list  # a module that is imported again
    with pytest.raises(ValueError, match="The export format 'onnx' is registered already"):
        register(ExportFormat("onnx", (), "", lambda folder, export: {}))


def test_afterwards_it_is_unknown(tmp_path: Path, net: Spikformer, digits: Tensor) -> None:
    assert "class-list" not in FORMATS
    with pytest.raises(ExportError, match="`to` must be one of"):
        export_network(net, tmp_path / "x", "class-list", samples=digits[:5])


def test_a_package_brings_it_by_an_entry_point(tmp_path: Path) -> None:
    """In a process of its own, with a package that somebody installed."""
    (tmp_path / "classlist.py").write_text(
        "from spikesearch.export import ExportFormat, register\n"
        "register(ExportFormat('class-list', (), '', lambda folder, export: {}))\n"
    )
    facts = tmp_path / "classlist-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: classlist\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[spikesearch.export]\nclass-list = classlist\n")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from spikesearch.export import FORMATS
print("class-list" in FORMATS.names(), "classlist" in sys.modules, "class-list" in FORMATS)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["True", "False", "True"]
