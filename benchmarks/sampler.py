"""Compare the ESNN sampler with those of Optuna and with pymoo's NSGA-II.

    python benchmarks/sampler.py [--quick] [--json FILE] [--table FILE] [--seeds N] [--only PART ...]
        [--rows SAMPLER ...]

Printed are shares of the largest hypervolume after so many evaluations, medians and quartiles over the seeds, for
trials and for unique evaluations; p is that of a two-sided Mann-Whitney test against ESNN with its default settings.
Tables of trained networks are normalised like this: error relative to the best, clipped at 30 points; cost divided by
its maximum; reference point (1, 1). Public data is looked for in `$SPIKESEARCH_DATA`, by default `../shared/data`
beside the checkout.
Parts: macro, params, digits, rugged, toy, zdt, mixed, selection, workers, memory, sqlite. With --rows only these
samplers run, and the rows of the others are those that the JSON file already holds.
"""

# ruff: noqa: E402 - the number of threads is set before numpy is imported
from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")  # before numpy is imported: small matrices, and comparable times

import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from parts.harness import Report, parser
from parts.sampler_baselines import run_pymoo, simulate_workers
from parts.sampler_problems import (
    DIGITS_TABLE,
    ConditionalToy,
    DigitsTable,
    MacroTable,
    MixedQuadratics,
    MixedZDT,
    Problem,
    RuggedTable,
    Values,
)
from parts.sampler_timing import time_in_memory, time_on_sqlite
from scipy.stats import mannwhitneyu

from spikesearch.sampler import CrowdingSelection, ESNNSampler, FAEBSelection


@dataclass
class SamplerReport(Report):
    """A report of some samplers only, where `rows` names them; `details` then holds the figures of the others."""

    rows: Sequence[str] | None = None


Run = tuple[list[Values], list[Any]]  # objective values and parameters, in order of evaluation
Maker = Callable[[Problem, int], optuna.samplers.BaseSampler]

STOCK: dict[str, Maker] = {
    "Random": lambda problem, seed: optuna.samplers.RandomSampler(seed=seed),
    "NSGA-II 20": lambda problem, seed: optuna.samplers.NSGAIISampler(population_size=20, seed=seed),
    "NSGA-II 50": lambda problem, seed: optuna.samplers.NSGAIISampler(population_size=50, seed=seed),
    "TPE": lambda problem, seed: optuna.samplers.TPESampler(seed=seed),
    "TPE multivariate": lambda problem, seed: optuna.samplers.TPESampler(multivariate=True, seed=seed),
}
ESNN: dict[str, Maker] = {
    "ESNN plain": lambda problem, seed: ESNNSampler(problem.space, surrogate=False, seed=seed),
    "ESNN": lambda problem, seed: ESNNSampler(problem.space, seed=seed),
    "ESNN, cost known": lambda problem, seed: ESNNSampler(
        problem.space, known_objectives=problem.known_objectives, seed=seed
    ),
}
PYMOO = {"pymoo NSGA-II 20": None} if find_spec("pymoo") else {}  # the row is left out where it is not installed
SLOW = ("TPE", "TPE multivariate")  # too slow for the conditional toy's hundred parameters and thousand trials


def run_optuna(problem: Problem, sampler: optuna.samplers.BaseSampler, n_trials: int) -> Run:
    """Run one study in memory."""
    study = optuna.create_study(directions=problem.directions, sampler=sampler)
    study.optimize(problem, n_trials=n_trials)
    trials = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    return [(trial.values[0], trial.values[1]) for trial in trials], [
        tuple(sorted(trial.params.items())) for trial in trials
    ]


def shares(problem: Problem, run: Run, budgets: Sequence[int], *, unique: bool) -> list[float]:
    """Return the share at each budget; `unique` counts only evaluations that are new."""
    values, params = run
    if unique:
        first = sorted({key: i for i, key in reversed(list(enumerate(params)))}.values())
        values = [values[i] for i in first]
    return [problem.share(values[:budget]) for budget in budgets]


def quartiles(figures: np.ndarray) -> str:
    """Return median and quartiles in one word."""
    low, middle, high = np.quantile(figures, [0.25, 0.5, 0.75])
    return f"{middle:.4f} [{low:.4f} {high:.4f}]"


