"""The network, and the plain Spikformer: torch layers and SpikingJelly's neurons (Zhou et al., ICLR 2023).

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
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from spikingjelly.activation_based import functional
from torch import Tensor, nn

from spikesearch.nn.functional import check_images, check_pool_stages, check_stem, classify, time_first
from spikesearch.nn.layers import Layers, PlainLayers, run
from spikesearch.nn.modules import Block, Branch, Down, NetworkStage, Stem
from spikesearch.nn.units import DOWN, HEAD, Form, Unit, block_places, network_units
from spikesearch.space.architecture import Architecture
from spikesearch.space.residual import check_residual


class Network(nn.Module):
    """A spiking network over plain or elastic layers; its parts are those that :meth:`units` lists.

    Args:
        arch: What it is built for; of elastic layers, the largest architecture.
        layers: Makes its layers.
        in_channels: Channels of the images (2 for event polarities).
        image_size: Height and width of the images, in pixels.
        num_classes: Number of classes.
        pool_stages: Stages (0 to 3) of the stem ``sps`` that end in a max-pooling.
        stem: Kind of the stem.
        stem_stride: Of the convolution of the stem ``conv``.
    """

    head: nn.Module

    def __init__(
        self,
        arch: Architecture,
        layers: Layers,
        *,
        in_channels: int,
        image_size: int,
        num_classes: int,
        pool_stages: tuple[int, ...] | None,
        stem: str,
        stem_stride: int | None,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.image_size = image_size
        self.num_classes = num_classes
        self.pool_stages = check_pool_stages(pool_stages, image_size)
        self.residual = layers.residual
        self.stem_kind = stem
        self.stem_stride = check_stem(stem, stem_stride, image_size)
        self._parts = {unit.name: unit for variant in _variants(arch, layers) for unit in self.units(variant)}
        self.stem = Stem(self._parts, layers, stem=stem, pool_stages=self.pool_stages)
        blocks: list[list[Block]] = [[] for _ in arch.depths]
        for place in block_places(arch):
            blocks[place.stage].append(Block(self._parts, place, layers))
        if arch.stages:
            downs = [self._parts.get(f"stages.{stage}.down.{DOWN.name}") for stage in range(len(blocks))]
            self.stages = nn.ModuleList(
                NetworkStage(down, own, layers) for down, own in zip(downs, blocks, strict=True)
            )
        else:
            self.blocks = nn.ModuleList(blocks[0])
        self.head_lif = layers.stream_neurons(self._parts[HEAD])
        self.head = layers.weights(self._parts[HEAD])

    @property
    def form(self) -> Form:
        """What all networks of one supernet have in common, as far as units depend on it."""
        return Form(self.in_channels, self.num_classes, self.residual, self.stem_kind, self.stem_stride)

    def units(self, arch: Architecture | None = None) -> tuple[Unit, ...]:
        """Return the units of an architecture, from the images to the head; by default of everything that is built.

        The units of a supernet have the widths of the largest architecture.
        """
        return tuple(self._parts.values() if arch is None else network_units(arch, self.form))

    @property
    def stem_settings(self) -> dict[str, Any]:
        """The keyword arguments that say which stem it is: none for ``sps``, the only one there was."""
        return {} if self.stem_kind == "sps" else {"stem": self.stem_kind, "stem_stride": self.stem_stride}

    @property
    def settings(self) -> dict[str, Any]:
        """The keyword arguments that build a network of this shape."""
        settings = {name: getattr(self, name) for name in SETTINGS if not name.startswith("stem")}
        return settings | self.stem_settings

    @property
    def plain_settings(self) -> dict[str, Any]:
        """The same in plain JSON types."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self.settings.items()}

    def parts(self) -> list[tuple[Down | None, nn.ModuleList]]:
        """Return the way into each stage, if there is one, and its blocks."""
        if not hasattr(self, "stages"):
            return [(None, self.blocks)]
        stages = [stage for stage in self.stages if isinstance(stage, NetworkStage)]
        return [(stage.down, stage.blocks) for stage in stages]

    def branches(self) -> Iterator[tuple[int, Branch]]:
        """Yield the residual branches of all blocks, each with the number of its block."""
        for i, block in enumerate(block for _, blocks in self.parts() for block in blocks):
            for branch in block.children():
                assert isinstance(branch, Branch)
                yield i, branch

    def stream(self, x: Tensor, arch: Architecture) -> Tensor:
        """Return the stream ``[T, N, tokens, D]`` behind the last block.

        Args:
            x: Static images ``[N, C, H, W]`` or event frames ``[N, F, C, H, W]`` with at least T frames.
            arch: The architecture that is run.

        Raises:
            DataError: If the images are of another shape.
        """
        check_images(x, self.in_channels, self.image_size)
        x_seq: Tensor = self.stem(time_first(x, arch.time_steps), arch)
        for (down, blocks), specs in zip(self.parts(), arch.blocks_of_stages, strict=True):
            if down is not None:
                x_seq = down(x_seq, arch)
            for block, spec in zip(blocks, specs, strict=False):
                x_seq = block(x_seq, arch, spec)
        return x_seq

    def features(self, x_seq: Tensor, arch: Architecture) -> Tensor:
        """Return what the head averages, of the stream behind the last block; same shape."""
        spec = arch.blocks[-1]
        return run(self.head_lif, x_seq, spec.v_threshold, spec.tau)


