"""Two mixers beside the shipped one, for tests of genes that not every block has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from spikesearch.nn.mixers import MIXERS, Mixer, register
from spikesearch.nn.plan import Layer
from spikesearch.space import SearchSpace

if TYPE_CHECKING:
    from torch import Tensor

    from spikesearch.nn.modules import Branch
    from spikesearch.space import Architecture, BlockSpec


class Headless(Mixer):
    name = "headless"
    layers = (Layer("mix", 1, 1, reads_stream=True, ends_branch=True),)

    def forward(self, branch: Branch, x_seq: Tensor, arch: Architecture, spec: BlockSpec) -> Tensor:
        out: Tensor = branch.mix(x_seq, arch, spec)
        return out


class Headed(Headless):
    name = "headed"
    genes = ("num_heads",)


HEADED = {"ssa": True, "headed": True, "headless": False}


@contextmanager
def registered() -> Iterator[None]:
    """Make both known inside a ``with`` block."""
    mixers = [register(Headless()), register(Headed())]
    try:
        yield
    finally:
        for mixer in mixers:
            MIXERS.unregister(mixer.name)


def some(*values: object, most: int = 2) -> st.SearchStrategy[list[object]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=most, unique=True)


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """Small spaces, most of them with several mixers."""
    return SearchSpace(
        embed_dims=draw(some(24, 48)),
        depths=draw(some(1, 2)),
        num_heads=draw(some(1, 2, 3)),
        mlp_ratios=draw(some(0.5, 1, 4)),
        v_thresholds=[1.0],
        taus=draw(some(1.5, 2.0, 3.0)),
        time_steps=draw(some(1, 2, 4)),
        mixers=draw(some(*HEADED, most=3)),
    )
