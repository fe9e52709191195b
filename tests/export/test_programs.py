"""ONNX models and torch.export programs: they run where this package is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import spikesearch
from spikesearch import Spikformer
from spikesearch.errors import ExportError, MissingDependencyError
from spikesearch.export import export_network, read_facts
from tests.export.conftest import ARCH, fresh


def without_this_package(code: str, cwd: Path) -> str:
    """Run code in a process that can import neither spikesearch nor SpikingJelly."""
    hidden = "import sys; sys.modules['spikesearch'] = sys.modules['spikingjelly'] = None\n"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", hidden + code], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory, net: Spikformer, digits: Tensor, facts: dict[str, Any]) -> Path:
    return export_network(net, tmp_path_factory.mktemp("torch") / "net", "torch", samples=digits[:100], facts=facts)


@pytest.fixture(scope="module")
def onnx_folder(
    tmp_path_factory: pytest.TempPathFactory, net: Spikformer, digits: Tensor, facts: dict[str, Any]
) -> Path:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    return export_network(net, tmp_path_factory.mktemp("onnx") / "net", "onnx", samples=digits[:100], facts=facts)


def test_a_program_gives_the_same_logits_for_any_batch(program: Path, net: Spikformer, digits: Tensor) -> None:
    run = torch.export.load(program / "model.pt2").module()
    with torch.no_grad():
        for batch in (digits, digits[:1], digits[:7]):
            assert torch.equal(run(batch), net(batch))


def test_a_program_needs_torch_alone(program: Path, net: Spikformer, digits: Tensor) -> None:
    np.save(program.parent / "images.npy", digits[:30].numpy())
    code = f"""
import numpy, torch
run = torch.export.load({str(program / "model.pt2")!r}).module()
numpy.save("logits.npy", run(torch.from_numpy(numpy.load("images.npy"))).detach().numpy())
"""
    without_this_package(code, program.parent)
    torch.testing.assert_close(torch.from_numpy(np.load(program.parent / "logits.npy")), net(digits[:30]))


@pytest.mark.slow
def test_programs_of_currents_in_the_stream(tmp_path: Path, membrane: Spikformer, digits: Tensor) -> None:
    folder = export_network(membrane, tmp_path / "torch", "torch", samples=digits[:100])
    run = torch.export.load(folder / "model.pt2").module()
    with torch.no_grad():
        assert torch.equal(run(digits), membrane(digits))
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    folder = export_network(membrane, tmp_path / "onnx", "onnx", samples=digits[:100])
    import onnxruntime

    (logits,) = onnxruntime.InferenceSession(folder / "model.onnx").run(None, {"images": digits.numpy()})
    assert (logits.argmax(1) == membrane(digits).argmax(1).numpy()).mean() >= 0.99


def test_a_program_of_event_frames(tmp_path: Path, digits: Tensor) -> None:
    frames = digits[:60].view(12, 5, 1, 8, 8).expand(-1, -1, 2, -1, -1)
    net = fresh(in_channels=2)
    folder = export_network(net, tmp_path / "x", "torch", samples=frames)
    run = torch.export.load(folder / "model.pt2").module()
    assert torch.equal(run(frames[:3]), net(frames[:3]))


def test_a_model_gives_the_same_logits_for_any_batch(onnx_folder: Path, net: Spikformer, digits: Tensor) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_folder / "model.onnx")
    assert [(value.name, value.shape) for value in session.get_inputs()] == [("images", ["batch", 1, 8, 8])]
    assert [(value.name, value.shape) for value in session.get_outputs()] == [("logits", ["batch", 10])]
    with torch.no_grad():
        for batch in (digits, digits[:1], digits[:7]):
            (logits,) = session.run(None, {"images": batch.numpy()})
            expected = net(batch).numpy()
            near = np.isclose(logits, expected, rtol=1e-4, atol=1e-5).all(1)
            assert near.mean() >= 0.99  # a neuron at its threshold may tip
            assert (logits.argmax(1) == expected.argmax(1)).mean() >= 0.99


def test_a_model_is_standard_and_says_what_it_is(onnx_folder: Path) -> None:
    import onnx

    model = onnx.load(onnx_folder / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {(entry.domain, entry.version) for entry in model.opset_import} == {("", 18)}
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert {entry.key: entry.value for entry in model.metadata_props}.keys() == {"spikesearch.architecture"}


@pytest.mark.parametrize("name", ["program", "onnx_folder"])
def test_files_hold_neither_samples_nor_names_of_this_machine(name: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    (file,) = (path for path in folder.iterdir() if path.suffix in (".onnx", ".pt2"))
    content = file.read_bytes()
    for place in (Path(spikesearch.__file__).parent, Path(torch.__file__).parent, Path.home()):
        assert str(place).encode() not in content
    assert request.getfixturevalue("digits")[0].numpy().tobytes() not in content
    assert read_facts(folder)["check"]["same_class"] >= 0.99


@pytest.mark.parametrize("opset", [0, 17, 999])
def test_an_opset_that_is_missing_is_named_before_anything_is_written(
    tmp_path: Path, net: Spikformer, digits: Tensor, opset: int
) -> None:
    pytest.importorskip("onnxscript")
    with pytest.raises(ExportError, match=f"`opset` must be from 18 to .* but got {opset}"):
        export_network(net, tmp_path / "x", "onnx", samples=digits[:8], opset=opset)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_opset_that_the_runtime_does_not_know_leaves_nothing(
    tmp_path: Path, net: Spikformer, digits: Tensor, onnx_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx
    import onnxruntime

    model = onnx.load(onnx_folder / "model.onnx")
    model.opset_import[0].version = 10_000  # from a torch that is newer than the runtime
    newer, load = model.SerializeToString(), onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda _, *rest, **options: load(newer, *rest, **options))
    with pytest.raises(ExportError, match=r"ONNX Runtime .* cannot load a model of opset 18"):
        export_network(net, tmp_path / "x", "onnx", samples=digits[:8])
    assert list(tmp_path.iterdir()) == []


def test_an_older_opset_than_asked_for_is_not_passed_off(
    tmp_path: Path, net: Spikformer, digits: Tensor, onnx_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    class Converted:
        model_proto = onnx.load(onnx_folder / "model.onnx")

    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: Converted)  # torch warns and keeps what it has
    with pytest.raises(ExportError, match="torch wrote ONNX opset 18 where 20 was asked for"):
        export_network(net, tmp_path / "x", "onnx", samples=digits[:8], opset=20)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_extra_is_named(
    tmp_path: Path, net: Spikformer, digits: Tensor, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("onnx", "onnxscript", "onnxruntime"):
        if other == package:
            break
        pytest.importorskip(other)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"{package} .*pip install 'spikesearch\[onnx\]'"):
        export_network(net, tmp_path / "x", "onnx", samples=digits[:8])
    assert list(tmp_path.iterdir()) == []


def test_the_architecture_travels_with_the_model(onnx_folder: Path) -> None:
    import onnx

    (entry,) = onnx.load(onnx_folder / "model.onnx").metadata_props
    assert spikesearch.Architecture.from_dict(json.loads(entry.value)) == ARCH
