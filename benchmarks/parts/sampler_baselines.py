"""What `sampler.py` cannot take from Optuna: pymoo's NSGA-II, and a simulation of parallel workers."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
import optuna
from parts.sampler_problems import Problem, Values

from spikesearch.sampler import genes


class _Recorder(optuna.trial.FixedTrial):
    """A trial whose parameters are drawn from unit coordinates, one per name; names that are new get a new one."""

    def __init__(self, coordinates: dict[str, float], rng: np.random.Generator) -> None:
        super().__init__({})
        self._coordinates = coordinates
        self._rng = rng

    def _suggest(self, name: str, distribution: optuna.distributions.BaseDistribution) -> Any:
        if name not in self._suggested_params:
            position = self._coordinates.setdefault(name, float(self._rng.random()))
            self._distributions[name] = distribution
            self._suggested_params[name] = genes.external(distribution, genes.from_unit(distribution, position))
        return self._suggested_params[name]


def run_pymoo(problem: Problem, n_trials: int, seed: int) -> tuple[list[Values], list[Any]]:
    """Run pymoo's NSGA-II (population 20) on unit coordinates, one per parameter that 30 random trials ask for."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem as PymooProblem

    rng = np.random.default_rng(seed)
    seen: dict[str, float] = {}
    for _ in range(30):
        coordinates: dict[str, float] = {}
        problem(_Recorder(coordinates, rng))
        seen.update(coordinates)
    names = sorted(seen)
    signs = np.array([-1.0 if direction == "maximize" else 1.0 for direction in problem.directions])
    values: list[Values] = []
    params: list[Any] = []
    algorithm = NSGA2(pop_size=20)
    algorithm.setup(PymooProblem(n_var=len(names), n_obj=2, xl=0.0, xu=1.0), termination=("n_eval", 10**9), seed=seed)
    while len(values) < n_trials:
        population = algorithm.ask()
        outcomes = []
        for row in population.get("X"):
            trial = _Recorder(dict(zip(names, row.tolist(), strict=True)), rng)
            outcomes.append(problem(trial))
            params.append(tuple(sorted(trial.params.items())))
        values += outcomes
        population.set("F", signs * np.array(outcomes))
        algorithm.tell(infills=population)
    return values[:n_trials], params[:n_trials]


def simulate_workers(
    problem: Problem, sampler: optuna.samplers.BaseSampler, n_trials: int, workers: int, seed: int
) -> list[Values]:
    """Run trials that take log-normal times on simulated workers; return the values in order of arrival."""
    study = optuna.create_study(directions=problem.directions, sampler=sampler)
    rng = np.random.default_rng([seed, workers])
    running: list[tuple[float, int, optuna.Trial, Values]] = []
    arrived: list[Values] = []
    clock = 0.0
    while len(arrived) < n_trials:
        while len(running) < workers:
            trial = study.ask()
            outcome = problem(trial)
            heapq.heappush(running, (clock + float(rng.lognormal(0.0, 0.5)), trial.number, trial, outcome))
        clock, _, trial, outcome = heapq.heappop(running)
        study.tell(trial, outcome)
        arrived.append(outcome)
    return arrived
