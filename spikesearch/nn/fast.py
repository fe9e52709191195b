"""Copies of plain networks that compute the same faster: for training, and for use."""

from __future__ import annotations

import copy

import torch
from spikingjelly.activation_based.neuron import LIFNode
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from spikesearch.nn.lif import FixedLIF, LearnedTau, NormedLIF, StatelessNeuron, StreamLIF, learned_tau
from spikesearch.nn.modules import UnitModule
from spikesearch.nn.network import Spikformer


def fuse(net: Spikformer) -> Spikformer:
    """Return a copy for use, not for training: every batch-norm folded into the weights before it, compiled neurons.

    Folding rounds otherwise, so that now and then a neuron near its threshold decides otherwise: logits are nearly
    those of ``net``, not bit for bit. Under ``torch.autocast("cpu", torch.bfloat16)`` it is faster still on a CPU with
    AMX or AVX-512 BF16: spikes are exact in bfloat16, and a stream of membrane currents stays in float32. The copy is
    to be run, not saved or trained: save ``net``.

    Args:
        net: A network with the batch-norm statistics that it is to be used with.

    Example:
        >>> from spikesearch.space import SearchSpace
        >>> space = SearchSpace((16,), (1,), (2,), (2,), (1.0,), (2.0,), (2,))
        >>> net = Spikformer(space.largest, in_channels=1, image_size=8, num_classes=10).eval()
        >>> x = torch.rand(3, 1, 8, 8)
        >>> torch.allclose(fuse(net)(x), net(x), atol=1e-5)
        True
    """
    twin = fast_copy(net).eval().requires_grad_(False)
    for unit in twin.modules():
        if isinstance(unit, UnitModule) and isinstance(unit.bn, nn.BatchNorm1d | nn.BatchNorm2d):
            op = unit.op
            assert isinstance(op, nn.Conv2d | nn.Linear)
            folded = fuse_conv_bn_eval(op, unit.bn) if isinstance(op, nn.Conv2d) else fuse_linear_bn_eval(op, unit.bn)
            unit.add_module(unit.layer.op, folded)
            unit.bn = nn.Identity()
    return twin


def fast_copy(net: Spikformer) -> Spikformer:
    """Return a copy with stateless neurons: same parameters, names and function, faster to train.

    SpikingJelly's neurons are built for every kind of simulation; a training step of a small network on a CPU takes
    about 1.4 times as long with them.
    """
    twin = copy.deepcopy(net)
    twin.stateful = False
    for module in list(twin.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, NormedLIF):
                setattr(module, name, _StatelessNormedLIF(child))
            elif isinstance(child, StreamLIF):
                setattr(module, name, _StatelessStreamLIF(child))
            elif isinstance(child, LIFNode):
                setattr(module, name, FixedLIF(child.v_threshold, _tau_of(child)))
    return twin


def _tau_of(node: LIFNode) -> float | LearnedTau:
    """Return the time constant of a node, or where it is learnt."""
    learned = learned_tau(node)
    return node.tau if learned is None else learned


class _StatelessNormedLIF(FixedLIF):
    """The same for :class:`~spikesearch.nn.lif.NormedLIF`, with its batch-norm."""

    def __init__(self, node: NormedLIF) -> None:
        super().__init__(node.v_threshold, _tau_of(node))
        self.bn = node.bn

    def forward(self, x_seq: Tensor) -> Tensor:
        return super().forward(self.bn(x_seq.flatten(0, -2)).view(x_seq.shape))


class _StatelessStreamLIF(StatelessNeuron):
    """The same for :class:`~spikesearch.nn.lif.StreamLIF`, with its extra state and its gradients."""

    def __init__(self, node: StreamLIF) -> None:
        super().__init__()
        self.gene, self.v_threshold = node.gene, node.v_threshold
        tau = _tau_of(node)
        if isinstance(tau, LearnedTau):
            self.learned_tau = tau
        self.tau = node.tau

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.v_threshold, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        self.v_threshold = float(state)

    def forward(self, x_seq: Tensor) -> Tensor:
        if self.training:
            return self.spikes(x_seq * (self.gene / self.v_threshold), self.gene, self.tau)
        return self.spikes(x_seq, self.v_threshold, self.tau)
