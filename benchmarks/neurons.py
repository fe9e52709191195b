"""Does evolving thresholds and time constants pay? Three searches that differ in the neurons alone.

    python benchmarks/neurons.py --data n-mnist --budgets 0.5 1.0 --seeds 3 --folder RUN --json FILE
    python benchmarks/neurons.py --data fashion-mnist --budgets 0.5 1.0 --seeds 3 --folder RUN --json FILE

- *none*: one threshold, one time constant;
- *evolved*: genes of stem, stages and blocks, three choices of each (the E of ESNN);
- *learned*: one threshold, a time constant per layer of neurons that is learnt by gradient (parametric LIF).

Each is a study of its own: a supernet, a search of as many trials, and the most accurate trial within each budget of
microjoules, fine-tuned, as in fronts.py. Space, recipe and updates are the same but for the neurons. Networks are
chosen on the search split and their energies are measured on it; the test split is read once for each. Figures are
means over seeds with a 95 % interval (Student's t). Images have two time steps here, as a time constant means nothing
at one. The data are looked for in `$SPIKESEARCH_DATA`, by default `../shared/data` beside the checkout.
"""

from __future__ import annotations

import contextlib
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fronts import Row, Seed
from parts.harness import Report, data_folder, interval, parser, shown, study_file

from spikesearch.config import StudyConfig

FASHION, NMNIST = "fashion-mnist", "n-mnist"
ARCHIVE = Path("n-mnist-small", "nmnist_small_events_np.tar.xz")
MAX_TRAIN = 12_000
KINDS: dict[str, dict[str, list[Any]]] = {
    "none": {"v_thresholds": [1.0], "taus": [2.0]},
    "evolved": {"v_thresholds": [0.6, 1.0, 1.4], "taus": [1.25, 2.0, 4.0]},
    "learned": {"v_thresholds": [1.0], "taus": ["learned"]},
}


def main() -> None:
    """Run the studies and print the claims."""
    arguments = parser(__doc__)
    arguments.add_argument("--data", choices=(FASHION, NMNIST), default=NMNIST)
    arguments.add_argument("--budgets", type=float, nargs="+", default=[0.5, 1.0], help="microjoules per sample")
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--folder", type=Path, help="where to keep studies and trainings; by default nowhere")
    args = arguments.parse_args()
    source = data_folder() / (FASHION if args.data == FASHION else ARCHIVE)
    if not source.exists():
        print(f"skipped: there is no {source.name} in {data_folder()}; name its folder with SPIKESEARCH_DATA.")
        return
    torch.set_num_threads(1)
    report = Report("neurons", args.quick)
    kinds = dict(list(KINDS.items())[1:]) if args.quick else KINDS
    runs: dict[str, list[Row]] = {name: [] for name in kinds}
    with contextlib.ExitStack() as stack:
        root = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spikesearch-neurons-")))
        root.mkdir(parents=True, exist_ok=True)
        base = study(args.data, source, root.resolve(), quick=args.quick)
        for seed in range(1 if args.quick else args.seeds):
            for name, lists in kinds.items():
                folder = root.resolve() / f"{name}-{seed}"
                folder.mkdir(exist_ok=True)
                plain = base.to_dict()
                plain["space"] |= lists
                config = StudyConfig.from_dict(plain)
                job = Seed(config, None, seed, folder, "cpu", tuple(args.budgets), config.train.epochs, ("searched",))
                runs[name].append(job.run()["networks"]["searched"])
    claims(report, runs, [str(budget) for budget in args.budgets])
    report.details = {"data": args.data, "study": base.name, "runs": runs}
    report.write(args.json)


def study(data: str, source: Path, folder: Path, *, quick: bool) -> StudyConfig:
    """Return the study file that the three share, but for their neurons."""
    name = "fashion-mnist-small" if data == FASHION else "nmnist-small"
    images = 200 if quick else MAX_TRAIN if data == FASHION else None
    plain = study_file(name, None, epochs=2 if quick else None, max_train=images).to_dict()
    plain["data"]["path"] = str(source if data == FASHION else folder)
    if data == FASHION:
        plain["space"]["time_steps"] = [2]
    elif not (folder / "events_np").exists():
        with tarfile.open(source) as tar:
            tar.extractall(folder, filter="data")
    if quick:
        plain["search"]["n_trials"] = 6
    return StudyConfig.from_dict(plain)


def claims(report: Report, runs: dict[str, list[Row]], budgets: list[str]) -> None:
    """State each kind's figures, and what it gains over neurons without genes."""
    for budget in budgets:
        for name, rows in runs.items():
            if any(budget not in row for row in rows):
                continue
            tests = 100 * np.array([row[budget]["test"] for row in rows])
            energies = " / ".join(
                shown(np.array([row[budget][key] for row in rows]), 3) for key in ("spikformer", "strict")
            )
            report.claim(f"{name} neurons at {budget} uJ: test accuracy, %", f"{shown(tests)} at {energies} uJ")
        for name, rows in runs.items():
            others = runs.get("none", [])
            if name == "none" or len(others) != len(rows) or any(budget not in row for row in (*rows, *others)):
                continue
            gain = 100 * np.array(
                [own[budget]["test"] - other[budget]["test"] for own, other in zip(rows, others, strict=True)]
            )
            target, met = "", None
            if len(gain) > 1:
                mean, half = interval(gain)
                target, met = "interval above 0", mean - half > 0
            report.claim(f"{name} minus none at {budget} uJ, test points", shown(gain), target, met)


if __name__ == "__main__":
    main()
