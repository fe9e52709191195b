"""How the time and the memory of scoring grow with the work.

    python benchmarks/cost.py [--repeats 3] [--quick] [--json FILE] [--figure FILE.png]

One thing at a time is varied around 64 colour images of 32 x 32, width 96, 2 blocks, 2 time steps: the number of
images, the time steps, the blocks, the width. Times are CPU seconds of one thread, without the cache, calibration
included; exponents are least-squares slopes of logarithms. Memory is what scoring adds to the resident set of a fresh
process.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from parts.harness import Report, parser, resident_rise
from parts.noise import noise_bundle

from spikesearch import SearchSpace, Supernet
from spikesearch.config import ScoringConfig
from spikesearch.scoring import Scorer

BASE = {"images": 64, "time_steps": 2, "depth": 2, "width": 96}
VARIED = {
    "images": (32, 64, 128, 256, 512),
    "time_steps": (1, 2, 4, 8),
    "depth": (1, 2, 4, 8),
    "width": (48, 96, 192, 384),
}


def main() -> None:
    """Measure, print, draw."""
    arguments = parser(__doc__)
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--figure", type=Path, metavar="FILE", help="draw the curves there")
    args = arguments.parse_args()
    report = Report("cost", args.quick)
    curves: dict[str, dict[str, list[float]]] = {}
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, maxtasksperchild=1) as pool:
        for name, values in VARIED.items():
            chosen = values[:2] if args.quick else values
            rows = [pool.apply(measure, ({**BASE, name: value}, 1 if args.quick else args.repeats)) for value in chosen]
            seconds, memory = (list(column) for column in zip(*rows, strict=True))
            curves[name] = {"at": list(chosen), "seconds": seconds, "MiB": memory}
            exponents = [float(np.polyfit(np.log(chosen), np.log(column), 1)[0]) for column in (seconds, memory)]
            report.claim(f"time grows with {name} to the power of", round(exponents[0], 2))
            report.claim(f"memory grows with {name} to the power of", round(exponents[1], 2))
    report.details = {"base": BASE, "curves": curves}
    if args.figure is not None:
        draw(curves, args.figure)
    report.write(args.json)


def measure(size: dict[str, int], repeats: int) -> tuple[float, float]:
    """Return the median seconds of a score, and the MiB that the first one adds."""
    torch.set_num_threads(1)
    space = SearchSpace((size["width"],), (size["depth"],), (6,), (4,), (1.0,), (2.0,), (size["time_steps"],))
    torch.manual_seed(0)
    supernet = Supernet(space, in_channels=3, image_size=32, num_classes=10)
    data = noise_bundle(search=size["images"], calibration=32, size=32)
    scorer = Scorer(supernet, data, ScoringConfig(cache_mb=0, calibration_images=32, batch_size=256))
    with resident_rise() as rise:
        scorer.score(space.largest)
    times = []
    for _ in range(repeats):
        began = time.process_time()
        scorer.score(space.largest)
        times.append(time.process_time() - began)
    return statistics.median(times), rise[0]


def draw(curves: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Draw time and memory over each size, on logarithmic axes."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    figure, axes = plt.subplots(2, len(curves), figsize=(3.2 * len(curves), 5.2), sharey="row", layout="constrained")
    for column, (name, curve) in enumerate(curves.items()):
        for row, (key, label) in enumerate((("seconds", "CPU seconds per score"), ("MiB", "memory, MiB"))):
            axis = axes[row, column]
            slope, shift = np.polyfit(np.log(curve["at"]), np.log(curve[key]), 1)
            axis.loglog(curve["at"], curve[key], "o", color="#1f5fa8")
            axis.loglog(curve["at"], np.exp(shift) * np.array(curve["at"]) ** slope, color="#1f5fa8", alpha=0.5)
            axis.set_title(f"{name.replace('_', ' ')}: power {slope:.2f}", fontsize=10)
            axis.set_xticks(curve["at"], [str(value) for value in curve["at"]])
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.minorticks_off()
            axis.grid(visible=True, alpha=0.3)
            if not column:
                axis.set_ylabel(label)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
