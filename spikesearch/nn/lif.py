"""Leaky integrate-and-fire neurons: a stateless function for the supernet, and SpikingJelly's own node for plain nets.

The dynamics are SpikingJelly's ``LIFNode(decay_input=True, v_reset=0.0, detach_reset=True)`` with the sigmoid surrogate
of slope 4 (Fang et al., "SpikingJelly", Science Advances 2023)::

    h[t] = v[t-1] + (x[t] - v[t-1]) / tau
    s[t] = 1 if h[t] >= v_threshold else 0
    v[t] = (1 - s[t]) * h[t]
"""

from __future__ import annotations

from typing import Any

import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spikesearch.nn.kernel import lif_kernel

SURROGATE_SLOPE = 4.0
ATTENTION_THRESHOLD = 0.5
ATTENTION_TAU = 2.0


def lif(x_seq: Tensor, *, tau: float, v_threshold: float) -> Tensor:
    """Run LIF neurons over time from rest; nothing is remembered afterwards.

    Args:
        x_seq: Input currents, shape ``[T, ...]``; may be a view that repeats one step (stride 0).
        tau: Membrane time constant in time steps, > 1.
        v_threshold: Firing threshold, > 0.

    Returns:
        Spikes, 0 or 1, of the shape, dtype and memory layout of ``x_seq`` (dense in T).

    Raises:
        ValueError: If ``tau`` or ``v_threshold`` is out of range.
    """
    if not tau > 1:
        raise ValueError(f"`tau` must be above 1, but got {tau}.")
    if not v_threshold > 0:
        raise ValueError(f"`v_threshold` must be above 0, but got {v_threshold}.")
    # Under mixed precision too the membrane is float32: thresholds would be missed in bfloat16.
    if x_seq.dtype == torch.bfloat16 and not (torch.is_grad_enabled() and x_seq.requires_grad):
        kernel = lif_kernel() if _fits_kernel(x_seq) else None
        if kernel is not None:
            return _fused(kernel.forward_bf16, x_seq, tau, v_threshold)
    spikes: Tensor = _LIF.apply(x_seq.float(), float(tau), float(v_threshold))
    return spikes.to(x_seq.dtype)


def _fused(function: Any, x: Tensor, tau: float, v_threshold: float) -> Tensor:
    """Return the spikes that a function of the compiled helper computes."""
    spikes = _empty_steps(x)
    steps, count = x.shape[0], x[0].numel()
    function(x.data_ptr(), spikes.data_ptr(), steps, count, x.stride(0), tau, v_threshold, torch.get_num_threads())
    return spikes


