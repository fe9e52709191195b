"""What the supernet is made of: units, stem and blocks of which every architecture of the space uses a slice."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator

import torch
from torch import Tensor, nn

from spikesearch.nn.elastic import ChannelStats, ElasticBatchNorm, ElasticConv2d, ElasticLinear
from spikesearch.nn.functional import (
    AttentionProduct,
    images_4d,
    merge_heads,
    split_heads,
    stem_widths,
    to_tokens,
)
from spikesearch.nn.lif import AttentionLIF, Currents, ElasticLIF, ElasticStreamLIF, NoLIF
from spikesearch.space import SearchSpace
from spikesearch.space.architecture import Architecture, BlockSpec, Residual, StemSpec, mlp_width


class ElasticUnit(nn.Module):
    """A convolution or linear layer, its batch-norm and, unless its currents go into a residual stream, LIF neurons.

    Args:
        op: The elastic layer; registered under ``name``.
        name: ``"conv"`` or ``"linear"``, as in the plain network.
        channels: Largest number of output channels, of one group.
        groups: See :class:`~spikesearch.nn.elastic.ElasticLinear`.
        space: For the choices of the neuron genes.
        spiking: Whether there are neurons.
    """

    lif: ElasticLIF | NoLIF

    def __init__(
        self,
        op: ElasticConv2d | ElasticLinear,
        name: str,
        channels: int,
        space: SearchSpace,
        *,
        groups: int = 1,
        spiking: bool = True,
    ) -> None:
        super().__init__()
        self.op_name = name
        self.add_module(name, op)
        self.bn = ElasticBatchNorm(channels, groups=groups)
        self.lif = ElasticLIF(space.v_thresholds, space.taus) if spiking else Currents()

    def currents(self, x: Tensor, outputs: int, spec: StemSpec | BlockSpec) -> Tensor:
        """Return what the neurons integrate or the stream takes up, for ``x`` with time and batch merged."""
        op = getattr(self, self.op_name)
        out: Tensor = self.bn(op(x, outputs), self.lif.gain(spec.v_threshold, spec.tau))
        return out

    def plain_state(
        self, inputs: int, outputs: int, spec: StemSpec | BlockSpec, stats: ChannelStats | None
    ) -> dict[str, Tensor]:
        """Return the state of the plain unit: sliced weights, the gain folded into the batch-norm."""
        op = getattr(self, self.op_name)
        weight, bias = self.bn.affine(outputs, self.lif.gain(spec.v_threshold, spec.tau))
        stats = stats or self.bn.sliced_stats(outputs)
        return {
            f"{self.op_name}.weight": op.sliced_weight(inputs, outputs),
            "bn.weight": weight,
            "bn.bias": bias,
            "bn.running_mean": stats.mean,
            "bn.running_var": stats.var,
            "bn.num_batches_tracked": torch.zeros((), dtype=torch.long),
        }


UnitSlice = tuple[str, ElasticUnit, int, int, StemSpec | BlockSpec]
"""Name, unit, input width, output width (of one group) and neuron genes."""


class ElasticConvUnit(ElasticUnit):
    """Elastic twin of :class:`~spikesearch.nn.spikformer.ConvUnit`."""

    def __init__(
        self, in_channels: int, out_channels: int, space: SearchSpace, *, pool: bool = False, spiking: bool = True
    ) -> None:
        super().__init__(ElasticConv2d(in_channels, out_channels), "conv", out_channels, space, spiking=spiking)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if pool else None

    def forward(self, x_seq: Tensor, time_steps: int, outputs: int, spec: StemSpec) -> Tensor:
        x = self.currents(images_4d(x_seq), outputs, spec).unflatten(0, x_seq.shape[:2])
        out: Tensor = self.lif(x.expand(time_steps, *x.shape[1:]), spec.v_threshold, spec.tau)
        if self.pool is not None:
            out = self.pool(images_4d(out)).unflatten(0, out.shape[:2])
        return out


class ElasticLinearUnit(ElasticUnit):
    """Elastic twin of :class:`~spikesearch.nn.spikformer.LinearUnit`."""

    def __init__(
        self, in_features: int, out_features: int, space: SearchSpace, *, groups: int = 1, spiking: bool = True
    ) -> None:
        op = ElasticLinear(in_features, out_features, groups=groups)
        super().__init__(op, "linear", out_features, space, groups=groups, spiking=spiking)

    def forward(self, x_seq: Tensor, outputs: int, spec: BlockSpec) -> Tensor:
        x = self.currents(x_seq.flatten(0, 2), outputs, spec).unflatten(0, x_seq.shape[:3])
        out: Tensor = self.lif(x, spec.v_threshold, spec.tau)
        return out


def stream_neurons(space: SearchSpace, residual: Residual) -> ElasticStreamLIF | NoLIF:
    """Return the neurons through which a branch, or the head, reads the residual stream; none where it is spikes."""
    return ElasticStreamLIF(space.v_thresholds, space.taus) if residual == "membrane" else NoLIF()


class ElasticStem(nn.Module):
    """Elastic twin of :class:`~spikesearch.nn.spikformer.Stem`."""

    def __init__(self, space: SearchSpace, in_channels: int, pool_stages: tuple[int, ...], residual: Residual) -> None:
        super().__init__()
        self.in_channels = in_channels
        largest = max(space.embed_dims)
        widths = (in_channels, *stem_widths(largest))
        self.stages = nn.ModuleList(
            ElasticConvUnit(widths[i], widths[i + 1], space, pool=i in pool_stages, spiking=spiking)
            for i, spiking in enumerate((True, True, True, residual == "add"))
        )
        self.rpe_lif = stream_neurons(space, residual)
        self.rpe = ElasticConvUnit(largest, largest, space, spiking=residual == "add")

    def forward(self, x_seq: Tensor, arch: Architecture) -> Tensor:
        for stage, width in zip(self.stages, stem_widths(arch.embed_dim), strict=True):
            x_seq = stage(x_seq, arch.time_steps, width, arch.stem)
        spikes = self.rpe_lif(x_seq, arch.stem.v_threshold, arch.stem.tau)
        return to_tokens(self.rpe(spikes, arch.time_steps, arch.embed_dim, arch.stem) + x_seq)

    def slices(self, arch: Architecture) -> Iterator[UnitSlice]:
        """Yield the units and the widths that ``arch`` uses of them."""
        widths = (self.in_channels, *stem_widths(arch.embed_dim))
        for i, stage in enumerate(self.stages):
            yield f"stages.{i}", stage, widths[i], widths[i + 1], arch.stem  # type: ignore[misc]
        yield "rpe", self.rpe, arch.embed_dim, arch.embed_dim, arch.stem


class ElasticAttention(nn.Module):
    """Elastic twin of :class:`~spikesearch.nn.spikformer.Attention`."""

    def __init__(self, space: SearchSpace, residual: Residual) -> None:
        super().__init__()
        largest = max(space.embed_dims)
        self.lif_in = stream_neurons(space, residual)
        self.qkv = ElasticLinearUnit(largest, largest, space, groups=3)
        self.product = AttentionProduct()
        self.lif = AttentionLIF()
        self.proj = ElasticLinearUnit(largest, largest, space, spiking=residual == "add")

    def forward(self, x_seq: Tensor, spec: BlockSpec) -> Tensor:
        width = x_seq.shape[-1]
        spikes = self.lif_in(x_seq, spec.v_threshold, spec.tau)
        q, k, v = split_heads(self.qkv(spikes, width, spec), spec.num_heads)
        out: Tensor = self.proj(self.lif(merge_heads(self.product(q, k, v))), width, spec)
        return out


class ElasticMLP(nn.Module):
    """Elastic twin of :class:`~spikesearch.nn.spikformer.MLP`."""

    def __init__(self, space: SearchSpace, residual: Residual) -> None:
        super().__init__()
        largest = max(space.embed_dims)
        hidden = mlp_width(largest, max(space.mlp_ratios))
        self.lif_in = stream_neurons(space, residual)
        self.fc1 = ElasticLinearUnit(largest, hidden, space)
        self.fc2 = ElasticLinearUnit(hidden, largest, space, spiking=residual == "add")

    def forward(self, x_seq: Tensor, spec: BlockSpec) -> Tensor:
        width = x_seq.shape[-1]
        spikes = self.lif_in(x_seq, spec.v_threshold, spec.tau)
        out: Tensor = self.fc2(self.fc1(spikes, mlp_width(width, spec.mlp_ratio), spec), width, spec)
        return out


class ElasticBlock(nn.Module):
    """Elastic twin of :class:`~spikesearch.nn.spikformer.Block`."""

    def __init__(self, space: SearchSpace, residual: Residual) -> None:
        super().__init__()
        self.attn = ElasticAttention(space, residual)
        self.mlp = ElasticMLP(space, residual)

    def forward(self, x_seq: Tensor, spec: BlockSpec) -> Tensor:
        for _, _, run in self.branches(spec):
            x_seq = x_seq + run(x_seq)
        return x_seq

    def branches(self, spec: BlockSpec) -> Iterator[tuple[str, Hashable, Callable[[Tensor], Tensor]]]:
        """Yield name, genes and function of each residual branch; the second has the neuron genes of the first."""
        yield "attn", (spec.num_heads, spec.v_threshold, spec.tau), lambda x: self.attn(x, spec)
        yield "mlp", spec.mlp_ratio, lambda x: self.mlp(x, spec)

    def slices(self, width: int, spec: BlockSpec) -> Iterator[UnitSlice]:
        """Yield the units and the widths that a block with these genes uses of them."""
        hidden = mlp_width(width, spec.mlp_ratio)
        yield "attn.qkv", self.attn.qkv, width, width, spec
        yield "attn.proj", self.attn.proj, width, width, spec
        yield "mlp.fc1", self.mlp.fc1, width, hidden, spec
        yield "mlp.fc2", self.mlp.fc2, hidden, width, spec
