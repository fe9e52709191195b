"""The weight-entangled supernet: one set of weights, of which every architecture of the space uses a slice."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from spikesearch._moved import moved_names
from spikesearch.errors import SpikesearchError
from spikesearch.nn.elastic import ChannelStats, ElasticBatchNorm, ElasticLinear
from spikesearch.nn.functional import classify, time_first
from spikesearch.nn.layers import ElasticLayers, run
from spikesearch.nn.lif import ElasticNormedLIF, ElasticStreamLIF, LearnedTau, NormedLIF, StreamLIF
from spikesearch.nn.modules import Block, UnitModule
from spikesearch.nn.network import Network, Spikformer
from spikesearch.nn.units import stage_module
from spikesearch.space.architecture import Architecture
from spikesearch.space.genes import BLOCK, NETWORK, STAGE, STEM, Gene
from spikesearch.space.residual import check_residual
from spikesearch.space.space import SearchSpace

SubnetStats = Mapping[str, ChannelStats]
"""Batch-norm statistics of one subnet by the name of the layer, as :meth:`Supernet.calibrate` returns them."""


@dataclass(frozen=True)
class Segment:
    """A part of a subnet: the stem, the way into a stage, or one residual branch of a block.

    What it computes depends on its own genes, on those of the stages in front of it, and on nothing else.

    Args:
        name: Of its module in the supernet.
        genes: What distinguishes it behind the same earlier stages.
        run: From the state in front of it (for the stem: the images) to its output.
        residual: Whether the output is added to the state; else it is the state.
    """

    name: str
    genes: Hashable
    run: Callable[[Tensor], Tensor]
    residual: bool = True

    def advance(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the state behind the stage, and its output; both float32, in whatever precision it computes."""
        out = self.run(x).float()
        return (x + out if self.residual else out), out


def _values(genes: Iterable[Gene], owner: object) -> tuple[Any, ...]:
    return tuple(getattr(owner, gene.name) for gene in genes)


__getattr__ = moved_names(__name__)


