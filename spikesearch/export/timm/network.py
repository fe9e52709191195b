"""A Spikformer with the interface of timm's models, and the folder that ``timm.create_model`` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spikesearch.errors import ExportError, SpaceError
from spikesearch.export.folder import settings, write_weights
from spikesearch.export.portable import agreement
from spikesearch.io import atomic_write_json
from spikesearch.nn import Spikformer
from spikesearch.nn.functional import classify
from spikesearch.space import Architecture, BlockSpec, StemSpec

CONFIG = "config.json"
ENTRY = "spikesearch_spikformer"

# Spikformer-4-384, the network that Zhou et al. (ICLR 2023) made by hand for CIFAR.
HAND_MADE = Architecture(384, 4, StemSpec(1.0, 2.0), (BlockSpec(12, 4.0, 1.0, 2.0),) * 4)


class TimmSpikformer(Spikformer):
    """A :class:`~spikesearch.Spikformer` that timm's functions and training scripts can work with.

    Args:
        arch: The architecture, its dictionary, or that as JSON text.
        num_classes: Number of classes; 0 for the pooled features instead of logits.
        in_chans: Channels of the images.
        img_size: Height and width of the images, in pixels.
        **options: Other arguments of :class:`~spikesearch.Spikformer`.

    Raises:
        SpaceError: If no network can be built from ``arch``.
        ExportError: If the images are not square.
    """

    global_pool = "avg"

    def __init__(
        self,
        arch: Architecture | Mapping[str, Any] | str = HAND_MADE,
        *,
        num_classes: int = 10,
        in_chans: int = 3,
        img_size: int | Sequence[int] = 32,
        **options: Any,
    ) -> None:
        stages = options.pop("pool_stages", None)
        super().__init__(
            _architecture(arch),
            in_channels=in_chans,
            image_size=_side(img_size),
            num_classes=max(num_classes, 1),
            pool_stages=None if stages is None else tuple(stages),
            **options,
        )
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = self.embed_dim = self.arch.embed_dim
        if num_classes == 0:
            self.reset_classifier(0)

    def get_classifier(self) -> nn.Module:
        """Return the head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a fresh one.

        Args:
            num_classes: Number of classes; 0 for the pooled features instead of logits.
            global_pool: ``"avg"`` or ``None``; a Spikformer averages over time and tokens.

        Raises:
            ExportError: If ``global_pool`` is something else.
        """
        if global_pool not in (None, "avg"):
            raise ExportError(f"`global_pool` must be 'avg', but got {global_pool!r}.")
        weight = next(self.stem.parameters())
        self.num_classes = num_classes
        head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        self.head = head.to(weight.device, weight.dtype)  # type: ignore[assignment]

    def forward_head(self, x_seq: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits ``[N, classes]``, or the pooled features ``[N, D]``.

        Args:
            x_seq: Tokens ``[T, N, tokens, D]`` from ``forward_features``.
            pre_logits: Return the features.
        """
        return classify(x_seq, nn.Identity() if pre_logits else self.head)


def write_timm(folder: Path, net: Spikformer, samples: Tensor, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``config.json`` and ``model.safetensors``, let timm build the network and compare it on real samples.

    Args:
        folder: Existing folder.
        net: The network on the CPU, in evaluation mode.
        samples: Real samples, ``[N, C, H, W]`` or ``[N, F, C, H, W]``.
        facts: ``class_names`` and ``normalisation`` (``mean`` and ``std`` of the raw values) are told to timm if known.

    Returns:
        See :func:`~spikesearch.export.portable.agreement`.
    """
    import timm

    import spikesearch.export.timm.entry  # noqa: F401 - registers

    write_weights(folder, net)
    atomic_write_json(folder / CONFIG, timm_config(net, facts, events=samples.ndim == 5))
    state = torch.random.get_rng_state()  # timm initialises weights before it loads others
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    torch.random.set_rng_state(state)
    return agreement(net, loaded, samples, "timm's network", exact=True)


def timm_config(net: Spikformer, facts: Mapping[str, Any], *, events: bool = False) -> dict[str, Any]:
    """Return what timm needs to build a network and to prepare its images.

    Args:
        net: The network.
        facts: See :func:`write_timm`.
        events: Whether the network takes event frames, for which timm has no preprocessing.
    """
    args = settings(net)
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


def _architecture(arch: Architecture | Mapping[str, Any] | str) -> Architecture:
    if isinstance(arch, Architecture):
        return arch
    if isinstance(arch, Mapping):
        return Architecture.from_dict(arch)
    try:
        return Architecture.from_dict(json.loads(arch))
    except ValueError as error:  # also what is no architecture
        raise SpaceError(f"`arch` must be an architecture, or JSON of one, but got {arch!r}: {error}") from None


def _side(img_size: int | Sequence[int]) -> int:
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    if height != width:
        raise ExportError(f"`img_size` must be square, but got {height}x{width}.")
    return height
