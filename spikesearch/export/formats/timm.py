"""Networks as a folder that ``timm.create_model`` reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn

from spikesearch.errors import ExportError
from spikesearch.export.folder import WEIGHTS, write_weights
from spikesearch.export.portable import agreement
from spikesearch.export.registry import Export, ExportFormat, register
from spikesearch.export.timm.network import ENTRY
from spikesearch.io import atomic_write_json
from spikesearch.nn import Spikformer

CONFIG = "config.json"
SAME_PIXELS = 1e-3  # standard deviations; a step of 8-bit pixels is more than 1 / 128
USAGE = """import spikesearch  # makes the architecture known to timm
import timm

net = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
logits = net(images)"""


def _write(folder: Path, export: Export) -> dict[str, Any]:
    import timm

    import spikesearch.export.timm.entry  # noqa: F401 - registers

    write_weights(folder, export.net)
    atomic_write_json(folder / CONFIG, timm_config(export.net, export.description, events=export.samples.ndim == 5))
    state = torch.random.get_rng_state()  # timm initialises weights before it loads others
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    torch.random.set_rng_state(state)
    check = agreement(export.net, loaded, export.samples, "timm's network", exact=True)
    if export.images is not None and "normalisation" in export.description:
        check["prepared_by_timm"] = _check_preparation(loaded, export.images, export.samples)
    return check


def _check_preparation(loaded: nn.Module, images: Callable[[int], Image], samples: Tensor) -> int:
    """Let timm prepare the images that samples were made of, as the folder tells it, and return how many."""
    from timm.data import create_transform, resolve_data_config

    transform = create_transform(**resolve_data_config({}, model=loaded))
    others = sum(
        not torch.allclose(transform(images(i)), sample, rtol=SAME_PIXELS, atol=SAME_PIXELS)
        for i, sample in enumerate(samples)
    )
    if others:
        raise ExportError(
            f"timm prepares images otherwise than spikesearch: {others} of {len(samples)} get other pixels. This is a "
            "defect; please report it."
        )
    return len(samples)


def timm_config(net: Spikformer, facts: Mapping[str, Any], *, events: bool = False) -> dict[str, Any]:
    """Return what timm needs to build a network and to prepare its images.

    Args:
        net: The network.
        facts: ``class_names`` and ``normalisation`` (``mean`` and ``std`` of the raw values) are told to timm if known.
        events: Whether the network takes event frames, for which timm has no preprocessing.
    """
    args = net.plain_settings
    size = [args.pop("in_channels"), args["image_size"], args.pop("image_size")]
    data: dict[str, Any] = {
        "input_size": size,
        "fixed_input_size": True,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "num_classes": args.pop("num_classes"),
        "pool_size": None,
        "first_conv": "stem.stages.0.conv",
        "classifier": "head",
    }
    normalisation = facts.get("normalisation")
    if normalisation and not events:  # timm's images are 0 to 1 where ours are bytes
        data.update({key: [value / 255 for value in normalisation[key]] for key in ("mean", "std")})
    config = {
        "architecture": ENTRY,
        "num_classes": data["num_classes"],
        "num_features": net.arch.embed_dim,
        "model_args": {"arch": net.arch.to_dict(), "in_chans": size[0], "img_size": size[1], **args},
        "pretrained_cfg": data,
    }
    if facts.get("class_names"):
        config["label_names"] = list(facts["class_names"])
    return config


register(ExportFormat("timm", (WEIGHTS, CONFIG), USAGE, _write))
