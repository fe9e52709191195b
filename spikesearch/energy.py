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
    input is binary cost ACs at its firing rate; every neuron costs one MAC per time step for its membrane.

Both: spiking self-attention costs ``T * N * D * d_head * (min(f_k, f_v) + f_q)`` ACs for N tokens of width D, the
number of the order ``q (k.T v)``, whatever order executes it; the first layer on event frames costs its dense MACs
times the fraction of non-zero inputs. ``energy = 4.6 pJ * MACs + 0.9 pJ * ACs``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

Convention = Literal["spikformer", "strict"]

FIRST_LAYER = "stem.stages.0.conv"
HEAD = "head"
# Layers whose input is a sum of spikes in every network of this package (residual connections by addition).
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
        first_layer_once_uJ: Total energy with the first layer counted in one time step, as some papers print it.
    """

    convention: str
    mac_pj: float
    ac_pj: float
    time_steps: int
    n_images: int
    mean_firing_rate: float
    layers: tuple[LayerEnergy, ...]
    first_layer_once_uJ: float  # noqa: N815 - the unit

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
            f"{self.n_images} samples; first layer counted once: {self.first_layer_once_uJ:.4f} uJ"
        )
        return "\n".join([head, *lines, total, notes])


class EnergyModel:
    """Turns measured activity into energy under a named convention; see the module for the formulas.

    Args:
        convention: ``spikformer`` or ``strict``.
        mac_pj: Energy of one MAC in picojoules, >= 0.
        ac_pj: Energy of one AC in picojoules, >= 0.

    Raises:
        ValueError: If the convention is unknown or an energy is negative.
    """

    def __init__(self, convention: Convention = "spikformer", *, mac_pj: float = 4.6, ac_pj: float = 0.9) -> None:
        if convention not in get_args(Convention):
            raise ValueError(f"`convention` must be one of {list(get_args(Convention))}, but got {convention!r}.")
        for name, value in (("mac_pj", mac_pj), ("ac_pj", ac_pj)):
            if not value >= 0:
                raise ValueError(f"`{name}` must be at least 0 (picojoules), but got {value!r}.")
        self.convention = convention
        self.mac_pj = mac_pj
        self.ac_pj = ac_pj

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
        strict = self.convention == "strict"
        layers: list[LayerEnergy] = []
        once = 0.0
        for name, layer in activity.layers.items():
            dense = layer.dense_ops / activity.n_images
            rate = layer.total / layer.elements
            macs = acs = 0.0
            if name == FIRST_LAYER:
                if activity.static:  # computed once, counted in every time step
                    dense *= activity.time_steps
                macs = dense if activity.static else dense * layer.nonzero / layer.elements
                once = macs * (1 - 1 / activity.time_steps)
            elif name == HEAD or (strict and name.endswith(GRADED_LAYERS)):
                macs = dense
            else:
                acs = dense * rate
            layers.append(self._line(name, layer.kind, dense, rate, macs, acs))
        for name, ssa in activity.attention.items():
            dense = ssa.dense_ops / activity.n_images
            f_q, f_k, f_v = (total / ssa.elements for total in (ssa.q, ssa.k, ssa.v))
            acs = dense * (min(f_k, f_v) + f_q)
            layers.append(self._line(name, "attention", 2 * dense, (min(f_k, f_v) + f_q) / 2, 0.0, acs))
        updates = sum(neurons.elements for neurons in activity.neurons.values())
        spikes = sum(neurons.spikes for neurons in activity.neurons.values())
        if strict:
            count = updates / activity.n_images
            layers.append(self._line("membranes", "lif", count, spikes / updates, count, 0.0))
        order = {name: position for position, name in enumerate(activity.order)}
        layers.sort(key=lambda layer: order.get(layer.name, len(order)))
        total = sum(layer.energy_uJ for layer in layers)
        return EnergyReport(
            convention=self.convention,
            mac_pj=self.mac_pj,
            ac_pj=self.ac_pj,
            time_steps=activity.time_steps,
            n_images=activity.n_images,
            mean_firing_rate=spikes / updates,
            layers=tuple(layers),
            first_layer_once_uJ=total - once * self.mac_pj * 1e-6,
        )

    def _line(self, name: str, kind: str, dense: float, rate: float, macs: float, acs: float) -> LayerEnergy:
        energy = (macs * self.mac_pj + acs * self.ac_pj) * 1e-6  # picojoules to microjoules
        return LayerEnergy(name, kind, dense, rate, macs, acs, energy)


# --- measuring ------------------------------------------------------------------------------------


@dataclass
class LayerActivity:
    """Sums over every sample seen by one convolution or linear layer."""

    kind: str
    dense_ops: float = 0.0
    total: float = 0.0
    nonzero: float = 0.0
    elements: int = 0


@dataclass
class AttentionActivity:
    """Sums over every sample seen by one attention product; ``elements`` is the size of q, of k and of v."""

    dense_ops: float = 0.0
    q: float = 0.0
    k: float = 0.0
    v: float = 0.0
    elements: int = 0


@dataclass
class NeuronActivity:
    """Spikes, and neurons times time steps, over every sample seen by one LIF layer."""

    spikes: float = 0.0
    elements: int = 0

    @property
    def rate(self) -> float:
        """Spikes per neuron and time step."""
        return self.spikes / self.elements if self.elements else 0.0


@dataclass
class Activity:
    """What a network did on the samples it has seen; made by :func:`measure_activity`.

    Args:
        layers: By name, convolutions and linear layers.
        attention: By name, attention products.
        neurons: By name, LIF layers.
        order: Names of layers and products as they were first executed.
        n_images: Number of samples.
        time_steps: Number of simulation steps T.
        static: Whether the samples were images (and not event frames).
    """

    layers: dict[str, LayerActivity] = field(default_factory=dict)
    attention: dict[str, AttentionActivity] = field(default_factory=dict)
    neurons: dict[str, NeuronActivity] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    n_images: int = 0
    time_steps: int = 0
    static: bool = True

    def part(self, name: str) -> Activity:
        """Return the records of one module of the network, without copying them."""
        part = Activity(n_images=self.n_images, time_steps=self.time_steps, static=self.static)
        for mine, theirs in zip(self._records(), part._records(), strict=True):
            theirs.update({key: value for key, value in mine.items() if key.startswith(f"{name}.")})
        part.order.extend(key for key in self.order if key.startswith(f"{name}."))
        return part

    def add_part(self, other: Activity) -> None:
        """Append the records of another module of the same network, measured on the same samples."""
        for mine, theirs in zip(self._records(), other._records(), strict=True):
            mine.update(theirs)
        self.order.extend(other.order)
        self.n_images, self.time_steps, self.static = other.n_images, other.time_steps, other.static

    @property
    def dense_ops(self) -> float:
        """Multiplications that these layers stand for, over all samples; what is computed once counts once."""
        layers = sum(layer.dense_ops for layer in self.layers.values())
        return layers + sum(2 * product.dense_ops for product in self.attention.values())

    def _records(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return self.layers, self.attention, self.neurons


@contextmanager
def measure_activity(net: nn.Module) -> Iterator[Activity]:
    """Record the activity of a network during the forward passes inside a ``with`` block.

    Args:
        net: A plain :class:`~spikesearch.Spikformer` or a supernet with a chosen subnet.
    """
    from spikingjelly.activation_based.neuron import BaseNode

    from spikesearch.nn.functional import AttentionProduct
    from spikesearch.nn.lif import AttentionLIF, ElasticLIF

    activity = Activity()
    last = _LastSpikes()
    handles = [net.register_forward_pre_hook(_samples_hook(activity))]
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            handles.append(module.register_forward_hook(_layer_hook(activity, name, last)))
        elif isinstance(module, AttentionProduct):
            handles.append(module.register_forward_hook(_attention_hook(activity, name)))
        elif isinstance(module, BaseNode | ElasticLIF | AttentionLIF):
            handles.append(module.register_forward_hook(_neuron_hook(activity, name, last)))
    try:
        yield activity
    finally:
        for handle in handles:
            handle.remove()


def _samples_hook(activity: Activity) -> Any:
    def record(module: nn.Module, args: tuple[Any, ...]) -> None:
        activity.n_images += args[0].shape[0]
        activity.static = args[0].ndim == 4

    return record


def _layer_hook(activity: Activity, name: str, last: _LastSpikes) -> Any:
    def record(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        x = args[0]
        conv = isinstance(module, nn.Conv2d)
        layer = activity.layers.setdefault(name, LayerActivity("conv" if conv else "linear"))
        _note_order(activity, name)
        kernel = module.kernel_size[0] * module.kernel_size[1] if isinstance(module, nn.Conv2d) else 1
        layer.dense_ops += float(out.numel()) * (x.shape[1] if conv else x.shape[-1]) * kernel
        layer.total += _sum(x) if name in (FIRST_LAYER, HEAD) else last.count(x)
        layer.elements += x.numel()
        if name == FIRST_LAYER:
            layer.nonzero += float(torch.count_nonzero(x))

    return record


def _attention_hook(activity: Activity, name: str) -> Any:
    def record(module: nn.Module, args: tuple[Tensor, Tensor, Tensor], out: Tensor) -> None:
        q, k, v = args
        ssa = activity.attention.setdefault(name, AttentionActivity())
        _note_order(activity, name)
        ssa.dense_ops += float(q.numel()) * q.shape[-1]  # T * batch * N * D * d_head
        ssa.q, ssa.k, ssa.v = ssa.q + count(q), ssa.k + count(k), ssa.v + count(v)
        ssa.elements += q.numel()

    return record


def _neuron_hook(activity: Activity, name: str, last: _LastSpikes) -> Any:
    def record(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        neurons = activity.neurons.setdefault(name, NeuronActivity())
        activity.time_steps = out.shape[0]
        neurons.spikes += last.keep(out)
        neurons.elements += out.numel()

    return record


def _note_order(activity: Activity, name: str) -> None:
    if name not in activity.order:
        activity.order.append(name)


def _sum(x: Tensor) -> float:
    return float(x.detach().sum(dtype=torch.float64))


def count(x: Tensor) -> float:
    """Return the exact sum of spikes or of sums of spikes, several times faster than a sum in float64.

    Args:
        x: Small whole numbers. Sums along its densest dimension have to stay below 2 ** 24, the last whole number up to
            which float32 is exact: 65,000 channels of the value 255.
    """
    if not x.ndim:
        return float(x)
    x = x.detach()
    densest = min((d for d in range(x.ndim) if x.shape[d] > 1), key=x.stride, default=0)
    return float(x.sum(densest, dtype=torch.float32).sum(dtype=torch.float64))


class _LastSpikes:
    """The newest output of a LIF layer and its count: most often the input of the next layer, seen a second time."""

    def __init__(self) -> None:
        self._spikes: Tensor | None = None  # kept alive, so that its memory cannot become another tensor
        self._count = 0.0

    def keep(self, spikes: Tensor) -> float:
        self._spikes, self._count = spikes, count(spikes)
        return self._count

    def count(self, x: Tensor) -> float:
        spikes = self._spikes
        if spikes is not None and spikes.data_ptr() == x.data_ptr() and spikes.numel() == x.numel():
            self._spikes = None
            return self._count
        return count(x)
