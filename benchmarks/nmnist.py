"""The whole job on real recordings of an event camera: 5-fold cross-validation on a subset of N-MNIST.

    python benchmarks/nmnist.py [--folds 5] [--first-fold 0] [--epochs N] [--quick] [--json FILE]

Every fold is a study of its own (studies/nmnist-small.yaml, other splits): the supernet is trained on what neither the
fold nor the search split holds of the 1,100 recordings, the search split chooses the recommended network, and the fold
tests it, once. The accuracy is that of all recordings, each tested in the one fold that did not train on it; its
interval is Wilson's. The recordings are looked for in `$SPIKESEARCH_DATA`, by default `../shared/data` beside the
checkout.
"""

from __future__ import annotations

import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from parts.harness import Report, data_folder, parser
from scipy.stats import binomtest

from spikesearch.config import StudyConfig, find_study_file, load_study_file
from spikesearch.study.results import TrialResult, read_results
from spikesearch.study.run import run_study

ARCHIVE = Path("n-mnist-small", "nmnist_small_events_np.tar.xz")


def main() -> None:
    """Run the folds and print the claims."""
    arguments = parser(__doc__)
    arguments.add_argument("--folds", type=int, default=5)
    arguments.add_argument("--first-fold", type=int, default=0, help="leave out the folds before it")
    arguments.add_argument("--epochs", type=int, help="instead of the study file's")
    args = arguments.parse_args()
    if not (data_folder() / ARCHIVE).exists():
        print(f"skipped: there is no {ARCHIVE} in the folder of public data; name that with SPIKESEARCH_DATA.")
        return
    config = load_study_file(find_study_file("nmnist-small"))
    train, search = config.train, config.search
    if args.quick:
        train, search = train.model_copy(update={"epochs": 2}), search.model_copy(update={"n_trials": 5})
    if args.epochs:
        train = train.model_copy(update={"epochs": args.epochs})
    config = config.model_copy(update={"train": train, "search": search})
    report = Report("nmnist", args.quick)
    with tempfile.TemporaryDirectory(prefix="spikesearch-nmnist-") as folder:
        root = Path(folder)
        with tarfile.open(data_folder() / ARCHIVE) as tar:
            tar.extractall(root, filter="data")
        last = min(args.folds, args.first_fold + 1) if args.quick else args.folds
        rows = [run_fold(config, root, fold, args.folds) for fold in range(args.first_fold, last)]
    summarise(report, rows)
    report.details = {"epochs": config.train.epochs, "n_trials": config.search.n_trials, "folds": rows}
    report.write(args.json)


def run_fold(config: StudyConfig, root: Path, fold: int, folds: int) -> dict[str, float | int | str]:
    """Do the job with one fold as the test split."""
    splits = config.data.splits.model_copy(update={"folds": folds, "fold": fold})
    data = config.data.model_copy(update={"path": str(root), "splits": splits})
    began = time.perf_counter()
    storage = f"sqlite:///{root / f'fold{fold}.db'}"
    study = run_study(config.model_copy(update={"name": f"fold{fold}", "data": data}), storage=storage, progress=False)
    result = read_results(study, storage)
    row: dict[str, float | int | str] = {"fold": fold, "seconds": round(time.perf_counter() - began)}
    for role, trial in (("recommended", result.recommended), ("reference", result.reference)):
        assert trial is not None
        row |= {f"{role}_{key}": value for key, value in figures(trial).items()}
    print("  " + "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
    return row


def figures(trial: TrialResult) -> dict[str, float | int | str]:
    """Return what is kept of a network."""
    assert trial.test is not None
    count = int(trial.test["n_images"])
    return {
        "architecture": trial.describe(),
        "search": trial.accuracy,
        "test": trial.test["accuracy"],
        "correct": round(trial.test["accuracy"] * count),
        "images": count,
        "energy_uJ": trial.energy_uJ,
    }


def summarise(report: Report, rows: list[dict[str, float | int | str]]) -> None:
    """State the accuracy over all recordings, and the energy."""
    for role in ("recommended", "reference"):
        correct, images = (int(sum(int(row[f"{role}_{key}"]) for row in rows)) for key in ("correct", "images"))
        interval = binomtest(correct, images).proportion_ci(method="wilson")
        accuracy = 100 * correct / images
        text = f"{accuracy:.1f} [{100 * interval.low:.1f} {100 * interval.high:.1f}]"
        target = ("at least 90", accuracy >= 90) if role == "recommended" else ("", None)
        report.claim(f"{role}: test accuracy over {images} recordings, % [95 % interval]", text, *target)
    ratio = [float(row["recommended_energy_uJ"]) / float(row["reference_energy_uJ"]) for row in rows]
    report.claim("energy of the recommended over the reference's, mean", round(float(np.mean(ratio)), 3))
    gap = 100 * np.mean([float(row["recommended_search"]) - float(row["recommended_test"]) for row in rows])
    report.claim("recommended: search minus test accuracy, points", round(float(gap), 2))


if __name__ == "__main__":
    main()
