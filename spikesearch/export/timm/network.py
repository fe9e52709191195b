"""A Spikformer with the interface of timm's models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from spikesearch.errors import ExportError, SpaceError, did_you_mean
from spikesearch.nn import Spikformer
from spikesearch.nn.functional import classify
from spikesearch.nn.network import SETTINGS
from spikesearch.space import Architecture, BlockSpec, StemSpec

ENTRY = "spikesearch_spikformer"

# Spikformer-4-384, the network that Zhou et al. (ICLR 2023) made by hand for CIFAR.
HAND_MADE = Architecture(384, 4, StemSpec(1.0, 2.0), (BlockSpec(12, 4.0, 1.0, 2.0),) * 4)

_RENAMED = {"in_channels", "image_size", "num_classes"}  # settings that timm calls otherwise


class TimmSpikformer(Spikformer):
    """A :class:`~spikesearch.Spikformer` that timm's functions and training scripts can work with.

    Args:
        arch: The architecture, its dictionary, or that as JSON text.
        num_classes: Number of classes; 0 for the features instead of logits.
        in_chans: Channels of the images.
        img_size: Height and width of the images, in pixels.
        global_pool: ``"avg"`` for the mean over time and tokens; ``""`` for the mean over time alone, so that the head,
            if there is one, sees every token: ``[N, tokens, classes]``.
        drop_rate: Probability with which a feature in front of the head is dropped in training.
        drop_path_rate: Probability with which a sample skips a branch of the last block in training; it grows linearly
            from 0 in the first block, and a sample skips a branch in all its time steps or in none.
        bn_momentum: Of all batch-norms; ``None`` for torch's.
        bn_eps: Likewise.
        device: Where the network shall be.
        dtype: Of its weights.
        **options: ``pool_stages`` and ``residual`` of :class:`~spikesearch.Spikformer`. timm's other rates
            (``drop_block_rate``, ``attn_drop_rate``, ...) must be 0: there is nothing that they would drop.

    Raises:
        SpaceError: If no network can be built from ``arch``.
        ExportError: If the images are not square, or an argument is unknown or cannot be honoured.
    """

    def __init__(
        self,
        arch: Architecture | Mapping[str, Any] | str = HAND_MADE,
        *,
        num_classes: int = 10,
        in_chans: int = 3,
        img_size: int | Sequence[int] = 32,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        bn_momentum: float | None = None,
        bn_eps: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        stages = options.pop("pool_stages", None)
        super().__init__(
            _architecture(arch),
            in_channels=in_chans,
            image_size=_side(img_size),
            num_classes=max(num_classes, 1),
            pool_stages=None if stages is None else tuple(stages),
            **_settings(options),
        )
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = self.embed_dim = self.arch.embed_dim
        self.global_pool = _pooling(global_pool)
        if num_classes == 0:
            self.reset_classifier(0)
        self.head_drop = nn.Dropout(_rate("drop_rate", drop_rate))
        self._drop_paths(_rate("drop_path_rate", drop_path_rate))
        for norm in self.modules():
            if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
                norm.momentum = norm.momentum if bn_momentum is None else bn_momentum
                norm.eps = norm.eps if bn_eps is None else bn_eps
        self.to(device=device, dtype=dtype)

    @property
    def _model_args(self) -> dict[str, Any]:
        """What ``timm.create_model`` was given; timm writes it into a folder as JSON (``timm.models.save_for_hf``)."""
        args: dict[str, Any] = self.__dict__.get("_timm_args", {})
        return args

    @_model_args.setter
    def _model_args(self, args: dict[str, Any]) -> None:
        arch = args.get("arch")
        self.__dict__["_timm_args"] = {**args, "arch": arch.to_dict()} if isinstance(arch, Architecture) else args

    def get_classifier(self) -> nn.Module:
        """Return the head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Give the network a fresh head.

        Args:
            num_classes: Number of classes; 0 for the features instead of logits.
            global_pool: As for the network; ``None`` leaves it as it is.

        Raises:
            ExportError: If there is no such pooling.
        """
        if global_pool is not None:
            self.global_pool = _pooling(global_pool)
        weight = next(self.stem.parameters())
        self.num_classes = num_classes
        head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        self.head = head.to(weight.device, weight.dtype)  # type: ignore[assignment]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Refuse to compute activations twice.

        Raises:
            ExportError: If it is asked for.
        """
        if enable:
            raise ExportError(
                "A Spikformer has no gradient checkpointing; for less memory, take smaller batches and accumulate them "
                "(--grad-accum-steps)."
            )

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return by which names timm groups the parameters, for rates that decay from layer to layer."""
        blocks = r"^stages\.(\d+)\.(?:down|blocks\.(\d+))" if self.arch.stages else r"^blocks\.(\d+)"
        return {"stem": "^stem", "blocks": [(blocks, None), ("^head_lif", (99999,))]}

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[N, classes]``, or what ``num_classes`` and ``global_pool`` say."""
        return self.forward_head(self.forward_features(x))

    def forward_head(self, x_seq: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits ``[N, classes]``, or the pooled features ``[N, D]``; without pooling, of every token.

        Args:
            x_seq: Tokens ``[T, N, tokens, D]`` from ``forward_features``.
            pre_logits: Return the features.
        """
        x = self.head_drop(classify(x_seq, nn.Identity()) if self.global_pool else x_seq.mean(0))
        out: Tensor = x if pre_logits else self.head(x)
        return out

    def _drop_paths(self, rate: float) -> None:
        from timm.layers import calculate_drop_path_rates

        rates = cast("list[float]", calculate_drop_path_rates(rate, self.arch.depth))
        for i, branch in self.branches():
            if rates[i]:
                branch.register_forward_hook(_DropPath(rates[i]))


class _DropPath:
    """timm's ``DropPath`` behind a branch with output ``[T, N, tokens, D]``; adds nothing to the network's state."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, branch: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        from timm.layers import drop_path

        dropped: Tensor = drop_path(out.transpose(0, 1), self.rate, branch.training).transpose(0, 1)
        return dropped


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


def _pooling(global_pool: str) -> str:
    if global_pool not in ("avg", ""):
        raise ExportError(f"`global_pool` must be 'avg' or '', but got {global_pool!r}.")
    return global_pool


def _rate(name: str, rate: float) -> float:
    if not 0 <= rate < 1:
        raise ExportError(f"`{name}` must be at least 0 and below 1, but got {rate}.")
    return float(rate)


def _settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a Spikformer among those that timm passes on; refuse what would be ignored."""
    known = set(SETTINGS) - _RENAMED
    for name, value in options.items():
        if name.endswith(("_drop_rate", "drop_block_rate")):
            if value:
                raise ExportError(
                    f"`{name}` must be 0, but got {value}: a Spikformer can drop paths (`drop_path_rate`) and the "
                    "features in front of its head (`drop_rate`)."
                )
        elif name not in known:
            names = {
                "arch",
                "num_classes",
                "in_chans",
                "img_size",
                "global_pool",
                "drop_rate",
                "drop_path_rate",
                *known,
            }
            raise ExportError(f"`{name}` is no argument of a Spikformer{did_you_mean(name, sorted(names)) or '.'}")
    return {name: value for name, value in options.items() if name in known}
