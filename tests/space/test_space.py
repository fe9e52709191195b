from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from spikesearch.errors import SpaceError, SpikesearchError
from spikesearch.space import Architecture, BlockSpec, SearchSpace, StemSpec
from spikesearch.space.architecture import mlp_width

EXAMPLE: dict[str, Any] = {
    "embed_dims": (48, 96),
    "depths": (1, 2),
    "num_heads": (2, 4),
    "mlp_ratios": (2, 4),
    "v_thresholds": (0.6, 1.0, 1.4),
    "taus": (1.25, 2.0, 4.0),
    "time_steps": (2, 4),
}
TINY: dict[str, Any] = {
    "embed_dims": (16, 32),
    "depths": (1, 3),
    "num_heads": (1, 2),
    "mlp_ratios": (1.5,),
    "v_thresholds": (1.0,),
    "taus": (1.5, 2.0),
    "time_steps": (1, 4),
}
ARCH: dict[str, Any] = {
    "embed_dim": 48,
    "time_steps": 4,
    "stem": {"v_threshold": 1.0, "tau": 2.0},
    "blocks": [{"num_heads": 2, "mlp_ratio": 4.0, "v_threshold": 0.6, "tau": 1.25}],
}


def subset(*values: Any) -> st.SearchStrategy[Any]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True)


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """Any space whose networks can be built: widths that all heads divide, depths with gaps, unsorted choices."""
    return SearchSpace(
        embed_dims=draw(subset(24, 48, 72, 96)),
        depths=draw(subset(1, 2, 3, 5)),
        num_heads=draw(subset(1, 2, 3, 4)),
        mlp_ratios=draw(subset(0.5, 1, 1.5, 4)),
        v_thresholds=tuple(draw(st.lists(st.floats(1e-3, 10.0), min_size=1, max_size=3, unique=True))),
        taus=tuple(draw(st.lists(st.floats(1.0, 50.0, exclude_min=True), min_size=1, max_size=3, unique=True))),
        time_steps=draw(subset(1, 2, 4, 10)),
    )


@st.composite
def points(draw: st.DrawFn) -> tuple[SearchSpace, Architecture]:
    space = draw(spaces())
    return space, space.at(draw(st.integers(0, space.size - 1)))


def brute_force(space: SearchSpace) -> set[Architecture]:
    """Every architecture, enumerated by nested products of the choices and nothing of the class under test."""
    neurons = list(itertools.product(space.v_thresholds, space.taus))
    blocks = [
        BlockSpec(h, r, v, t) for h, r in itertools.product(space.num_heads, space.mlp_ratios) for v, t in neurons
    ]
    return {
        Architecture(width, steps, StemSpec(*stem), stack)
        for width in space.embed_dims
        for steps in space.time_steps
        for stem in neurons
        for depth in space.depths
        for stack in itertools.product(blocks, repeat=depth)
    }


# --- points of the space ----------------------------------------------------------------------------------------------


def test_size_and_enumeration_match_brute_force() -> None:
    space = SearchSpace(**TINY)
    everything = brute_force(space)
    assert space.size == len(everything) == 2 * 2 * 2 * (4 + 4**3)
    assert {space.at(i) for i in range(space.size)} == everything
    assert all(arch in space for arch in everything)
    assert len({arch.key for arch in everything}) == len(everything)


@given(points())
def test_at_is_the_inverse_of_index(point: tuple[SearchSpace, Architecture]) -> None:
    space, arch = point
    assert arch in space
    assert space.at(space.index(arch)) == arch


@given(spaces(), st.data())
def test_index_is_the_inverse_of_at(space: SearchSpace, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, space.size - 1))
    assert space.index(space.at(index)) == index


@given(spaces())
def test_at_refuses_numbers_outside_the_space(space: SearchSpace) -> None:
    for index in (-1, space.size):
        with pytest.raises(IndexError, match=f"`index` must be from 0 to {space.size - 1}, but got {index}"):
            space.at(index)


@given(spaces())
def test_extremes(space: SearchSpace) -> None:
    for name, arch in (("largest", space.largest), ("smallest", space.smallest), ("middle", space.middle)):
        assert arch in space, name
        assert len(set(arch.blocks)) == 1
        assert abs(arch.stem.v_threshold - 1) == min(abs(v - 1) for v in space.v_thresholds)
        assert abs(arch.stem.tau - 2) == min(abs(t - 2) for t in space.taus)
        assert (arch.blocks[0].v_threshold, arch.blocks[0].tau) == (arch.stem.v_threshold, arch.stem.tau)
    for arch, pick in ((space.largest, max), (space.smallest, min)):
        size_genes = (arch.embed_dim, arch.time_steps, arch.depth, arch.blocks[0].num_heads, arch.blocks[0].mlp_ratio)
        choices = (space.embed_dims, space.time_steps, space.depths, space.num_heads, space.mlp_ratios)
        assert size_genes == tuple(pick(c) for c in choices)


