"""Elastic layers: each is the torch layer of its name plus a slice of its weights.

Slices are prefixes of channels, and contiguous copies of them go into the kernels, so that a sliced layer computes bit
for bit what a plain layer with the sliced weights computes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CHUNK = 1 << 22  # elements that are converted to float64 at a time

AddUp = Callable[[Tensor], Tensor]
"""Returns the sum of a tensor over the processes that train together, with a gradient."""


class Elastic:
    """Marks a module whose forward pass takes, behind the tensor, what says which slice or choice is meant."""


class ElasticConv2d(Elastic, nn.Conv2d):
    """Convolution whose channels are prefixes of the largest ones.

    Args:
        in_channels: Largest number of input channels.
        out_channels: Largest number of output channels.
        size: Height and width of the kernel, odd.
        stride: Of the convolution.
        depthwise: Whether every channel is convolved by itself.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, size: int = 3, stride: int = 1, depthwise: bool = False
    ) -> None:
        groups = in_channels if depthwise else 1
        super().__init__(in_channels, out_channels, size, stride=stride, padding=size // 2, groups=groups, bias=False)

    def sliced_weight(self, in_channels: int, out_channels: int) -> Tensor:
        """Return the weight of the plain convolution, ``[out, in, size, size]``, or ``[out, 1, size, size]``."""
        return self.weight[:out_channels, :in_channels].contiguous()

    def forward(self, x: Tensor, out_channels: int) -> Tensor:  # type: ignore[override]
        """Convolve ``[N, in, H, W]`` to ``[N, out, H', W']``; the input width is read off ``x``."""
        weight = self.sliced_weight(x.shape[1], out_channels)
        groups = 1 if self.groups == 1 else out_channels
        return F.conv2d(x, weight, None, self.stride, self.padding, groups=groups)


class ElasticLinear(Elastic, nn.Linear):
    """Linear layer whose features are prefixes of the largest ones.

    Args:
        in_features: Largest number of input features.
        out_features: Largest number of output features, of one group.
        bias: Whether there is a bias.
        groups: Independent sets of output features behind one another (3 for q, k and v in one product).
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False, groups: int = 1) -> None:
        super().__init__(in_features, groups * out_features, bias=bias)
        self.groups = groups

    def sliced_weight(self, in_features: int, out_features: int) -> Tensor:
        """Return the weight of the plain layer, ``[groups * out, in]``."""
        weight: Tensor = self.weight.unflatten(0, (self.groups, -1))
        return weight[:, :out_features, :in_features].flatten(0, 1).contiguous()

    def forward(self, x: Tensor, out_features: int) -> Tensor:  # type: ignore[override]
        """Map ``[..., in]`` to ``[..., groups * out]``; the input width is read off ``x``."""
        bias = None if self.bias is None else self.bias.unflatten(0, (self.groups, -1))[:, :out_features].flatten()
        return F.linear(x, self.sliced_weight(x.shape[-1], out_features), bias)


@dataclass(frozen=True)
class ChannelStats:
    """Mean and (population) variance per channel, float32, as an evaluating batch-norm uses them."""

    mean: Tensor
    var: Tensor

    def clone(self) -> ChannelStats:
        """Return a copy in memory of its own."""
        return ChannelStats(self.mean.clone(), self.var.clone())


class ElasticBatchNorm(Elastic, nn.Module):
    """Batch-norm whose channels are prefixes of the largest ones, with a gain folded into scale and shift.

    It normalises, in this order of precedence, with the statistics that it is asked to ``collect`` from the very batch,
    with batch statistics while training, with the ``frozen`` ones of the current subnet, with its running ones. While
    ``add_up`` is set, the batch statistics are those of all processes that train together.

    Args:
        num_features: Largest number of channels, of one group.
        groups: Sets of channels behind one another, as in :class:`ElasticLinear`.
        eps: Added to the variance.
        momentum: Weight of a new batch in the running statistics.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, *, groups: int = 1, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.num_features = num_features
        self.groups = groups
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(groups * num_features))
        self.bias = nn.Parameter(torch.zeros(groups * num_features))
        self.register_buffer("running_mean", torch.zeros(groups * num_features))
        self.register_buffer("running_var", torch.ones(groups * num_features))
        self.frozen: ChannelStats | None = None
        self.collect = False
        self.add_up: AddUp | None = None

    def sliced(self, tensor: Tensor, width: int) -> Tensor:
        """Return the entries of ``[groups * num_features]`` of the first ``width`` channels of each group."""
        return tensor.view(self.groups, -1)[:, :width].flatten()

    def sliced_stats(self, width: int) -> ChannelStats:
        """Return the running statistics of the first ``width`` channels of each group."""
        return ChannelStats(self.sliced(self.running_mean, width), self.sliced(self.running_var, width))

    def affine(self, width: int, gain: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return scale and shift of the plain batch-norm, the gain included."""
        return self.sliced(self.weight, width) * gain, self.sliced(self.bias, width) * gain

    def plain_state(self, width: int, gain: Tensor | float, stats: ChannelStats | None) -> dict[str, Tensor]:
        """Return the state of the plain batch-norm, the gain folded into it.

        Args:
            width: Channels of one group.
            gain: See :meth:`forward`.
            stats: By default slices of the running ones.
        """
        weight, bias = self.affine(width, gain)
        stats = stats or self.sliced_stats(width)
        return {
            "weight": weight,
            "bias": bias,
            "running_mean": stats.mean,
            "running_var": stats.var,
            "num_batches_tracked": torch.zeros((), dtype=torch.long),
        }

    def forward(self, x: Tensor, gain: Tensor | float) -> Tensor:
        """Normalise ``[N, C]`` or ``[N, C, H, W]`` and multiply by ``gain``.

        Args:
            x: Its number of channels says which slice is meant.
            gain: Positive scalar, see :class:`~spikesearch.nn.lif.ElasticLIF`.
        """
        width = x.shape[1] // self.groups
        weight, bias = self.affine(width, gain)
        if self.collect:
            self.frozen = channel_stats(x)
        elif self.training:
            return self._train(x, width, weight, bias)
        stats = self.frozen or self.sliced_stats(width)
        return F.batch_norm(x, stats.mean, stats.var, weight, bias, False, 0.0, self.eps)

    def _train(self, x: Tensor, width: int, weight: Tensor, bias: Tensor) -> Tensor:
        # a slice of several groups is a copy, so that the updated statistics have to be written back
        mean, var = self.sliced(self.running_mean, width).clone(), self.sliced(self.running_var, width).clone()
        if self.add_up is None:
            out = F.batch_norm(x, mean, var, weight, bias, True, self.momentum, self.eps)
        else:
            out = _shared_batch_norm(x, mean, var, weight, bias, self.momentum, self.eps, self.add_up)
        self.running_mean.view(self.groups, -1)[:, :width] = mean.view(self.groups, -1)
        self.running_var.view(self.groups, -1)[:, :width] = var.view(self.groups, -1)
        return out


LEAST_SCALE = 1e-3


def positive(scale: Tensor) -> Tensor:
    """Return scales that neurons can take up as thresholds: their absolute values, and 0.001 at least."""
    return scale.abs().clamp_min(LEAST_SCALE)


class ElasticStreamNorm(ElasticBatchNorm):
    """Batch-norm in front of neurons that read a stream; its scale is positive, so that it is a threshold to them."""

    def affine(self, width: int, gain: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return scale and shift of the plain batch-norm, the gain included."""
        weight, bias = super().affine(width, gain)
        return positive(weight), bias


class StreamNorm(nn.BatchNorm1d):
    """The plain :class:`ElasticStreamNorm`."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[N, C]``."""
        weight, training = positive(self.weight), self.training
        if training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        momentum = 0.0 if self.momentum is None else self.momentum
        return F.batch_norm(x, self.running_mean, self.running_var, weight, self.bias, training, momentum, self.eps)


def _shared_batch_norm(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, momentum: float, eps: float, add_up: AddUp
) -> Tensor:
    """Compute ``F.batch_norm`` in training mode over the batches of several processes; updates ``mean`` and ``var``."""
    rows = x.float()
    dims = [0, *range(2, x.ndim)]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    samples = rows.new_full((1,), x.numel() // x.shape[1])
    total, count = add_up(torch.cat([rows.sum(dims), samples])).split([x.shape[1], 1])
    batch_mean = total / count
    rows = rows - batch_mean.view(shape)
    batch_var = add_up(rows.square().sum(dims)) / count
    with torch.no_grad():
        mean.lerp_(batch_mean, momentum)
        var.lerp_(batch_var * count / (count - 1), momentum)
    out: Tensor = rows * (weight * (batch_var + eps).rsqrt()).view(shape) + bias.view(shape)
    return out.to(x.dtype)


def channel_stats(x: Tensor) -> ChannelStats:
    """Return mean and population variance per channel with float64 sums.

    Args:
        x: Shape ``[N, C]`` or ``[N, C, H, W]``.
    """
    rows = x.flatten(2).transpose(1, 2).flatten(0, 1) if x.ndim == 4 else x  # [samples, C]
    chunks = rows.split(max(1, _CHUNK // rows.shape[1]))
    mean = torch.stack([chunk.sum(0, dtype=torch.float64) for chunk in chunks]).sum(0) / len(rows)
    squares = torch.stack([(chunk.double() - mean).square_().sum(0) for chunk in chunks]).sum(0)
    return ChannelStats(mean.float(), (squares / len(rows)).float())
