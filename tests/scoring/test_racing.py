"""Scores in a race: those of no race, bit for bit, or a verdict that does not depend on what was computed before."""

from __future__ import annotations

import numpy as np
import pytest

from spikesearch.racing import Dominated, Rival, looks
from spikesearch.scoring import Scorer
from spikesearch.scoring.cache import PrefixCache
from tests.nn.conftest import SPACE, trained
from tests.scoring.test_cache import bundle, config, family

BATCH = 5  # of 50 images


@pytest.fixture(scope="module", params=["add", "membrane"])
def images(request):
    return trained(residual=request.param), bundle(np.random.default_rng(0).standard_normal, 1, 8, 8)


def scorer_with(pair, limit, **options):
    scorer = Scorer(*pair, config(batch_size=BATCH, **options))
    scorer.cache = PrefixCache(limit)
    return scorer


def raced(scorer, arch, rivals):
    try:
        return scorer.race(arch, rivals)
    except Dominated as lost:
        return lost.to_dict()


@pytest.mark.parametrize("options", [{}, {"convention": "strict"}, {"precision": "bfloat16"}], ids=str)
def test_whoever_is_not_stopped_has_the_score_of_no_race(images, options):
    never, cached, plain = (scorer_with(images, limit, **options) for limit in (1 << 30, 1 << 30, 0))
    archs = family(5, 6)
    scores = [never.score(arch) for arch in archs]
    # All energies but one are above this rival's, and nobody is as accurate.
    rivals = [Rival(3, 1.0, min(score.energy_uJ for score in scores))]
    outcomes = [raced(cached, arch, rivals) for arch in archs]
    assert outcomes == [raced(plain, arch, rivals) for arch in archs]
    stopped = [isinstance(outcome, dict) for outcome in outcomes]
    assert any(stopped)
    assert not all(stopped)
    for outcome, score in zip(outcomes, scores, strict=True):
        if isinstance(outcome, dict):
            assert outcome["dominated_by"] == 3
            assert outcome["images_seen"] in [number * BATCH for number in looks(50, BATCH)]
            assert rivals[0].energy_uJ <= outcome["energy_bound_uJ"] <= score.energy_uJ
            assert score.accuracy <= outcome["accuracy_bound"] <= 1
        else:
            assert outcome == score
    # what was stopped has left nothing behind that changes a later score
    assert [cached.score(arch) for arch in archs] == scores


def test_no_rival_no_race(images):
    scorer = scorer_with(images, 0)
    assert scorer.race(SPACE.largest, []) == scorer.score(SPACE.largest)
    with pytest.raises(Dominated, match="after 15 images"):
        scorer.race(SPACE.largest, [Rival(0, 1.0, 0.0)])


def test_batches_never_overstate_an_energy(images):
    class Watcher:
        def look(self, correct, energies):
            self.energies = list(energies)

    for convention in ("spikformer", "strict"):
        scorer = scorer_with(images, 1 << 30, convention=convention)
        for arch in family(6, 4):
            watcher = Watcher()
            _, report = scorer.evaluate(arch, race=watcher)
            assert len(watcher.energies) == 50 // BATCH
            mean = np.mean(watcher.energies)
            assert mean <= report.total_uJ * (1 + 1e-12)
            assert mean == pytest.approx(report.total_uJ, rel=1e-2)