@given(points(), st.integers(0, 2**32 - 1))
def test_a_sample_is_in_its_space_and_repeats_with_its_seed(point: tuple[SearchSpace, Architecture], seed: int) -> None:
    space, _ = point
    arch = space.sample(np.random.default_rng(seed))
    assert space.check(arch) is arch
    assert arch == space.sample(np.random.default_rng(seed))
    assert isinstance(arch.embed_dim, int)  # numpy scalars would not be JSON
    assert json.loads(json.dumps(arch.to_dict())) == arch.to_dict()


def test_sampling_is_uniform_gene_by_gene() -> None:
    space = SearchSpace(**{**EXAMPLE, "depths": (1, 2, 4)})
    rng = np.random.default_rng(0)
    archs = [space.sample(rng) for _ in range(3000)]
    draws: dict[str, list[Any]] = {
        "depth": [arch.depth for arch in archs],
        "embed_dim": [arch.embed_dim for arch in archs],
        "time_steps": [arch.time_steps for arch in archs],
        "stem.v_threshold": [arch.stem.v_threshold for arch in archs],
        "stem.tau": [arch.stem.tau for arch in archs],
        "last num_heads": [arch.blocks[-1].num_heads for arch in archs],
        "last mlp_ratio": [arch.blocks[-1].mlp_ratio for arch in archs],
        "last v_threshold": [arch.blocks[-1].v_threshold for arch in archs],
        "last tau": [arch.blocks[-1].tau for arch in archs],
    }
    for name, values in draws.items():
        counts = Counter(values)
        assert len(counts) == (3 if name.endswith(("depth", "tau", "v_threshold")) else 2), name
        assert chisquare(list(counts.values())).pvalue > 1e-4, (name, counts)


def test_blocks_are_drawn_independently() -> None:
    space = SearchSpace(**EXAMPLE)
    rng = np.random.default_rng(1)
    pairs = Counter(tuple(block.tau for block in space.sample_depth(rng, 2).blocks) for _ in range(3000))
    assert len(pairs) == 9
    assert chisquare(list(pairs.values())).pvalue > 1e-4


# --- neighbours -------------------------------------------------------------------------------------------------------


def genes_that_differ(one: Architecture, other: Architecture) -> int:
    """Number of genes in which two architectures differ; a change of depth counts once."""
    count = sum(getattr(one, name) != getattr(other, name) for name in ("embed_dim", "time_steps", "depth"))
    pairs: list[tuple[Any, Any]] = [(one.stem, other.stem), *zip(one.blocks, other.blocks, strict=False)]
    for a, b in pairs:
        count += sum(getattr(a, field.name) != getattr(b, field.name) for field in fields(a))
    return count


@given(points())
def test_neighbours_are_all_at_distance_one(point: tuple[SearchSpace, Architecture]) -> None:
    space, arch = point
    neighbours = list(space.neighbours(arch))
    assert len(set(neighbours)) == len(neighbours)
    assert arch not in neighbours
    for neighbour in neighbours:
        assert neighbour in space
        assert genes_that_differ(arch, neighbour) == 1
    per_neuron = len(space.v_thresholds) - 1 + len(space.taus) - 1
    per_block = len(space.num_heads) - 1 + len(space.mlp_ratios) - 1 + per_neuron
    position = space.depths.index(arch.depth)
    depth_steps = (position > 0) + (position < len(space.depths) - 1)
    common = len(space.embed_dims) - 1 + len(space.time_steps) - 1 + per_neuron
    assert len(neighbours) == common + arch.depth * per_block + depth_steps


@given(points())
def test_depth_neighbours_keep_the_shared_blocks(point: tuple[SearchSpace, Architecture]) -> None:
    space, arch = point
    for neighbour in space.neighbours(arch):
        if neighbour.depth < arch.depth:
            assert neighbour.blocks == arch.blocks[: neighbour.depth]
        elif neighbour.depth > arch.depth:
            assert neighbour.blocks[: arch.depth] == arch.blocks
            assert set(neighbour.blocks[arch.depth :]) == {arch.blocks[-1]}


