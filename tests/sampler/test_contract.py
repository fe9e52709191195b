"""Optuna's own contract suites, in every configuration of the sampler."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase, RelativeSamplerTestCase

from spikesearch.sampler import ESNNSampler, GaussianProcessSurrogate
from spikesearch.space import SearchSpace

SPACE = SearchSpace((48, 96), (1, 2), (2, 4), (2, 4), (0.6, 1.0), (1.25, 2.0), (2, 4))


def assisted(**options: object) -> ESNNSampler:
    """A sampler whose surrogate works from the second trial on, so that the short studies of the suites reach it."""
    return ESNNSampler(surrogate=GaussianProcessSurrogate(min_rows=2, children=8, exploration=0.0), **options)  # type: ignore[arg-type]


CONFIGURATIONS: dict[str, Callable[[], BaseSampler]] = {
    "default": ESNNSampler,
    "plain": lambda: ESNNSampler(surrogate=False, population_size=2, seed=1),
    "space": lambda: ESNNSampler(SPACE, surrogate=False),
    "space-surrogate": lambda: assisted(space=SPACE),
    "surrogate": assisted,
    "constraints": lambda: ESNNSampler(surrogate=False, known_constraints={"none": lambda params: -1.0}),
    "surrogate-constraints": lambda: assisted(known_constraints={"none": lambda params: -1.0}),
}


class Configured:
    @pytest.fixture(params=list(CONFIGURATIONS.values()), ids=list(CONFIGURATIONS))
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return request.param


class TestBasic(Configured, BasicSamplerTestCase):
    pass


class TestMultiObjective(Configured, MultiObjectiveSamplerTestCase):
    pass


class TestRelative(Configured, RelativeSamplerTestCase):
    pass
