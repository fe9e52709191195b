"""Circuits of one's own, from the memory files of ``--to memory-files``: neurons that add, shift and compare."""

from __future__ import annotations

from collections.abc import Iterator
from math import frexp

from spikesearch.device.targets import DeviceTarget, Plan, integer_problems, register
from spikesearch.space.genes import LEARNED_TAU


def problems(plan: Plan) -> Iterator[str]:
    """Yield what needs a multiplier in every neuron, or what the integer network cannot hold."""
    if max(plan.space.time_steps) > 1:
        uneven = [tau for tau in plan.space.taus if tau == LEARNED_TAU or frexp(tau)[0] != 0.5]
        if uneven:
            shown = ", ".join("learned" if tau == LEARNED_TAU else f"{tau:g}" for tau in uneven)
            yield (
                f"`space.taus` has {shown}: a leak is a shift if tau is a power of two, and else a multiplication in "
                "every neuron and time step. Choose 2, 4 or 8, or one time step, at which nothing leaks."
            )
    yield from integer_problems(plan)


register(DeviceTarget("fpga", problems))
