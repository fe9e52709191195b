"""Which trial is recommended, against a search by hand over made-up trials."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage

from spikesearch.errors import StudyError
from spikesearch.fitness import f_aeb
from spikesearch.study import run_study
from spikesearch.study.results import TrialResult, best_trial, choose
from tests.commands import Result
from tests.study.helpers import formula, new_study, search, tiny_config

CONFIG = tiny_config()
REFERENCE, BETA, DROP = 0, CONFIG.report.beta, CONFIG.report.max_accuracy_drop

pairs = st.tuples(st.integers(800, 1000).map(lambda n: n / 1000), st.floats(0.1, 20.0))


def trials_of(values: list[tuple[float, float]]) -> list[TrialResult]:
    arch = CONFIG.space.search_space().largest
    return [TrialResult(number, arch, *pair, None, True) for number, pair in enumerate(values)]


@given(st.lists(pairs, min_size=1, max_size=12), st.none() | st.floats(0.1, 20.0))
def test_a_bound_of_energy_keeps_the_accuracy_where_it_can(values, max_energy) -> None:
    trials = trials_of(values)
    chosen = choose(CONFIG, trials, trials[REFERENCE], max_energy=max_energy)
    cheap = [trial for trial in trials if max_energy is None or trial.energy_uJ <= max_energy]
    good = [trial for trial in cheap if trial.accuracy >= values[REFERENCE][0] - DROP - 1e-12]
    wanted = max(
        good or cheap,
        key=lambda trial: (f_aeb(trial.accuracy, trial.energy_uJ, values[REFERENCE][1], BETA), -trial.number),
        default=None,
    )
    assert chosen == wanted


def test_half_the_energy_of_the_reference() -> None:
    # The reference; one that is within 1 point of it at just half its energy; a far cheaper one of higher F_AEB; one
    # that costs too much.
    trials = trials_of([(0.878, 4.95), (0.876, 2.45), (0.864, 1.14), (0.885, 3.77)])
    assert choose(CONFIG, trials, trials[0]).number == 3
    assert choose(CONFIG, trials, trials[0], max_energy=2.47).number == 1
    assert choose(CONFIG, trials, trials[0], max_energy=2.0).number == 2
    assert choose(CONFIG, trials, trials[0], max_energy=1.0) is None
    assert choose(CONFIG, trials, trials[0], max_energy=2.47, min_accuracy=0.8).number == 2


# --- no trial is recommended ------------------------------------------------------------------------------------------


def scored(score: Callable[..., Any] = formula, **changes: Any) -> optuna.Study:
    study = new_study(InMemoryStorage(), **changes)
    search(study, total=4, score=score, constraints=tiny_config(**changes).constraints)
    return study


@pytest.mark.parametrize(
    ("study", "bounds", "message"),
    [
        (
            lambda: scored(constraints={"energy_uJ": 1e-3}),
            {},
            r"is feasible: 4 of 4 break `energy_uJ`. Run more trials, .* looser `constraints`",
        ),
        (
            lambda: scored(lambda arch: replace(formula(arch), accuracy=0.1), constraints={"params": 1}),
            {"max_energy": 5.0},
            r"is feasible: 4 of 4 hardly do better than guessing, 4 of 4 break `params`",
        ),
        (scored, {"max_energy": 1e-9}, r"is feasible and takes at most 1e-09 uJ: the cheapest takes .* Allow more"),
        (scored, {"min_accuracy": 1.0}, r"and has an accuracy of at least 1: .*the most accurate has 0\.\d+\. Allow"),
        (
            scored,
            {"min_accuracy": 1.0, "max_energy": 1e-9},
            r"takes at most 1e-09 uJ and has an accuracy of at least 1:",
        ),
        (
            lambda: scored(
                lambda arch: replace(formula(arch), accuracy=0.9 if formula(arch).params > 500 else 0.5),
                constraints={"params": 500.0},
            ),
            {},
            r"within `report\.max_accuracy_drop` \(0\.01\) of the reference, whose accuracy is 0\.9000: "
            r"the most accurate has 0\.5000\. Raise that key",
        ),
    ],
    ids=["constraints", "dead", "energy", "accuracy", "both", "drop"],
)
def test_why_no_trial_is_recommended(study: Callable[[], optuna.Study], bounds: dict[str, float], message: str) -> None:
    with pytest.raises(StudyError, match=rf"^No trial of study 'tiny' .*{message}"):
        best_trial(study(), **bounds)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 0.0])
def test_an_impossible_bound_of_energy(value: float) -> None:
    with pytest.raises(StudyError, match=re.escape(f"`max_energy` must be above 0 and finite, but got {value}.")):
        best_trial(scored(), max_energy=value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.5])
def test_an_impossible_bound_of_accuracy(value: float) -> None:
    with pytest.raises(StudyError, match=r"`min_accuracy` must be a fraction from 0 to 1"):
        best_trial(scored(), min_accuracy=value)


NUMBERS = [
    *(f"study best tiny --max-energy {value}" for value in ("nan", "inf", "-1", "0", "-inf")),
    *(f"study best tiny --min-accuracy {value}" for value in ("nan", "inf", "-1", "2")),
    *(f"study best tiny --beta {value}" for value in ("nan", "inf", "-1", "0")),
    *(f"study run tiny --timeout {value}" for value in ("nan", "-1", "0", "-inf", "inf")),
    *(f"study run tiny --n-trials {value}" for value in ("nan", "inf", "-1", "0", "1.5")),
    *(f"study run tiny --workers {value}" for value in ("nan", "inf", "-1", "0")),
    *(f"study run tiny --threads {value}" for value in ("nan", "inf", "-1", "0", "1" + 30 * "0")),
    *(f"subnet retrain tiny --epochs {value}" for value in ("nan", "inf", "-1", "0")),
    *(f"subnet retrain tiny --energy-weight {value}" for value in ("nan", "inf", "-1", "-inf")),
    *(f"subnet evaluate tiny --trial {value}" for value in ("nan", "-1", "1" + 30 * "0")),
    *(f"supernet fidelity tiny --n {value}" for value in ("nan", "inf", "-1", "0", "1" + 30 * "0")),
    *(f"supernet fidelity tiny --epochs {value}" for value in ("nan", "inf", "-1", "0")),
    *(f"subnet export tiny --to onnx --opset {value}" for value in ("nan", "inf", "-1", "0", "1" + 30 * "0")),
    *(f"dashboard --port {value}" for value in ("nan", "inf", "-1", "65536")),
]


@pytest.fixture(scope="module")
def cli_study(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("numbers")
    run_study(
        tiny_config(train__epochs=1, search__n_trials=2), storage=f"sqlite:///{folder}/spikesearch.db", progress=False
    )
    return folder


@pytest.fixture
def cli_folder(cli_study: Any) -> Any:
    return cli_study


@pytest.mark.slow
@pytest.mark.parametrize("command", NUMBERS)
def test_numbers_that_mean_nothing_are_one_line(cli: Callable[..., Result], command: str) -> None:
    option = command.split()[-2].removeprefix("--")
    assert option.replace("-", "_") in cli(*command.split()).complaint.replace("-", "_")


def test_a_run_says_why_nothing_is_recommended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = tiny_config(train__epochs=1, search__n_trials=2, constraints={"energy_uJ": 1e-6})
    with caplog.at_level(logging.WARNING):
        run_study(config, storage=InMemoryStorage(), run_dir=tmp_path, progress=False)
    assert "No trial of study 'tiny' is feasible: 2 of 2 break `energy_uJ`" in caplog.text
