"""The whole job on real images, on a CPU: search, retrain the recommended network, compare with the largest alone.

    python benchmarks/whole_job.py --folder RUN --json benchmarks/results/fashion.json
    python benchmarks/whole_job.py --study cifar10-small --epochs 3 --part job --folder RUN --json FILE

A study (by default ``studies/fashion-mnist-small.yaml``) is run as `spikesearch study run` does; the best network of at
most half the reference's energy (`study best --max-energy`) is fine-tuned as by `subnet retrain`; and the largest
architecture of the space is trained alone, from new weights, as long as all that took (``--alone-epochs``). Times are
CPU seconds of one thread, which hardly depend on what else the machine does, and wall seconds. With ``--energy-weight``
the fine-tuning has the energy in its loss; then the largest is also trained alone with that, which tells what of a
saving is due to the loss and what to the architecture. Everything is chosen on the search split; each network is looked
at once on the test split. With ``--folder`` everything is kept there, and the same command goes on after an
interruption, whose step then counts no time before it; ``--part`` allows processes to share the work. The data are
looked for in `$SPIKESEARCH_DATA`, by default `../shared/data` beside the checkout; those of CIFAR-10 are JPEG files,
which are a little worse than the original.
"""

from __future__ import annotations

import contextlib
import math
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from parts.harness import Report, data_folder, kept, parser, study_file

from spikesearch.config import StudyConfig
from spikesearch.data import load_data
from spikesearch.energy import energy_model
from spikesearch.scoring.calibration import calibration_images
from spikesearch.scoring.network import calibrate_network, score_network
from spikesearch.study.assembly import new_supernet
from spikesearch.study.results import TrialResult, best_trial, read_results
from spikesearch.study.run import run_study
from spikesearch.study.session import open_session, open_trained
from spikesearch.study.store import load_study
from spikesearch.subnet.retrain import retrain_subnet
from spikesearch.train.network import fresh_network, train_network

FASHION, CIFAR = "fashion-mnist-small", "cifar10-small"
SHARE = 0.5  # of the reference's energy, which the chosen network may cost at most
ARCHIVES = ("train.tar.xz", "test.tar.xz")


def main() -> None:
    """Run the parts and print the claims."""
    arguments = parser(__doc__)
    arguments.add_argument("--study", choices=(FASHION, CIFAR), default=FASHION)
    arguments.add_argument("--epochs", type=int, help="instead of the study file's")
    arguments.add_argument("--folder", type=Path, help="where to keep everything; by default nowhere")
    arguments.add_argument("--part", choices=("all", "job", "alone", "saving"), default="all", help="what is run")
    arguments.add_argument("--retrain-epochs", type=int, default=9, help="of the chosen network's fine-tuning")
    arguments.add_argument("--alone-epochs", type=int, default=15, help="of the largest, for the time of the job")
    arguments.add_argument("--energy-weight", type=float, default=0.0, help="of the chosen network's fine-tuning")
    args = arguments.parse_args()
    if not 0 <= args.energy_weight < math.inf:
        arguments.error("--energy-weight must be a finite number of at least 0.")
    if args.part == "saving" and not args.energy_weight:
        arguments.error("--part saving needs an --energy-weight.")
    torch.set_num_threads(1)
    report = Report("whole_job", args.quick)
    retrain_epochs, alone_epochs = (1, 1) if args.quick else (args.retrain_epochs, args.alone_epochs)
    with contextlib.ExitStack() as stack:
        folder = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spikesearch-fashion-")))
        folder.mkdir(parents=True, exist_ok=True)
        path = find_data(args.study, folder)
        if path is None:
            print(f"skipped: no data for {args.study} in {data_folder()}; name their folder with SPIKESEARCH_DATA.")
            return
        config = study(args.study, path, 2 if args.quick else args.epochs, args.quick)
        parts = {
            "job": lambda: job(config, folder, retrain_epochs, args.energy_weight),
            "alone": lambda: alone(config, folder, alone_epochs, 0.0),
        }
        if args.energy_weight:
            parts["saving"] = lambda: alone(config, folder, alone_epochs, args.energy_weight)
        done = {name: run() for name, run in parts.items() if args.part in ("all", name)}
    if "job" in done:
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


def study(name: str, path: Path, epochs: int | None, quick: bool) -> StudyConfig:
    plain = study_file(name, None, epochs=epochs, max_train=1000 if quick else None).to_dict()
    if name == CIFAR:
        plain["data"]["kind"] = "image-folder"
        del plain["data"]["download"]
    plain["data"]["path"] = str(path)
    if quick:
        plain["search"]["n_trials"] = 5
    return StudyConfig.from_dict(plain)


