"""Energy of a spiking transformer: counted operations times the energy of one operation.

An *operation-count model*: multiply-accumulates (MAC) and accumulates (AC) of one sample at the measured activity,
priced at 4.6 pJ and 0.9 pJ (45 nm CMOS, 32-bit float; Horowitz, ISSCC 2014, as used by the Spikformer family). Memory
traffic is not part of it, batch-norms are folded into the layer in front of them and biases are ignored. There are two
named conventions, because published numbers differ by an order of magnitude between them:

``spikformer``
    As published (Zhou et al., ICLR 2023; Zhou et al., "Spikingformer", 2023). The first convolution is MACs in each of
    the T time steps, the head is MACs once, every other layer is ACs at the mean value ``f`` of its input, also where
    that input is a sum of spikes: ``ACs = f * dense operations``.
``strict``
    The kind of operation follows from the place in the graph, never from observed values. Inputs that are sums of
    spikes (the residual stream: q, k, v and the first MLP layer) cost a dense MAC in every time step; layers whose
    input is binary cost ACs at its firing rate; every neuron costs one MAC per time step for its membrane. With
    residual connections by membrane currents (``residual="membrane"``) every input but that of the first layer is
    binary. So is that of the head: it classifies an average of spikes, and as it is linear, that is the average of what
    it makes of each token's spikes, ACs in every time step.

Both: spiking self-attention costs ``T * N * D * d_head * (min(f_k, f_v) + f_q)`` ACs for N tokens of width D, the
number of the order ``q (k.T v)``, whatever order executes it; the first layer on event frames costs its dense MACs
times the fraction of non-zero inputs. ``energy = 4.6 pJ * MACs + 0.9 pJ * ACs``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from spikesearch.energy.activity import FIRST_LAYER, HEAD, HEAD_LIF, Activity, measure_activity

if TYPE_CHECKING:
    from spikesearch.config import ScoringConfig

Convention = Literal["spikformer", "strict"]

# Layers whose input is a sum of spikes where residual connections are additions of spikes.
GRADED_LAYERS = ("attn.qkv.linear", "mlp.fc1.linear")


@dataclass(frozen=True)
class LayerEnergy:
    """One line of an energy report; operations and energy are per sample, all time steps together.

    Args:
        name: Name of the layer in the network.
        kind: ``conv``, ``linear``, ``attention`` or ``lif``.
        dense_ops: Multiplications without any sparsity.
        input_rate: Mean value of the input per element and step (the firing rate where it is binary).
        macs: Multiply-accumulates.
        acs: Accumulates.
        energy_uJ: Energy in microjoules.
    """

    name: str
    kind: str
    dense_ops: float
    input_rate: float
    macs: float
    acs: float
    energy_uJ: float  # noqa: N815 - the unit


@dataclass(frozen=True)
class EnergyReport:
    """Energy of one network on real samples, under one convention.

    Args:
        convention: ``spikformer`` or ``strict``.
        mac_pj: Energy of one MAC in picojoules.
        ac_pj: Energy of one AC in picojoules.
        time_steps: Number of simulation steps T.
        n_images: Number of samples that the rates were measured on.
        mean_firing_rate: Spikes per neuron and time step over all LIF neurons.
        layers: One entry per layer.
        first_layer_once_uJ: Total energy with the first layer counted in one time step, as some papers print it for
            images; ``None`` for event frames, of which every time step has its own.
    """

    convention: str
    mac_pj: float
    ac_pj: float
    time_steps: int
    n_images: int
    mean_firing_rate: float
    layers: tuple[LayerEnergy, ...]
    first_layer_once_uJ: float | None  # noqa: N815 - the unit

    @property
    def macs(self) -> float:
        """Multiply-accumulates per sample."""
        return sum(layer.macs for layer in self.layers)

    @property
    def acs(self) -> float:
        """Accumulates per sample."""
        return sum(layer.acs for layer in self.layers)

    @property
    def total_uJ(self) -> float:  # noqa: N802 - the unit
        """Energy per sample in microjoules."""
        return sum(layer.energy_uJ for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, totals included."""
        data = asdict(self)
        data["layers"] = [asdict(layer) for layer in self.layers]
        return {**data, "macs": self.macs, "acs": self.acs, "total_uJ": self.total_uJ}

    def table(self) -> str:
        """Return the report as text, one line per layer."""
        head = f"{'layer':<26}{'kind':<11}{'dense ops':>13}{'rate':>9}{'MACs':>13}{'ACs':>13}{'uJ':>11}"
        lines = [
            f"{layer.name:<26}{layer.kind:<11}{layer.dense_ops:>13,.0f}{layer.input_rate:>9.4f}"
            f"{layer.macs:>13,.0f}{layer.acs:>13,.0f}{layer.energy_uJ:>11.4f}"
            for layer in self.layers
        ]
        total = f"{'total':<59}{self.macs:>13,.0f}{self.acs:>13,.0f}{self.total_uJ:>11.4f}"
        notes = (
            f"convention {self.convention!r}, {self.mac_pj} pJ per MAC, {self.ac_pj} pJ per AC, T = {self.time_steps}, "
            f"{self.n_images} samples"
        )
        if self.first_layer_once_uJ is not None:
            notes += f"; first layer counted once: {self.first_layer_once_uJ:.4f} uJ"
        return "\n".join([head, *lines, total, notes])