def _variants(arch: Architecture, layers: Layers) -> list[Architecture]:
    """Return architectures that together have every mixer that the layers offer at every place, the given one last."""
    mixers = [[mixer for mixer in layers.mixers(place) if mixer != place.spec.mixer] for place in block_places(arch)]
    variants = [
        replace(
            arch,
            blocks=tuple(
                replace(spec, mixer=others[turn]) if turn < len(others) else spec
                for spec, others in zip(arch.blocks, mixers, strict=True)
            ),
        )
        for turn in range(max(map(len, mixers)))
    ]
    return [*variants, arch]


class Spikformer(Network):
    """A spiking network with a fixed architecture: a vision transformer, or one of the other mixers.

    Neurons start every forward pass at rest. In evaluation mode they keep nothing, so that several threads may use one
    network. Freshly built, each batch-norm in front of neurons has the scale ``v_threshold * tau / 2``, the gain at
    which a neuron with these genes fires (see :class:`~spikesearch.nn.lif.ElasticLIF`).

    Args:
        arch: The architecture; validated.
        in_channels: Channels of the images (2 for event polarities).
        image_size: Height and width of the images, in pixels.
        num_classes: Number of classes.
        pool_stages: Stem stages (0 to 3) that end in a max-pooling; by default as many as lead to 8 x 8 tokens.
        residual: What residual connections carry: ``add`` for sums of spikes, ``membrane`` for currents, ``normed`` for
            currents that are read by neurons with a batch-norm of their own.
        stem: ``sps`` for spiking patch splitting, ``conv`` for one strided convolution.
        stem_stride: Of that convolution; by default as small as leads to 20 x 20 positions or fewer.

    Raises:
        SpaceError: If no network can be built from ``arch``, or there is no such ``residual`` or ``stem``.

    Example:
        >>> import torch
        >>> from spikesearch.space import SearchSpace
        >>> space = SearchSpace((16,), (1,), (2,), (2,), (1.0,), (2.0,), (2,))
        >>> net = Spikformer(space.largest, in_channels=1, image_size=8, num_classes=10)
        >>> net(torch.zeros(3, 1, 8, 8)).shape
        torch.Size([3, 10])
    """

    head: nn.Linear

    def __init__(
        self,
        arch: Architecture,
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
            arch.validate(),
            PlainLayers(check_residual(residual)),
            in_channels=in_channels,
            image_size=image_size,
            num_classes=num_classes,
            pool_stages=pool_stages,
            stem=stem,
            stem_stride=stem_stride,
        )
        self.arch = arch
        self.stateful = True  # neurons remember in training mode; not those of fast copies

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[N, classes]``.

        Args:
            x: Static images ``[N, C, H, W]`` or event frames ``[N, F, C, H, W]`` with at least T frames.
        """
        return classify(self.forward_features(x), self.head)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the tokens in front of the head, ``[T, N, tokens, D]``, of what :meth:`forward` takes."""
        self._reset()
        x_seq = self.features(self.stream(x, self.arch), self.arch)
        self._reset()  # state would keep the graph alive and make copies of the module fail
        return x_seq

    def _reset(self) -> None:
        if self.stateful:
            functional.reset_net(self)


# Every keyword-only argument of a Spikformer, but those of the stem, is kept as an attribute of the same name.
SETTINGS = tuple(
    parameter.name
    for parameter in inspect.signature(Spikformer).parameters.values()
    if parameter.kind is parameter.KEYWORD_ONLY
)


def count_parameters(net: nn.Module) -> int:
    """Return the number of learnable values of a network."""
    return sum(parameter.numel() for parameter in net.parameters())
