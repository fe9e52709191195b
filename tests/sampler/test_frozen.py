"""Proposals of 0.1.0, to the last bit; by evolution alone, whose numbers do not depend on the processor."""

from __future__ import annotations

import hashlib
import json

import pytest

from spikesearch.sampler import ArchitectureMutation, BlockCrossover, ESNNSampler
from spikesearch.space import SearchSpace
from tests.sampler.conftest import score, two_objectives

GAPS = SearchSpace((24, 48, 72, 96), (1, 3, 6), (1, 2, 3, 4), (0.5, 1, 2), (0.6, 1.0), (1.5, 2.0, 3.0), (1, 2, 4))
ONE_DEPTH = SearchSpace((32, 64), (2,), (2,), (1, 2, 4), (1.0,), (2.0,), (1, 2))


@pytest.mark.parametrize(
    ("space", "digest"),
    [(GAPS, "cbcfb79e68016252"), (ONE_DEPTH, "3926e7da49c9a3ae")],
    ids=["gaps", "one depth"],
)
def test_sixty_proposals(space: SearchSpace, digest: str) -> None:
    study = two_objectives(
        ESNNSampler(
            space,
            seed=3,
            surrogate=False,
            crossover=BlockCrossover(mix_prob=0.5),
            mutation=ArchitectureMutation(depth_prob=0.4),
        )
    )
    study.optimize(lambda trial: score(space.suggest(trial)), n_trials=min(60, space.size - 10))
    params = json.dumps([trial.params for trial in study.trials], sort_keys=True)
    assert hashlib.sha256(params.encode()).hexdigest()[:16] == digest
