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

from spikesearch.nn.functional import check_images, check_pool_stages, classify, time_first
from spikesearch.nn.layers import Layers, PlainLayers, run
from spikesearch.nn.modules import Block, Branch, Stem
from spikesearch.nn.units import HEAD, Unit, network_units
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
        pool_stages: Stem stages (0 to 3) that end in a max-pooling.
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
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.image_size = image_size
        self.num_classes = num_classes
        self.pool_stages = check_pool_stages(pool_stages, image_size)
        self.residual = layers.residual
        mixers = dict.fromkeys(mixer for spec in arch.blocks for mixer in layers.mixers(spec) if mixer != spec.mixer)
        variants = [replace(arch, blocks=tuple(replace(spec, mixer=mixer) for spec in arch.blocks)) for mixer in mixers]
        self._parts = {unit.name: unit for variant in (*variants, arch) for unit in self.units(variant)}
        self.stem = Stem(self._parts, layers, self.pool_stages)
        self.blocks = nn.ModuleList(
            Block(self._parts, f"blocks.{i}", spec, layers) for i, spec in enumerate(arch.blocks)
        )
        self.head_lif = layers.stream_neurons(arch.blocks[-1])
        self.head = layers.weights(self._parts[HEAD])

    def units(self, arch: Architecture | None = None) -> tuple[Unit, ...]:
        """Return the units of an architecture, from the images to the head; by default of everything that is built.

        The units of a supernet have the widths of the largest architecture.
        """
        if arch is None:
            return tuple(self._parts.values())
        return tuple(
            network_units(arch, in_channels=self.in_channels, num_classes=self.num_classes, residual=self.residual)
        )

    def branches(self) -> Iterator[tuple[int, Branch]]:
        """Yield the residual branches of all blocks, each with the number of its block."""
        for i, block in enumerate(self.blocks):
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
        for block, spec in zip(self.blocks, arch.blocks, strict=False):
            x_seq = block(x_seq, arch, spec)
        return x_seq

    def features(self, x_seq: Tensor, arch: Architecture) -> Tensor:
        """Return what the head averages, of the stream behind the last block; same shape."""
        spec = arch.blocks[-1]
        return run(self.head_lif, x_seq, spec.v_threshold, spec.tau)


class Spikformer(Network):
    """A spiking vision transformer with a fixed architecture.

    Neurons start every forward pass at rest. In evaluation mode they keep nothing, so that several threads may use one
    network. Freshly built, each batch-norm in front of neurons has the scale ``v_threshold * tau / 2``, the gain at
    which a neuron with these genes fires (see :class:`~spikesearch.nn.lif.ElasticLIF`).

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
    ) -> None:
        super().__init__(
            arch.validate(),
            PlainLayers(check_residual(residual)),
            in_channels=in_channels,
            image_size=image_size,
            num_classes=num_classes,
            pool_stages=pool_stages,
        )
        self.arch = arch
        self.stateful = True  # neurons remember in training mode; not those of fast copies

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
        self._reset()
        x_seq = self.features(self.stream(x, self.arch), self.arch)
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


def count_parameters(net: nn.Module) -> int:
    """Return the number of learnable values of a network."""
    return sum(parameter.numel() for parameter in net.parameters())
