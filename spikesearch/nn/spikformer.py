"""The plain Spikformer: torch layers and SpikingJelly's neurons, nothing elastic (Zhou et al., ICLR 2023).

Its residual connections are of one of two kinds. ``add``, as published: every branch ends in neurons, and spikes are
added up. ``membrane`` (Zhou et al., "Spikingformer", 2023; Yao et al., "Spike-driven Transformer", NeurIPS 2023): every
branch begins with neurons that read the stream and ends in a batch-norm, and currents are added up; what enters any
layer but the first is spikes. There the last stage of the stem has no neurons, so that its max-pooling, if there is
one, takes the largest currents.

Differences from the published code are small and deliberate: linear layers in front of a batch-norm carry no bias, the
first convolution of a static image is computed once instead of T times (same numbers), and there is no unused
LayerNorm.
"""

from __future__ import annotations

import inspect
from typing import Any

from spikingjelly.activation_based import functional
from torch import Tensor, nn

from spikesearch.nn.functional import (
    AttentionProduct,
    check_images,
    check_pool_stages,
    check_residual,
    classify,
    images_4d,
    merge_heads,
    split_heads,
    stem_widths,
    time_first,
    to_tokens,
)
from spikesearch.nn.lif import ATTENTION_TAU, ATTENTION_THRESHOLD, Currents, NoLIF, StreamLIF, plain_lif
from spikesearch.space.architecture import Architecture, BlockSpec, Residual, StemSpec, mlp_width


class Spikformer(nn.Module):
    """A spiking vision transformer with a fixed architecture.

    Neurons start every forward pass at rest. Freshly built, each batch-norm in front of neurons has the scale
    ``v_threshold * tau / 2``, the gain at which a neuron with these genes fires (see
    :class:`~spikesearch.nn.lif.ElasticLIF`).

    Args:
        arch: The architecture; validated.
        in_channels: Channels of the images (2 for event polarities).
        image_size: Height and width of the images, in pixels.
        num_classes: Number of classes.
        pool_stages: Stem stages (0 to 3) that end in a max-pooling; by default as many as lead to 8 x 8 tokens.
        residual: What residual connections carry: ``add`` for sums of spikes, ``membrane`` for currents.

    Raises:
        SpaceError: If no network can be built from ``arch``, or there is no such ``residual``.

    Example:
        >>> import torch
        >>> from spikesearch.space import SearchSpace
        >>> space = SearchSpace((16,), (1,), (2,), (2,), (1.0,), (2.0,), (2,))
        >>> net = Spikformer(space.largest, in_channels=1, image_size=8, num_classes=10)
        >>> net(torch.zeros(3, 1, 8, 8)).shape
        torch.Size([3, 10])
    """

    def __init__(
        self,
        arch: Architecture,
        *,
        in_channels: int,
        image_size: int,
        num_classes: int,
        pool_stages: tuple[int, ...] | None = None,
        residual: Residual = "add",
    ) -> None:
        super().__init__()
        self.arch = arch.validate()
        self.in_channels = in_channels
        self.image_size = image_size
        self.num_classes = num_classes
        self.pool_stages = check_pool_stages(pool_stages, image_size)
        self.residual = check_residual(residual)
        self.stem = Stem(arch.embed_dim, arch.stem, in_channels, self.pool_stages, self.residual)
        self.blocks = nn.ModuleList(Block(arch.embed_dim, spec, self.residual) for spec in arch.blocks)
        self.head_lif = _stream_neurons(arch.blocks[-1], self.residual)
        self.head = nn.Linear(arch.embed_dim, num_classes)
        self.stateful = True  # neurons remember; not those of fast copies

    @property
    def settings(self) -> dict[str, Any]:
        """The keyword arguments that build a network of this shape."""
        return {name: getattr(self, name) for name in SETTINGS}

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[N, classes]``.

        Args:
            x: Static images ``[N, C, H, W]`` or event frames ``[N, F, C, H, W]`` with at least T frames.
        """
        return classify(self.forward_features(x), self.head)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the tokens in front of the head, ``[T, N, tokens, D]``, of what :meth:`forward` takes."""
        check_images(x, self.in_channels, self.image_size)
        self._reset()
        x_seq: Tensor = self.stem(time_first(x, self.arch.time_steps), self.arch.time_steps)
        for block in self.blocks:
            x_seq = block(x_seq)
        x_seq = self.head_lif(x_seq)
        self._reset()  # state would keep the graph alive and make copies of the module fail
        return x_seq

    def _reset(self) -> None:
        if self.stateful:
            functional.reset_net(self)


# Every keyword-only argument of a Spikformer is kept as an attribute of the same name.
SETTINGS = tuple(
    parameter.name
    for parameter in inspect.signature(Spikformer).parameters.values()
    if parameter.kind is parameter.KEYWORD_ONLY
)


