"""Spiking self-attention (Zhou et al., "Spikformer", ICLR 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from spikesearch.nn.mixers import Mixer, register
from spikesearch.nn.plan import Layer

if TYPE_CHECKING:
    from torch import Tensor, nn

    from spikesearch.nn.layers import Layers
    from spikesearch.nn.modules import Branch
    from spikesearch.space.architecture import Architecture, BlockSpec

THRESHOLD = 0.5  # of the neurons behind the product, as published; with tau 2 no genes
TAU = 2.0


class SpikingSelfAttention(Mixer):
    """Spikes of q, k and v, ``0.125 * q @ k.T @ v`` without softmax, fixed neurons, a projection."""

    name = "ssa"
    module = "attn"
    genes = ("num_heads",)
    layers = (Layer("qkv", 1, 1, groups=3, reads_stream=True), Layer("proj", 1, 1, ends_branch=True))
    fixed_neurons = ("lif",)

    def extras(self, layers: Layers) -> Mapping[str, nn.Module]:
        from spikesearch.nn.functional import AttentionProduct

        return {"product": AttentionProduct(), "lif": layers.fixed_neurons(THRESHOLD, TAU)}

    def forward(self, branch: Branch, x_seq: Tensor, arch: Architecture, spec: BlockSpec) -> Tensor:
        q, k, v = split_heads(branch.qkv(x_seq, arch, spec), spec.num_heads)
        currents: Tensor = branch.product(q, k, v)
        out: Tensor = branch.proj(branch.lif(merge_heads(currents)), arch, spec)
        return out


def split_heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split ``[T, N, tokens, 3 * D]`` into q, k and v, each ``[T, N, heads, tokens, D / heads]``."""
    steps, batch, tokens, width = qkv.shape
    q, k, v = qkv.view(steps, batch, tokens, 3, num_heads, width // (3 * num_heads)).permute(3, 0, 1, 4, 2, 5)
    return q, k, v


def merge_heads(x: Tensor) -> Tensor:
    """Turn ``[T, N, heads, tokens, D / heads]`` into contiguous ``[T, N, tokens, D]``."""
    return x.transpose(2, 3).flatten(3)


register(SpikingSelfAttention())
