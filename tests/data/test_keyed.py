"""Keyed random numbers: uniform, independent of the batch, different for different keys."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from spikesearch.data.keyed import uniforms


@given(
    key=st.lists(st.integers(0, 2**63), min_size=1, max_size=4),
    indices=st.lists(st.integers(0, 2**40), min_size=1, max_size=6),
    count=st.integers(1, 5),
)
def test_rows_do_not_depend_on_their_neighbours(key: list[int], indices: list[int], count: int) -> None:
    together = uniforms(key, indices, count)
    assert together.shape == (len(indices), count)
    assert torch.equal(together, torch.cat([uniforms(key, [index], count) for index in indices]))
    assert bool(((together >= 0) & (together < 1)).all())
    assert torch.equal(together, uniforms(key, np.array(indices), count + 1)[:, :count])


def test_numbers_are_uniform_and_uncorrelated() -> None:
    draws = uniforms((0, 1), range(20_000), 3).numpy()
    for column in draws.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    other = uniforms((0, 2), range(20_000), 3).numpy()
    matrix = np.corrcoef(np.concatenate([draws, other], axis=1).T)
    assert np.abs(matrix - np.eye(6)).max() < 0.04
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.04  # neighbouring indices


def test_numbers_never_change() -> None:
    """A checkpoint of yesterday must continue with the same augmentation."""
    assert uniforms((7, 3), [11], 2).tolist() == [[0.450770468112889, 0.35697286687046015]]


def test_the_order_of_a_key_matters() -> None:
    assert not torch.equal(uniforms((1, 2), [0], 1), uniforms((2, 1), [0], 1))