class ConvUnit(nn.Module):
    """3 x 3 convolution, batch-norm, perhaps LIF, perhaps a max-pooling: ``[T, N, C, H, W]`` in and out."""

    def __init__(
        self, in_channels: int, out_channels: int, spec: StemSpec, *, pool: bool = False, spiking: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.bn, self.lif = _norm_and_neurons(nn.BatchNorm2d(out_channels), spec, spiking)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if pool else None

    def forward(self, x_seq: Tensor, time_steps: int) -> Tensor:
        x = self.bn(self.conv(images_4d(x_seq))).unflatten(0, x_seq.shape[:2])
        out: Tensor = self.lif(x.expand(time_steps, *x.shape[1:]))
        if self.pool is not None:
            out = self.pool(images_4d(out)).unflatten(0, out.shape[:2])
        return out


class LinearUnit(nn.Module):
    """Linear layer, batch-norm and perhaps LIF: tokens ``[T, N, L, C]`` in and out."""

    def __init__(self, in_features: int, out_features: int, spec: BlockSpec, *, spiking: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias=False)
        self.bn, self.lif = _norm_and_neurons(nn.BatchNorm1d(out_features), spec, spiking)

    def forward(self, x_seq: Tensor) -> Tensor:
        out: Tensor = self.lif(self.bn(self.linear(x_seq.flatten(0, 2))).unflatten(0, x_seq.shape[:3]))
        return out


class Stem(nn.Module):
    """Spiking patch splitting: four convolution units and a relative-position unit with a residual."""

    def __init__(
        self, embed_dim: int, spec: StemSpec, in_channels: int, pool_stages: tuple[int, ...], residual: Residual
    ) -> None:
        super().__init__()
        widths = (in_channels, *stem_widths(embed_dim))
        self.stages = nn.ModuleList(
            ConvUnit(widths[i], widths[i + 1], spec, pool=i in pool_stages, spiking=spiking)
            for i, spiking in enumerate((True, True, True, residual == "add"))
        )
        self.rpe_lif = _stream_neurons(spec, residual)
        self.rpe = ConvUnit(embed_dim, embed_dim, spec, spiking=residual == "add")

    def forward(self, x_seq: Tensor, time_steps: int) -> Tensor:
        for stage in self.stages:
            x_seq = stage(x_seq, time_steps)
        return to_tokens(self.rpe(self.rpe_lif(x_seq), time_steps) + x_seq)


class Attention(nn.Module):
    """Spiking self-attention on tokens ``[T, N, L, D]``."""

    def __init__(self, embed_dim: int, spec: BlockSpec, residual: Residual) -> None:
        super().__init__()
        self.num_heads = spec.num_heads
        self.lif_in = _stream_neurons(spec, residual)
        self.qkv = LinearUnit(embed_dim, 3 * embed_dim, spec)
        self.product = AttentionProduct()
        self.lif = plain_lif(ATTENTION_THRESHOLD, ATTENTION_TAU)
        self.proj = LinearUnit(embed_dim, embed_dim, spec, spiking=residual == "add")

    def forward(self, x_seq: Tensor) -> Tensor:
        q, k, v = split_heads(self.qkv(self.lif_in(x_seq)), self.num_heads)
        out: Tensor = self.proj(self.lif(merge_heads(self.product(q, k, v))))
        return out


class MLP(nn.Module):
    """Two linear units on tokens ``[T, N, L, D]``."""

    def __init__(self, embed_dim: int, spec: BlockSpec, residual: Residual) -> None:
        super().__init__()
        hidden = mlp_width(embed_dim, spec.mlp_ratio)
        self.lif_in = _stream_neurons(spec, residual)
        self.fc1 = LinearUnit(embed_dim, hidden, spec)
        self.fc2 = LinearUnit(hidden, embed_dim, spec, spiking=residual == "add")

    def forward(self, x_seq: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.fc1(self.lif_in(x_seq)))
        return out


class Block(nn.Module):
    """Attention and MLP, each added to its input."""

    def __init__(self, embed_dim: int, spec: BlockSpec, residual: Residual) -> None:
        super().__init__()
        self.attn = Attention(embed_dim, spec, residual)
        self.mlp = MLP(embed_dim, spec, residual)

    def forward(self, x_seq: Tensor) -> Tensor:
        x_seq = x_seq + self.attn(x_seq)
        out: Tensor = x_seq + self.mlp(x_seq)
        return out


def _norm_and_neurons(
    norm: nn.BatchNorm1d | nn.BatchNorm2d, spec: StemSpec | BlockSpec, spiking: bool
) -> tuple[nn.Module, nn.Module]:
    if not spiking:
        return norm, Currents()
    nn.init.constant_(norm.weight, spec.v_threshold * spec.tau / 2)
    return norm, plain_lif(spec.v_threshold, spec.tau)


def _stream_neurons(spec: StemSpec | BlockSpec, residual: Residual) -> nn.Module:
    return StreamLIF(spec.v_threshold, spec.tau) if residual == "membrane" else NoLIF()


def count_parameters(net: nn.Module) -> int:
    """Return the number of learnable values of a network."""
    return sum(parameter.numel() for parameter in net.parameters())
