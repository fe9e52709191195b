"""The whole job on scikit-learn's digits: time, accuracy, energy, what the gain, attention and each gene are worth.

Everything is chosen on the search split; the test split is only read for the figures that are called "test".

    python benchmarks/digits.py --json benchmarks/results/digits.json

Figures over seeds are means with a 95 % interval (Student's t); a seed changes the splits, the weights and the search.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parts.harness import Report, interval, parser, shown

from spikesearch.config import StudyConfig, find_study_file, load_study_file
from spikesearch.data import DataBundle, load_data
from spikesearch.energy.measure import measure_activity
from spikesearch.nn import Supernet
from spikesearch.nn.lif import ElasticLIF
from spikesearch.scoring import Scorer
from spikesearch.space import Architecture, SearchSpace
from spikesearch.study.assembly import new_supernet
from spikesearch.study.results import StudyResult, read_results
from spikesearch.study.run import run_study
from spikesearch.train import SandwichStrategy, Trainer, load_supernet


@dataclass(frozen=True)
class Run:
    """One seed: the finished study and what scores its architectures."""

    seed: int
    config: StudyConfig
    data: DataBundle
    scorer: Scorer
    result: StudyResult

    @property
    def space(self) -> SearchSpace:
        return self.scorer.supernet.space


def main() -> None:
    """Run the parts and print the claims."""
    arguments = parser(__doc__)
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--first-seed", type=int, default=0)
    arguments.add_argument("--subnets", type=int, default=200, help="random subnets per supernet")
    arguments.add_argument("--part", choices=("all", "command", "studies"), default="all", help="what is measured")
    args = arguments.parse_args()
    seeds, subnets = (2, 20) if args.quick else (args.seeds, args.subnets)
    # attention and genes of neurons are what is asked about
    config = load_study_file(find_study_file("digits-spikformer"))
    if args.quick:
        config = config.model_copy(
            update={
                "train": config.train.model_copy(update={"epochs": 3}),
                "search": config.search.model_copy(update={"n_trials": 12}),
            }
        )
    report = Report("digits", args.quick)
    with tempfile.TemporaryDirectory(prefix="spikesearch-digits-") as folder:
        root = Path(folder)
        if args.part != "studies" and not args.quick:
            print("Command one of the README, after installation")
            command_one(report, root / "newcomer")
        if args.part == "command":
            report.write(args.json)
            return
        print(f"Studies of {seeds} seeds")
        runs = [study(config, args.first_seed + i, root / f"seed{i}") for i in range(seeds)]
        outcome(report, runs)
        print(f"{subnets} random subnets, inherited weights, search split; without the gain: the first seed alone")
        random_subnets(report, runs, subnets, root)
        print("Attention")
        attention(report, runs, subnets)
        print("Distillation, at equal time, the first seed alone")
        distillation(report, runs[0], root)
    print("What one gene alone changes, from the recommended architecture, search split")
    genes(report, runs)
    report.write(args.json)


# --- the command ----------------------------------------------------------------------------------


def command_one(report: Report, folder: Path) -> None:
    folder.mkdir()
    command = [sys.executable, "-m", "spikesearch", "study"]
    times, written = [], []
    for _ in range(2):
        began = time.perf_counter()
        subprocess.run([*command, "run", "digits"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
        written.append((folder / "runs" / "digits" / "supernet.safetensors").stat().st_mtime_ns)
    shown = subprocess.run([*command, "show", "digits", "-f", "json"], cwd=folder, check=True, capture_output=True)
    complete = json.loads(shown.stdout)["states"]["complete"]
    report.claim("from nothing to the Pareto table, s", round(times[0]), "under 300", times[0] < 300)
    report.claim("scored trials", complete, "60 or more", complete >= 60)
    report.claim("the same command again, s", round(times[1]), "no training", written[0] == written[1])


def study(config: StudyConfig, seed: int, folder: Path) -> Run:
    folder.mkdir()
    config = config.model_copy(update={"seed": seed})
    began = time.perf_counter()
    storage = f"sqlite:///{folder / 'spikesearch.db'}"
    finished = run_study(config, storage=storage, progress=False)
    data = load_data(config.data, seed=seed)
    scorer = Scorer(load_supernet(folder / "runs" / config.name), data, config.scoring)
    print(f"  seed {seed}: {time.perf_counter() - began:.0f} s", flush=True)
    return Run(seed, config, data, scorer, read_results(finished, storage))


# --- the result -----------------------------------------------------------------------------------


def outcome(report: Report, runs: list[Run]) -> None:
    rows = []
    for run in runs:
        best, reference = run.result.recommended, run.result.reference
        assert best is not None
        assert best.test is not None
        assert reference is not None
        assert reference.test is not None
        rows.append(
            {
                "seed": run.seed,
                "architecture": best.describe(),
                "search": best.accuracy,
                "test": best.test["accuracy"],
                "energy_uJ": best.energy_uJ,
                "reference_search": reference.accuracy,
                "reference_test": reference.test["accuracy"],
                "reference_energy_uJ": reference.energy_uJ,
                "hypervolume": run.result.hypervolume,
            }
        )
        print("  " + "  ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()))
    report.details["seeds"] = rows
    column = {key: np.array([row[key] for row in rows]) for key in rows[0] if key != "architecture"}
    ratio = column["energy_uJ"] / column["reference_energy_uJ"]
    loss = 100 * (column["reference_test"] - column["test"])
    gap = 100 * (column["search"] - column["test"])
    test = 100 * column["test"]
    report.claim("recommended, test accuracy, %", shown(test), "at least 97 on average", test.mean() >= 97)
    report.claim("reference, test accuracy, %", shown(100 * column["reference_test"]))
    report.claim("energy over the reference's", shown(ratio, 3), "at most 0.5 on average", ratio.mean() <= 0.5)
    report.claim("the same, the largest of the seeds", round(float(ratio.max()), 3))
    report.claim("test points lost against the reference", shown(loss), "at most 1 on average", loss.mean() <= 1)
    report.claim("search minus test accuracy of the recommended, points", shown(gap))
    reference_gap = 100 * (column["reference_search"] - column["reference_test"])
    report.claim("the same of the reference (never chosen), points", shown(reference_gap))


# --- random subnets, with and without the gain ----------------------------------------------------


EQUAL_ENERGY = (0.25, 0.5, 1.0)  # microjoules


def random_architectures(space: SearchSpace, count: int) -> list[Architecture]:
    rng = np.random.default_rng(12345)
    return [space.sample(rng) for _ in range(count)]


def random_subnets(report: Report, runs: list[Run], count: int, root: Path) -> None:
    """Mean over the seeds; the supernet without gain is trained for the first seed only."""
    for name, scorers, spaces in (
        ("with gain", [run.scorer for run in runs], runs),
        ("without gain, first seed", [without_gain(runs[0], root)], runs[:1]),
    ):
        figures = []
        for scorer, run in zip(scorers, spaces, strict=True):
            scores = [scorer.score(arch) for arch in random_architectures(run.space, count)]
            accuracy = 100 * np.array([score.accuracy for score in scores])
            energy = np.array([score.energy_uJ for score in scores])
            # at equal energy too: subnets without gain are cheaper because they are silent
            best = [accuracy[energy <= limit].max(initial=0.0) for limit in EQUAL_ENERGY]
            figures.append([accuracy.mean(), np.percentile(accuracy, 10), accuracy.min(), energy.mean(), *best])
        column = np.array(figures).T
        targets = ((90, "at least 90"), (80, "at least 80"), (50, "none below 50"))
        for label, values, (bound, target) in zip(
            ("mean accuracy, %", "10th percentile, %", "worst, %"), column[:3], targets, strict=True
        ):
            if len(runs) == len(values):
                value = values.min() if label == "worst, %" else values.mean()
                report.claim(f"{name}: {label}", spread(values), target, value >= bound)
            else:
                report.claim(f"{name}: {label}", spread(values))
        report.claim(f"{name}: energy, mean, uJ", spread(column[3], 3))
        for limit, values in zip(EQUAL_ENERGY, column[4:], strict=True):
            report.claim(f"{name}: best accuracy at {limit} uJ or less, %", spread(values))


def spread(values: np.ndarray, digits: int = 1) -> str:
    """Return mean and 95 % interval, and the lowest of several seeds."""
    lowest = f" (lowest {values.min():.{digits}f})" if len(values) > 1 else ""
    return shown(values, digits) + lowest


def without_gain(run: Run, root: Path) -> Scorer:
    """Train the same supernet with every gain fixed to 1."""
    supernet = fresh(run)
    for module in supernet.modules():
        if isinstance(module, ElasticLIF):
            module.log_gain.data.zero_()
            module.log_gain.requires_grad_(False)
    trainer = trainer_of(run, supernet, root / "no-gain", distill=False, epochs=run.config.train.epochs)
    trainer.run(title="without gain", progress=False)
    return Scorer(trainer.final, run.data, run.config.scoring)  # type: ignore[arg-type]


def trainer_of(run: Run, supernet: Supernet, folder: Path, *, distill: bool, epochs: int) -> Trainer:
    recipe = run.config.train.model_copy(update={"epochs": epochs, "distillation": distill})
    strategy = SandwichStrategy(run.space, seed=run.seed, random_subnets=recipe.random_subnets, distillation=distill)
    return Trainer(
        supernet,
        strategy,
        run.data.train,
        recipe,
        num_classes=run.data.num_classes,
        seed=run.seed,
        identity={},
        folder=folder,
    )


# --- attention ------------------------------------------------------------------------------------


def attention(report: Report, runs: list[Run], count: int) -> None:
    lost = []
    for run in runs:
        assert run.result.recommended is not None
        assert run.result.recommended.test is not None
        arch = run.result.recommended.architecture
        with zeroed_attention(run.scorer.supernet):
            without = run.scorer.score(arch, "test").accuracy
        lost.append(100 * (run.result.recommended.test["accuracy"] - without))
    report.details["attention_points"] = lost
    lost_points = np.array(lost)
    report.claim("test points lost without attention", shown(lost_points), "at least 1", lost_points.mean() >= 1)
    shares, rates = [], []
    for run in runs:
        supernet, scorer = run.scorer.supernet, run.scorer
        images = run.data.search.images(range(len(run.data.search)))
        alive = 0
        for arch in random_architectures(run.space, count):
            with torch.no_grad(), supernet.subnet(arch, scorer.calibrate(arch)), measure_activity(supernet) as activity:
                supernet(images)
            here = [neurons.rate for name, neurons in activity.neurons.items() if name.endswith("attn.lif")]
            alive += min(here) > 0
            rates += here
        shares.append(100 * alive / count)
    claim = "random subnets without a silent attention LIF, %, lowest seed"
    report.claim(claim, round(min(shares), 1), "at least 95", min(shares) >= 95)
    report.claim("median firing rate of attention LIFs", round(float(np.median(rates)), 4))


@contextlib.contextmanager
def zeroed_attention(supernet: Supernet) -> Iterator[None]:
    """Set every attention product to zero; calibration happens behind it, so that biases adapt."""
    handles = [
        block.get_submodule("attn.product").register_forward_hook(lambda module, args, out: torch.zeros_like(out))
        for block in supernet.blocks
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# --- distillation ---------------------------------------------------------------------------------


def distillation(report: Report, run: Run, root: Path) -> None:
    """Compare training with and without in-place distillation for the same time, on the search split."""
    archs = random_architectures(run.space, 60)
    epochs = run.config.train.epochs
    seconds: dict[bool, float] = {}
    for distill in (False, True):
        # a few epochs tell what an epoch costs
        probe = trainer_of(run, fresh(run), root / f"probe{distill}", distill=distill, epochs=min(3, epochs))
        began = time.perf_counter()
        probe.run(title="probe", progress=False)
        seconds[distill] = (time.perf_counter() - began) / min(3, epochs)
    for distill in (False, True):
        here = max(1, round(epochs * seconds[False] / seconds[distill]))
        trainer = trainer_of(run, fresh(run), root / f"distill{distill}", distill=distill, epochs=here)
        trainer.run(title="distillation", progress=False)
        scorer = Scorer(trainer.final, run.data, run.config.scoring)  # type: ignore[arg-type]
        accuracy = 100 * np.array([scorer.score(arch).accuracy for arch in archs])
        label = "with distillation" if distill else "without distillation"
        report.claim(f"{label} ({here} epochs): 60 random subnets, mean accuracy, %", round(float(accuracy.mean()), 2))
        largest = 100 * scorer.score(run.space.largest).accuracy
        report.claim(f"{label}: largest subnet, %", round(largest, 2))


def fresh(run: Run) -> Supernet:
    torch.manual_seed(run.seed)
    return new_supernet(run.config, run.data)


# --- genes ----------------------------------------------------------------------------------------


def genes(report: Report, runs: list[Run]) -> None:
    """Change one gene at a time; compare the mean change with the spread over seeds."""
    accuracy: dict[str, list[float]] = defaultdict(list)
    energy: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        assert run.result.recommended is not None
        base_arch = run.result.recommended.architecture
        base = run.scorer.score(base_arch)
        changes: dict[str, list[Any]] = defaultdict(list)
        for neighbour in run.space.neighbours(base_arch):
            changes[changed_gene(run.space, base_arch, neighbour)].append(run.scorer.score(neighbour))
        for gene, scores in changes.items():
            accuracy[gene].append(100 * float(np.mean([score.accuracy - base.accuracy for score in scores])))
            energy[gene].append(float(np.mean([score.energy_uJ / base.energy_uJ - 1 for score in scores])))
    rows = []
    print(f"  {'gene':<14}{'accuracy, points':>22}{'energy, %':>22}")
    for gene in sorted(accuracy):
        points, percent = np.array(accuracy[gene]), 100 * np.array(energy[gene])
        drowned = [
            name
            for name, values in (("accuracy", points), ("energy", percent))
            if len(values) < 2 or abs(values.mean()) <= interval(values)[1]
        ]
        rows.append({"gene": gene, "points": points.tolist(), "energy_percent": percent.tolist(), "drowned": drowned})
        note = f"   drowns in seed noise: {', '.join(drowned)}" if drowned else ""
        if len(points) > 1:
            print(f"  {gene:<14}{shown(points):>22}{shown(percent, 1):>22}{note}")
    report.details["genes"] = rows


def changed_gene(space: SearchSpace, before: Architecture, after: Architecture) -> str:
    if before.depth != after.depth:
        return "depth"
    first, second = space.params(before), space.params(after)
    (name,) = [name for name in first if first[name] != second[name]]
    return name


if __name__ == "__main__":
    main()
