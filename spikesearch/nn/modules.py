"""Units, branches, blocks and the stem, written once: over plain or elastic :mod:`~spikesearch.nn.layers`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from spikesearch.nn.elastic import ChannelStats, ElasticBatchNorm, ElasticConv2d, ElasticLinear
from spikesearch.nn.functional import Shortcut, images_4d, tile_channels, to_maps, to_tokens
from spikesearch.nn.layers import Layers, run
from spikesearch.nn.lif import ElasticLIF
from spikesearch.nn.plan import BranchPlan, Spec
from spikesearch.nn.units import SPS, STEM_STAGES, BlockPlace, Unit, branch_plans
from spikesearch.space.architecture import Architecture, BlockSpec
from spikesearch.space.residual import RESIDUALS


class UnitModule(nn.Module):
    """A weight layer, its batch-norm and its neurons; where it has none, its currents are passed on as float32.

    Args:
        unit: What it is, in the architecture that it is built for: the largest one of a supernet.
        layers: Makes its layers.
    """

    def __init__(self, unit: Unit, layers: Layers) -> None:
        super().__init__()
        self.layer = unit.layer
        self.stage = unit.stage
        self.add_module(unit.layer.op, layers.weights(unit))
        self.bn = layers.norm(unit)
        self.lif = layers.neurons(unit)

    @property
    def op(self) -> nn.Module:
        """The convolution or linear layer."""
        return self.get_submodule(self.layer.op)

    def currents(self, x: Tensor, arch: Architecture, spec: Spec) -> Tensor:
        """Return what the neurons integrate or the stream takes up, for ``x`` with time and batch merged."""
        x = run(self.op, x, self.layer.width(self.layer.outputs, arch.widths[self.stage], spec))
        out: Tensor = self.bn(x, self._gain(spec)) if isinstance(self.bn, ElasticBatchNorm) else self.bn(x)
        return out

    def spikes(self, currents: Tensor, spec: Spec) -> Tensor:
        """Return the spikes of the neurons, or the currents where there are none."""
        return run(self.lif, currents, spec.v_threshold, spec.tau)

    def plain_state(self, unit: Unit, stats: ChannelStats | None) -> dict[str, Tensor]:
        """Return the state of a plain unit: sliced weights, the gain folded into the batch-norm.

        Args:
            unit: The same unit in the architecture that is taken out.
            stats: Of its batch-norm; by default slices of the running ones.
        """
        op, norm = self.op, self.bn
        assert isinstance(op, ElasticConv2d | ElasticLinear)
        assert isinstance(norm, ElasticBatchNorm)
        own = norm.plain_state(unit.outputs, self._gain(unit.spec), stats)
        weight = op.sliced_weight(unit.inputs, unit.outputs)
        return {f"{self.layer.op}.weight": weight, **{f"bn.{key}": value for key, value in own.items()}}

    def _gain(self, spec: Spec) -> Tensor | float:
        return self.lif.gain(spec.v_threshold, spec.tau) if isinstance(self.lif, ElasticLIF) else 1.0


class ConvUnit(UnitModule):
    """A unit on feature maps ``[T, N, C, H, W]``, perhaps with a max-pooling behind it.

    Where there is one time step only, that of an image, it is repeated behind the batch-norm.
    """

    def __init__(self, unit: Unit, layers: Layers, *, pool: bool = False) -> None:
        super().__init__(unit, layers)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if pool else None

    def forward(self, x_seq: Tensor, arch: Architecture, spec: Spec) -> Tensor:
        """Return spikes, or currents, ``[T, N, C', H', W']``."""
        x = self.currents(images_4d(x_seq), arch, spec).unflatten(0, x_seq.shape[:2])
        out = self.spikes(x.expand(arch.time_steps, *x.shape[1:]), spec)
        if self.pool is not None:
            out = self.pool(images_4d(out)).unflatten(0, out.shape[:2])
        return out


class LinearUnit(UnitModule):
    """A unit on tokens ``[T, N, L, C]``."""

    def forward(self, x_seq: Tensor, arch: Architecture, spec: Spec) -> Tensor:
        """Return spikes, or currents, ``[T, N, L, C']``."""
        x = self.currents(x_seq.flatten(0, 2), arch, spec).unflatten(0, x_seq.shape[:3])
        return self.spikes(x, spec)


class Stem(nn.Module):
    """Turns images into the stream: spiking patch splitting, or one strided convolution.

    Patch splitting is four convolution units, and one that encodes positions, added to the stream.

    Args:
        units: Those of :func:`~spikesearch.nn.units.stem_layers`.
        layers: Makes their layers.
        stem: Name of the kind.
        pool_stages: Stages of patch splitting that end in a max-pooling.
    """

    def __init__(self, units: Mapping[str, Unit], layers: Layers, *, stem: str, pool_stages: tuple[int, ...]) -> None:
        super().__init__()
        if stem == "conv":
            self.embed = ConvUnit(units["stem.embed"], layers)
            return
        own = [units[f"stem.{layer.name}"] for layer in SPS]
        self.stages = nn.ModuleList(
            ConvUnit(unit, layers, pool=i in pool_stages) for i, unit in enumerate(own[:STEM_STAGES])
        )
        self.rpe_lif = layers.stream_neurons(own[STEM_STAGES])
        self.rpe = ConvUnit(own[STEM_STAGES], layers)

    def forward(self, x_seq: Tensor, arch: Architecture) -> Tensor:
        """Turn frames ``[T or 1, N, C, H, W]`` into the stream of tokens ``[T, N, L, D]``."""
        if not hasattr(self, "rpe"):
            maps: Tensor = self.embed(x_seq, arch, arch.stem)
            return tile_channels(to_tokens(maps), arch.widths[0])
        for stage in self.stages:
            x_seq = stage(x_seq, arch, arch.stem)
        spikes = read_maps(self.rpe_lif, x_seq, arch.stem)
        return to_tokens(self.rpe(spikes, arch, arch.stem) + x_seq)


def read_maps(neurons: nn.Module, x_seq: Tensor, spec: Spec) -> Tensor:
    """Return what neurons that read a stream make of one of feature maps ``[T, N, C, H, W]``."""
    spikes = run(neurons, x_seq.permute(0, 1, 3, 4, 2), spec.v_threshold, spec.tau)
    return spikes.permute(0, 1, 4, 2, 3)


class Down(nn.Module):
    """The way into a stage: a strided convolution of what neurons read, added to the stream at its resolution.

    Args:
        unit: Its convolution.
        layers: Makes the layers.
    """

    def __init__(self, unit: Unit, layers: Layers) -> None:
        super().__init__()
        self.lif_in = layers.stream_neurons(unit)
        self.conv = ConvUnit(unit, layers)
        self.shortcut = Shortcut(average=RESIDUALS[layers.residual].currents)

    def forward(self, x_seq: Tensor, arch: Architecture) -> Tensor:
        """Turn the stream of tokens ``[T, N, L, C]`` into that of the stage, ``[T, N, L', C']``."""
        stage = self.conv.stage
        spec = arch.stages[stage]
        spikes = run(self.lif_in, x_seq, spec.v_threshold, spec.tau)
        out = to_tokens(self.conv(to_maps(spikes), arch, spec))
        shortcut: Tensor = self.shortcut(x_seq, arch.widths[stage])
        return out + shortcut


class Branch(nn.Module):
    """A residual branch of a block, on the stream ``[T, N, L, D]``.

    Args:
        plan: Its layers and the function that runs them.
        units: The units of the network, by name.
        prefix: Of their names.
        layers: Makes the layers.
    """

    def __init__(self, plan: BranchPlan, units: Mapping[str, Unit], prefix: str, layers: Layers) -> None:
        super().__init__()
        self.plan = plan
        own = [units[f"{prefix}.{layer.name}"] for layer in plan.layers]
        self.lif_in = layers.stream_neurons(next(unit for unit in own if unit.layer.reads_stream))
        for unit in own:
            self.add_module(unit.layer.name, (ConvUnit if unit.layer.op == "conv" else LinearUnit)(unit, layers))
        for name, module in plan.extras(layers).items():
            self.add_module(name, module)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Return a unit or an extra; plans know which there are."""

    def forward(self, x_seq: Tensor, arch: Architecture, spec: BlockSpec) -> Tensor:
        """Return what is added to the stream."""
        x_seq = run(self.lif_in, x_seq, spec.v_threshold, spec.tau)
        return self.plan.forward(self, x_seq, arch, spec)

    def run_layers(self, x_seq: Tensor, arch: Architecture, spec: BlockSpec) -> Tensor:
        """Run the layers one behind the other on tokens; convolutions see them as maps."""
        for layer in self.plan.layers:
            unit = self.get_submodule(layer.name)
            if layer.op == "conv":
                x_seq = to_tokens(unit(to_maps(x_seq), arch, spec))
            else:
                x_seq = unit(x_seq, arch, spec)
        return x_seq


class Block(nn.Module):
    """A mixer and perhaps a channel branch, each added to the stream; an elastic block holds every mixer of its stage.

    Args:
        units: The units of the network, by name.
        place: Its name, stage and genes; those of an elastic block have an MLP if any has.
        layers: Makes the layers.
    """

    def __init__(self, units: Mapping[str, Unit], place: BlockPlace, layers: Layers) -> None:
        super().__init__()
        for mixer in layers.mixers(place):
            for plan in branch_plans(mixer, place.spec.mlp_ratio):
                if plan.module not in self._modules:
                    self.add_module(plan.module, Branch(plan, units, f"{place.prefix}.{plan.module}", layers))

    def branches(self, spec: BlockSpec) -> list[tuple[str, Branch]]:
        """Return the branches that a block with these genes runs, by name and in their order."""
        return [(plan.module, getattr(self, plan.module)) for plan in branch_plans(spec.mixer, spec.mlp_ratio)]

    def forward(self, x_seq: Tensor, arch: Architecture, spec: BlockSpec) -> Tensor:
        """Return the stream behind the block."""
        for _, branch in self.branches(spec):
            x_seq = x_seq + branch(x_seq, arch, spec)
        return x_seq


class NetworkStage(nn.Module):
    """A stage of a network of several: the way into it, but for the first, and its blocks.

    Args:
        down: Its convolution; ``None`` for the first stage.
        blocks: Its blocks.
        layers: Makes the layers.
    """

    def __init__(self, down: Unit | None, blocks: Iterable[Block], layers: Layers) -> None:
        super().__init__()
        self.down = None if down is None else Down(down, layers)
        self.blocks = nn.ModuleList(blocks)
