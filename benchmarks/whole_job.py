"""The whole job on real images, on a CPU: search, retrain the recommended network, compare with the largest alone.

    python benchmarks/whole_job.py --folder RUN --json benchmarks/results/fashion.json
    python benchmarks/whole_job.py --study cifar10-small --epochs 3 --folder RUN2 --json benchmarks/results/cifar10.json

A study (by default ``studies/fashion-mnist-small.yaml``) is run as `spikesearch study run` does, its recommended
network is fine-tuned as by `spikesearch subnet retrain` with as many epochs, and the largest architecture of the space
is trained alone, from new weights: as long as the whole job took (``--alone-epochs``) and as long as the fine-tuning
took (``--short-epochs``). Times are CPU seconds of one thread and therefore hardly depend on what else the machine
does. Everything is chosen on the search split; each network is looked at once on the test split. With ``--folder``
everything is kept there, and the same command goes on after an interruption; ``--part`` allows several processes to
share the work. The data are looked for in `$SPIKESEARCH_DATA`, by default `../shared/data` beside the checkout; those
of CIFAR-10 are JPEG files, which are a little worse than the original.
"""

from __future__ import annotations

import contextlib
import json
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import Report, data_folder, parser

from spikesearch.config import StudyConfig, find_study_file, load_study_file
from spikesearch.data import load_data
from spikesearch.io import atomic_write_json
from spikesearch.scoring.calibration import calibration_images
from spikesearch.scoring.plain import calibrate_network, score_network
from spikesearch.study.prepare import new_supernet
from spikesearch.study.results import read_results
from spikesearch.study.retrain import retrain_subnet
from spikesearch.study.runner import open_session, run_study
from spikesearch.study.trained import open_trained
from spikesearch.train.retrain import fresh_network, train_network

FASHION, CIFAR = "fashion-mnist-small", "cifar10-small"
ARCHIVES = ("train.tar.xz", "test.tar.xz")


def main() -> None:
    """Run the parts and print the claims."""
    arguments = parser(__doc__)
    arguments.add_argument("--study", choices=(FASHION, CIFAR), default=FASHION)
    arguments.add_argument("--epochs", type=int, help="instead of the study file's")
    arguments.add_argument("--folder", type=Path, help="where to keep everything; by default nowhere")
    arguments.add_argument("--part", choices=("all", "job", "alone", "short"), default="all", help="what is run")
    arguments.add_argument("--alone-epochs", type=int, default=7, help="of the largest, for the time of the job")
    arguments.add_argument("--short-epochs", type=int, default=2, help="of the largest, for the time of fine-tuning")
    args = arguments.parse_args()
    torch.set_num_threads(1)
    report = Report("whole_job", args.quick)
    alone_epochs, short_epochs = (1, 1) if args.quick else (args.alone_epochs, args.short_epochs)
    with contextlib.ExitStack() as stack:
        folder = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spikesearch-fashion-")))
        folder.mkdir(parents=True, exist_ok=True)
        path = find_data(args.study, folder)
        if path is None:
            print(f"skipped: no data for {args.study} in {data_folder()}; name their folder with SPIKESEARCH_DATA.")
            return
        config = study_file(args.study, path, 2 if args.quick else args.epochs, args.quick)
        parts = {
            "job": lambda: job(config, folder),
            "alone": lambda: alone(config, folder, alone_epochs),
            "short": lambda: alone(config, folder, short_epochs),
        }
        done = {name: once(folder / f"{name}.json", run) for name, run in parts.items() if args.part in ("all", name)}
    for name, facts in done.items():
        print(name, json.dumps(facts), flush=True)
    if args.part == "all":
        summarise(report, **done)
        report.details = done
        report.write(args.json)


def find_data(study: str, folder: Path) -> Path | None:
    """Return the folder of a study's data, unpacked into ``folder`` where they are archives; None if there are none."""
    source = data_folder() / {FASHION: "fashion-mnist", CIFAR: "cifar10-jpeg"}[study]
    if not source.exists():
        return None
    if study == FASHION:
        return source
    target = folder / "images"
    for archive in ARCHIVES:
        if not (target / archive.partition(".")[0]).exists():
            with tempfile.TemporaryDirectory(dir=folder) as half, tarfile.open(source / archive) as tar:
                tar.extractall(half, filter="data")
                target.mkdir(exist_ok=True)
                for unpacked in Path(half).iterdir():
                    unpacked.rename(target / unpacked.name)
    return target


