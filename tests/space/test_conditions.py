"""Spaces with several mixers, whose heads only some of them have: every map and its inverse, against brute force."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikesearch.errors import SpaceError
from spikesearch.space import Architecture, BlockSpec, SearchSpace, StemSpec
from tests.mixers import HEADED, registered, spaces

DEFAULT = SearchSpace((24,), (1, 2), (2, 3), (1, 2), (1.0,), (2.0,), (1, 2))
MIXED = replace(DEFAULT, mixers=("headless", "ssa"))


@pytest.fixture(scope="module", autouse=True)
def _mixers() -> Iterator[None]:
    with registered():
        yield


@st.composite
def points(draw: st.DrawFn) -> tuple[SearchSpace, Architecture]:
    space = draw(spaces())
    return space, space.at(draw(st.integers(0, space.size - 1)))


def brute_force(space: SearchSpace) -> set[Architecture]:
    neurons = list(product(space.v_thresholds, space.taus))
    blocks = [
        BlockSpec(heads, ratio, *neuron, mixer=mixer)
        for mixer in space.mixers
        for heads in (space.num_heads if HEADED[mixer] else (0,))
        for ratio in space.mlp_ratios
        for neuron in neurons
    ]
    return {
        Architecture(width, steps, StemSpec(*neuron), stack)
        for width, steps, neuron, depth in product(space.embed_dims, space.time_steps, neurons, space.depths)
        for stack in product(blocks, repeat=depth)
    }


@given(spaces())
def test_the_enumeration_is_what_brute_force_finds(space: SearchSpace) -> None:
    everything = brute_force(space)
    enumerated = [space.at(index) for index in range(space.size)]
    assert len(enumerated) == len(everything)
    assert set(enumerated) == everything
    assert len({arch.key for arch in everything}) == len(everything)
    assert [space.index(arch) for arch in enumerated] == list(range(space.size))
    assert all(arch in space for arch in everything)


@given(points(), st.integers(0, 2**32 - 1))
def test_every_form_leads_back(point: tuple[SearchSpace, Architecture], seed: int) -> None:
    space, arch = point
    assert arch.validate() is arch
    assert Architecture.from_dict(json.loads(json.dumps(arch.to_dict()))) == arch
    params = space.params(arch)
    assert space.architecture(params) == arch
    assert list(space.parameters) == list(space.distributions())
    assert [name for name in space.parameters if name in params] == list(params)
    assert SearchSpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space
    assert copy.deepcopy(space) == space
    trial = optuna.trial.FixedTrial(params)
    assert space.suggest(trial) == arch
    assert trial.params == params
    assert space.sample(np.random.default_rng(seed)) in space


@given(points())
def test_heads_are_spoken_of_only_where_there_are_some(point: tuple[SearchSpace, Architecture]) -> None:
    space, arch = point
    params = space.params(arch)
    for i, (block, plain) in enumerate(zip(arch.blocks, arch.to_dict()["blocks"], strict=True)):
        headed = HEADED[block.mixer]
        assert (f"block{i}.num_heads" in params) == ("num_heads" in plain) == (block.num_heads > 0) == headed
        assert (f"block{i}.mixer" in params) == (space.mixers != ("ssa",))
        assert ("mixer" in plain) == (block.mixer != "ssa")


@given(points())
def test_a_neighbour_differs_in_one_gene_and_what_comes_or_goes_with_it(
    point: tuple[SearchSpace, Architecture],
) -> None:
    space, arch = point
    params = space.params(arch)
    neighbours = list(space.neighbours(arch))
    assert len(set(neighbours)) == len(neighbours)
    assert arch not in neighbours
    changes: Counter[str] = Counter()
    for other in neighbours:
        theirs = space.params(other)
        changed = [name for name in params.keys() & theirs if params[name] != theirs[name]]
        assert len(changed) == 1
        changes[changed[0]] += 1
        for name in params.keys() ^ theirs:
            assert changed == ["depth"] or (changed == [name.replace("num_heads", "mixer")])
    steps = [abs(space.depths.index(other.depth) - space.depths.index(arch.depth)) for other in neighbours]
    assert max(steps, default=0) <= 1
    expected = {name: len(space.parameters[name].choices) - 1 for name in params if name != "depth"}
    expected["depth"] = sum(steps)
    assert changes == Counter(expected)


@given(spaces())
def test_the_corners_have_the_first_mixer(space: SearchSpace) -> None:
    for arch, pick in ((space.largest, max), (space.smallest, min)):
        assert arch in space
        heads = pick(space.num_heads) if HEADED[space.mixers[0]] else 0
        assert {(block.mixer, block.num_heads) for block in arch.blocks} == {(space.mixers[0], heads)}


def test_a_space_of_the_default_mixer_says_nothing_of_it() -> None:
    explicit = replace(DEFAULT, mixers=["ssa"])
    assert explicit == DEFAULT
    arch = explicit.largest
    for said in (explicit.to_dict(), explicit.distributions(), explicit.params(arch), arch.to_dict(), arch.describe()):
        assert "mixer" not in repr(said)
    assert BlockSpec(2, 1.0, 1.0, 2.0) == BlockSpec(2, 1.0, 1.0, 2.0, mixer="ssa")


def test_a_new_mixer_takes_the_heads_of_the_block_before_or_of_the_reference() -> None:
    headless, three = BlockSpec(0, 1.0, 1.0, 2.0, "headless"), BlockSpec(2, 1.0, 1.0, 2.0)
    arch = Architecture(24, 1, StemSpec(1.0, 2.0), (three, headless))
    assert replace(arch, blocks=(three, three)) in set(MIXED.neighbours(arch))
    first = Architecture(24, 1, StemSpec(1.0, 2.0), (headless,))
    assert replace(first, blocks=(replace(three, num_heads=3),)) in set(MIXED.neighbours(first))


def test_text_shows_mixers_and_missing_heads() -> None:
    blocks = BlockSpec(2, 1.0, 1.0, 2.0), BlockSpec(0, 0.5, 1.0, 3.0, "headless")
    arch = Architecture(24, 1, StemSpec(1.0, 2.0), blocks)
    assert arch.describe() == "D24 L2 T1 mixer ssa/headless heads 2/- mlp 1/0.5"
    assert arch.table() == (
        ["", "mixer", "heads", "MLP ratio", "threshold", "tau"],
        [
            ["stem", "", "", "", "1", "2"],
            ["block 0", "ssa", "2", "1", "1", "2"],
            ["block 1", "headless", "-", "0.5", "1", "3"],
        ],
    )


def with_block(**genes: Any) -> dict[str, Any]:
    block = {"mlp_ratio": 1.0, "v_threshold": 1.0, "tau": 2.0, **genes}
    return {"embed_dim": 24, "time_steps": 1, "stem": {"v_threshold": 1.0, "tau": 2.0}, "blocks": [block]}


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        ({}, r"`architecture\.blocks\[0\]` lacks the key 'num_heads'"),
        ({"mixer": "headed"}, r"`architecture\.blocks\[0\]` lacks the key 'num_heads'"),
        ({"mixer": "headless", "num_heads": 2}, r"`block0\.num_heads` must be left out .* where `mixer` is 'headless'"),
        ({"mixer": "unheard of", "num_heads": 2}, r"`block0\.num_heads` must be left out"),
        ({"mixer": "", "num_heads": 2}, r"`block0\.mixer` must hold names, but got ''"),
        ({"mixer": 3, "num_heads": 2}, r"`block0\.mixer` must hold names, but got 3"),
    ],
)
def test_impossible_blocks_are_refused(genes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        Architecture.from_dict(with_block(**genes))


def test_foreign_blocks_are_refused() -> None:
    foreign = replace(DEFAULT.largest, blocks=(BlockSpec(0, 1.0, 1.0, 2.0, "headless"),))
    with pytest.raises(SpaceError, match=r"`block0\.mixer` must be one of \['ssa'\] in this space, but got 'headless'"):
        DEFAULT.check(foreign)
    headed = replace(MIXED.largest, blocks=(BlockSpec(2, 1.0, 1.0, 2.0, "headless"),))
    with pytest.raises(SpaceError, match=r"`block0\.num_heads` must be one of \[0\] in this space, but got 2"):
        MIXED.check(headed)


@pytest.mark.parametrize("mixers", [(), "ssa", ("ssa", "ssa"), ("",), (3,), None])
def test_impossible_lists_of_mixers_are_refused(mixers: Any) -> None:
    with pytest.raises(SpaceError, match="`mixers` must"):
        replace(DEFAULT, mixers=mixers)
