"""The picture of a Pareto front: a real PNG that shows what the study holds."""

from __future__ import annotations

import io
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from spikesearch.errors import MissingDependencyError
from spikesearch.report.figures import pareto_figure
from spikesearch.space import SearchSpace
from spikesearch.study.results import StudyResult, TrialResult

SPACE = SearchSpace((16,), (1,), (2,), (1,), (1.0,), (2.0,), (1,))


def trial(number: int, accuracy: float, energy: float, *, feasible: bool = True) -> TrialResult:
    return TrialResult(number, SPACE.largest, accuracy, energy, 0.9, feasible)


def result() -> StudyResult:
    trials = [trial(0, 0.98, 4.0), trial(1, 0.97, 1.0), trial(2, 0.9, 2.0), trial(3, 0.1, 0.2, feasible=False)]
    return StudyResult(
        name="leaves",
        storage="memory",
        convention="strict",
        majority_share=0.1,
        states={"complete": 4},
        trials=trials,
        hypervolume=0.5,
        front=[trials[1], trials[0]],
        recommended=trials[1],
        reference=trials[0],
    )


def pixels(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)


def painted(picture: bytes, colour: tuple[int, int, int]) -> int:
    return int((np.abs(pixels(picture) - colour).sum(-1) < 30).sum())


def test_recommended_is_marked_and_everything_is_drawn():
    whole = pareto_figure(result())
    assert pixels(whole).shape[:2] == (600, 960)
    orange = (0xDD, 0x6B, 0x20)
    assert painted(whole, orange) > 100
    assert painted(pareto_figure(replace(result(), recommended=None)), orange) == 0
    without_infeasible = replace(result(), trials=result().trials[:3])
    assert not np.array_equal(pixels(whole), pixels(pareto_figure(without_infeasible)))


def test_one_trial_is_enough():
    only = [trial(0, 0.5, 1.0)]
    picture = pareto_figure(replace(result(), trials=only, front=only, recommended=None, reference=only[0]))
    assert pixels(picture).std() > 0


def test_missing_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r"spikesearch\[plots\]"):
        pareto_figure(result())
