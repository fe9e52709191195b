"""What timm's own scripts do with a network: train.py and validate.py step by step, and the scripts themselves.

The scripts are not part of timm's package. Where ``TIMM_SCRIPTS`` names a folder that holds them, they are run.
"""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.models import save_for_hf
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, CheckpointSaver, ModelEmaV3, accuracy
from torch import Tensor, nn

import spikesearch
from spikesearch import Spikformer
from spikesearch.errors import ExportError
from spikesearch.export import export_network
from spikesearch.export.timm.network import TimmSpikformer
from tests.export.conftest import ARCH, fresh

NAME = "spikesearch_spikformer"
SIZE = 16
# what train.py passes to create_model when it is called without options (timm drops what is None)
STANDARD: dict[str, Any] = {
    "in_chans": None,
    "num_classes": None,
    "drop_rate": 0.0,
    "drop_path_rate": None,
    "drop_block_rate": None,
    "global_pool": None,
    "bn_momentum": None,
    "bn_eps": None,
    "scriptable": False,
    "checkpoint_path": "",
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of colour images in folders, of all shapes."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 12), ("validation", 8)):
        for label, channel in (("blue", 2), ("red", 0)):
            (folder / split / label).mkdir(parents=True)
            for i in range(count):
                height, width = rng.integers(SIZE, 3 * SIZE, 2)
                pixels = rng.integers(0, 120, (height, width, 3))
                pixels[..., channel] += 130
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / label / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, facts: dict[str, Any]) -> Path:
    """An exported network for these images."""
    net = fresh(in_channels=3, num_classes=2)
    torch.manual_seed(0)
    net = Spikformer(ARCH, in_channels=3, image_size=SIZE, num_classes=2).eval()
    facts = {**facts, "class_names": ["blue", "red"], "normalisation": {"mean": [90.0] * 3, "std": [60.0] * 3}}
    target = tmp_path_factory.mktemp("timm") / "net"
    return export_network(net, target, "timm", samples=torch.randn(8, 3, SIZE, SIZE), facts=facts)


def loader(images: Path, split: str, config: dict[str, Any], **options: Any) -> Any:
    wanted = {key: config[key] for key in ("input_size", "mean", "std", "interpolation", "crop_pct")}
    return create_loader(
        create_dataset("", root=str(images), split=split),
        batch_size=8,
        use_prefetcher=False,
        num_workers=0,
        device=torch.device("cpu"),
        **wanted,
        **options,
    )


@torch.no_grad()
def validate(model: nn.Module, batches: Any) -> float:
    """The loop of validate.py: accuracy in per cent."""
    model.eval()
    top1 = AverageMeter()
    for x, target in batches:
        (acc,) = accuracy(model(x), target, topk=(1,))
        top1.update(acc.item(), x.size(0))
    return float(top1.avg)


def test_a_training_as_timm_does_it_and_back(folder: Path, images: Path, tmp_path: Path) -> None:
    args = Namespace(model=f"local-dir:{folder}", epochs=2)
    model = timm.create_model(args.model, pretrained=True, **{**STANDARD, "drop_path_rate": 0.2})
    before = {name: value.clone() for name, value in model.named_parameters()}
    config = resolve_data_config(vars(args), model=model)
    assert config["input_size"] == (3, SIZE, SIZE)
    batches = loader(images, "train", config, is_training=True)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.75)
    assert len({group["lr_scale"] for group in optimizer.param_groups}) == len(ARCH.blocks) + 2  # stem, blocks, head
    scheduler, epochs = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=args.epochs, updates_per_epoch=len(batches)
    )
    ema = ModelEmaV3(model, decay=0.5)
    saver = CheckpointSaver(model, optimizer, args=args, model_ema=ema, checkpoint_dir=str(tmp_path))
    for epoch in range(epochs):
        model.train()
        for x, target in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), target).backward()
            optimizer.step()
            ema.update(model)
        scheduler.step(epoch + 1)
        saver.save_checkpoint(epoch, metric=validate(ema.module, loader(images, "validation", config)))
    assert all(not torch.equal(value, before[name]) for name, value in model.named_parameters())

    best = timm.create_model(args.model, checkpoint_path=str(tmp_path / "model_best.pth.tar"))
    again = timm.create_model(args.model, checkpoint_path=str(tmp_path / "last.pth.tar")).eval()
    assert isinstance(best, TimmSpikformer)
    x = torch.randn(6, 3, SIZE, SIZE)
    assert torch.equal(again(x), ema.module.eval()(x))

    save_for_hf(again, str(tmp_path / "hub"))
    hub = timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True).eval()
    assert torch.equal(hub(x), again(x))
    kept = resolve_data_config({}, model=hub)
    assert {**kept, "mean": pytest.approx(kept["mean"]), "std": pytest.approx(kept["std"])} == config


