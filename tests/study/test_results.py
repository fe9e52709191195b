"""Which trial is recommended, against a search by hand over made-up trials."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spikesearch.fitness import f_aeb
from spikesearch.study.results import TrialResult, choose
from tests.study.helpers import tiny_config

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