@dataclass(frozen=True)
class EnergyModel:
    """Turns measured activity into energy under a named convention; see the module for the formulas.

    Args:
        convention: ``spikformer`` or ``strict``.
        mac_pj: Energy of one MAC in picojoules, >= 0.
        ac_pj: Energy of one AC in picojoules, >= 0.

    Raises:
        ValueError: If the convention is unknown or an energy is negative.
    """

    convention: Convention = "spikformer"
    mac_pj: float = field(default=4.6, kw_only=True)
    ac_pj: float = field(default=0.9, kw_only=True)

    def __post_init__(self) -> None:
        if self.convention not in get_args(Convention):
            raise ValueError(f"`convention` must be one of {list(get_args(Convention))}, but got {self.convention!r}.")
        for name in ("mac_pj", "ac_pj"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must be at least 0 (picojoules), but got {getattr(self, name)!r}.")

    @torch.no_grad()
    def report(self, net: nn.Module, x: Tensor, *, batch_size: int = 256) -> EnergyReport:
        """Measure a network on real samples and price its operations.

        Args:
            net: A :class:`~spikesearch.Spikformer`, or a supernet inside ``with supernet.subnet(arch)``. It runs in
                evaluation mode.
            x: Samples ``[N, C, H, W]`` or event frames ``[N, F, C, H, W]``.
            batch_size: Samples per forward pass.

        Raises:
            ValueError: If there is no sample, or ``net`` is another kind of network. A wrapped one is: first layer,
                head and residual stream are known by the names of their layers.
        """
        training = {module: module.training for module in net.modules()}
        net.eval()
        try:
            with measure_activity(net) as activity:
                for batch in x.split(batch_size):
                    net(batch)
        finally:
            for module, mode in training.items():
                module.training = mode
        return self.price(activity)

    def price(self, activity: Activity) -> EnergyReport:
        """Turn the activity recorded by :func:`measure_activity` into a report.

        If it was recorded differentiably, every number of the report that depends on spikes is a scalar tensor.

        Raises:
            ValueError: As :meth:`report`.
        """
        if activity.n_images == 0:
            raise ValueError("`x` must hold at least one sample, but got none.")
        if FIRST_LAYER not in activity.layers or HEAD not in activity.layers:
            raise ValueError(
                f"`net` must be a Spikformer or a Supernet, with layers {FIRST_LAYER!r} and {HEAD!r}, but it has "
                f"{', '.join(list(activity.layers)[:3]) or 'none'}; unwrap it."
            )
        layers = self._lines(activity)
        first = next(layer for layer in layers if layer.name == FIRST_LAYER)
        repeated = first.macs * (1 - 1 / activity.time_steps) * self.mac_pj * 1e-6
        total = sum(layer.energy_uJ for layer in layers)
        neurons = activity.neurons.values()
        return EnergyReport(
            convention=self.convention,
            mac_pj=self.mac_pj,
            ac_pj=self.ac_pj,
            time_steps=activity.time_steps,
            n_images=activity.n_images,
            mean_firing_rate=sum(one.spikes for one in neurons) / sum(one.elements for one in neurons),
            layers=tuple(layers),
            first_layer_once_uJ=total - repeated if activity.static else None,
        )

    def price_part(self, activity: Activity) -> float:
        """Return the microjoules per sample of a part of a network; all parts together cost what the whole does.

        Args:
            activity: Of some of its modules, see :meth:`Activity.part`; the head goes with the neurons in front of it.
        """
        return sum(layer.energy_uJ for layer in self._lines(activity))

    def _lines(self, activity: Activity) -> list[LayerEnergy]:
        strict = self.convention == "strict"
        binary = activity.residual == "membrane"
        layers: list[LayerEnergy] = []
        for name, layer in activity.layers.items():
            dense = layer.dense_ops / activity.n_images
            rate = layer.total / layer.elements
            macs = acs = 0.0
            if name == FIRST_LAYER:
                if activity.static:  # computed once, counted in every time step
                    dense *= activity.time_steps
                macs = dense if activity.static else dense * layer.nonzero / layer.elements
            elif name == HEAD and strict and binary:
                spikes = activity.neurons[HEAD_LIF]
                dense *= spikes.elements / layer.elements  # tokens and time steps
                acs = dense * spikes.rate
            elif name == HEAD or (strict and not binary and name.endswith(GRADED_LAYERS)):
                macs = dense
            else:
                acs = dense * rate
            layers.append(self._line(name, layer.kind, dense, rate, macs, acs))
        for name, ssa in activity.attention.items():
            dense = ssa.dense_ops / activity.n_images
            f_q, f_k, f_v = (total / ssa.elements for total in (ssa.q, ssa.k, ssa.v))
            rate = min(f_k, f_v) + f_q
            layers.append(self._line(name, "attention", 2 * dense, rate / 2, 0.0, dense * rate))
        if strict and activity.neurons:
            updates = sum(neurons.elements for neurons in activity.neurons.values())
            fired = sum(neurons.spikes for neurons in activity.neurons.values())
            count = updates / activity.n_images
            layers.append(self._line("membranes", "lif", count, fired / updates, count, 0.0))
        order = {name: position for position, name in enumerate(activity.order)}
        layers.sort(key=lambda layer: order.get(layer.name, len(order)))
        return layers

    def _line(self, name: str, kind: str, dense: float, rate: float, macs: float, acs: float) -> LayerEnergy:
        energy = (macs * self.mac_pj + acs * self.ac_pj) * 1e-6  # picojoules to microjoules
        return LayerEnergy(name, kind, dense, rate, macs, acs, energy)


def energy_model(config: ScoringConfig) -> EnergyModel:
    """Return the energy model that a study file asks for."""
    return EnergyModel(config.convention, mac_pj=config.mac_pj, ac_pj=config.ac_pj)