@given(points())
def test_size_genes_are_symmetric_neighbours(point: tuple[SearchSpace, Architecture]) -> None:
    space, arch = point
    for neighbour in space.neighbours(arch):
        if neighbour.depth == arch.depth:
            assert arch in set(space.neighbours(neighbour))


def test_neighbours_of_a_foreign_architecture_are_refused() -> None:
    space = SearchSpace(**EXAMPLE)
    with pytest.raises(SpaceError, match=r"`embed_dim` must be one of \[48, 96\] in this space, but got 64"):
        next(space.neighbours(replace(space.largest, embed_dim=64)))


# --- Optuna parameters ------------------------------------------------------------------------------------------------


@given(points())
def test_parameters_round_trip(point: tuple[SearchSpace, Architecture]) -> None:
    space, arch = point
    params = space.params(arch)
    assert len(params) == 5 + 4 * arch.depth
    assert space.architecture(params) == arch
    assert space.architecture(json.loads(json.dumps(params))) == arch


@given(points())
def test_suggest_asks_a_trial_for_exactly_its_parameters(point: tuple[SearchSpace, Architecture]) -> None:
    space, arch = point
    trial = optuna.trial.FixedTrial(space.params(arch))
    assert space.suggest(trial) == arch
    assert trial.params == space.params(arch)
    assert trial.distributions == space.distributions(arch.depth)


@pytest.mark.slow
def test_suggest_in_a_real_study(tmp_path: Any) -> None:
    space = SearchSpace(**EXAMPLE)
    study = optuna.create_study(
        storage=f"sqlite:///{tmp_path}/study.db", sampler=optuna.samplers.RandomSampler(seed=0), study_name="space"
    )
    seen: list[Architecture] = []

    def objective(trial: optuna.Trial) -> float:
        seen.append(space.suggest(trial))
        return 0.0

    study.optimize(objective, n_trials=20)
    study.enqueue_trial(space.params(space.largest))
    study.optimize(objective, n_trials=1)
    assert seen[-1] == space.largest
    assert {arch.depth for arch in seen} == set(space.depths)
    stored = optuna.load_study(study_name="space", storage=f"sqlite:///{tmp_path}/study.db").trials
    assert [space.architecture(trial.params) for trial in stored] == seen
    assert all(trial.params == space.params(arch) for trial, arch in zip(stored, seen, strict=True))
    everything = space.distributions()
    assert all(everything[name] == d for trial in stored for name, d in trial.distributions.items())
    assert set(everything) == set().union(*(trial.params for trial in stored))


def test_foreign_parameters_are_ignored_and_missing_ones_named() -> None:
    space = SearchSpace(**EXAMPLE)
    params = space.params(space.smallest)
    assert space.architecture({**params, "lr": 0.1, "block7.tau": 2.0}) == space.smallest
    with pytest.raises(SpaceError, match=r"`block0\.tau` is missing"):
        space.architecture({name: value for name, value in params.items() if name != "block0.tau"})
    with pytest.raises(SpaceError, match=r"`stem\.tau` must be one of \[1\.25, 2\.0, 4\.0\], but got 3"):
        space.architecture({**params, "stem.tau": 3})


# --- plain data and keys ----------------------------------------------------------------------------------------------


@given(points())
def test_dictionaries_round_trip_through_json(point: tuple[SearchSpace, Architecture]) -> None:
    space, arch = point
    assert SearchSpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space
    again = Architecture.from_dict(json.loads(json.dumps(arch.to_dict())))
    assert again == arch
    assert hash(again) == hash(arch)
    assert again.key == arch.key
    assert len({arch: 1, again: 2}) == 1


@given(points(), st.data())
def test_different_architectures_have_different_keys(
    point: tuple[SearchSpace, Architecture], data: st.DataObject
) -> None:
    space, arch = point
    other = space.at(data.draw(st.integers(0, space.size - 1)))
    assert (arch.key == other.key) == (arch == other)


def test_choices_are_sorted_so_that_equal_spaces_are_equal() -> None:
    shuffled = {name: tuple(reversed(values)) for name, values in EXAMPLE.items()}
    assert SearchSpace(**shuffled) == SearchSpace(**EXAMPLE)
    assert SearchSpace(**{**EXAMPLE, "taus": [2, 4, 1.25]}) == SearchSpace(**EXAMPLE)
    assert SearchSpace(**{**EXAMPLE, "embed_dims": [96.0, 48]}).embed_dims == (48, 96)
    assert SearchSpace(**{**EXAMPLE, "embed_dims": np.array([48, 96])}) == SearchSpace(**EXAMPLE)


