"""What units are made of: plain layers of one architecture, or elastic layers of which every architecture uses a slice.

Modules are written once. They build their layers through one of the two classes here and run them through :func:`run`,
which tells an elastic layer its slice.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from spikesearch.nn.elastic import Elastic, ElasticBatchNorm, ElasticConv2d, ElasticLinear
from spikesearch.nn.lif import (
    Currents,
    ElasticLIF,
    ElasticNormedLIF,
    ElasticStreamLIF,
    FixedLIF,
    NoLIF,
    NormedLIF,
    PlainLIF,
    StreamLIF,
    start_of,
)
from spikesearch.nn.units import BlockPlace, Unit
from spikesearch.space.residual import RESIDUALS
from spikesearch.space.space import SearchSpace


class Layers(Protocol):
    """Makes the layers of a network."""

    residual: str

    def weights(self, unit: Unit) -> nn.Module:
        """Return the convolution or linear layer of a unit, or the head."""

    def norm(self, unit: Unit) -> nn.Module:
        """Return the batch-norm of a unit."""

    def neurons(self, unit: Unit) -> nn.Module:
        """Return the neurons of a unit; where it has none, what passes its currents on."""

    def stream_neurons(self, unit: Unit) -> nn.Module:
        """Return the neurons through which a unit reads the stream; none where that is spikes."""

    def fixed_neurons(self, v_threshold: float, tau: float) -> nn.Module:
        """Return neurons whose threshold and tau are no genes."""

    def mixers(self, place: BlockPlace) -> tuple[str, ...]:
        """Return the mixers that a block holds."""


def run(module: nn.Module, x: Tensor, *gene: Any) -> Tensor:
    """Run a layer, an elastic one with the genes that say which slice is meant."""
    out: Tensor = module(x, *gene) if isinstance(module, Elastic) else module(x)
    return out


class PlainLayers:
    """Torch's layers and SpikingJelly's neurons.

    Freshly built, each batch-norm in front of neurons has the scale ``v_threshold * tau / 2``, the gain at which a
    neuron with these genes fires (see :class:`~spikesearch.nn.lif.ElasticLIF`).
    """

    def __init__(self, residual: str) -> None:
        self.residual = residual

    def weights(self, unit: Unit) -> nn.Module:
        outputs = unit.outputs * unit.layer.groups
        if unit.layer.op == "conv":
            layer = unit.layer
            groups = unit.inputs if layer.depthwise else 1
            return nn.Conv2d(
                unit.inputs,
                outputs,
                layer.size,
                stride=layer.stride,
                padding=layer.size // 2,
                groups=groups,
                bias=False,
            )
        return nn.Linear(unit.inputs, outputs, bias=unit.averages)

    def norm(self, unit: Unit) -> nn.Module:
        kind = nn.BatchNorm2d if unit.layer.op == "conv" else nn.BatchNorm1d
        norm = kind(unit.outputs * unit.layer.groups)
        if unit.spiking:
            nn.init.constant_(norm.weight, unit.spec.v_threshold * start_of(unit.spec.tau) / 2)
        return norm

    def neurons(self, unit: Unit) -> nn.Module:
        return PlainLIF(unit.spec.v_threshold, unit.spec.tau) if unit.spiking else Currents()

    def stream_neurons(self, unit: Unit) -> nn.Module:
        spec = unit.spec
        if unit.normed:
            return NormedLIF(unit.inputs, spec.v_threshold, spec.tau)
        return StreamLIF(spec.v_threshold, spec.tau) if RESIDUALS[self.residual].currents else NoLIF()

    def fixed_neurons(self, v_threshold: float, tau: float) -> nn.Module:
        return PlainLIF(v_threshold, tau)

    def mixers(self, place: BlockPlace) -> tuple[str, ...]:
        return (place.spec.mixer,)


class ElasticLayers:
    """Layers and neurons for every architecture of a space; units are those of its largest."""

    def __init__(self, space: SearchSpace, residual: str) -> None:
        self.space = space
        self.residual = residual

    def weights(self, unit: Unit) -> nn.Module:
        if unit.layer.op == "conv":
            layer = unit.layer
            return ElasticConv2d(
                unit.inputs, unit.outputs, size=layer.size, stride=layer.stride, depthwise=layer.depthwise
            )
        return ElasticLinear(unit.inputs, unit.outputs, bias=unit.averages, groups=unit.layer.groups)

    def norm(self, unit: Unit) -> nn.Module:
        return ElasticBatchNorm(unit.outputs, groups=unit.layer.groups)

    def neurons(self, unit: Unit) -> nn.Module:
        if not unit.spiking:
            return Currents()
        centred = RESIDUALS[self.residual].normed
        return ElasticLIF(self.space.v_thresholds, self.space.taus, centred=centred)

    def stream_neurons(self, unit: Unit) -> nn.Module:
        if unit.normed:
            return ElasticNormedLIF(unit.inputs, self.space.v_thresholds, self.space.taus)
        currents = RESIDUALS[self.residual].currents
        return ElasticStreamLIF(self.space.v_thresholds, self.space.taus) if currents else NoLIF()

    def fixed_neurons(self, v_threshold: float, tau: float) -> nn.Module:
        return FixedLIF(v_threshold, tau)

    def mixers(self, place: BlockPlace) -> tuple[str, ...]:
        mixers: tuple[str, ...] = self.space.stage_lists[place.stage]["mixers"]
        return mixers
