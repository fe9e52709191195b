"""The weight-entangled supernet: one set of weights, of which every architecture of the space uses a slice."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spikesearch.architecture import Architecture, BlockSpec, StemSpec, mlp_width
from spikesearch.errors import SpikesearchError
from spikesearch.nn.elastic import ChannelStats, ElasticBatchNorm, ElasticConv2d, ElasticLinear
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
from spikesearch.nn.lif import AttentionLIF, ElasticLIF
from spikesearch.nn.spikformer import Spikformer
from spikesearch.space import SearchSpace

SubnetStats = Mapping[str, ChannelStats]
"""Batch-norm statistics of one subnet by the name of the layer, as :meth:`Supernet.calibrate` returns them."""


@dataclass(frozen=True)
class Stage:
    """A part of a subnet: the stem, or one residual branch of a block.

    What it computes depends on its own genes, on those of the stages in front of it, and on nothing else.

    Args:
        name: Of its module in the supernet.
        genes: What distinguishes it behind the same earlier stages.
        run: From the state in front of it (for the stem: the images) to its output.
        residual: Whether the output is added to the state; the stem's output is the state.
    """

    name: str
    genes: Hashable
    run: Callable[[Tensor], Tensor]
    residual: bool = True

    def advance(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the state behind the stage, and its output."""
        out = self.run(x)
        return (x + out if self.residual else out), out


