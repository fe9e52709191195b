"""What the supernet and the plain network share: shapes, time, and the attention product."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikesearch.errors import DataError, SpaceError
from spikesearch.nn.units import STEM_STAGES, STEMS, default_stem_stride, frame_bounds

ATTENTION_SCALE = 0.125  # fixed, as published: a power of two, so that it is exact


def default_pool_stages(image_size: int) -> tuple[int, ...]:
    """Return the last stem stages, at least one and at most four, whose halving leaves 8 x 8 tokens or fewer.

    Args:
        image_size: Height and width of the images, in pixels.
    """
    poolings, side = 1, pooled_size(image_size, 1)
    while side > 8 and poolings < STEM_STAGES:
        poolings, side = poolings + 1, pooled_size(side, 1)
    return tuple(range(STEM_STAGES - poolings, STEM_STAGES))


def pooled_size(image_size: int, poolings: int) -> int:
    """Return the side that is left after some 3 x 3 poolings of stride 2 and padding 1."""
    for _ in range(poolings):
        image_size = (image_size + 1) // 2
    return image_size


def check_pool_stages(pool_stages: tuple[int, ...] | None, image_size: int) -> tuple[int, ...]:
    """Return the stem stages that end in a pooling, validated and sorted.

    Args:
        pool_stages: Stages 0 to 3, or ``None`` for :func:`default_pool_stages`.
        image_size: Height and width of the images, in pixels.

    Raises:
        SpaceError: If a stage does not exist or is named twice.
    """
    if pool_stages is None:
        return default_pool_stages(image_size)
    stages = tuple(sorted(pool_stages))
    if len(set(stages)) != len(stages) or any(stage not in range(STEM_STAGES) for stage in stages):
        raise SpaceError(f"`pool_stages` must be different stages from 0 to {STEM_STAGES - 1}, but got {pool_stages}.")
    return stages


def check_stem(stem: str, stem_stride: int | None, image_size: int) -> int:
    """Return the stride of the convolution of a stem, 1 for the stem ``sps``.

    Args:
        stem: One of :data:`~spikesearch.nn.units.STEMS`.
        stem_stride: As wanted, or ``None`` for :func:`~spikesearch.nn.units.default_stem_stride`.
        image_size: Height and width of the images, in pixels.

    Raises:
        SpaceError: If there is no such stem, or the stride is no whole number from 1 to the size of the images.
    """
    if stem not in STEMS:
        raise SpaceError(f"`stem` must be one of {', '.join(STEMS)}, but got {stem!r}.")
    if stem == "sps":
        return 1
    if stem_stride is None:
        return default_stem_stride(image_size)
    if not 1 <= stem_stride <= image_size:
        raise SpaceError(
            f"`stem_stride` must be from 1 to {image_size}, the size of the images, but got {stem_stride}."
        )
    return stem_stride


def time_first(x: Tensor, time_steps: int) -> Tensor:
    """Bring a batch into the form ``[steps, N, C, H, W]``.

    A static image gives one step, which the stem repeats after its first convolution. Event frames are summed over
    adjacent frames down to ``time_steps``; none is dropped.

    Args:
        x: Static images ``[N, C, H, W]`` or event frames ``[N, F, C, H, W]``.
        time_steps: Number of simulation steps T.

    Raises:
        DataError: If ``x`` has another number of dimensions, or fewer frames than time steps.
    """
    if x.ndim == 4:
        return x.unsqueeze(0)
    if x.ndim != 5:
        raise DataError(f"Images must be [N, C, H, W] or event frames [N, F, C, H, W], but got shape {tuple(x.shape)}.")
    frames = x.shape[1]
    if time_steps > frames:
        raise DataError(
            f"The architecture has {time_steps} time steps, but the data only {frames} frames; store more frames or "
            "take the larger `time_steps` out of the space."
        )
    if frames == time_steps:
        return x.transpose(0, 1)
    return torch.stack([x[:, start:end].sum(1) for start, end in pairwise(frame_bounds(frames, time_steps))])


def check_images(x: Tensor, in_channels: int, image_size: int) -> None:
    """Refuse images that the network was not made for.

    Raises:
        DataError: If channels, height or width differ.
    """
    expected = (in_channels, image_size, image_size)
    if tuple(x.shape[-3:]) != expected:
        raise DataError(f"Images must end in (C, H, W) = {expected}, but got shape {tuple(x.shape)}.")


def images_4d(x_seq: Tensor) -> Tensor:
    """Merge time and batch of ``[T, N, C, H, W]`` and lay the channels last in memory, a no-op where they are."""
    return x_seq.flatten(0, 1).contiguous(memory_format=torch.channels_last)


def to_tokens(x_seq: Tensor) -> Tensor:
    """Turn feature maps ``[T, N, C, H, W]`` into contiguous tokens ``[T, N, H * W, C]``."""
    return x_seq.flatten(3).transpose(2, 3).contiguous()


def to_maps(x_seq: Tensor) -> Tensor:
    """Turn tokens ``[T, N, L, C]`` of a square into feature maps ``[T, N, C, H, W]``, a view: channels are last."""
    side = math.isqrt(x_seq.shape[2])
    maps: Tensor = x_seq.unflatten(2, (side, side)).permute(0, 1, 4, 2, 3)
    return maps


def tile_channels(x_seq: Tensor, width: int) -> Tensor:
    """Return tokens ``[T, N, L, C]`` with ``width`` channels: all of them, again from the first as often as needed."""
    channels = x_seq.shape[-1]
    if channels >= width:
        return x_seq[..., :width]
    return x_seq.repeat(1, 1, 1, -(-width // channels))[..., :width].contiguous()


class Shortcut(nn.Module):
    """What carries the stream into a stage of half the resolution: currents averaged, or spikes with their maximum.

    Args:
        average: Whether the stream is one of currents.
    """

    def __init__(self, *, average: bool) -> None:
        super().__init__()
        self.average = average

    def forward(self, x_seq: Tensor, width: int) -> Tensor:
        """Turn tokens ``[T, N, L, C]`` into ``[T, N, L', width]``."""
        x = images_4d(to_maps(x_seq))
        if self.average:
            x = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
        else:
            x = F.max_pool2d(x, 2, ceil_mode=True)
        return tile_channels(to_tokens(x.unflatten(0, x_seq.shape[:2])), width)


class TokenSum(nn.Module):
    """Sum of a query over the channels of a head (Zhou et al., "QKFormer", NeurIPS 2024, Q-K token attention).

    A module of its own so that an energy meter can see the query.
    """

    def forward(self, q: Tensor) -> Tensor:
        """Return currents ``[T, N, heads, tokens, 1]`` of query spikes ``[T, N, heads, tokens, channels per head]``."""
        return q.sum(-1, keepdim=True)


class AttentionProduct(nn.Module):
    """Spiking self-attention without softmax: ``0.125 * (q @ k.T) @ v`` (Zhou et al., "Spikformer", ICLR 2023, eq. 6).

    A module of its own so that an energy meter can see q, k and v. With spikes every product is a sum of whole numbers,
    exact in float32, so that the cheaper of the two orders can be taken without changing the result.
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the attention currents.

        Args:
            q: Query spikes, shape ``[T, N, heads, tokens, channels per head]``.
            k: Key spikes, same shape.
            v: Value spikes, same shape.

        Returns:
            Same shape.
        """
        tokens, head_dim = q.shape[-2:]
        if tokens > head_dim:
            return q @ (k.transpose(-2, -1) @ v) * ATTENTION_SCALE
        return (q @ k.transpose(-2, -1)) @ v * ATTENTION_SCALE


def classify(x_seq: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
    """Average tokens ``[T, N, tokens, D]`` over time and tokens, and classify once: ``[N, classes]``."""
    return head(x_seq.mean((0, 2)))