@pytest.mark.parametrize("safe", [False, True, "both"])
@pytest.mark.parametrize("arch", [ARCH, ARCH.to_dict()], ids=["object", "dict"])
@pytest.mark.parametrize("residual", ["add", "membrane"])
def test_a_folder_for_the_hub_and_back(tmp_path: Path, digits: Tensor, safe: Any, arch: Any, residual: str) -> None:
    options = {**STANDARD, "in_chans": 1, "img_size": 8, "residual": residual, "pool_stages": (1, 3)}
    model = timm.create_model(NAME, arch=arch, **options).eval()
    model.reset_classifier(7)
    save_for_hf(model, str(tmp_path / "hub"), safe_serialization=safe)
    again = timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True).eval()
    assert (again.num_classes, again.residual, again.pool_stages) == (7, residual, (1, 3))
    assert torch.equal(again(digits[:16]), model(digits[:16]))


def created(**options: Any) -> TimmSpikformer:
    torch.manual_seed(0)
    model = timm.create_model(NAME, arch=ARCH.to_dict(), in_chans=1, img_size=8, **options)
    assert isinstance(model, TimmSpikformer)
    return model


@pytest.mark.parametrize(
    "options",
    [
        STANDARD,
        {"drop_path_rate": 0.0, "drop_block_rate": 0.0, "attn_drop_rate": 0.0, "proj_drop_rate": 0.0},
        {"global_pool": "avg"},
        {"bn_momentum": 0.1, "bn_eps": 1e-5},
        {"exportable": True, "no_jit": True},
        {"device": "cpu", "dtype": torch.float32},
    ],
)
def test_what_timm_passes_by_default_changes_nothing(options: dict[str, Any], digits: Tensor) -> None:
    expected = created().eval()(digits[:20])
    options = {key: value for key, value in options.items() if key != "in_chans"}
    assert torch.equal(created(**options).eval()(digits[:20]), expected)
    torch.manual_seed(1)
    assert created(**options).train()(digits[:20]).isfinite().all()


def test_features_are_dropped_in_front_of_the_head(digits: Tensor) -> None:
    model = created(drop_rate=0.5, num_classes=0)
    dropped = model.train()(digits[:200])
    model.head_drop.p = 0.0
    kept = model(digits[:200])
    assert float((dropped == 0).float().mean() - (kept == 0).float().mean()) > 0.1
    scaled = dropped != 0
    torch.testing.assert_close(dropped[scaled], 2 * kept[scaled])  # those kept make up for those dropped
    assert torch.equal(created(drop_rate=0.5).eval()(digits[:9]), created().eval()(digits[:9]))


def test_a_sample_skips_a_branch_in_all_time_steps_or_in_none(digits: Tensor) -> None:
    arch = replace(ARCH, blocks=ARCH.blocks * 2)
    torch.manual_seed(0)
    options: dict[str, Any] = {"in_chans": 1, "img_size": 8, "residual": "membrane"}
    model = timm.create_model(NAME, arch=arch, drop_path_rate=0.4, **options).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.ones_(module.bias)  # no branch is silent by itself
    outputs: dict[int, Tensor] = {}
    for i, (_, branch) in enumerate(model.branches()):
        branch.register_forward_hook(lambda module, args, out, i=i: outputs.__setitem__(i, out.detach()))
    model(digits[:400])
    skipped = [(out == 0).all(-1).all(-1) for out in outputs.values()]  # [T, N]
    assert all(torch.equal(step, out[0]) for out in skipped for step in out)
    rates = [float(out[0].float().mean()) for out in skipped]
    assert rates[:2] == [0.0, 0.0]
    assert rates[2:] == pytest.approx([0.4, 0.4], abs=0.08)
    model.eval()
    assert torch.equal(model(digits[:5]), model(digits[:5]))