def compare(
    problem: Problem, makers: dict[str, Maker], budgets: Sequence[int], seeds: int, report: SamplerReport
) -> dict[str, Any]:
    """Run all samplers on one problem, print the table and return the figures."""
    n_trials = max(budgets)
    print(f"\n{problem.name}: share of the hypervolume after {', '.join(map(str, budgets))} evaluations", flush=True)
    kept = report.details.get(problem.name, {}).get("rows", {})
    rows: dict[str, Any] = {}
    for name, maker in {**makers, **PYMOO}.items():
        if report.rows is not None and name not in report.rows:
            if name in kept:
                rows[name] = kept[name]
            continue
        started = time.process_time()
        runs = [
            run_pymoo(problem, n_trials, seed) if maker is None else run_optuna(problem, maker(problem, seed), n_trials)
            for seed in range(seeds)
        ]
        milliseconds = (time.process_time() - started) / seeds / n_trials * 1e3
        row: dict[str, Any] = {
            "seeds": seeds,
            "share": [shares(problem, run, budgets, unique=False) for run in runs],
            "share_unique": [shares(problem, run, budgets, unique=True) for run in runs],
            "duplicates": [len(params) - len(set(params)) for _, params in runs],
            "cpu_ms_per_trial": round(milliseconds, 2),
        }
        rows[name] = row
        table = np.array(row["share"])
        cells = "  ".join(quartiles(column) for column in table.T)
        print(
            f"  {name:18s} {cells}  duplicates {np.mean(row['duplicates']):5.1f}  {milliseconds:6.1f} ms"
            f"  seeds {seeds}",
            flush=True,
        )
    print("  over unique evaluations (medians), and p against ESNN:")
    for name, row in rows.items():
        cells = "  ".join(f"{m:.4f}" for m in np.median(row["share_unique"], axis=0))
        p_values = [
            float(mannwhitneyu(a, b).pvalue) if name != "ESNN" and a != b else 1.0
            for a, b in zip(np.array(row["share"]).T.tolist(), np.array(rows["ESNN"]["share"]).T.tolist(), strict=True)
        ]
        row["p"] = p_values
        print(f"    {name:18s} {cells}   p {'  '.join(f'{p:.1e}' for p in p_values)}")
    kept_names = [name for name in rows if report.rows is not None and name not in report.rows]
    report.details[problem.name] = {"budgets": list(budgets), "kept_of_an_earlier_run": kept_names, "rows": rows}
    return rows


def median(rows: dict[str, Any], name: str) -> list[float]:
    """Return the median share of a sampler at each budget."""
    return np.round(np.median(rows[name]["share"], axis=0), 4).tolist()


def claim_macro(rows: dict[str, Any], budgets: Sequence[int], report: Report) -> None:
    """State what the issue of the sampler asks for on NAS-Bench-Macro."""
    for name, targets in (
        ("ESNN", {100: 0.965, 200: 0.985, 400: 0.998}),
        ("ESNN, cost known", {100: 0.990, 200: 0.995, 400: 0.998}),
    ):
        figures = dict(zip(budgets, median(rows, name), strict=True))
        for budget, target in targets.items():
            if budget in figures:
                report.claim(
                    f"NAS-Bench-Macro, {name}, share at {budget}",
                    figures[budget],
                    f">= {target}",
                    figures[budget] >= target,
                )
    most = max(max(rows[name]["duplicates"]) for name in ESNN)
    report.claim("NAS-Bench-Macro, duplicates of any ESNN run", most, "0", most == 0)


def compare_selections(problem: Problem, n_trials: int, seeds: int, report: Report) -> None:
    """Compare F_AEB with crowding distance as what decides within a front, without a surrogate."""
    figures = {}
    for name, selection in (("F_AEB", FAEBSelection()), ("crowding", CrowdingSelection())):
        figures[name] = [
            problem.share(
                run_optuna(
                    problem, ESNNSampler(problem.space, surrogate=False, selection=selection, seed=seed), n_trials
                )[0]
            )
            for seed in range(seeds)
        ]
    p = float(mannwhitneyu(*figures.values()).pvalue)
    text = ", ".join(f"{name} {quartiles(np.array(values))}" for name, values in figures.items())
    report.claim(f"selection on {problem.name}, {n_trials} trials, no surrogate", f"{text}, p {p:.1e}")