def timed(run: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """Add CPU and wall seconds to what a step returns; what an interruption took is not counted."""

    def step() -> dict[str, Any]:
        cpu, wall = time.process_time(), time.perf_counter()
        result = run()
        return {**result, "cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}

    return step


def job(config: StudyConfig, folder: Path, epochs: int, energy_weight: float) -> dict[str, Any]:
    """Train the supernet, search, choose, fine-tune."""
    storage = f"sqlite:///{folder.resolve() / 'spikesearch.db'}"

    def supernet() -> dict[str, Any]:
        open_session(config, storage=storage).train(progress=False)
        return {}

    def search() -> dict[str, Any]:
        result = read_results(run_study(config, storage=storage, progress=False), storage)
        return {"hypervolume": result.hypervolume, "recommended": facts(result.recommended)}

    def fine_tuning() -> dict[str, Any]:
        study = load_study(config.name, storage=storage)
        reference = read_results(study, storage).reference
        assert reference is not None
        chosen = best_trial(study, max_energy=reference.energy_uJ * SHARE)
        trained = open_trained(config.name, storage=storage)
        retraining = retrain_subnet(trained, chosen.number, epochs=epochs, energy_weight=energy_weight, progress=False)
        return {
            "chosen": facts(chosen),
            "epochs": epochs,
            "energy_weight": energy_weight,
            "networks": retraining.to_dict()["networks"],
        }

    files = {"supernet": supernet, "search": search, with_weight("fine_tuning", energy_weight): fine_tuning}
    return {step.__name__: kept(folder / f"{file}.json", timed(step)) for file, step in files.items()}


def facts(trial: TrialResult | None) -> dict[str, Any]:
    assert trial is not None
    return {
        "number": trial.number,
        "architecture": trial.describe(),
        "accuracy": trial.accuracy,
        "energy_uJ": trial.energy_uJ,
    }


def alone(config: StudyConfig, folder: Path, epochs: int, energy_weight: float) -> dict[str, Any]:
    """Train the largest architecture from new weights, with the recipe of the study; once."""
    name = with_weight(f"alone-{epochs}", energy_weight)
    return kept(folder / f"{name}.json", lambda: train_largest(config, folder / name, epochs, energy_weight))


def with_weight(name: str, energy_weight: float) -> str:
    return f"{name}-saving-{energy_weight:g}" if energy_weight else name


def train_largest(config: StudyConfig, checkpoints: Path, epochs: int, energy_weight: float) -> dict[str, Any]:
    data = load_data(config.data, seed=config.seed)
    start = fresh_network(new_supernet(config, data).extract(config.space.search_space().largest), config.seed)
    train = config.train.model_copy(update={"epochs": epochs, "energy_weight": energy_weight})
    cpu = time.process_time()
    done = train_network(
        start,
        data,
        train,
        seed=config.seed,
        folder=checkpoints,
        title="Largest",
        energy_model=energy_model(config.scoring),
        progress=False,
    )
    cpu = time.process_time() - cpu
    calibrate_network(done.net, calibration_images(data, config.scoring))
    scores = {split: score_network(done.net, data, config.scoring, split) for split in ("search", "test")}
    return {
        "cpu_s": cpu,
        "epochs": epochs,
        "energy_weight": energy_weight,
        "search_accuracy": scores["search"].accuracy,
        "test_accuracy": scores["test"].accuracy,
        "energy_uJ": scores["search"].energy_uJ,
        "params": scores["search"].params,
    }


def summarise(
    report: Report, job: dict[str, Any], alone: dict[str, Any] | None = None, saving: dict[str, Any] | None = None
) -> None:
    """State times, accuracies and energies."""
    tuning = job["fine_tuning"]
    rows = {row["role"]: row for row in tuning["networks"]}
    ours, reference = rows["retrained"], rows["largest"]
    wall, cpu = (sum(step[key] for step in job.values()) / 60 for key in ("wall_s", "cpu_s"))
    report.claim("whole job, one thread, minutes", round(wall), "at most 90", wall <= 90)
    report.claim("the same, CPU minutes", round(cpu))
    parts = ", ".join(f"{name.replace('_', ' ')} {step['cpu_s'] / 60:.0f}" for name, step in job.items())
    report.claim("of these", parts)
    report.claim("hypervolume of the search", round(job["search"]["hypervolume"], 4))
    report.claim("chosen", f"trial {tuning['chosen']['number']}, {tuning['chosen']['architecture']}")
    report.claim("epochs of its fine-tuning", tuning["epochs"])
    report.claim("weight of the energy in its loss", tuning.get("energy_weight", 0.0))  # older folders do not say
    for role, row in (("inherited", rows["inherited"]), ("retrained", ours), ("reference, inherited", reference)):
        figures = f"{100 * row['test_accuracy']:.2f} % at {row['energy_uJ']:.3f} uJ"
        report.claim(f"{role}: test accuracy and energy", figures)
    ratio = ours["energy_uJ"] / reference["energy_uJ"]
    report.claim("energy of the retrained over that of the reference with inherited weights", round(ratio, 3))
    if alone is None:
        return
    figures = f"{100 * alone['test_accuracy']:.2f} % at {alone['energy_uJ']:.3f} uJ"
    report.claim(f"largest alone, {alone['epochs']} epochs, {alone['cpu_s'] / 60:.0f} CPU minutes", figures)
    lost = 100 * (alone["test_accuracy"] - ours["test_accuracy"])
    report.claim("test points that the retrained one loses against it", round(lost, 2), "at most 0.5", lost <= 0.5)
    ratio = ours["energy_uJ"] / alone["energy_uJ"]
    report.claim("energy of the retrained over that of the largest alone", round(ratio, 3), "at most 0.5", ratio <= 0.5)
    if saving is not None:
        figures = f"{100 * saving['test_accuracy']:.2f} % at {saving['energy_uJ']:.3f} uJ"
        report.claim("largest alone with the energy in its loss, too", figures)
        lost = 100 * (saving["test_accuracy"] - ours["test_accuracy"])
        report.claim("test points that the retrained one loses against that", round(lost, 2))
        report.claim("its energy over that", round(ours["energy_uJ"] / saving["energy_uJ"], 3))


if __name__ == "__main__":
    main()