def test_norms_are_those_asked_for() -> None:
    norms = [module for module in created(bn_momentum=0.03, bn_eps=1e-3).modules() if hasattr(module, "running_var")]
    assert norms
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.03, 1e-3)}


def test_without_pooling_there_are_features_of_tokens(digits: Tensor) -> None:
    model = created(num_classes=0, global_pool="").eval()
    tokens = model(digits[:6])
    assert tokens.shape == (6, 16, ARCH.embed_dim)
    pooled = created(num_classes=0).eval()(digits[:6])
    torch.testing.assert_close(tokens.mean(1), pooled)
    model.reset_classifier(4, "avg")
    assert model(digits[:6]).shape == (6, 4)
    model.reset_classifier(4, "")
    assert model(digits[:6]).shape == (6, 16, 4)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"global_pool": "token"}, "`global_pool` must be 'avg' or '', but got 'token'"),
        ({"drop_rate": 1.5}, "`drop_rate` must be at least 0 and below 1, but got 1.5"),
        ({"drop_path_rate": 1.0}, "`drop_path_rate` must be at least 0 and below 1, but got 1.0"),
        ({"drop_path_rate": -0.1}, "`drop_path_rate` must be at least 0 and below 1, but got -0.1"),
        ({"drop_block_rate": 0.1}, "`drop_block_rate` must be 0, but got 0.1"),
        ({"attn_drop_rate": 0.1}, "`attn_drop_rate` must be 0, but got 0.1"),
        ({"depht": 3}, "`depht` is no argument of a Spikformer"),
        ({"in_channels": 3}, "`in_channels` is no argument of a Spikformer; did you mean 'in_chans'?"),
    ],
)
def test_what_cannot_be_honoured_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ExportError, match=re.escape(says)):
        created(**options)


def test_checkpointing_of_gradients_is_refused() -> None:
    model = created()
    model.set_grad_checkpointing(enable=False)
    with pytest.raises(ExportError, match="gradient checkpointing"):
        model.set_grad_checkpointing()


@pytest.fixture(scope="module")
def scripts() -> Path:
    path = Path(os.environ.get("TIMM_SCRIPTS", "scripts of timm"))
    if not (path / "train.py").exists():
        pytest.skip("set TIMM_SCRIPTS to a folder with train.py and validate.py of timm")
    return path


def run(script: Path, *arguments: object, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(Path(spikesearch.__file__).parents[1])}
    code = "import sys, runpy, spikesearch; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, str(script), *map(str, arguments), "--device", "cpu"]
    ended = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout + ended.stderr


def test_the_scripts_themselves(scripts: Path, folder: Path, images: Path, tmp_path: Path) -> None:
    common = ("--data-dir", images, "--workers", 0, "--no-prefetcher", "--batch-size", 8)
    run(
        scripts / "train.py",
        *("--model", f"local-dir:{folder}", "--pretrained", "--epochs", 1, "--model-ema", "--drop-path", 0.1),
        *("--output", tmp_path / "out", "--experiment", "x", "--layer-decay", 0.8, *common),
        cwd=tmp_path,
    )
    last = tmp_path / "out" / "x" / "last.pth.tar"
    for checkpoint in ([], ["--checkpoint", last]):
        run(
            scripts / "validate.py",
            *("--model", f"local-dir:{folder}", "--pretrained", *checkpoint, "--split", "validation"),
            *("--results-file", "results.csv", *common),
            cwd=tmp_path,
        )
        (row,) = csv.DictReader((tmp_path / "results.csv").read_text().splitlines())
        model = timm.create_model(
            f"local-dir:{folder}", pretrained=True, checkpoint_path=str(last) if checkpoint else ""
        )
        batches = loader(images, "validation", resolve_data_config({}, model=model))
        assert float(row["top1"]) == pytest.approx(validate(model, batches), abs=1e-3)