def compare_workers(problem: Problem, seeds: int, report: Report, *, quick: bool) -> None:
    """Compare simulated asynchronous workers with sequential runs."""
    budgets = (50,) if quick else (100, 400)
    results = {}
    for workers in (1, 8, 32):
        results[workers] = np.median(
            [
                [
                    problem.share(values[:budget])
                    for values in [
                        simulate_workers(problem, ESNNSampler(problem.space, seed=s), max(budgets), workers, s)
                    ]
                    for budget in budgets
                ]
                for s in range(seeds)
            ],
            axis=0,
        )
    for workers in (8, 32):
        for budget, one, many in zip(budgets, results[1], results[workers], strict=True):
            loss = 1 - many / one
            report.claim(
                f"{problem.name}, {workers} asynchronous workers, loss of hypervolume at {budget}",
                f"{100 * loss:.2f} % ({many:.4f} against {one:.4f})",
                "at most 1 %",
                None if quick else loss <= 0.01,
            )


NOTHING_KNOWN = {name: maker for name, maker in {**STOCK, **ESNN}.items() if "known" not in name}


def discard(rows: object) -> None:
    """Do nothing with the rows of a table that makes no claim."""


def compare_macro(cost: str, budgets: Sequence[int], seeds: int, report: SamplerReport) -> None:
    """Compare on NAS-Bench-Macro."""
    rows = compare(MacroTable(cost), {**STOCK, **ESNN}, budgets, seeds, report)
    if cost == "flops" and not report.quick:
        claim_macro(rows, budgets, report)


def compare_digits(path: Path, budgets: Sequence[int], seeds: int, report: SamplerReport) -> None:
    """Compare on the table that the package makes of a digits space."""
    if not path.exists():
        raise FileNotFoundError(f"there is no {path.name}; name one with --table")
    compare(DigitsTable(path), {**STOCK, **ESNN}, budgets, seeds, report)


def compare_toys(budgets: Sequence[int], seeds: int, report: SamplerReport) -> None:
    """Compare on the conditional toy, with and without telling the space; TPE would take hours."""
    makers = {name: maker for name, maker in NOTHING_KNOWN.items() if name not in SLOW}
    for text, told, count in (("space told", True, seeds // 2), ("space not told", False, seeds // 4)):
        rows = compare(ConditionalToy(use_space=told), makers, budgets, max(2, count), report)
        ratio = median(rows, "ESNN")[-1] / max(median(rows, "NSGA-II 20")[-1], median(rows, "NSGA-II 50")[-1])
        met = None if report.quick else ratio >= 1.03
        report.claim(f"conditional toy, {text}, hypervolume over NSGA-II's", round(ratio, 4), ">= 1.03", met)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--table", type=Path, default=DIGITS_TABLE, help="the digits table, as JSON")
    options.add_argument("--seeds", type=int, default=20)
    options.add_argument("--rows", nargs="+", metavar="SAMPLER", help="run these only; needs --json")
    options.add_argument("--only", nargs="+", metavar="PART", help="some parts only")
    args = options.parse_args(arguments)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    report = SamplerReport("sampler", quick=args.quick, rows=args.rows)
    if args.rows:
        if args.json is None:
            options.error("--rows needs --json, the file with the rows of the other samplers.")
        report.details = json.loads(args.json.read_text())["details"]
    seeds = 2 if args.quick else args.seeds
    budgets = (20, 40) if args.quick else (50, 100, 200, 400)
    report.details["seeds"] = seeds

    parts: dict[str, Callable[[], None]] = {
        "macro": lambda: compare_macro("flops", budgets, seeds, report),
        "params": lambda: compare_macro("params", budgets, seeds, report),
        "digits": lambda: compare_digits(args.table, budgets, seeds, report),
        "rugged": lambda: discard(compare(RuggedTable(0), {**STOCK, **ESNN}, budgets, seeds, report)),
        "zdt": lambda: discard(compare(MixedZDT(), NOTHING_KNOWN, budgets, seeds, report)),
        "mixed": lambda: discard(compare(MixedQuadratics(), NOTHING_KNOWN, budgets, seeds, report)),
        "toy": lambda: compare_toys(budgets if args.quick else (100, 400, 1000), seeds, report),
        "selection": lambda: compare_selections(ConditionalToy(), 60 if args.quick else 400, seeds, report),
        "workers": lambda: compare_workers(MacroTable(), max(2, seeds // 4), report, quick=args.quick),
        "memory": lambda: time_in_memory(report, quick=args.quick),
        "sqlite": lambda: time_on_sqlite(report, quick=args.quick),
    }
    unknown = set(args.only or ()) - set(parts)
    if unknown:
        options.error(f"--only must name some of {', '.join(parts)}, but got {', '.join(sorted(unknown))}.")
    for part in args.only or parts:
        try:
            parts[part]()
        except FileNotFoundError as error:
            print(f"\n{part} is skipped: {error}", flush=True)
    report.write(args.json)


if __name__ == "__main__":
    main()
