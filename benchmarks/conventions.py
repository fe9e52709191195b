"""Does it matter how energy is counted? The order of random architectures, and their fronts, under every convention.

    python benchmarks/conventions.py --json benchmarks/results/conventions.json
    python benchmarks/conventions.py --studies fashion-mnist-small --data-root DATA --max-train 12000 --folder RUN

The supernet of each study is trained. Random architectures of its space are scored with inherited weights, once: what
their layers do on the search split is then priced under every convention. For each pair of conventions the figure is
Kendall's tau (b) of the energies, with a 95 % bootstrap interval over architectures; and how much of the front under
one convention is on the front under the other. With ``--folder`` supernets are kept there.
"""

from __future__ import annotations

import contextlib
import tempfile
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parts.baselines_arms import random_architectures
from parts.harness import Report, parser, study_file
from scipy.stats import kendalltau

from spikesearch.config import StudyConfig
from spikesearch.energy import CONVENTIONS, EnergyModel
from spikesearch.fitness import pareto_front
from spikesearch.scoring.calibration import calibration_images
from spikesearch.scoring.observation import observe
from spikesearch.study.session import open_session

STUDIES = ("digits", "digits-spikformer")
RESAMPLES = 1000
_BOOTSTRAP = 11  # stream of random numbers


def main() -> None:
    """Score the architectures of every study and print the claims."""
    arguments = parser(__doc__)
    arguments.add_argument("--studies", nargs="+", default=list(STUDIES), help="ids or paths of study files")
    arguments.add_argument("--count", type=int, default=200, help="of random architectures")
    arguments.add_argument("--max-train", type=int, help="at most so many training images")
    arguments.add_argument("--data-root", type=Path, help="folder that holds the folders of the studies' data")
    arguments.add_argument("--folder", type=Path, help="where to keep supernets; by default nowhere")
    args = arguments.parse_args()
    torch.set_num_threads(1)
    report = Report("conventions", args.quick)
    studies, count = (args.studies[:1], 12) if args.quick else (args.studies, args.count)
    with contextlib.ExitStack() as stack:
        root = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spikesearch-conventions-")))
        for name in studies:
            config = study_file(name, args.data_root, epochs=1 if args.quick else None, max_train=args.max_train)
            folder = root.resolve() / config.name
            folder.mkdir(parents=True, exist_ok=True)
            accuracies, energies = scores(config, folder, count)
            claims(report, config.name, accuracies, energies)
            report.details[config.name] = {"accuracy": accuracies, **energies}
    report.write(args.json)


def scores(config: StudyConfig, folder: Path, count: int) -> tuple[list[float], dict[str, list[float]]]:
    """Return accuracy, and energy under every convention, of random architectures with inherited weights."""
    session = open_session(config, storage=f"sqlite:///{folder / 'spikesearch.db'}")
    supernet = session.train(progress=False)
    images = calibration_images(session.data, config.scoring)
    models = {name: EnergyModel(name) for name in CONVENTIONS}
    accuracies: list[float] = []
    energies: dict[str, list[float]] = {name: [] for name in models}
    for arch in random_architectures(session.space, config.seed, count):
        with supernet.subnet(arch, supernet.calibrate(arch, images)):
            seen = observe(
                supernet, session.data.search, batch_size=config.scoring.batch_size, device=torch.device("cpu")
            )
        accuracies.append(seen.accuracy)
        for name, model in models.items():
            energies[name].append(float(model.price(seen.activity).total_uJ))
    return accuracies, energies


def claims(report: Report, study: str, accuracies: list[float], energies: dict[str, list[float]]) -> None:
    """State how alike each pair of conventions is."""
    values: dict[str, Any] = {name: np.array(each) for name, each in energies.items()}
    accuracy = np.array(accuracies)
    fronts = {
        name: set(np.flatnonzero(pareto_front(np.stack([each, -accuracy], axis=1)))) for name, each in values.items()
    }
    for name, each in values.items():
        label = f"{study}, {name}: median energy, uJ, and architectures on the front of {len(accuracy)}"
        report.claim(label, f"{np.median(each):.3g}, {len(fronts[name])}")
    rng = np.random.default_rng(_BOOTSTRAP)
    for one, other in combinations(values, 2):
        tau = kendalltau(values[one], values[other]).statistic
        drawn = [rng.integers(0, len(accuracy), len(accuracy)) for _ in range(RESAMPLES)]
        low, high = np.quantile([kendalltau(values[one][d], values[other][d]).statistic for d in drawn], (0.025, 0.975))
        shared = len(fronts[one] & fronts[other]) / len(fronts[one])
        figure = f"{tau:.3f} [{low:.3f} {high:.3f}], {100 * shared:.0f} %"
        report.claim(f"{study}, {one} and {other}: tau, and share of the first's front that is on the other's", figure)


if __name__ == "__main__":
    main()
