"""Times of sampler and study per trial, without an objective that costs anything."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from parts.harness import Report
from parts.sampler_problems import Direction

from spikesearch.sampler import ESNNSampler
from spikesearch.space import Architecture, SearchSpace

# 5 genes for the whole and 4 per block: 21 parameters for every architecture.
SPACE = SearchSpace(
    embed_dims=(64, 128, 192, 256),
    depths=(4,),
    num_heads=(2, 4, 8),
    mlp_ratios=(1, 2, 3, 4),
    v_thresholds=(0.6, 0.8, 1.0, 1.2, 1.4),
    taus=(1.25, 1.5, 2.0, 3.0, 4.0),
    time_steps=(1, 2, 3, 4),
)
DIRECTIONS: list[Direction] = ["maximize", "minimize"]


def trivial(arch: Architecture) -> tuple[float, float]:
    """Return an accuracy and an energy that cost nothing to compute."""
    energy = arch.embed_dim * arch.time_steps * sum(b.mlp_ratio / b.v_threshold for b in arch.blocks)
    return 1 - 1 / (1 + energy / 1e4) - 0.01 * sum(abs(b.tau - 2) for b in arch.blocks), energy


def mixed_objective(trial: optuna.trial.BaseTrial) -> tuple[float, float]:
    """Ask for 20 parameters: 8 integers, 8 choices, 4 floats."""
    integers = [trial.suggest_int(f"i{k}", 0, 9) for k in range(8)]
    choices = [trial.suggest_categorical(f"c{k}", (1, 2, 3, 4)) for k in range(8)]
    floats = [trial.suggest_float(f"f{k}", 0, 1) for k in range(4)]
    return sum(integers) - sum(choices), sum(floats) + 0.1 * sum(choices)


def _times(study: optuna.Study, objective: Callable[[optuna.Trial], Any], n_trials: int) -> np.ndarray:
    times = []
    for _ in range(n_trials):
        started = time.process_time()
        study.optimize(objective, n_trials=1)
        times.append((time.process_time() - started) * 1e3)
    return np.array(times)


def time_in_memory(report: Report, *, quick: bool) -> None:
    """Time ESNN without surrogate around 1,000 and around 10,000 trials in memory; CPU time, 20 parameters."""
    print("\nIn memory, 20 parameters (8 integers, 8 choices, 4 floats), CPU ms per trial", flush=True)
    n_trials = 300 if quick else 10_000
    window = n_trials // 50
    for name, sampler in (
        ("ESNN, no surrogate", ESNNSampler(surrogate=False, seed=0)),
        ("ESNN", ESNNSampler(seed=0)),
        ("NSGA-II", optuna.samplers.NSGAIISampler(seed=0)),
    ):
        count = n_trials if name != "ESNN" or quick else 1000
        times = _times(optuna.create_study(directions=DIRECTIONS, sampler=sampler), mixed_objective, count)
        early = float(np.median(times[n_trials // 10 - window : n_trials // 10]))
        late = float(np.median(times[-window:]))
        print(f"  {name:20s} mean of the first {n_trials // 10}: {times[: n_trials // 10].mean():.2f}  median at "
              f"{n_trials // 10}: {early:.2f}  median at {count}: {late:.2f}", flush=True)  # fmt: skip
        report.details[f"memory, {name}"] = {"at": [n_trials // 10, count], "median_ms": [early, late]}
        if name == "ESNN, no surrogate" and not quick:
            mean = float(times[:1000].mean())
            report.claim("in memory, no surrogate, ms per trial, mean of 1,000", round(mean, 2), "< 3", mean < 3)
            report.claim(
                "in memory, no surrogate, time at 10,000 over time at 1,000",
                round(late / early, 2),
                "<= 1.5",
                late <= 1.5 * early,
            )


def time_on_sqlite(report: Report, *, quick: bool, n_trials: int = 1000) -> None:
    """Time whole trials on SQLite files, the rows side by side: 50 trials of each in turn."""
    from spikesearch.study.store import open_store

    n_trials = 50 if quick else n_trials
    print(
        f"\nOn SQLite, 21 parameters, {n_trials} trials each, ms per trial (median of blocks of 50, wall time)",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder)}"

        def objective(trial: optuna.Trial) -> tuple[float, float]:
            return trivial(SPACE.suggest(trial))

        def stock(storage: Any, sampler: optuna.samplers.BaseSampler) -> Callable[[int], None]:
            study = optuna.create_study(directions=DIRECTIONS, sampler=sampler, storage=storage)
            return lambda n: study.optimize(objective, n_trials=n)

        wal = open_store(f"{url}/nsga-wal.db").storage
        rows = {
            "NSGA-II, stock storage": stock(f"{url}/nsga.db", optuna.samplers.NSGAIISampler(seed=0)),
            "NSGA-II, our storage": stock(wal, optuna.samplers.NSGAIISampler(seed=0)),
            "ESNN, our run": _our_run(f"{url}/esnn.db", None),
            "ESNN, no surrogate, our run": _our_run(f"{url}/plain.db", False),
        }
        blocks: dict[str, list[float]] = {name: [] for name in rows}
        for _ in range(n_trials // 50):
            for name, run in rows.items():
                started = time.perf_counter()
                run(50)
                blocks[name].append((time.perf_counter() - started) / 50 * 1e3)
    middle = {name: float(np.median(values)) for name, values in blocks.items()}
    for name, value in middle.items():
        print(f"  {name:28s} {value:6.1f}  (mean {np.mean(blocks[name]):.1f})", flush=True)
    report.details["sqlite"] = {"median_ms": middle, "blocks_ms": blocks}
    if quick:
        return
    for text, row, base, target in (
        ("identical storage, ESNN without surrogate over NSGA-II", "ESNN, no surrogate, our run", "our", 0.8),
        ("identical storage, default ESNN over NSGA-II", "ESNN, our run", "our", 0.8),
        ("our default set-up over stock NSGA-II", "ESNN, our run", "stock", 0.4),
        ("our set-up without surrogate over stock NSGA-II", "ESNN, no surrogate, our run", "stock", 0.4),
    ):
        ratio = middle[row] / middle[f"NSGA-II, {base} storage"]
        report.claim(f"SQLite, {text}", round(ratio, 2), f"<= {target}", ratio <= target)


def _our_run(url: str, surrogate: bool | None) -> Callable[[int], None]:
    """Return what runs so many further trials the way `study run` does, with a score that costs nothing."""
    from spikesearch.study.search.loop import Budget, Search
    from spikesearch.study.store import open_store
    from spikesearch.study.worker import Worker

    store = open_store(url)
    name = "timing"
    study = optuna.create_study(
        study_name=name,
        directions=DIRECTIONS,
        storage=store.storage,
        sampler=ESNNSampler(SPACE, surrogate=surrogate, seed=0),
    )

    def score(arch: Architecture) -> Any:
        accuracy, energy = trivial(arch)
        return SimpleNamespace(
            accuracy=accuracy, energy_uJ=energy, params=1, macs=1.0, acs=1.0, mean_firing_rate=0.1, dead=False
        )

    done = 0

    def run(n: int) -> None:
        nonlocal done
        done += n
        worker = Worker.here(f"{done}")
        Search(
            study, SPACE, score, lock=store.lock(name), worker=worker,
            budget=Budget(run=worker.run, further=n, total=done), num_classes=10,
        ).run()  # fmt: skip

    return run
