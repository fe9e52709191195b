from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import spikesearch
from spikesearch import Spikformer
from spikesearch.errors import ExportError, SpaceError
from spikesearch.export import export_network
from spikesearch.export.timm.hook import register_with_timm
from spikesearch.export.timm.network import HAND_MADE, TimmSpikformer
from spikesearch.nn import count_parameters
from tests.export.conftest import ARCH, fresh

NAME = "spikesearch_spikformer"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, net: Spikformer, digits: Tensor, facts: dict[str, Any]) -> Path:
    return export_network(net, tmp_path_factory.mktemp("timm") / "net", "timm", samples=digits[:64], facts=facts)


def created(**options: Any) -> TimmSpikformer:
    model = timm.create_model(NAME, arch=ARCH.to_dict(), in_chans=1, img_size=8, **options)
    assert isinstance(model, TimmSpikformer)
    return model.eval()


@pytest.mark.parametrize(
    "imports",
    [
        "import spikesearch, timm",
        "import timm, spikesearch",
        "import spikesearch, importlib.util as u; u.find_spec('timm'); import timm.models",
    ],
)
def test_importing_both_in_any_order_is_all_that_timm_needs(
    folder: Path, net: Spikformer, digits: Tensor, tmp_path: Path, imports: str
) -> None:
    code = f"""
import warnings; warnings.simplefilter("error", UserWarning)
{imports}
import torch
from safetensors.torch import load_file, save_file
torch.set_num_threads(1)
model = timm.create_model("local-dir:{folder}", pretrained=True).eval()
with torch.no_grad():
    save_file({{"logits": model(load_file("images")["images"])}}, "logits")
assert not any(type(finder).__name__ == "_AfterImport" for finder in __import__("sys").meta_path)
"""
    from safetensors.torch import load_file, save_file

    save_file({"images": digits[:100].clone()}, tmp_path / "images")
    environment = {**os.environ, "PYTHONPATH": str(Path(spikesearch.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert torch.equal(load_file(tmp_path / "logits")["logits"], net(digits[:100]))


def test_the_hook_waits_once_and_leaves_other_imports_alone() -> None:
    code = """
import sys, spikesearch
from spikesearch.export.timm.hook import _AfterImport, register_with_timm
register_with_timm()
waiting = [finder for finder in sys.meta_path if isinstance(finder, _AfterImport)]
assert len(waiting) == 1
assert waiting[0].find_spec("json") is None
sys.path.clear()
try:
    import timm
except ModuleNotFoundError as error:
    assert error.name == "timm", error
else:
    raise AssertionError("timm was found")
assert "torch" not in sys.modules
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(spikesearch.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_second_copy_of_the_package_does_no_harm() -> None:
    code = """
import sys, spikesearch
for name in [name for name in sys.modules if name.startswith("spikesearch")]:
    del sys.modules[name]
import spikesearch, timm
assert timm.list_models("spikesearch*") == ["spikesearch_spikformer"]
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(spikesearch.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_registering_again_changes_nothing(recwarn: pytest.WarningsRecorder) -> None:
    register_with_timm()
    assert timm.is_model(NAME)
    assert timm.list_models("spikesearch*") == [NAME]
    assert not [warning for warning in recwarn if "Overwriting" in str(warning.message)]


def test_timm_is_told_how_images_are_prepared(folder: Path, digits: Tensor) -> None:
    model = timm.create_model(f"local-dir:{folder}")
    config = timm.data.resolve_model_data_config(model)
    assert config["input_size"] == (1, 8, 8)
    assert config["mean"] == pytest.approx((4.88 / 255,))
    assert config["std"] == pytest.approx((6.02 / 255,))
    transform = timm.data.create_transform(**config, is_training=False)
    from PIL import Image
    from sklearn.datasets import load_digits

    raw = load_digits().images[0]
    ours = (torch.from_numpy(raw).float()[None] - 4.88) / 6.02
    torch.testing.assert_close(transform(Image.fromarray(raw.astype("uint8"))), ours, rtol=1e-4, atol=1e-5)
    assert json.loads((folder / "config.json").read_text())["label_names"] == [str(digit) for digit in range(10)]


def test_event_frames_have_no_preprocessing_of_timm(tmp_path: Path, digits: Tensor, facts: dict[str, Any]) -> None:
    frames = digits[:60].view(12, 5, 1, 8, 8).expand(-1, -1, 2, -1, -1)
    net = fresh(in_channels=2)
    folder = export_network(net, tmp_path / "x", "timm", samples=frames, facts=facts)
    assert "mean" not in json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    assert torch.equal(timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(frames), net(frames))


def test_currents_in_the_stream_and_their_thresholds(tmp_path: Path, membrane: Spikformer, digits: Tensor) -> None:
    folder = export_network(membrane, tmp_path / "x", "timm", samples=digits[:64])
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert model.residual == "membrane"
    assert torch.equal(model(digits[:64]), membrane(digits[:64]))
    features = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    assert torch.equal(membrane.head(features(digits[:5])), membrane(digits[:5]))
    assert "membrane currents" in (folder / "README.md").read_text()


def test_the_folder_is_also_one_of_ours(folder: Path, net: Spikformer, digits: Tensor) -> None:
    from spikesearch.export import load_network

    assert torch.equal(load_network(folder)(digits[:20]), net(digits[:20]))


def test_without_weights_the_architecture_is_restored(folder: Path) -> None:
    model = timm.create_model(f"local-dir:{folder}", pretrained=False)
    assert isinstance(model, Spikformer)
    assert model.arch == ARCH


def test_a_new_number_of_classes_keeps_the_rest(folder: Path, net: Spikformer, digits: Tensor) -> None:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3).eval()
    assert model(digits[:5]).shape == (5, 3)
    assert torch.equal(model.forward_features(digits[:5]), net.forward_features(digits[:5]))
    features = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    assert torch.equal(net.head(features(digits[:5])), net(digits[:5]))


def test_weights_of_one_channel_serve_three(folder: Path, net: Spikformer, digits: Tensor) -> None:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, in_chans=3).eval()
    logits = model(digits[:64].expand(-1, 3, -1, -1))
    assert float((logits.argmax(-1) == net(digits[:64]).argmax(-1)).float().mean()) > 0.9  # timm divides by three


def test_what_timm_calls_on_every_model(digits: Tensor) -> None:
    model = created(num_classes=4)
    assert model.num_classes == 4
    assert model.num_features == model.head_hidden_size == ARCH.embed_dim
    assert model.get_classifier() is model.head
    tokens = model.forward_features(digits[:6])
    assert tokens.shape == (ARCH.time_steps, 6, 16, ARCH.embed_dim)
    assert torch.equal(model.forward_head(tokens), model(digits[:6]))
    assert model.forward_head(tokens, pre_logits=True).shape == (6, ARCH.embed_dim)
    model.reset_classifier(7)
    assert model(digits[:6]).shape == (6, 7)
    model.reset_classifier(0, "avg")
    assert isinstance(model.get_classifier(), nn.Identity)
    assert torch.equal(model(digits[:6]), model.forward_head(tokens, pre_logits=True))
    with pytest.raises(ExportError, match="`global_pool` must be 'avg'"):
        model.reset_classifier(7, "token")


def test_every_parameter_gets_a_gradient(digits: Tensor) -> None:
    model = created().train()
    model(digits[:32]).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("arch", [ARCH, ARCH.to_dict(), json.dumps(ARCH.to_dict())], ids=["object", "dict", "json"])
def test_an_architecture_in_three_forms(arch: Any) -> None:
    assert timm.create_model(NAME, arch=arch, img_size=(16, 16)).arch == ARCH


def test_without_an_architecture_it_is_the_hand_made_one() -> None:
    with torch.device("meta"):
        model = timm.create_model(NAME)
    assert model.arch == HAND_MADE
    assert count_parameters(model) == pytest.approx(9.3e6, rel=0.02)  # Zhou et al., table 3


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"arch": "{"}, SpaceError, "`arch` must be an architecture"),
        ({"arch": "[]"}, SpaceError, "`arch` must be an architecture"),
        ({"arch": {"embed_dim": 8}}, SpaceError, "time_steps"),
        ({"img_size": (8, 16)}, ExportError, "`img_size` must be square, but got 8x16"),
        ({"features_only": True}, ExportError, "`features_only` must be False"),
    ],
)
def test_what_cannot_be_built(options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        timm.create_model(NAME, **options)