class Supernet(nn.Module):
    """All architectures of a search space in one module.

    Its tree has the names of :class:`~spikesearch.nn.spikformer.Spikformer`; its neurons keep no state.

    Args:
        space: The search space.
        in_channels: Channels of the images (2 for event polarities).
        image_size: Height and width of the images, in pixels.
        num_classes: Number of classes.
        pool_stages: Stem stages (0 to 3) that end in a max-pooling; by default as many as lead to 8 x 8 tokens.

    Example:
        >>> space = SearchSpace((16, 32), (1, 2), (2,), (2,), (1.0,), (2.0,), (2,))
        >>> supernet = Supernet(space, in_channels=1, image_size=8, num_classes=10).eval()
        >>> x = torch.rand(3, 1, 8, 8)
        >>> with supernet.subnet(space.smallest):
        ...     logits = supernet(x)
        >>> torch.equal(logits, supernet.extract(space.smallest)(x))
        True
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        in_channels: int,
        image_size: int,
        num_classes: int,
        pool_stages: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.space = space
        self.in_channels = in_channels
        self.image_size = image_size
        self.num_classes = num_classes
        self.pool_stages = check_pool_stages(pool_stages, image_size)
        self.stem = ElasticStem(space, in_channels, self.pool_stages)
        self.blocks = nn.ModuleList(ElasticBlock(space) for _ in range(max(space.depths)))
        self.head = ElasticLinear(max(space.embed_dims), num_classes, bias=True)
        self._arch: Architecture | None = None

    @contextmanager
    def subnet(self, arch: Architecture, stats: SubnetStats | None = None) -> Iterator[Supernet]:
        """Make the supernet compute ``arch`` inside a ``with`` block; blocks may be nested.

        Args:
            arch: An architecture of the space.
            stats: Batch-norm statistics from :meth:`calibrate`; without them, evaluation uses the running ones.

        Raises:
            SpaceError: If ``arch`` is not in the space.
            SpikesearchError: If ``stats`` are those of another architecture.
        """
        self.space.check(arch)
        self._check_stats(arch, stats)
        before = self._arch, {name: norm.frozen for name, norm in self._norms()}
        self._arch = arch
        for name, norm in self._norms():
            norm.frozen = None if stats is None else stats.get(name)
        try:
            yield self
        finally:
            self._arch = before[0]
            for name, norm in self._norms():
                norm.frozen = before[1][name]

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``[N, classes]`` of the architecture chosen by :meth:`subnet`.

        Args:
            x: Static images ``[N, C, H, W]`` or event frames ``[N, F, C, H, W]`` with at least T frames.

        Raises:
            SpikesearchError: Outside a ``with supernet.subnet(arch)`` block.
        """
        arch = self._arch
        if arch is None:
            raise SpikesearchError("Choose an architecture first: `with supernet.subnet(arch): supernet(x)`.")
        check_images(x, self.in_channels, self.image_size)
        x_seq = self.stem(time_first(x, arch.time_steps), arch)
        for block, spec in zip(self.blocks, arch.blocks, strict=False):
            x_seq = block(x_seq, spec)
        return self.classify(x_seq)

    def stages(self, arch: Architecture) -> tuple[Stage, ...]:
        """Return the parts that :meth:`forward` runs one behind the other in front of the head.

        They are to be run inside ``with supernet.subnet(arch)``: the stem on images, every other one on the sum of the
        outputs before it.

        Raises:
            SpaceError: If ``arch`` is not in the space.
        """
        self.space.check(arch)
        steps = arch.time_steps
        stem = Stage("stem", (arch.embed_dim, steps, arch.stem), lambda x: self.stem(time_first(x, steps), arch), False)
        branches = (
            Stage(f"blocks.{i}.{name}", genes, run)
            for i, (block, spec) in enumerate(zip(self.blocks, arch.blocks, strict=False))
            for name, genes, run in block.branches(spec)  # type: ignore[operator]
        )
        return (stem, *branches)

    def classify(self, x_seq: Tensor) -> Tensor:
        """Return the logits ``[N, classes]`` of the state ``[T, N, tokens, D]`` behind the last stage."""
        return classify(x_seq, lambda features: self.head(features, self.num_classes))  # type: ignore[arg-type]

    @torch.no_grad()
    def calibrate(self, arch: Architecture, images: Tensor) -> dict[str, ChannelStats]:
        """Return the batch-norm statistics of a subnet on these images.

        One pass in which every batch-norm takes mean and variance over all images and time steps (float64 sums) and
        normalises with them, so that each layer is measured behind layers that are already frozen.

        Args:
            arch: An architecture of the space.
            images: Un-augmented training images, ``[N, C, H, W]`` or ``[N, F, C, H, W]``.

        Returns:
            One entry per batch-norm of the subnet.
        """
        with self.calibrating(arch) as stats:
            self(images)
        return stats

    @contextmanager
    def calibrating(self, arch: Architecture) -> Iterator[dict[str, ChannelStats]]:
        """Choose ``arch`` and make every batch-norm that runs inside a ``with`` block freeze what it sees.

        Args:
            arch: An architecture of the space.

        Yields:
            The statistics by name, complete when the block is left.
        """
        stats: dict[str, ChannelStats] = {}
        training = self.training
        self.eval()
        try:
            with self.subnet(arch):
                for _, norm in self._norms():
                    norm.collect = True
                yield stats
                stats.update({name: norm.frozen for name, norm in self._norms() if norm.frozen is not None})
        finally:
            for _, norm in self._norms():
                norm.collect = False
            self.train(training)

    @torch.no_grad()
    def extract(self, arch: Architecture, stats: SubnetStats | None = None) -> Spikformer:
        """Return a subnet as a plain network, in evaluation mode, with copies of the weights.

        Args:
            arch: An architecture of the space.
            stats: Batch-norm statistics from :meth:`calibrate`; by default slices of the running ones.

        Returns:
            A network whose logits in evaluation mode equal the subnet's bit for bit.
        """
        self.space.check(arch)
        self._check_stats(arch, stats)
        with torch.random.fork_rng(devices=[]):  # the first weights are overwritten: they cost no random numbers
            net = Spikformer(
                arch,
                in_channels=self.in_channels,
                image_size=self.image_size,
                num_classes=self.num_classes,
                pool_stages=self.pool_stages,
            )
        state: dict[str, Tensor] = {}
        for name, unit, inputs, outputs, spec in self._units(arch):
            frozen = None if stats is None else stats.get(f"{name}.bn")
            state.update(
                {f"{name}.{key}": value for key, value in unit.plain_state(inputs, outputs, spec, frozen).items()}
            )
        state["head.weight"] = self.head.sliced_weight(arch.embed_dim, self.num_classes)
        state["head.bias"] = self.head.bias
        net.load_state_dict(state)
        return net.to(self.head.weight.device).eval()

    def count_parameters(self, arch: Architecture) -> int:
        """Return the number of learnable values of the extracted network, without building it."""
        total = (arch.embed_dim + 1) * self.num_classes
        for _, unit, inputs, outputs, _ in self._units(arch):
            kernel = getattr(unit, unit.op_name).weight[0, 0].numel()
            total += (inputs * kernel + 2) * outputs * unit.bn.groups  # 2: scale and shift of the batch-norm
        return total

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that timm's optimisers must not decay: the log-gains."""
        return {name for name, _ in self.named_parameters() if name.endswith("log_gain")}

    def _check_stats(self, arch: Architecture, stats: SubnetStats | None) -> None:
        for name, unit, _, outputs, _ in self._units(arch) if stats is not None else ():
            one = stats.get(f"{name}.bn") if stats is not None else None
            if one is None or len(one.mean) != outputs * unit.bn.groups:
                raise SpikesearchError(
                    f"`stats` must be what `calibrate` returned for this architecture, but `{name}.bn` "
                    + ("is missing." if one is None else f"has {len(one.mean)} channels.")
                )

    def _norms(self) -> Iterator[tuple[str, ElasticBatchNorm]]:
        return ((name, module) for name, module in self.named_modules() if isinstance(module, ElasticBatchNorm))

    def _units(self, arch: Architecture) -> Iterator[UnitSlice]:
        yield from _prefixed("stem", self.stem.slices(arch))
        for i, (block, spec) in enumerate(zip(self.blocks, arch.blocks, strict=False)):
            assert isinstance(block, ElasticBlock)
            yield from _prefixed(f"blocks.{i}", block.slices(arch.embed_dim, spec))


