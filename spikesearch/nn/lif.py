"""Leaky integrate-and-fire neurons: a stateless function for the supernet, and SpikingJelly's own node for plain nets.

The dynamics are SpikingJelly's ``LIFNode(decay_input=True, v_reset=0.0, detach_reset=True)`` with the sigmoid
surrogate, of slope 4 unless a recipe has another one (Fang et al., "SpikingJelly", Science Advances 2023)::

    h[t] = v[t-1] + (x[t] - v[t-1]) / tau
    s[t] = 1 if h[t] >= v_threshold else 0
    v[t] = (1 - s[t]) * h[t]

The slope is of the backward pass alone: no spike depends on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spikesearch.nn.elastic import Elastic, ElasticStreamNorm, StreamNorm, positive
from spikesearch.nn.kernel import lif_kernel
from spikesearch.space.genes import LEARNED_TAU

SURROGATE_SLOPE = 4.0


def lif(x_seq: Tensor, *, tau: float | Tensor, v_threshold: float, surrogate_slope: float = SURROGATE_SLOPE) -> Tensor:
    """Run LIF neurons over time from rest; nothing is remembered afterwards.

    Args:
        x_seq: Input currents, shape ``[T, ...]``; may be a view that repeats one step (stride 0).
        tau: Membrane time constant in time steps, > 1; a tensor of one element gets a gradient.
        v_threshold: Firing threshold, > 0.
        surrogate_slope: ``alpha`` of SpikingJelly's ``surrogate.Sigmoid``, > 0.

    Returns:
        Spikes, 0 or 1, of the shape, dtype and memory layout of ``x_seq`` (dense in T).

    Raises:
        ValueError: If ``tau``, ``v_threshold`` or ``surrogate_slope`` is out of range.
    """
    if not isinstance(tau, Tensor) and not tau > 1:
        raise ValueError(f"`tau` must be above 1, but got {tau}.")
    if not v_threshold > 0:
        raise ValueError(f"`v_threshold` must be above 0, but got {v_threshold}.")
    if not surrogate_slope > 0:
        raise ValueError(f"`surrogate_slope` must be above 0, but got {surrogate_slope}.")
    if torch.compiler.is_compiling():
        return _unrolled(x_seq, tau, v_threshold, surrogate_slope)
    if x_seq.device.type == "cuda" and torch.version.hip is None and x_seq.numel():
        if isinstance(tau, Tensor) and tau.requires_grad and torch.is_grad_enabled():
            return _unrolled(x_seq, tau, v_threshold, surrogate_slope)
        return _spikingjelly(x_seq, float(tau), v_threshold, surrogate_slope)
    # Under mixed precision too the membrane is float32: thresholds would be missed in bfloat16.
    if x_seq.dtype == torch.bfloat16 and not (torch.is_grad_enabled() and x_seq.requires_grad):
        kernel = lif_kernel() if _fits_kernel(x_seq) else None
        if kernel is not None:
            return _fused(kernel.forward_bf16, x_seq, float(tau), v_threshold)
    constant = tau if isinstance(tau, Tensor) else torch.tensor(float(tau), dtype=torch.float64)
    spikes: Tensor = _LIF.apply(x_seq.float(), constant, float(v_threshold), float(surrogate_slope))
    return spikes.to(x_seq.dtype)


def _fused(function: Any, x: Tensor, tau: float, v_threshold: float) -> Tensor:
    """Return the spikes that a function of the compiled helper computes."""
    spikes = _empty_steps(x)
    steps, count = x.shape[0], x[0].numel()
    function(x.data_ptr(), spikes.data_ptr(), steps, count, x.stride(0), tau, v_threshold, torch.get_num_threads())
    return spikes


def _spikingjelly(x_seq: Tensor, tau: float, v_threshold: float, slope: float) -> Tensor:
    """Return the same from SpikingJelly, which has fused kernels for NVIDIA's GPUs: one for all tau and thresholds."""
    spikes, _, _ = functional.lif_multi_step(
        x_seq,
        torch.zeros_like(x_seq[0], dtype=torch.float32),
        tau,
        decay_input=True,
        v_threshold=v_threshold,
        v_reset=0.0,
        surrogate_function=surrogate.Sigmoid(alpha=slope),
        detach_reset=True,
    )
    result: Tensor = spikes
    return result


