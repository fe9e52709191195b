"""Shared by the sampler's tests: a small space, a cheap objective on it, and finished studies."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import optuna
import pytest

from spikesearch.space import Architecture, SearchSpace

pytest.register_assert_rewrite("optuna.testing.pytest_samplers")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture
def space() -> SearchSpace:
    return SearchSpace(
        embed_dims=(48, 96),
        depths=(1, 2, 3),
        num_heads=(2, 4),
        mlp_ratios=(2, 4),
        v_thresholds=(0.6, 1.0, 1.4),
        taus=(1.25, 2.0, 4.0),
        time_steps=(2, 4),
    )


@pytest.fixture
def tiny() -> SearchSpace:
    """24 architectures."""
    return SearchSpace((8,), (1, 2), (1,), (1,), (1.0,), (2.0, 3.0), (1, 2))


def score(arch: Architecture) -> tuple[float, float]:
    """An accuracy and an energy that conflict."""
    energy = arch.embed_dim * arch.time_steps * sum(4 + 2 * block.mlp_ratio for block in arch.blocks) / 1000
    loss = 0.3 / (1 + energy) + sum(0.01 * abs(b.tau - 2) + 0.02 * abs(b.v_threshold - 1) for b in arch.blocks)
    return 1 - loss, energy


@pytest.fixture
def objective(space: SearchSpace) -> Callable[[optuna.Trial], tuple[float, float]]:
    return lambda trial: score(space.suggest(trial))


def two_objectives(sampler: optuna.samplers.BaseSampler, **options: object) -> optuna.Study:
    """A study in memory that maximises accuracy and minimises energy."""
    return optuna.create_study(directions=["maximize", "minimize"], sampler=sampler, **options)  # type: ignore[arg-type]
