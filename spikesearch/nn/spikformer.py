"""The plain Spikformer: torch layers and SpikingJelly's neurons, nothing elastic (Zhou et al., ICLR 2023).

Differences from the published code are small and deliberate: linear layers in front of a batch-norm carry no bias, the
first convolution of a static image is computed once instead of T times (same numbers), and there is no unused
LayerNorm.
"""

from __future__ import annotations

from spikingjelly.activation_based import functional
from torch import Tensor, nn

from spikesearch.architecture import Architecture, BlockSpec, StemSpec, mlp_width
from spikesearch.nn.functional import (
    AttentionProduct,
    check_images,
    check_pool_stages,
    classify,
    images_4d,
    merge_heads,
    split_heads,
    stem_widths,
    time_first,
    to_tokens,
)
from spikesearch.nn.lif import ATTENTION_TAU, ATTENTION_THRESHOLD, plain_lif


class Spikformer(nn.Module):
    """A spiking vision transformer with a fixed architecture.

    Neurons start every forward pass at rest. Freshly built, each batch-norm has the scale ``v_threshold * tau / 2``,
    the gain at which a neuron with these genes fires (see :class:`~spikesearch.nn.lif.ElasticLIF`).

    Args:
        arch: The architecture; validated.
        in_channels: Channels of the images (2 for event polarities).
        image_size: Height and width of the images, in pixels.
        num_classes: Number of classes.
        pool_stages: Stem stages (0 to 3) that end in a max-pooling; by default as many as lead to 8 x 8 tokens.

    Raises:
        SpaceError: If no network can be built from ``arch``.

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
    ) -> None:
        super().__init__()
        self.arch = arch.validate()
        self.in_channels = in_channels
        self.image_size = image_size
        self.num_classes = num_classes
        self.pool_stages = check_pool_stages(pool_stages, image_size)
        self.stem = Stem(arch.embed_dim, arch.stem, in_channels, self.pool_stages)
        self.blocks = nn.ModuleList(Block(arch.embed_dim, spec) for spec in arch.blocks)
        self.head = nn.Linear(arch.embed_dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[N, classes]``.

        Args:
            x: Static images ``[N, C, H, W]`` or event frames ``[N, F, C, H, W]`` with at least T frames.
        """
        return classify(self.forward_features(x), self.head)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the tokens in front of the head, ``[T, N, tokens, D]``, of what :meth:`forward` takes."""
        check_images(x, self.in_channels, self.image_size)
        functional.reset_net(self)
        x_seq: Tensor = self.stem(time_first(x, self.arch.time_steps), self.arch.time_steps)
        for block in self.blocks:
            x_seq = block(x_seq)
        functional.reset_net(self)  # state would keep the graph alive and make copies of the module fail
        return x_seq


class ConvUnit(nn.Module):
    """3 x 3 convolution, batch-norm, LIF and perhaps a max-pooling: ``[T, N, C, H, W]`` in and out."""

    def __init__(self, in_channels: int, out_channels: int, spec: StemSpec, *, pool: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.bn = _batch_norm(nn.BatchNorm2d(out_channels), spec)
        self.lif = plain_lif(spec.v_threshold, spec.tau)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if pool else None

    def forward(self, x_seq: Tensor, time_steps: int) -> Tensor:
        x = self.bn(self.conv(images_4d(x_seq))).unflatten(0, x_seq.shape[:2])
        spikes: Tensor = self.lif(x.expand(time_steps, *x.shape[1:]))
        if self.pool is not None:
            spikes = self.pool(images_4d(spikes)).unflatten(0, spikes.shape[:2])
        return spikes


class LinearUnit(nn.Module):
    """Linear layer, batch-norm and LIF: tokens ``[T, N, L, C]`` in and out."""

    def __init__(self, in_features: int, out_features: int, spec: BlockSpec) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias=False)
        self.bn = _batch_norm(nn.BatchNorm1d(out_features), spec)
        self.lif = plain_lif(spec.v_threshold, spec.tau)

    def forward(self, x_seq: Tensor) -> Tensor:
        spikes: Tensor = self.lif(self.bn(self.linear(x_seq.flatten(0, 2))).unflatten(0, x_seq.shape[:3]))
        return spikes


class Stem(nn.Module):
    """Spiking patch splitting: four convolution units and a relative-position unit with a residual."""

    def __init__(self, embed_dim: int, spec: StemSpec, in_channels: int, pool_stages: tuple[int, ...]) -> None:
        super().__init__()
        widths = (in_channels, *stem_widths(embed_dim))
        self.stages = nn.ModuleList(
            ConvUnit(widths[i], widths[i + 1], spec, pool=i in pool_stages) for i in range(len(widths) - 1)
        )
        self.rpe = ConvUnit(embed_dim, embed_dim, spec)

    def forward(self, x_seq: Tensor, time_steps: int) -> Tensor:
        for stage in self.stages:
            x_seq = stage(x_seq, time_steps)
        return to_tokens(self.rpe(x_seq, time_steps) + x_seq)


class Attention(nn.Module):
    """Spiking self-attention on tokens ``[T, N, L, D]``."""

    def __init__(self, embed_dim: int, spec: BlockSpec) -> None:
        super().__init__()
        self.num_heads = spec.num_heads
        self.qkv = LinearUnit(embed_dim, 3 * embed_dim, spec)
        self.product = AttentionProduct()
        self.lif = plain_lif(ATTENTION_THRESHOLD, ATTENTION_TAU)
        self.proj = LinearUnit(embed_dim, embed_dim, spec)

    def forward(self, x_seq: Tensor) -> Tensor:
        q, k, v = split_heads(self.qkv(x_seq), self.num_heads)
        out: Tensor = self.proj(self.lif(merge_heads(self.product(q, k, v))))
        return out


class MLP(nn.Module):
    """Two linear units on tokens ``[T, N, L, D]``."""

    def __init__(self, embed_dim: int, spec: BlockSpec) -> None:
        super().__init__()
        hidden = mlp_width(embed_dim, spec.mlp_ratio)
        self.fc1 = LinearUnit(embed_dim, hidden, spec)
        self.fc2 = LinearUnit(hidden, embed_dim, spec)

    def forward(self, x_seq: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.fc1(x_seq))
        return out


class Block(nn.Module):
    """Attention and MLP, each added to its input."""

    def __init__(self, embed_dim: int, spec: BlockSpec) -> None:
        super().__init__()
        self.attn = Attention(embed_dim, spec)
        self.mlp = MLP(embed_dim, spec)

    def forward(self, x_seq: Tensor) -> Tensor:
        x_seq = x_seq + self.attn(x_seq)
        out: Tensor = x_seq + self.mlp(x_seq)
        return out


def _batch_norm(norm: nn.BatchNorm1d | nn.BatchNorm2d, spec: StemSpec | BlockSpec) -> nn.Module:
    nn.init.constant_(norm.weight, spec.v_threshold * spec.tau / 2)
    return norm


def count_parameters(net: nn.Module) -> int:
    """Return the number of learnable values of a network."""
    return sum(parameter.numel() for parameter in net.parameters())