def study_file(study: str, path: Path, epochs: int | None, quick: bool) -> StudyConfig:
    config = load_study_file(find_study_file(study))
    plain = config.to_dict()
    if study == CIFAR:
        plain["data"]["kind"] = "image-folder"
        del plain["data"]["download"]
    plain["data"]["path"] = str(path)
    if epochs is not None:
        plain["train"]["epochs"] = epochs
    if quick:
        plain["data"]["splits"]["max_train"] = 1000
        plain["search"]["n_trials"] = 5
    return StudyConfig.from_dict(plain)


def once(path: Path, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a part found; run it if that is not known yet."""
    if not path.exists():
        atomic_write_json(path, run())
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


class Clock:
    """CPU and wall seconds since it was made; time before an interruption is lost."""

    def __init__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def read(self) -> dict[str, int]:
        return {
            "cpu_s": round(time.process_time() - self._cpu),
            "wall_s": round(time.perf_counter() - self._wall),
        }


def job(config: StudyConfig, folder: Path) -> dict[str, Any]:
    """Train the supernet, search, fine-tune the recommended network."""
    storage = f"sqlite:///{folder.resolve() / 'spikesearch.db'}"
    whole = Clock()
    open_session(config, storage=storage).train(progress=False)
    supernet = whole.read()
    print("supernet", supernet, flush=True)
    search = Clock()
    result = read_results(run_study(config, storage=storage, progress=False), storage)
    searched = search.read()
    print("search", searched, flush=True)
    fine_tuning = Clock()
    retraining = retrain_subnet(open_trained(config.name, storage=storage), progress=False)
    tuned = fine_tuning.read()
    assert result.recommended is not None
    return {
        "seconds": {"supernet": supernet, "search": searched, "fine_tuning": tuned, "whole": whole.read()},
        "epochs": config.train.epochs,
        "recommended": result.recommended.describe(),
        "hypervolume": result.hypervolume,
        "networks": retraining.to_dict()["networks"],
    }


def alone(config: StudyConfig, folder: Path, epochs: int) -> dict[str, Any]:
    """Train the largest architecture from new weights, with the recipe of the study."""
    clock = Clock()
    data = load_data(config.data, seed=config.seed)
    start = fresh_network(new_supernet(config, data).extract(config.space.search_space().largest), config.seed)
    train = config.train.model_copy(update={"epochs": epochs})
    done = train_network(
        start, data, train, seed=config.seed, folder=folder / f"alone-{epochs}", title="Largest", progress=False
    )
    seconds = clock.read()
    calibrate_network(done.net, calibration_images(data, config.scoring))
    scores = {split: score_network(done.net, data, config.scoring, split) for split in ("search", "test")}
    return {
        "seconds": seconds,
        "epochs": epochs,
        "search_accuracy": scores["search"].accuracy,
        "test_accuracy": scores["test"].accuracy,
        "energy_uJ": scores["search"].energy_uJ,
        "params": scores["search"].params,
    }


def summarise(report: Report, job: dict[str, Any], alone: dict[str, Any], short: dict[str, Any]) -> None:
    """State times, accuracies and energies."""
    rows = {row["role"]: row for row in job["networks"]}
    ours = rows["retrained"]
    whole = job["seconds"]["whole"]
    minutes = whole["wall_s"] / 60
    report.claim("whole job, minutes, one thread", round(minutes), "at most 90", minutes <= 90)
    report.claim("of these CPU minutes", round(whole["cpu_s"] / 60))
    report.claim("recommended", job["recommended"])
    for role in ("inherited", "retrained", "largest"):
        report.claim(f"{role}: test accuracy, %", round(100 * rows[role]["test_accuracy"], 2))
        report.claim(f"{role}: energy, uJ", round(rows[role]["energy_uJ"], 3))
    for name, other in (("fine-tuning", short), ("whole job", alone)):
        minutes = other["seconds"]["cpu_s"] / 60
        report.claim(
            f"largest alone, {other['epochs']} epochs, {minutes:.0f} CPU minutes: test accuracy, %",
            round(100 * other["test_accuracy"], 2),
        )
        lost = 100 * (other["test_accuracy"] - ours["test_accuracy"])
        report.claim(
            f"test points that the retrained one loses against it (time of the {name})",
            round(lost, 2),
            "at most 0.5",
            lost <= 0.5,
        )
    ratio = ours["energy_uJ"] / alone["energy_uJ"]
    report.claim("energy of the retrained over that of the largest alone", round(ratio, 3), "at most 0.5", ratio <= 0.5)


if __name__ == "__main__":
    main()
