"""Networks of several stages in every format: random architectures with every mixer, residual connection and stem."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from spikesearch import SearchSpace, Spikformer, Supernet
from spikesearch.errors import ExportError
from spikesearch.export import FORMATS, export_network, load_network, read_facts
from spikesearch.extensions import MIXERS
from spikesearch.nn.units import STEMS
from spikesearch.space.residual import RESIDUALS
from tests.export.conftest import all_digits

ATTENTION = {"qk", "ssa"}
NETWORKS = [(residual, stem) for residual in sorted(RESIDUALS) for stem in STEMS]


def space(stem: str) -> SearchSpace:
    return SearchSpace(
        embed_dims=(32, 64),
        time_steps=(2,),
        mlp_ratios=(0, 2),
        num_heads=(2,),
        v_thresholds=(0.6, 1.0),
        taus=(1.7, 3.0),
        stem_channels=(6, 10) if stem == "conv" else (0,),
        stages=[
            {"width": "1/4", "depths": [1, 2], "mixers": ["conv", "dwconv"]},
            {"width": "1/2", "depths": [1, 2], "mixers": ["qk", "dwconv"]},
            {"width": 1, "depths": [1, 2], "mixers": ["ssa", "conv", "qk"], "num_heads": [2, 4]},
        ],
    )


@cache
def extracted(residual: str, stem: str) -> Spikformer:
    """A random network, calibrated on digits, whose logits differ between samples."""
    torch.manual_seed(3)
    own = space(stem)
    net = Supernet(own, in_channels=1, image_size=8, num_classes=10, residual=residual, stem=stem)
    with torch.no_grad():
        for name, value in net.named_parameters():
            if name.endswith("bn.bias"):
                value.normal_(std=0.3)
    rng = np.random.default_rng(NETWORKS.index((residual, stem)))
    arch, images = own.sample(rng), all_digits()
    plain = net.extract(arch, net.calibrate(arch, images[:256]))
    assert float(plain(images[:64]).detach().std(0).min()) > 1e-3, "a dead network would agree with any other"
    return plain


def mixers(net: Spikformer) -> set[str]:
    return {block.mixer for block in net.arch.blocks}


def test_the_networks_have_every_mixer() -> None:
    assert set.union(*(mixers(extracted(*network)) for network in NETWORKS)) == set(MIXERS)


def _torch(folder: Path) -> Callable[[Tensor], Tensor]:
    run: Callable[[Tensor], Tensor] = torch.export.load(folder / "model.pt2").module()
    return run


def _timm(folder: Path) -> Callable[[Tensor], Tensor]:
    import timm

    model: Callable[[Tensor], Tensor] = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    return model


def _onnx(folder: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx")
    return lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0])


EXACT = {"safetensors": load_network, "timm": _timm, "torch": _torch}


@pytest.mark.parametrize("to", ["safetensors", "timm", pytest.param("torch", marks=pytest.mark.slow)])
@pytest.mark.parametrize("network", NETWORKS, ids="-".join)
def test_logits_are_the_same_bit_for_bit(tmp_path: Path, digits: Tensor, network: tuple[str, str], to: str) -> None:
    net = extracted(*network)
    folder = export_network(net, tmp_path / "x", to, samples=digits[:30])
    with torch.no_grad():
        for batch in (digits[30:100], digits[:1]):
            assert torch.equal(EXACT[to](folder)(batch), net(batch))


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS, ids="-".join)
def test_onnx_runtime_gives_the_same_classes(tmp_path: Path, digits: Tensor, network: tuple[str, str]) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    net = extracted(*network)
    folder = export_network(net, tmp_path / "x", "onnx", samples=digits[:30])
    with torch.no_grad():
        logits, expected = _onnx(folder)(digits), net(digits)
    near = torch.isclose(logits, expected, rtol=1e-4, atol=1e-5).all(1)
    assert float(near.float().mean()) >= 0.99  # a neuron at its threshold may tip
    assert float((logits.argmax(1) == expected.argmax(1)).float().mean()) >= 0.99


@pytest.mark.parametrize("network", NETWORKS, ids="-".join)
def test_nir_holds_it_or_names_the_blocks(tmp_path: Path, digits: Tensor, network: tuple[str, str]) -> None:
    pytest.importorskip("nir")
    net = extracted(*network)
    if mixers(net) & ATTENTION:
        with pytest.raises(ExportError, match="NIR cannot hold") as refusal:
            export_network(net, tmp_path / "x", "nir", samples=digits[:30])
        for stage, blocks in enumerate(net.arch.blocks_of_stages):
            for i, block in enumerate(blocks):
                named = f"`stages.{stage}.blocks.{i}.{MIXERS[block.mixer].module}`" in str(refusal.value)
                assert named == (block.mixer in ATTENTION)
    elif network[0] == "add" or network[1] == "sps":
        with pytest.raises(ExportError, match=r"takes the maximum of (sums of spikes|currents)"):
            export_network(net, tmp_path / "x", "nir", samples=digits[:30])
    else:
        folder = export_network(net, tmp_path / "x", "nir", samples=digits[:30])
        assert read_facts(folder)["check"]["same_class"] == 1


def test_every_format_is_among_them() -> None:
    integer = {name for name, about in FORMATS.items() if about.integer}  # see tests/device
    assert {*EXACT, "onnx", "nir", "nir-stem"} == set(FORMATS) - integer
    assert integer == {"c", "memory-files", "onnx-int8"}
