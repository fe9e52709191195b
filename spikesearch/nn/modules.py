"""Units, branches, blocks and the stem, written once: over plain or elastic :mod:`~spikesearch.nn.layers`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spikesearch.nn.elastic import ChannelStats, ElasticBatchNorm, ElasticConv2d, ElasticLinear
from spikesearch.nn.functional import images_4d, to_tokens
from spikesearch.nn.layers import Layers, run
from spikesearch.nn.lif import ElasticLIF
from spikesearch.nn.plan import BranchPlan, Spec
from spikesearch.nn.units import STEM, STEM_STAGES, Unit, branch_plans
from spikesearch.space.architecture import Architecture, BlockSpec


class UnitModule(nn.Module):
    """A weight layer, its batch-norm and its neurons; where it has none, its currents are passed on as float32.

    Args:
        unit: What it is, in the architecture that it is built for: the largest one of a supernet.
        layers: Makes its layers.
    """

    def __init__(self, unit: Unit, layers: Layers) -> None:
        super().__init__()
        self.layer = unit.layer
        self.add_module(unit.layer.op, layers.weights(unit))
        self.bn = layers.norm(unit)
        self.lif = layers.neurons(unit)

    @property
    def op(self) -> nn.Module:
        """The convolution or linear layer."""
        return self.get_submodule(self.layer.op)

    def currents(self, x: Tensor, arch: Architecture, spec: Spec) -> Tensor:
        """Return what the neurons integrate or the stream takes up, for ``x`` with time and batch merged."""
        x = run(self.op, x, self.layer.width(self.layer.outputs, arch.embed_dim, spec))
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
        weight, bias = norm.affine(unit.outputs, self._gain(unit.spec))
        stats = stats or norm.sliced_stats(unit.outputs)
        return {
            f"{self.layer.op}.weight": op.sliced_weight(unit.inputs, unit.outputs),
            "bn.weight": weight,
            "bn.bias": bias,
            "bn.running_mean": stats.mean,
            "bn.running_var": stats.var,
            "bn.num_batches_tracked": torch.zeros((), dtype=torch.long),
        }

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
    """Spiking patch splitting: four convolution units, and one that encodes positions, added to the stream.

    Args:
        units: Those of :data:`~spikesearch.nn.units.STEM`.
        layers: Makes their layers.
        pool_stages: Stages that end in a max-pooling.
    """

    def __init__(self, units: Mapping[str, Unit], layers: Layers, pool_stages: tuple[int, ...]) -> None:
        super().__init__()
        own = [units[f"stem.{layer.name}"] for layer in STEM]
        self.stages = nn.ModuleList(
            ConvUnit(unit, layers, pool=i in pool_stages) for i, unit in enumerate(own[:STEM_STAGES])
        )
        self.rpe_lif = layers.stream_neurons(own[STEM_STAGES].spec)
        self.rpe = ConvUnit(own[STEM_STAGES], layers)

    def forward(self, x_seq: Tensor, arch: Architecture) -> Tensor:
        """Turn frames ``[T or 1, N, C, H, W]`` into the stream of tokens ``[T, N, L, D]``."""
        for stage in self.stages:
            x_seq = stage(x_seq, arch, arch.stem)
        spikes = run(self.rpe_lif, x_seq, arch.stem.v_threshold, arch.stem.tau)
        return to_tokens(self.rpe(spikes, arch, arch.stem) + x_seq)


class Branch(nn.Module):
    """A residual branch of a block, on the stream ``[T, N, L, D]``.

    Args:
        plan: Its layers and the function that runs them.
        units: The units of the network, by name.
        prefix: Of their names.
        spec: The genes of the block.
        layers: Makes the layers.
    """

    def __init__(self, plan: BranchPlan, units: Mapping[str, Unit], prefix: str, spec: Spec, layers: Layers) -> None:
        super().__init__()
        self.plan = plan
        self.lif_in = layers.stream_neurons(spec)
        for layer in plan.layers:
            unit = units[f"{prefix}.{layer.name}"]
            self.add_module(layer.name, (ConvUnit if layer.op == "conv" else LinearUnit)(unit, layers))
        for name, module in plan.extras(layers).items():
            self.add_module(name, module)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Return a unit or an extra; plans know which there are."""

    def forward(self, x_seq: Tensor, arch: Architecture, spec: BlockSpec) -> Tensor:
        """Return what is added to the stream."""
        x_seq = run(self.lif_in, x_seq, spec.v_threshold, spec.tau)
        return self.plan.forward(self, x_seq, arch, spec)


class Block(nn.Module):
    """A mixer and a channel branch, each added to the stream; an elastic block holds every mixer of the space.

    Args:
        units: The units of the network, by name.
        prefix: Name of the block.
        spec: Its genes.
        layers: Makes the layers.
    """

    def __init__(self, units: Mapping[str, Unit], prefix: str, spec: BlockSpec, layers: Layers) -> None:
        super().__init__()
        self._order: dict[str, tuple[str, ...]] = {}
        for mixer in layers.mixers(spec):
            plans = branch_plans(mixer)
            self._order[mixer] = tuple(plan.module for plan in plans)
            for plan in plans:
                if plan.module not in self._modules:
                    self.add_module(plan.module, Branch(plan, units, f"{prefix}.{plan.module}", spec, layers))

    def branches(self, spec: BlockSpec) -> list[tuple[str, Branch]]:
        """Return the branches that a block with these genes runs, by name and in their order."""
        return [(name, getattr(self, name)) for name in self._order[spec.mixer]]

    def forward(self, x_seq: Tensor, arch: Architecture, spec: BlockSpec) -> Tensor:
        """Return the stream behind the block."""
        for _, branch in self.branches(spec):
            x_seq = x_seq + branch(x_seq, arch, spec)
        return x_seq
