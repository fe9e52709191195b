"""A Spikformer with the interface of timm's models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from spikesearch.errors import ExportError, SpaceError
from spikesearch.nn import Spikformer
from spikesearch.nn.functional import classify
from spikesearch.space import Architecture, BlockSpec, StemSpec

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
        """Give the network a fresh head.

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
        self.head = head.to(weight.device, weight.dtype)

    def forward_head(self, x_seq: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits ``[N, classes]``, or the pooled features ``[N, D]``.

        Args:
            x_seq: Tokens ``[T, N, tokens, D]`` from ``forward_features``.
            pre_logits: Return the features.
        """
        return classify(x_seq, nn.Identity() if pre_logits else self.head)


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
