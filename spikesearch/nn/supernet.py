"""The weight-entangled supernet: one set of weights, of which every architecture of the space uses a slice."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spikesearch.errors import SpikesearchError
from spikesearch.nn.elastic import ChannelStats, ElasticBatchNorm, ElasticLinear
from spikesearch.nn.elastic_blocks import ElasticBlock, ElasticStem, UnitSlice, stream_neurons
from spikesearch.nn.functional import check_images, check_pool_stages, check_residual, classify, time_first
from spikesearch.nn.lif import ElasticStreamLIF, StreamLIF
from spikesearch.nn.spikformer import Spikformer
from spikesearch.space import SearchSpace
from spikesearch.space.architecture import Architecture, Residual

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
        """Return the state behind the stage, and its output; both float32, in whatever precision it computes."""
        out = self.run(x).float()
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
        residual: See :class:`~spikesearch.nn.spikformer.Spikformer`.

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
        residual: Residual = "add",
    ) -> None:
        super().__init__()
        self.space = space
        self.in_channels = in_channels
        self.image_size = image_size
        self.num_classes = num_classes
        self.pool_stages = check_pool_stages(pool_stages, image_size)
        self.residual = check_residual(residual)
        self.stem = ElasticStem(space, in_channels, self.pool_stages, self.residual)
        self.blocks = nn.ModuleList(ElasticBlock(space, self.residual) for _ in range(max(space.depths)))
        self.head_lif = stream_neurons(space, self.residual)
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
        arch = self._chosen()
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
        spec = self._chosen().blocks[-1]
        x_seq = self.head_lif(x_seq, spec.v_threshold, spec.tau)
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
                residual=self.residual,
            )
        state: dict[str, Tensor] = {}
        for name, unit, inputs, outputs, spec in self._units(arch):
            frozen = None if stats is None else stats.get(f"{name}.bn")
            state.update(
                {f"{name}.{key}": value for key, value in unit.plain_state(inputs, outputs, spec, frozen).items()}
            )
        for name, node in net.named_modules():
            if isinstance(node, StreamLIF):
                elastic = self.get_submodule(name)
                assert isinstance(elastic, ElasticStreamLIF)
                state[f"{name}._extra_state"] = torch.tensor(elastic.threshold(node.gene, node.tau))
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

    def _chosen(self) -> Architecture:
        if self._arch is None:
            raise SpikesearchError("Choose an architecture first: `with supernet.subnet(arch): supernet(x)`.")
        return self._arch

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


def _prefixed(prefix: str, slices: Iterator[UnitSlice]) -> Iterator[UnitSlice]:
    return ((f"{prefix}.{name}", unit, inputs, outputs, spec) for name, unit, inputs, outputs, spec in slices)