def test_integers_and_whole_floats_give_one_key() -> None:
    block = BlockSpec(num_heads=2, mlp_ratio=4, v_threshold=1, tau=2)
    whole = Architecture(48, 4, StemSpec(1, 2), (block,))
    floats = Architecture(48, 4, StemSpec(1.0, 2.0), (BlockSpec(2, 4.0, 1.0, 2.0),))
    assert whole == floats
    assert whole.key == floats.key


@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_keys_are_the_same_in_every_process(hash_seed: str) -> None:
    code = (
        "import json, sys; from spikesearch import Architecture;"
        "print(Architecture.from_dict(json.loads(sys.argv[1])).key)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code, json.dumps(ARCH)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert printed == Architecture.from_dict(ARCH).key
    # Written down, because stored studies carry keys: a change of the key is a change of the file format.
    assert printed == "85f8072de401"


def test_architectures_are_frozen() -> None:
    arch = Architecture.from_dict(ARCH)
    with pytest.raises(FrozenInstanceError):
        arch.embed_dim = 96  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        arch.blocks[0].tau = 4.0  # type: ignore[misc]


def test_mlp_width_survives_binary_fractions() -> None:
    space = SearchSpace(**{**EXAMPLE, "embed_dims": (40,), "mlp_ratios": (0.1, 1.1)})
    assert [mlp_width(40, ratio) for ratio in space.mlp_ratios] == [4, 44]


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embed_dims": ()}, r"`embed_dims` must have at least one choice"),
        ({"taus": []}, r"`taus` must have at least one choice"),
        ({"depths": (2, 1, 2)}, r"`depths` must not repeat a choice, but got \[2, 1, 2\]"),
        ({"v_thresholds": (1, 1.0)}, r"`v_thresholds` must not repeat a choice"),
        ({"num_heads": 4}, r"`num_heads` must be a list of choices, but got 4"),
        ({"num_heads": "24"}, r"`num_heads` must be a list of choices, but got '24'"),
        ({"num_heads": {2: 4}}, r"`num_heads` must be a list of choices"),
        ({"num_heads": (2, 5)}, r"`num_heads` must divide every embed_dim, but 5 does not divide 48"),
        ({"num_heads": (0,)}, r"`num_heads` must divide every embed_dim"),
        ({"num_heads": (-2,)}, r"`num_heads` must divide every embed_dim"),
        ({"embed_dims": (48, 100)}, r"`embed_dims` must be a positive multiple of 8 \(the stem\), but got 100"),
        ({"embed_dims": (0,)}, r"`embed_dims` must be a positive multiple of 8"),
        ({"embed_dims": (-48,)}, r"`embed_dims` must be a positive multiple of 8"),
        ({"embed_dims": (48.5,)}, r"`embed_dims` must hold whole numbers, but got 48\.5"),
        ({"embed_dims": ("48",)}, r"`embed_dims` must hold whole numbers, but got '48'"),
        ({"embed_dims": (None,)}, r"`embed_dims` must hold whole numbers, but got None"),
        ({"depths": (0, 1)}, r"`depths` must be at least 1, but got 0"),
        ({"depths": (True,)}, r"`depths` must hold whole numbers, but got True"),
        ({"time_steps": (0,)}, r"`time_steps` must be at least 1, but got 0"),
        ({"taus": (1.0, 2.0)}, r"`taus` must be above 1 \(time steps\), but got 1\.0"),
        ({"taus": (0.5,)}, r"`taus` must be above 1"),
        ({"taus": ("2",)}, r"`taus` must hold finite numbers, but got '2'"),
        ({"taus": (True,)}, r"`taus` must hold finite numbers, but got True"),
        ({"taus": (float("inf"),)}, r"`taus` must hold finite numbers, but got inf"),
        ({"v_thresholds": (float("nan"),)}, r"`v_thresholds` must hold finite numbers, but got nan"),
        ({"v_thresholds": (0.0,)}, r"`v_thresholds` must be above 0, but got 0\.0"),
        ({"v_thresholds": (-1.0,)}, r"`v_thresholds` must be above 0, but got -1\.0"),
        (
            {"mlp_ratios": (0.3,)},
            r"`mlp_ratios` must be 0 \(no MLP\), or positive and give a whole MLP width, but 0\.3 times .* 48",
        ),
        ({"mlp_ratios": (-1,)}, r"`mlp_ratios` must be 0 \(no MLP\)"),
    ],
)
def test_impossible_spaces_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message) as caught:
        SearchSpace(**{**EXAMPLE, **change})
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, SpikesearchError)
    assert "\n" not in str(caught.value)


