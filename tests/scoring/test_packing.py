"""Packing: nothing is lost, and spikes take one bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikesearch.scoring.packing import pack, unpack_sum


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (
        a.shape == b.shape and a.is_contiguous() and torch.equal(a.view(torch.int32), b.contiguous().view(torch.int32))
    )


@given(
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    largest=st.integers(0, 255),
    seed=st.integers(0, 1000),
)
def test_whole_numbers_come_back_in_the_bits_they_need(shape, largest, seed):
    x = torch.from_numpy(np.random.default_rng(seed).integers(0, largest + 1, shape).astype(np.float32))
    packed = pack(x)
    assert same_bits(unpack_sum([packed]), x)
    bits = int(x.max()).bit_length() if x.numel() else 0
    assert packed.nbytes == bits * -(-x.numel() // 8)


@pytest.mark.parametrize("value", [256.0, -1.0, 0.5, -0.0, float("nan"), float("inf"), 1e30])
def test_anything_else_comes_back_as_well(value):
    x = torch.tensor([0.0, 1.0, value, 3.0])
    packed = pack(x)
    assert same_bits(unpack_sum([packed]), x)
    assert packed.nbytes == x.nbytes


@given(seed=st.integers(0, 1000), tops=st.lists(st.sampled_from([1, 2, 7, 100, 200]), min_size=1, max_size=5))
def test_sums_are_those_of_float32(seed, tops):
    rng = np.random.default_rng(seed)
    parts = [torch.from_numpy(rng.integers(0, top + 1, (3, 7)).astype(np.float32)) for top in tops]
    assert same_bits(unpack_sum([pack(part) for part in parts]), sum(parts))
    real = torch.from_numpy(rng.standard_normal((3, 7)).astype(np.float32))
    expected = real.clone()
    for part in parts:
        expected += part
    assert same_bits(unpack_sum([pack(part) for part in [real, *parts]]), expected)


def test_other_layouts_are_packed_by_value():
    x = (torch.rand(2, 6, 4, 4) < 0.5).float().contiguous(memory_format=torch.channels_last)
    assert same_bits(unpack_sum([pack(x)]), x)


def test_what_was_packed_may_be_overwritten():
    x = torch.tensor([0.25, 1.0])
    packed = pack(x)
    x.zero_()
    assert unpack_sum([packed]).tolist() == [0.25, 1.0]