class ElasticUnit(nn.Module):
    """A convolution or linear layer, its batch-norm and its LIF neurons.

    Args:
        op: The elastic layer; registered under ``name``.
        name: ``"conv"`` or ``"linear"``, as in the plain network.
        channels: Largest number of output channels, of one group.
        groups: See :class:`~spikesearch.nn.elastic.ElasticLinear`.
        space: For the choices of the neuron genes.
    """

    def __init__(
        self, op: ElasticConv2d | ElasticLinear, name: str, channels: int, space: SearchSpace, *, groups: int = 1
    ) -> None:
        super().__init__()
        self.op_name = name
        self.add_module(name, op)
        self.bn = ElasticBatchNorm(channels, groups=groups)
        self.lif = ElasticLIF(space.v_thresholds, space.taus)

    def currents(self, x: Tensor, outputs: int, spec: StemSpec | BlockSpec) -> Tensor:
        """Return what the neurons integrate, for ``x`` with time and batch merged."""
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


def _prefixed(prefix: str, slices: Iterator[UnitSlice]) -> Iterator[UnitSlice]:
    return ((f"{prefix}.{name}", unit, inputs, outputs, spec) for name, unit, inputs, outputs, spec in slices)


class ElasticConvUnit(ElasticUnit):
    """Elastic twin of :class:`~spikesearch.nn.spikformer.ConvUnit`."""

    def __init__(self, in_channels: int, out_channels: int, space: SearchSpace, *, pool: bool = False) -> None:
        super().__init__(ElasticConv2d(in_channels, out_channels), "conv", out_channels, space)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if pool else None

    def forward(self, x_seq: Tensor, time_steps: int, outputs: int, spec: StemSpec) -> Tensor:
        x = self.currents(images_4d(x_seq), outputs, spec).unflatten(0, x_seq.shape[:2])
        spikes: Tensor = self.lif(x.expand(time_steps, *x.shape[1:]), spec.v_threshold, spec.tau)
        if self.pool is not None:
            spikes = self.pool(images_4d(spikes)).unflatten(0, spikes.shape[:2])
        return spikes