def test_whole_numbers_must_be_finite() -> None:
    for value in (float("inf"), float("nan")):
        with pytest.raises(SpaceError, match="`depths` must hold whole numbers"):
            SearchSpace(**{**EXAMPLE, "depths": (value,)})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("embed_dim",), 44, r"`embed_dim` must be a positive multiple of 8"),
        (("embed_dim",), "48", r"`embed_dim` must hold whole numbers, but got '48'"),
        (("time_steps",), 0, r"`time_steps` must be at least 1, but got 0"),
        (("stem",), None, r"`architecture\.stem` must be a mapping, but got None"),
        (("stem", "tau"), 1.0, r"`stem\.tau` must be above 1"),
        (("stem", "v_threshold"), 0, r"`stem\.v_threshold` must be above 0"),
        (("blocks",), [], r"needs at least one block"),
        (("blocks",), "no", r"`architecture\.blocks` must be a list, but got 'no'"),
        (("blocks",), 3, r"`architecture\.blocks` must be a list, but got 3"),
        (("blocks", 0), 3, r"`architecture\.blocks\[0\]` must be a mapping, but got 3"),
        (("blocks", 0, "num_heads"), 5, r"`block0\.num_heads` must divide every embed_dim, but 5 does not divide 48"),
        (
            ("blocks", 0, "mlp_ratio"),
            0.3,
            r"`block0\.mlp_ratio` must be 0 \(no MLP\), or positive and give a whole MLP width",
        ),
        (("blocks", 0, "tau"), 0.9, r"`block0\.tau` must be above 1"),
        (("blocks", 0, "v_threshold"), -1, r"`block0\.v_threshold` must be above 0"),
        (("blocks", 0, "v_threshold"), None, r"`block0\.v_threshold` must hold finite numbers, but got None"),
        (("blocks", 0, "taus"), 2.0, r"`architecture\.blocks\[0\]` has no key 'taus'; did you mean 'tau'\?"),
        (("extra",), 1, r"`architecture` has no key 'extra'"),
    ],
)
def test_impossible_architectures_are_refused(path: tuple[Any, ...], value: Any, message: str) -> None:
    data = json.loads(json.dumps(ARCH))
    target = data
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    with pytest.raises(SpaceError, match=message):
        Architecture.from_dict(data)


@pytest.mark.parametrize("key", ["embed_dim", "time_steps", "stem", "blocks"])
def test_missing_keys_are_named(key: str) -> None:
    data = {name: value for name, value in ARCH.items() if name != key}
    with pytest.raises(SpaceError, match=f"`architecture` lacks the key '{key}'"):
        Architecture.from_dict(data)


def test_space_dictionaries_name_the_key() -> None:
    data = SearchSpace(**EXAMPLE).to_dict()
    with pytest.raises(SpaceError, match=r"`space` has no key 'tau'; did you mean 'taus'\?"):
        SearchSpace.from_dict({**data, "tau": [2.0]})
    del data["taus"]
    with pytest.raises(SpaceError, match="`space` lacks the key 'taus'"):
        SearchSpace.from_dict(data)
    with pytest.raises(SpaceError, match=r"`space` must be a mapping, but got \[1\]"):
        SearchSpace.from_dict([1])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("gene", "arch"),
    [
        ("time_steps", replace(SearchSpace(**EXAMPLE).largest, time_steps=8)),
        ("depth", replace(SearchSpace(**EXAMPLE).largest, blocks=SearchSpace(**EXAMPLE).largest.blocks * 2)),
        ("stem.tau", replace(SearchSpace(**EXAMPLE).largest, stem=StemSpec(1.0, 3.0))),
        ("block0.num_heads", replace(SearchSpace(**EXAMPLE).smallest, blocks=(BlockSpec(3, 2.0, 1.0, 2.0),))),
    ],
)
def test_membership_names_the_first_gene_that_does_not_fit(gene: str, arch: Architecture) -> None:
    space = SearchSpace(**EXAMPLE)
    assert arch not in space
    for method in (space.check, space.params, space.index):
        with pytest.raises(SpaceError, match=f"`{gene}` must be one of"):
            method(arch)


def test_other_things_are_not_in_a_space() -> None:
    space = SearchSpace(**EXAMPLE)
    assert "architecture" not in space
    assert space.params(space.largest) not in space
