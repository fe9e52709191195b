"""Which networks are trained: different ones of all energies, the same list however it is asked for."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spikesearch.audit.candidates import STRATA, NetworkList, fixed_neurons
from spikesearch.errors import CheckpointError, StudyError
from spikesearch.scoring import Score
from spikesearch.space import Architecture, SearchSpace
from tests.study.helpers import formula, tiny_config

SPACE = tiny_config().space.search_space()
SMALL = SearchSpace((16,), (1,), (2,), (1, 2), (0.6, 1.0), (2.0,), (1, 2))


def score(arch: Architecture) -> Score:
    found = formula(arch)
    return Score(found.accuracy, found.energy_uJ, found.params, found.macs, found.acs, 0.1, n_images=1, dead=False)


def not_again(arch: Architecture) -> Score:
    raise AssertionError(f"{arch.key} was scored again")


def test_asking_for_more_keeps_the_beginning(tmp_path: Path) -> None:
    whole = NetworkList(SPACE, 0, score, tmp_path / "whole.json").first(40)
    assert len({candidate.arch for candidate in whole}) == 40
    for n in (4, 9, 23, 40):  # each time as a new process would
        assert NetworkList(SPACE, 0, score, tmp_path / "parts.json").first(n) == whole[:n]
    assert (tmp_path / "parts.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert NetworkList(SPACE, 0, not_again, tmp_path / "whole.json").first(40) == whole
    assert NetworkList(SPACE, 1, score, tmp_path / "other.json").first(40) != whole


def test_every_third_network_has_fixed_neuron_genes(tmp_path: Path) -> None:
    fixed = fixed_neurons(SPACE)
    assert (fixed.v_thresholds, fixed.taus) == ((1.0,), (2.0,))
    assert replace(fixed, v_thresholds=SPACE.v_thresholds, taus=SPACE.taus) == SPACE
    chosen = NetworkList(SPACE, 0, score, tmp_path / "list.json").first(30)
    assert all(candidate.arch in fixed for candidate in chosen[2::3])
    assert sum(candidate.arch in fixed for candidate in chosen) >= 10


def test_networks_are_spread_over_the_energies(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    population = np.sort([formula(SPACE.sample(rng)).energy_uJ for _ in range(2000)])
    chosen = NetworkList(SPACE, 0, score, tmp_path / "list.json").first(3 * STRATA)
    free = [candidate for position, candidate in enumerate(chosen) if position % 3 != 2]
    assert len(free) == 2 * STRATA
    for round_ in (free[:STRATA], free[STRATA:]):
        quantiles = np.sort(np.searchsorted(population, [each.score.energy_uJ for each in round_]) / len(population))
        centres = (np.arange(STRATA) + 0.5) / STRATA
        assert abs(quantiles - centres).max() < 0.25


def test_a_small_space_is_used_up(tmp_path: Path) -> None:
    counts: Counter[str] = Counter()

    def counted(arch: Architecture) -> Score:
        counts[arch.key] += 1
        return score(arch)

    networks = NetworkList(SMALL, 0, counted, tmp_path / "list.json")
    assert {candidate.arch for candidate in networks.first(SMALL.size)} == {SMALL.at(i) for i in range(SMALL.size)}
    assert NetworkList(SMALL, 0, not_again, tmp_path / "list.json").first(SMALL.size) == networks.first(SMALL.size)
    with pytest.raises(StudyError, match=f"`n` must be at most {SMALL.size}, the size of the search space, but got 99"):
        networks.first(99)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"rounds": [[{"architecture": 1}]]}', '{"rounds": [[{}]]}'])
def test_a_corrupt_list_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"list\.json is corrupt; delete it"):
        NetworkList(SPACE, 0, score, tmp_path / "list.json")