class ElasticLinearUnit(ElasticUnit):
    """Elastic twin of :class:`~spikesearch.nn.spikformer.LinearUnit`."""

    def __init__(self, in_features: int, out_features: int, space: SearchSpace, *, groups: int = 1) -> None:
        op = ElasticLinear(in_features, out_features, groups=groups)
        super().__init__(op, "linear", out_features, space, groups=groups)

    def forward(self, x_seq: Tensor, outputs: int, spec: BlockSpec) -> Tensor:
        x = self.currents(x_seq.flatten(0, 2), outputs, spec).unflatten(0, x_seq.shape[:3])
        spikes: Tensor = self.lif(x, spec.v_threshold, spec.tau)
        return spikes


class ElasticStem(nn.Module):
    """Elastic twin of :class:`~spikesearch.nn.spikformer.Stem`."""

    def __init__(self, space: SearchSpace, in_channels: int, pool_stages: tuple[int, ...]) -> None:
        super().__init__()
        self.in_channels = in_channels
        largest = max(space.embed_dims)
        widths = (in_channels, *stem_widths(largest))
        self.stages = nn.ModuleList(
            ElasticConvUnit(widths[i], widths[i + 1], space, pool=i in pool_stages) for i in range(len(widths) - 1)
        )
        self.rpe = ElasticConvUnit(largest, largest, space)

    def forward(self, x_seq: Tensor, arch: Architecture) -> Tensor:
        for stage, width in zip(self.stages, stem_widths(arch.embed_dim), strict=True):
            x_seq = stage(x_seq, arch.time_steps, width, arch.stem)
        return to_tokens(self.rpe(x_seq, arch.time_steps, arch.embed_dim, arch.stem) + x_seq)

    def slices(self, arch: Architecture) -> Iterator[UnitSlice]:
        """Yield the units and the widths that ``arch`` uses of them."""
        widths = (self.in_channels, *stem_widths(arch.embed_dim))
        for i, stage in enumerate(self.stages):
            yield f"stages.{i}", stage, widths[i], widths[i + 1], arch.stem  # type: ignore[misc]
        yield "rpe", self.rpe, arch.embed_dim, arch.embed_dim, arch.stem


class ElasticAttention(nn.Module):
    """Elastic twin of :class:`~spikesearch.nn.spikformer.Attention`."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        largest = max(space.embed_dims)
        self.qkv = ElasticLinearUnit(largest, largest, space, groups=3)
        self.product = AttentionProduct()
        self.lif = AttentionLIF()
        self.proj = ElasticLinearUnit(largest, largest, space)

    def forward(self, x_seq: Tensor, spec: BlockSpec) -> Tensor:
        width = x_seq.shape[-1]
        q, k, v = split_heads(self.qkv(x_seq, width, spec), spec.num_heads)
        out: Tensor = self.proj(self.lif(merge_heads(self.product(q, k, v))), width, spec)
        return out


class ElasticMLP(nn.Module):
    """Elastic twin of :class:`~spikesearch.nn.spikformer.MLP`."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        largest = max(space.embed_dims)
        hidden = mlp_width(largest, max(space.mlp_ratios))
        self.fc1 = ElasticLinearUnit(largest, hidden, space)
        self.fc2 = ElasticLinearUnit(hidden, largest, space)

    def forward(self, x_seq: Tensor, spec: BlockSpec) -> Tensor:
        width = x_seq.shape[-1]
        out: Tensor = self.fc2(self.fc1(x_seq, mlp_width(width, spec.mlp_ratio), spec), width, spec)
        return out


class ElasticBlock(nn.Module):
    """Elastic twin of :class:`~spikesearch.nn.spikformer.Block`."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.attn = ElasticAttention(space)
        self.mlp = ElasticMLP(space)

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
