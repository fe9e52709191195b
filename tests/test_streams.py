"""No two streams of random numbers give the same numbers, but those that the table names."""

from __future__ import annotations

import json
import zlib
from itertools import product

import numpy as np
import pytest

from spikesearch import streams
from spikesearch.data.keyed import uniforms
from spikesearch.streams import TABLE, Stream

# Small numbers, of which there are the most, and those in the table itself, which a seed may happen to be.
SEEDS = (*range(7), 42, 20_230_601, 2**32 - 1)
COUNTS = (0, 1, 2, 3, 4, 5, 9, 100)
CRCS = tuple(zlib.crc32(name.encode()) for name in ("depth", "embed_dim", "block0.tau", "stem.v_threshold"))
VALUES = {
    "seed": SEEDS,
    "crc32 of the name": CRCS,
    "number of classes": (1, 2, 3, 10, 100),
    "size of the design": (1, 4, 12),
    "number of items": (1, 2, 3, 4, 5, 30),
}


def keys(stream: Stream) -> list[tuple[int, ...]]:
    names = [name for name in stream.parts.split(", ") if name]
    return list(product(*(VALUES.get(name, COUNTS) for name in names)))


def numbers(stream: Stream, parts: tuple[int, ...]) -> str:
    """What decides everything that is drawn: the state of the generator, or the first numbers of the hash."""
    if stream.kind == "generator":
        return json.dumps(stream.generator(*parts).bit_generator.state)
    if stream.kind == "seed":
        return str(stream.seed(*parts).tolist())
    return str(uniforms(stream.key(*parts), [0], 2).tolist())


@pytest.fixture(scope="module")
def drawn() -> dict[str, set[str]]:
    return {name: {numbers(stream, parts) for parts in keys(stream)} for name, stream in TABLE.items()}


def test_no_two_streams_give_the_same_numbers_but_those_that_may(drawn: dict[str, set[str]]) -> None:
    allowed = {frozenset(name for name, stream in TABLE.items() if stream in pair) for pair in streams.MAY_COINCIDE}
    met = {frozenset((a, b)) for a, b in product(TABLE, TABLE) if a < b and drawn[a] & drawn[b]}
    assert met == allowed  # no exception for nothing, either


@pytest.mark.parametrize("name", TABLE)
def test_no_stream_repeats_itself(name: str, drawn: dict[str, set[str]]) -> None:
    assert len(drawn[name]) == len(keys(TABLE[name]))


def test_what_is_new_has_keys_of_one_length_and_a_number_of_its_own() -> None:
    new = [stream for stream in TABLE.values() if not stream.fixed]
    assert new
    assert {len(stream.key(*parts)) for stream in new for parts in keys(stream)[:50]} == {6}
    assert len({stream.before for stream in new}) == len(new)
    assert all(not set(pair) & set(new) for pair in streams.MAY_COINCIDE)


def test_streams_are_told_apart_by_what_they_draw() -> None:
    assert len({stream.draws for stream in TABLE.values()}) == len(TABLE)


@pytest.mark.parametrize(
    ("name", "parts", "key"),
    [
        ("SPLITS", (7, 2), [7, 2]),
        ("SPLIT_ORDER", (7, 10), [7, 10]),
        ("PROPOSALS", (7, 31), [7, 31]),
        ("INDEPENDENT", (7, 31, 99), [7, 31, 99]),
        ("DESIGN", (7, 99, 12), [7, 99, 12]),
        ("TRAINING_ORDER", (7, 4), [1, 7, 4]),
        ("DEPTHS", (7, 4, 5), [3, 7, 4, 5]),
        ("GENES", (7, 4, 5), [4, 7, 4, 5]),
        ("CALIBRATION", (), 20_230_601),
    ],
)
def test_what_0_1_0_drew_is_drawn_again(name: str, parts: tuple[int, ...], key: list[int] | int) -> None:
    """Splits, proposals and trainings of every study that exists depend on these keys."""
    again = TABLE[name].generator(*parts).integers(2**62, size=5)
    assert again.tolist() == np.random.default_rng(key).integers(2**62, size=5).tolist()


def test_other_libraries_are_seeded_as_by_0_1_0() -> None:
    assert streams.MIXUP.seed(7, 4, 5).tolist() == np.random.SeedSequence([2, 7, 4, 5]).generate_state(4).tolist()
    assert streams.RECIPES.seed(7, 4).tolist() == np.random.SeedSequence([7, 4]).generate_state(1).tolist()


def test_images_are_augmented_as_by_0_1_0() -> None:
    names = ("AFFINE", "CROP", "POLICY", "ERASE", "EVENTS")
    assert [TABLE[name].key(7, 4, 5) for name in names] == [[7, 4, 5], *([7, 4, 5, i] for i in range(4))]