def _unrolled(x_seq: Tensor, tau: float | Tensor, v_threshold: float, slope: float) -> Tensor:
    """Return the same in operations that ``torch.compile`` can fuse, which it cannot do with :class:`_LIF`."""
    v = torch.zeros_like(x_seq[0], dtype=torch.float32)
    spikes = []
    for x in x_seq.float().unbind():
        h = v + (x - v) / tau
        fired = h >= v_threshold
        sigmoid = torch.sigmoid((h - v_threshold) * slope)
        spikes.append(fired.float() + (sigmoid - sigmoid.detach()))  # adds 0, and the gradient
        v = torch.where(fired, 0.0, h)
    return torch.stack(spikes).to(x_seq.dtype)


class _LIF(torch.autograd.Function):
    """Saves its input alone: the backward pass computes the membrane again, which is cheaper than storing it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, constant: Tensor, v_threshold: float, slope: float) -> Tensor:
        tau = float(constant)
        ctx.save_for_backward(x, constant)
        ctx.neuron = tau, v_threshold, slope
        kernel = lif_kernel() if _fits_kernel(x) else None
        if kernel is not None:
            return _fused(kernel.forward, x, tau, v_threshold)
        spikes = _empty_steps(x)
        v = torch.zeros_like(x[0])
        for t, h in enumerate(_charge(x, v, tau, v_threshold)):
            torch.ge(h, v_threshold, out=spikes[t])
        return spikes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_spikes: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        x, constant = ctx.saved_tensors
        tau, v_threshold, slope = ctx.neuron
        grad_x = _empty_steps(x)
        kernel = lif_kernel() if _fits_kernel(x) else None
        if kernel is not None:
            if grad_spikes.stride() != grad_x.stride():
                grad_spikes = torch.empty_like(grad_x).copy_(grad_spikes)
            steps, count = x.shape[0], x[0].numel()
            kernel.backward(
                x.data_ptr(),
                grad_spikes.data_ptr(),
                grad_x.data_ptr(),
                steps,
                count,
                x.stride(0),
                tau,
                v_threshold,
                slope,
                torch.get_num_threads(),
            )
            return grad_x, _grad_tau(ctx, x, constant, grad_x), None, None
        charges = [h.clone() for h in _charge(x, torch.zeros_like(x[0]), tau, v_threshold)]
        grad_v = torch.zeros_like(x[0])
        for t in reversed(range(len(charges))):
            h = charges[t]
            sigmoid = torch.sigmoid((h - v_threshold) * slope)
            grad_h = grad_spikes[t] * (slope * (1 - sigmoid) * sigmoid) + grad_v * (h < v_threshold)
            grad_x[t] = grad_h / tau
            grad_v = grad_h - grad_x[t]
        return grad_x, _grad_tau(ctx, x, constant, grad_x), None, None


def _grad_tau(ctx: Any, x: Tensor, constant: Tensor, grad_x: Tensor) -> Tensor | None:
    """Return the gradient of the time constant, where it is learnt.

    With ``h = v + (x - v) / tau``, of which the gradient is ``tau * grad_x``, it is the sum of ``-grad_x * (h - v)``.
    """
    if not ctx.needs_input_grad[1]:
        return None
    tau, v_threshold, _ = ctx.neuron
    v, total = torch.zeros_like(x[0]), torch.zeros((), dtype=torch.float64, device=x.device)
    for step, grad in zip(x, grad_x, strict=True):
        h = (step - v) / tau + v
        total -= (grad * (h - v)).sum(dtype=torch.float64)
        v = h.masked_fill(h >= v_threshold, 0.0)
    return total.to(constant)


def _charge(x: Tensor, v: Tensor, tau: float, v_threshold: float) -> Any:
    """Yield the membrane potential before the reset, step by step; every step overwrites ``v``."""
    divisor = torch.full((), tau, device=x.device)  # a number would be turned into a factor, and rounded, on a GPU
    for step in x:
        h = (step - v).div_(divisor).add_(v)
        yield h
        v.copy_(h).masked_fill_(h >= v_threshold, 0.0)


def _empty_steps(x: Tensor) -> Tensor:
    """Return memory of the shape of ``x``: steps one behind the other, each in the layout of the first."""
    step = torch.empty_like(x[0])  # preserves channels-last
    strides = (step.numel(), *step.stride())
    return torch.empty_strided(x.shape, strides, dtype=x.dtype, device=x.device)


def _fits_kernel(x: Tensor) -> bool:
    """Whether every step is a dense block of main memory."""
    if x.device.type != "cpu" or x.numel() == 0:
        return False
    expected = 1
    for stride, size in sorted(zip(x.stride()[1:], x.shape[1:], strict=True)):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True


class LearnedTau(nn.Module):
    """A time constant that is learnt: ``tau = 1 + exp(-w)``, above 1 whatever ``w`` is.

    SpikingJelly's ``ParametricLIFNode`` has the same ``w`` (Fang et al., "Incorporating Learnable Membrane Time
    Constant", ICCV 2021). It starts at 2.
    """

    START = 2.0

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))

    def forward(self) -> Tensor:
        """Return the time constant in time steps, of no dimensions."""
        return 1 + torch.exp(-self.w)


def start_of(tau: float) -> float:
    """Return the time constant at which a training begins."""
    return LearnedTau.START if tau == LEARNED_TAU else tau


def learned_tau(neurons: nn.Module) -> LearnedTau | None:
    """Return the time constant that neurons learn, if they do."""
    return cast("LearnedTau | None", neurons._modules.get("learned_tau"))


class StatelessNeuron(nn.Module):
    """Base of all neurons that are computed by :func:`lif`.

    Attributes:
        surrogate_slope: Of the backward pass; :func:`set_surrogate_slope` sets it for a training. Never saved.
    """

    surrogate_slope = SURROGATE_SLOPE

    def spikes(self, x_seq: Tensor, v_threshold: float, tau: float | Tensor) -> Tensor:
        """Return the spikes of :func:`lif`; a time constant that is learnt takes the place of ``tau``."""
        learned = learned_tau(self)
        if learned is not None:  # in evaluation the number, as plain neurons compute with it
            tau = learned() if self.training else float(learned().detach())
        return lif(x_seq, tau=tau, v_threshold=v_threshold, surrogate_slope=self.surrogate_slope)


@contextmanager
def set_surrogate_slope(net: nn.Module, slope: float) -> Iterator[None]:
    """Give the stateless neurons of a network another surrogate slope inside a ``with`` block."""
    neurons = [module for module in net.modules() if isinstance(module, StatelessNeuron)]
    before = [each.surrogate_slope for each in neurons]
    for each in neurons:
        each.surrogate_slope = slope
    try:
        yield
    finally:
        for each, old in zip(neurons, before, strict=True):
            each.surrogate_slope = old


class ElasticLIF(Elastic, StatelessNeuron):
    """Stateless LIF with a learnable log-gain per (v_threshold, tau) choice, for use behind a batch-norm.

    A batch-norm of unit scale feeds currents of about N(0, 1); a neuron with a high threshold or a slow membrane would
    never fire on them. The gain multiplies the current and starts at ``v_threshold * tau / 2``, so that at first every
    choice fires about equally. :class:`~spikesearch.nn.elastic.ElasticBatchNorm` folds it into scale and shift.

    What all choices have in common, the scale of the batch-norm learns as well, and a scale that two parameters learn
    moves twice as fast: the neurons of a supernet fire about 1.3 times as much as those of a network that is trained
    alone. ``centred`` gains differ between the choices, but their mean stays where it began.

    Args:
        v_thresholds: The choices of the threshold.
        taus: The choices of the membrane time constant.
        centred: Whether the mean of the log-gains is kept; the gains of networks as they were first published are not.
    """

    def __init__(self, v_thresholds: tuple[float, ...], taus: tuple[float, ...], *, centred: bool = False) -> None:
        super().__init__()
        self.v_thresholds = v_thresholds
        self.taus = taus
        self.centred = centred
        if taus == (LEARNED_TAU,):
            self.learned_tau = LearnedTau()
        self.log_gain = nn.Parameter(self._start())

    def gain(self, v_threshold: float, tau: float) -> Tensor:
        """Return the positive scalar that multiplies the current of neurons with these genes."""
        gains: Tensor = self.log_gain
        if self.centred:
            gains = gains + (self._start().mean().to(gains) - gains.mean())
        return gains[self.v_thresholds.index(v_threshold), self.taus.index(tau)].exp()

    def _start(self) -> Tensor:
        taus = torch.tensor([start_of(tau) for tau in self.taus])
        return (torch.outer(torch.tensor(self.v_thresholds), taus) / 2).log()

    def forward(self, x_seq: Tensor, v_threshold: float, tau: float) -> Tensor:
        """Return the spikes of :func:`lif`."""
        return self.spikes(x_seq, v_threshold, tau)


class ElasticStreamLIF(ElasticLIF):
    """Stateless LIF that reads a residual stream of currents, where there is no batch-norm to take up the gain.

    A neuron that rests at 0 and is reset to 0 is linear in current and threshold together, so that the gain may divide
    the threshold instead: ``lif(gain * x, v_threshold)`` and ``lif(x, v_threshold / gain)`` are the same spikes.
    Training computes the first, which has a gradient for the gain; evaluation the second, as :class:`StreamLIF` does.
    """

    @torch.no_grad()
    def threshold(self, v_threshold: float, tau: float) -> float:
        """Return the threshold divided by the gain, a float32 number."""
        return float(v_threshold / self.gain(v_threshold, tau))

    def forward(self, x_seq: Tensor, v_threshold: float, tau: float) -> Tensor:
        """Return the spikes of :func:`lif`."""
        if self.training:
            return self.spikes(x_seq * self.gain(v_threshold, tau), v_threshold, tau)
        return self.spikes(x_seq, self.threshold(v_threshold, tau), tau)


class ElasticNormedLIF(ElasticLIF):
    """Stateless LIF that reads a residual stream of currents through a batch-norm of its own.

    Every channel so gets a threshold and a bias current; see :meth:`NormedLIF.folded`.

    Args:
        width: Largest number of channels.
        v_thresholds: The choices of the threshold.
        taus: The choices of the membrane time constant.
    """

    def __init__(self, width: int, v_thresholds: tuple[float, ...], taus: tuple[float, ...]) -> None:
        super().__init__(v_thresholds, taus, centred=True)
        self.bn = ElasticStreamNorm(width)

    def forward(self, x_seq: Tensor, v_threshold: float, tau: float) -> Tensor:
        """Return the spikes of :func:`lif` for currents ``[T, N, L, C]``."""
        x = self.bn(x_seq.flatten(0, -2), self.gain(v_threshold, tau))
        return self.spikes(x.view(x_seq.shape), v_threshold, tau)


class FixedLIF(StatelessNeuron):
    """Stateless LIF whose threshold and tau are no genes.

    Args:
        v_threshold: Firing threshold, > 0.
        tau: Membrane time constant in time steps, > 1; or where it is learnt.
    """

    def __init__(self, v_threshold: float, tau: float | LearnedTau) -> None:
        super().__init__()
        self.v_threshold = v_threshold
        self.tau = LEARNED_TAU
        if isinstance(tau, LearnedTau):
            self.learned_tau = tau
        else:
            self.tau = tau

    def forward(self, x_seq: Tensor) -> Tensor:
        """Return the spikes of :func:`lif`."""
        return self.spikes(x_seq, self.v_threshold, self.tau)


class NoLIF(nn.Module):
    """Stands where a network of the other kind of residual connections has neurons: currents pass as they are."""

    def forward(self, x_seq: Tensor) -> Tensor:
        """Return ``x_seq``."""
        return x_seq


class Currents(NoLIF):
    """Stands at the end of a branch that adds currents to a residual stream, which is float32 in any precision."""

    def forward(self, x_seq: Tensor) -> Tensor:
        """Return ``x_seq`` as float32."""
        return x_seq.float()


class PlainLIF(neuron.LIFNode):
    """SpikingJelly's multi-step LIF node that keeps nothing in evaluation mode, so that threads may share a network.

    There it computes :func:`lif`, the same spikes bit for bit; in training mode it is SpikingJelly's own, unless its
    time constant is learnt.

    Args:
        v_threshold: Firing threshold, > 0.
        tau: Membrane time constant in time steps, > 1; 0: learnt.
    """

    def __init__(self, v_threshold: float, tau: float) -> None:
        super().__init__(
            tau=start_of(float(tau)),
            decay_input=True,
            v_threshold=float(v_threshold),
            v_reset=0.0,
            surrogate_function=surrogate.Sigmoid(alpha=SURROGATE_SLOPE),
            detach_reset=True,
            step_mode="m",
        )
        if tau == LEARNED_TAU:
            self.learned_tau = LearnedTau()

    @property
    def gene_tau(self) -> float:
        """The gene: 0 for a time constant that is learnt."""
        return self._tau if learned_tau(self) is None else LEARNED_TAU

    @property
    def tau(self) -> float:
        """Membrane time constant in time steps."""
        learned = learned_tau(self)
        return self._tau if learned is None else float(learned().detach())

    @tau.setter
    def tau(self, value: float) -> None:
        self._tau = value

    def forward(self, x_seq: Tensor) -> Tensor:
        """Return spikes ``[T, ...]``."""
        learned = learned_tau(self)
        if learned is not None and self.training and self.step_mode == "m":
            slope = self.surrogate_function.alpha
            return lif(x_seq, tau=learned(), v_threshold=self.v_threshold, surrogate_slope=slope)
        if self.training or self.step_mode != "m":
            spikes: Tensor = super().forward(x_seq)
            return spikes
        return lif(x_seq, tau=self.tau, v_threshold=self.v_threshold, surrogate_slope=self.surrogate_function.alpha)


class StreamLIF(PlainLIF):
    """:class:`PlainLIF` that reads a residual stream; a plain :class:`ElasticStreamLIF`.

    Its threshold is the gene divided by the gain that was learnt. That number is kept with the weights, as the extra
    state of the module. The surrogate is as much steeper as the threshold is lower, so that gradients with respect to
    the stream are those of a neuron that has the gene for a threshold and gets the gain times the stream.

    Args:
        gene: Firing threshold in the architecture, > 0; freshly built, the gain is ``gene * tau / 2``.
        tau: Membrane time constant in time steps, > 1.
    """

    def __init__(self, gene: float, tau: float) -> None:
        super().__init__(gene, tau)
        self.gene = float(gene)
        self.set_extra_state(torch.tensor(2 / start_of(tau), device="cpu"))

    @property
    def gain(self) -> float:
        """The gene over the threshold."""
        return self.gene / self.v_threshold

    def get_extra_state(self) -> Tensor:
        """Return the threshold, float32."""
        return torch.tensor(self.v_threshold, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Take over a threshold."""
        self.v_threshold = float(state)
        self.surrogate_function = surrogate.Sigmoid(alpha=SURROGATE_SLOPE * self.gain)


