"""Networks of every kind whose neurons fire, with samples and their integer twins."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product

import torch
from torch import Tensor, nn

from spikesearch import Architecture, BlockSpec, Spikformer
from spikesearch.device import Normalisation, Program, quantise
from spikesearch.nn.lif import StreamLIF
from spikesearch.space import StageSpec, StemSpec
from spikesearch.space.genes import LEARNED_TAU

FRAMES = 5


@dataclass(frozen=True)
class Case:
    """What distinguishes a network.

    Args:
        residual: What the stream carries.
        stem: ``sps`` with two blocks of attention, or ``conv`` with two stages that have every mixer.
        time_steps: Their number.
        tau: A power of two, or none; or what stands for one that is learnt.
        events: Whether samples are recordings.
    """

    residual: str
    stem: str
    time_steps: int
    tau: float
    events: bool

    def __str__(self) -> str:
        kind = "events" if self.events else "images"
        return f"{self.residual}-{self.stem}-{kind}-T{self.time_steps}-tau{self.tau:g}"

    @property
    def arch(self) -> Architecture:
        def block(mixer: str, ratio: float, heads: int = 0) -> BlockSpec:
            return BlockSpec(heads, ratio, 1.3, self.tau, mixer)

        if self.stem == "sps":
            return Architecture(
                16, self.time_steps, StemSpec(0.7, self.tau), (block("ssa", 2.0, 2), block("qk", 0.0, 4))
            )
        blocks = (block("conv", 0.0), block("dwconv", 1.0), block("ssa", 1.0, 3), block("qk", 1.0, 2))
        stages = (StageSpec(0.5, 2, 0.0, 0.0), StageSpec(1.0, 2, 0.9, self.tau))
        return Architecture(72, self.time_steps, StemSpec(0.8, self.tau, 10), blocks, stages)


CASES = [
    Case(residual, stem, steps, tau, events)
    for residual, stem, (steps, tau), events in product(
        ("add", "membrane", "normed"), ("sps", "conv"), ((1, 2.0), (3, 1.7), (4, 4.0)), (False, True)
    )
] + [
    Case("membrane", "conv", 2, LEARNED_TAU, False),
    Case("normed", "sps", 16, 2.0, False),  # potentials behind attention need more than 16 bits
]


@cache
def network(case: Case) -> tuple[Spikformer, Tensor]:
    """A network in evaluation mode with batch-norms that have seen the samples, and the samples, 96."""
    torch.manual_seed(0)
    size = 9 if case.stem == "sps" else 11  # odd, so that cells at the border are smaller
    net = Spikformer(
        case.arch, in_channels=2, image_size=size, num_classes=5, residual=case.residual, stem=case.stem, stem_stride=1
    )
    if case.events:
        samples = torch.poisson(torch.rand(96, FRAMES, 2, size, size) * 1.5) / 2
    else:
        samples = (torch.rand(96, 2, size, size) * 255).round().sub(100.3).div(60)
    for module in net.modules():
        if isinstance(module, StreamLIF):  # a gain that was learnt
            module.set_extra_state(module.get_extra_state() * (0.8 + 0.4 * torch.rand(())))
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = None
            with torch.no_grad():
                module.weight.mul_(0.7 + 0.6 * torch.rand(module.weight.shape))
                module.bias.add_(0.3 * torch.randn(module.bias.shape))
    with torch.no_grad():
        for batch in samples.split(32):
            net(batch)
    return net.eval(), samples


@cache
def program(case: Case) -> Program:
    """The network in integers."""
    net, samples = network(case)
    norm = Normalisation([0, 0], [2, 2]) if case.events else Normalisation([100.3] * 2, [60.0] * 2)
    return quantise(net, samples[:64], normalisation=norm)