class Supernet(Network):
    """All architectures of a search space in one module.

    Its tree has the names of :class:`~spikesearch.Spikformer`; its neurons keep no state.

    Args:
        space: The search space.
        in_channels: Channels of the images (2 for event polarities).
        image_size: Height and width of the images, in pixels.
        num_classes: Number of classes.
        pool_stages: Stem stages (0 to 3) that end in a max-pooling; by default as many as lead to 8 x 8 tokens.
        residual: See :class:`~spikesearch.Spikformer`.
        stem: Likewise.
        stem_stride: Likewise.

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
        residual: str = "add",
        stem: str = "sps",
        stem_stride: int | None = None,
    ) -> None:
        super().__init__(
            space.largest,
            ElasticLayers(space, check_residual(residual)),
            in_channels=in_channels,
            image_size=image_size,
            num_classes=num_classes,
            pool_stages=pool_stages,
            stem=stem,
            stem_stride=stem_stride,
        )
        self.space = space
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
        return self.classify(self.stream(x, self.arch))

    def segments(self, arch: Architecture) -> tuple[Segment, ...]:
        """Return the parts that :meth:`forward` runs one behind the other in front of the head.

        They are to be run inside ``with supernet.subnet(arch)``: the stem on images, every other one on the sum of the
        outputs before it.

        Raises:
            SpaceError: If ``arch`` is not in the space.
        """
        self.space.check(arch)
        steps = arch.time_steps
        # What a stage depends on and earlier ones do not follows from the table of genes: a gene belongs to the branch
        # that its row names, by default to the first.
        own = (*_values(NETWORK, arch), *_values(STEM, arch.stem))
        stages = [Segment("stem", own, lambda x: self.stem(time_first(x, steps), arch), residual=False)]
        for number, ((down, blocks), specs) in enumerate(zip(self.parts(), arch.blocks_of_stages, strict=True)):
            prefix = stage_module(arch, number)
            if down is not None:
                name = f"{prefix}down"
                own = (name, *_values(STAGE, arch.stages[number]))
                stages.append(Segment(name, own, partial(down, arch=arch), residual=False))
            for i, (block, spec) in enumerate(zip(blocks, specs, strict=False)):
                assert isinstance(block, Block)
                for branch_name, branch in block.branches(spec):
                    name = f"{prefix}blocks.{i}.{branch_name}"
                    own = (name, *_values([gene for gene in BLOCK if gene.branch == branch.plan.kind], spec))
                    stages.append(Segment(name, own, partial(branch, arch=arch, spec=spec)))
        return tuple(stages)

    def classify(self, x_seq: Tensor) -> Tensor:
        """Return the logits ``[N, classes]`` of the state ``[T, N, tokens, D]`` behind the last stage."""
        return classify(self.features(x_seq, self.arch), lambda x: run(self.head, x, self.num_classes))

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
            net = Spikformer(arch, **self.settings)
        state: dict[str, Tensor] = {}
        for unit in self.units(arch):
            module = self.get_submodule(unit.name)
            if isinstance(module, UnitModule):
                frozen = None if stats is None else stats.get(f"{unit.name}.bn")
                own = module.plain_state(unit, frozen)
            else:
                assert isinstance(module, ElasticLinear)
                own = {"weight": module.sliced_weight(unit.inputs, unit.outputs), "bias": module.bias}
            state.update({f"{unit.name}.{key}": value for key, value in own.items()})
        for name, node in net.named_modules():
            if isinstance(node, LearnedTau):
                state[f"{name}.w"] = self.get_parameter(f"{name}.w")
            elif isinstance(node, NormedLIF):
                elastic = self.get_submodule(name)
                assert isinstance(elastic, ElasticNormedLIF)
                gain = elastic.gain(node.v_threshold, node.gene_tau)
                frozen = None if stats is None else stats.get(f"{name}.bn")
                own = elastic.bn.plain_state(node.bn.num_features, gain, frozen)
                state.update({f"{name}.bn.{key}": value for key, value in own.items()})
            elif isinstance(node, StreamLIF):
                elastic = self.get_submodule(name)
                assert isinstance(elastic, ElasticStreamLIF)
                state[f"{name}._extra_state"] = torch.tensor(elastic.threshold(node.gene, node.gene_tau))
        net.load_state_dict(state)
        return net.to(next(self.parameters()).device).eval()

    def count_parameters(self, arch: Architecture) -> int:
        """Return the number of learnable values of the extracted network, without building it."""
        return sum(unit.parameters for unit in self.units(arch))

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that timm's optimisers must not decay: the log-gains."""
        return {name for name, _ in self.named_parameters() if name.endswith("log_gain")}

    @property
    def arch(self) -> Architecture:
        """The architecture that is chosen.

        Raises:
            SpikesearchError: Outside a ``with supernet.subnet(arch)`` block.
        """
        if self._arch is None:
            raise SpikesearchError("Choose an architecture first: `with supernet.subnet(arch): supernet(x)`.")
        return self._arch

    def _check_stats(self, arch: Architecture, stats: SubnetStats | None) -> None:
        if stats is None:
            return
        norms = {f"{unit.name}.bn": unit.outputs * unit.layer.groups for unit in self.units(arch) if not unit.averages}
        norms |= {f"{unit.fed_by}.bn": unit.inputs for unit in self.units(arch) if unit.normed}
        for name, channels in norms.items():
            own = stats.get(name)
            if own is None or len(own.mean) != channels:
                raise SpikesearchError(
                    f"`stats` must be what `calibrate` returned for this architecture, but `{name}` "
                    + ("is missing." if own is None else f"has {len(own.mean)} channels.")
                )

    def _norms(self) -> Iterator[tuple[str, ElasticBatchNorm]]:
        return ((name, module) for name, module in self.named_modules() if isinstance(module, ElasticBatchNorm))
