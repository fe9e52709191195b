"""Features, models and the choice of the surrogate."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.study._multi_objective import _fast_non_domination_rank

from spikesearch.sampler import ESNNSampler, GaussianProcessSurrogate, Situation
from spikesearch.sampler.archive import Population
from spikesearch.sampler.domain import ArchitectureDomain, DistributionDomain, Genome
from spikesearch.sampler.features import ActivityModel, Encoder
from spikesearch.sampler.model import GaussianProcess, KernelChoice, choose_kernel
from spikesearch.sampler.ranking import Ranks
from spikesearch.sampler.surrogate import _scheduled
from spikesearch.space import SearchSpace

LETTERS = DistributionDomain({f"g{i}": CategoricalDistribution(("a", "b", "c", "d")) for i in range(5)})


def test_choices_have_equal_distances_and_ascending_ones_an_order() -> None:
    domain = DistributionDomain(
        {
            "c": CategoricalDistribution(("a", "b", "c")),
            "n": CategoricalDistribution((1, 2, 8)),
            "f": FloatDistribution(0, 2),
        }
    )
    rows = Encoder(domain)([{"c": float(c), "n": float(n), "f": 1.0} for c in range(3) for n in range(3)])
    distance = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
    assert distance[0, 3] == pytest.approx(1.0)  # another letter
    assert distance[0, 3] == pytest.approx(distance[0, 6])
    assert distance[0, 1] < distance[0, 2]  # 1 is nearer to 2 than to 8


def test_inactive_genes_add_nothing(space: SearchSpace) -> None:
    domain = ArchitectureDomain(space)
    shallow, deep = (domain.encode(space.params(arch)) for arch in (space.smallest, space.largest))
    rows = Encoder(domain)([shallow, deep])
    assert np.count_nonzero(rows[0]) < np.count_nonzero(rows[1])
    assert rows[1, -2:].tolist() == pytest.approx([0.0, 0.0])  # the largest has the most parameters and operations
    assert (rows[0, -2:] < 0).all()


def test_activity_is_learned_from_trials() -> None:
    rng = np.random.default_rng(0)

    def genome(full: Genome) -> Genome:
        inactive = "deep" if full["kind"] == 0.0 else "wide"
        return {name: value for name, value in full.items() if name != inactive}

    full = [
        {"kind": float(rng.integers(2)), "wide": rng.random(), "deep": rng.random(), "x": rng.random()}
        for _ in range(60)
    ]
    model = ActivityModel([genome(g) for g in full[:40]])
    assert list(model(full[40:])) == [genome(g) for g in full[40:]]


def letters(n: int, seed: int) -> list[Genome]:
    rng = np.random.default_rng(seed)
    return [LETTERS.sample(rng) for _ in range(n)]


def additive(genomes: list[Genome]) -> np.ndarray:
    weights = np.random.default_rng(1).random((5, 4))
    return np.array([sum(weights[i, int(g[f"g{i}"])] for i in range(5)) for g in genomes])


@pytest.mark.parametrize("logarithm", [False, True])
def test_sums_and_products_of_effects_are_recognised(logarithm: bool) -> None:
    encode = Encoder(LETTERS)
    train, test = letters(60, 0), letters(100, 1)
    target = (lambda g: np.exp(2 * additive(g))) if logarithm else additive
    choice = choose_kernel(encode(train), target(train))
    assert choice.logarithm is logarithm
    mean, std = GaussianProcess(choice).fit(encode(train), target(train)).predict(encode(test))
    truth = target(test)
    assert np.mean((mean - truth) ** 2) < 0.02 * np.var(truth)
    assert np.mean(np.abs(mean - truth) < 4 * std + 1e-3 * np.ptp(truth)) > 0.9


def test_certainty_grows_near_the_rows() -> None:
    encode = Encoder(LETTERS)
    train = letters(40, 0)
    model = GaussianProcess(KernelChoice(linear=0.0)).fit(encode(train), additive(train))
    _, near = model.predict(encode(train))
    _, far = model.predict(encode([g for g in letters(60, 5) if g not in train]))
    assert near.max() < far.mean()


def test_constant_targets() -> None:
    rows = Encoder(LETTERS)(letters(12, 0))
    choice = choose_kernel(rows, np.ones(12))
    mean, _ = GaussianProcess(choice).fit(rows, np.ones(12)).predict(rows)
    np.testing.assert_allclose(mean, 1.0)


def test_schedule_is_a_function_of_the_count() -> None:
    points = [_scheduled(count, 10) for count in range(10, 400)]
    assert points == sorted(points)
    assert len(set(points)) < 25
    assert all(point <= count < 1.3 * point + 2 for point, count in zip(points, range(10, 400), strict=True))


def situation(genomes: list[Genome], losses: np.ndarray, **options: object) -> Situation:
    n = len(genomes)
    rng = np.random.default_rng(9)
    directions = (StudyDirection.MINIMIZE,) * losses.shape[1]
    nothing = np.zeros(n)
    ranks = np.zeros(n, dtype=np.int64)
    everyone = Population(np.arange(n), genomes, losses, nothing, nothing, ranks, directions)
    defaults = {
        "domain": LETTERS, "feasible": everyone, "infeasible": everyone.take(np.arange(0)), "pending": [],
        "make": lambda: LETTERS.sample(rng), "usable": lambda genome: genome not in genomes, "known": {}, "number": 0,
    }  # fmt: skip
    return Situation(**{**defaults, **options})  # type: ignore[arg-type]


def test_finds_the_minimum_of_a_sum() -> None:
    genomes = letters(40, 0)
    surrogate = GaussianProcessSurrogate(exploration=0.0)
    found = surrogate(situation(genomes, additive(genomes)[:, None]), np.random.default_rng(0))
    assert found is not None
    everything = [LETTERS.at(i) for i in range(4**5)]
    assert (additive(everything) < additive([found])[0]).mean() < 0.02


def test_same_situation_same_choice_from_a_fresh_surrogate() -> None:
    genomes = letters(30, 0)
    losses = np.stack([additive(genomes), -additive(genomes) + np.arange(30) % 3], axis=1)
    used = GaussianProcessSurrogate(exploration=0.0)
    for count in (12, 20, 30):
        used(situation(genomes[:count], losses[:count]), np.random.default_rng(count))
    again = used(situation(genomes, losses), np.random.default_rng(5))
    fresh = GaussianProcessSurrogate(exploration=0.0)(situation(genomes, losses), np.random.default_rng(5))
    assert again == fresh


def test_bounded_in_rows_and_in_how_often() -> None:
    genomes = letters(90, 0)
    losses = np.stack([additive(genomes), -additive(genomes)], axis=1)
    surrogate = GaussianProcessSurrogate(max_rows=30, every=30, exploration=0.0)
    assert len(surrogate._rows(situation(genomes, losses))[0]) == 30
    helped = [
        surrogate(situation(genomes, losses, number=number), np.random.default_rng(0)) is not None
        for number in range(6)
    ]
    assert helped == [True, False, False, True, False, False]
    assert surrogate(situation(genomes[:5], losses[:5]), np.random.default_rng(0)) is None


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_rows_do_not_depend_on_the_order_of_arrival(objectives: int) -> None:
    rng = np.random.default_rng(0)
    losses = np.round(rng.random((600, objectives)), 2)
    genomes = letters(600, 0)
    surrogate = GaussianProcessSurrogate()
    full = _fast_non_domination_rank(losses)
    best = set(np.lexsort((-np.arange(600), full))[:100].tolist())
    for order in (np.arange(600), np.arange(600)[::-1], rng.permutation(600)):
        ranks = Ranks(4)
        for place in order:
            ranks.add(losses[place])
        assert (ranks.ranks != Ranks.worst).sum() < 100 or objectives > 1
        arrived = Population(
            order, [genomes[i] for i in order], losses[order], np.zeros(600), np.zeros(600), ranks.ranks,
            (StudyDirection.MINIMIZE,) * objectives,
        )  # fmt: skip
        options = {"feasible": arrived, "infeasible": arrived.take(np.arange(0))}
        found, found_losses, _ = surrogate._rows(situation(genomes, losses, **options))
        latest = [i for i in range(599, -1, -1) if i not in best][:100]
        chosen = sorted([*best, *latest])
        assert found == [genomes[i] for i in chosen]
        assert found_losses.tolist() == losses[chosen].tolist()


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_what_is_not_a_finite_number_is_never_chosen(objectives: int) -> None:
    genomes = letters(40, 0)
    losses = np.stack([additive(genomes) * (1 if i % 2 else -1) for i in range(objectives)], axis=1)

    def known(genome: Genome) -> float:
        return {0.0: math.nan, 1.0: math.inf}.get(genome["g0"], float(additive([genome])[0]) - 100.0)

    surrogate = GaussianProcessSurrogate(exploration=0.0)
    for seed in range(3):
        found = surrogate(situation(genomes, losses, known={0: known}), np.random.default_rng(seed))
        assert found is not None
        assert found["g0"] >= 2.0


def test_pending_trials_push_proposals_away() -> None:
    genomes = letters(30, 0)
    losses = np.stack([additive(genomes), -additive(genomes) + np.arange(30) % 3], axis=1)
    surrogate = GaussianProcessSurrogate(exploration=0.0)
    first = surrogate(situation(genomes, losses), np.random.default_rng(0))
    assert first is not None
    options = {"pending": [first], "usable": lambda genome: genome not in genomes and genome != first}
    second = surrogate(situation(genomes, losses, **options), np.random.default_rng(0))
    assert second is not None
    assert second != first


def test_a_long_study_is_mostly_evolution() -> None:
    study = optuna.create_study(sampler=ESNNSampler(surrogate=GaussianProcessSurrogate(every=5, min_rows=5), seed=0))
    study.optimize(lambda t: (t.suggest_int("x", 0, 1000) - 345) ** 2 * t.suggest_float("y", 1, 2), n_trials=60)
    assert study.best_value < 100
    assert isinstance(study.trials[0].distributions["x"], IntDistribution)