class NormedLIF(PlainLIF):
    """A plain :class:`ElasticNormedLIF`: LIF behind a batch-norm of its own.

    Args:
        width: Number of channels.
        v_threshold: Firing threshold, > 0.
        tau: Membrane time constant in time steps, > 1.
    """

    def __init__(self, width: int, v_threshold: float, tau: float) -> None:
        super().__init__(v_threshold, tau)
        self.bn = StreamNorm(width)
        nn.init.constant_(self.bn.weight, v_threshold * start_of(tau) / 2)

    def forward(self, x_seq: Tensor) -> Tensor:
        """Return spikes of currents ``[T, N, L, C]``."""
        return super().forward(self.bn(x_seq.flatten(0, -2)).view(x_seq.shape))

    @torch.no_grad()
    def folded(self) -> tuple[Tensor, Tensor]:
        """Return a threshold and a bias current per channel, with which a neuron needs no batch-norm.

        A neuron that rests at 0 and is reset to 0 is linear in current and threshold together:
        ``lif(g * x + b, v_threshold)`` and ``lif(x + b / g, v_threshold / g)`` are the same spikes for positive ``g``,
        but for rounding.
        """
        mean, var = self.bn.running_mean, self.bn.running_var
        assert mean is not None
        assert var is not None
        scale = positive(self.bn.weight) * (var + self.bn.eps).rsqrt()
        shift = self.bn.bias - mean * scale
        return self.v_threshold / scale, shift / scale