class _LIF(torch.autograd.Function):
    """Saves its input alone: the backward pass computes the membrane again, which is cheaper than storing it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tau: float, v_threshold: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.neuron = tau, v_threshold
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
    def backward(ctx: Any, grad_spikes: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        tau, v_threshold = ctx.neuron
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
                torch.get_num_threads(),
            )
            return grad_x, None, None
        charges = [h.clone() for h in _charge(x, torch.zeros_like(x[0]), tau, v_threshold)]
        grad_v = torch.zeros_like(x[0])
        for t in reversed(range(len(charges))):
            h = charges[t]
            sigmoid = torch.sigmoid((h - v_threshold) * SURROGATE_SLOPE)
            grad_h = grad_spikes[t] * (SURROGATE_SLOPE * (1 - sigmoid) * sigmoid) + grad_v * (h < v_threshold)
            grad_x[t] = grad_h / tau
            grad_v = grad_h - grad_x[t]
        return grad_x, None, None


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


class ElasticLIF(nn.Module):
    """Stateless LIF with a learnable log-gain per (v_threshold, tau) choice, for use behind a batch-norm.

    A batch-norm of unit scale feeds currents of about N(0, 1); a neuron with a high threshold or a slow membrane would
    never fire on them. The gain multiplies the current and starts at ``v_threshold * tau / 2``, so that at first every
    choice fires about equally. :class:`~spikesearch.nn.elastic.ElasticBatchNorm` folds it into scale and shift.

    Args:
        v_thresholds: The choices of the threshold.
        taus: The choices of the membrane time constant.
    """

    def __init__(self, v_thresholds: tuple[float, ...], taus: tuple[float, ...]) -> None:
        super().__init__()
        self.v_thresholds = v_thresholds
        self.taus = taus
        start = torch.outer(torch.tensor(v_thresholds), torch.tensor(taus)) / 2
        self.log_gain = nn.Parameter(start.log())

    def gain(self, v_threshold: float, tau: float) -> Tensor:
        """Return the positive scalar that multiplies the current of neurons with these genes."""
        return self.log_gain[self.v_thresholds.index(v_threshold), self.taus.index(tau)].exp()

    def forward(self, x_seq: Tensor, v_threshold: float, tau: float) -> Tensor:
        """Return the spikes of :func:`lif`."""
        return lif(x_seq, tau=tau, v_threshold=v_threshold)


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
            return lif(x_seq * self.gain(v_threshold, tau), tau=tau, v_threshold=v_threshold)
        return lif(x_seq, tau=tau, v_threshold=self.threshold(v_threshold, tau))


class AttentionLIF(nn.Module):
    """Stateless LIF of the attention product: threshold 0.5 and tau 2, never searched."""

    def forward(self, x_seq: Tensor) -> Tensor:
        """Return the spikes of :func:`lif`."""
        return lif(x_seq, tau=ATTENTION_TAU, v_threshold=ATTENTION_THRESHOLD)


class NoLIF(nn.Module):
    """Stands where a network of the other kind of residual connections has neurons: currents pass as they are."""

    def gain(self, v_threshold: float, tau: float) -> float:
        """Return 1."""
        return 1.0

    def forward(self, x_seq: Tensor, *genes: float) -> Tensor:
        """Return ``x_seq``."""
        return x_seq


class Currents(NoLIF):
    """Stands at the end of a branch that adds currents to a residual stream, which is float32 in any precision."""

    def forward(self, x_seq: Tensor, *genes: float) -> Tensor:
        """Return ``x_seq`` as float32."""
        return x_seq.float()


class StatelessNeuron(nn.Module):
    """Base of the neurons of fast copies of plain networks, for those who look for neurons."""


def plain_lif(v_threshold: float, tau: float) -> neuron.LIFNode:
    """Return SpikingJelly's multi-step LIF node with the dynamics of :func:`lif`.

    Args:
        v_threshold: Firing threshold, > 0.
        tau: Membrane time constant in time steps, > 1.
    """
    return neuron.LIFNode(**_dynamics(v_threshold, tau))


class StreamLIF(neuron.LIFNode):
    """SpikingJelly's multi-step LIF node that reads a residual stream; plain twin of :class:`ElasticStreamLIF`.

    Its threshold is the gene divided by the gain that was learnt. That number is kept with the weights, as the extra
    state of the module. The surrogate is as much steeper as the threshold is lower, so that gradients with respect to
    the stream are those of a neuron that has the gene for a threshold and gets the gain times the stream.

    Args:
        gene: Firing threshold in the architecture, > 0; freshly built, the gain is ``gene * tau / 2``.
        tau: Membrane time constant in time steps, > 1.
    """

    def __init__(self, gene: float, tau: float) -> None:
        super().__init__(**_dynamics(gene, tau))
        self.gene = float(gene)
        self.set_extra_state(torch.tensor(2 / tau, device="cpu"))

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


def _dynamics(v_threshold: float, tau: float) -> dict[str, Any]:
    return {
        "tau": float(tau),
        "decay_input": True,
        "v_threshold": float(v_threshold),
        "v_reset": 0.0,
        "surrogate_function": surrogate.Sigmoid(alpha=SURROGATE_SLOPE),
        "detach_reset": True,
        "step_mode": "m",
    }
