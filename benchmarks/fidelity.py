"""How well scores with inherited weights rank architectures, against training each of them alone.

    python benchmarks/fidelity.py --json benchmarks/results/fidelity.json
    python benchmarks/fidelity.py --study fashion-mnist-small --data-root DATA --max-train 2000 --epochs 10 --json ...

Trains the supernet of a study and then architectures alone until 30 of them are alive, ten with a second seed. With
``--folder`` everything is kept there, and the same command goes on after an interruption. Only the search split is
looked at. Intervals are 95 % bootstrap intervals over the architectures; the supernet is one. The ceiling, how well one
seed's accuracies agree with another's, is what one more training would tell; a perfect ranking could exceed it. Scores
in bfloat16 (``scoring.precision``) are compared with those in float32 and with training alone.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path

import numpy as np
from parts.harness import Report, parser, study_file

from spikesearch.audit.fidelity import TWICE, measure_fidelity
from spikesearch.audit.fidelity_result import Fidelity
from spikesearch.audit.rank_statistics import Agreement, compare
from spikesearch.config import StudyConfig
from spikesearch.scoring import Scorer
from spikesearch.study.session import Session, open_session, open_trained

LIVE = 30
PICTURE = "scatter.png"


def main() -> None:
    """Train, compare, print the claims."""
    arguments = parser(__doc__)
    arguments.add_argument("--study", default="digits", help="id or path of a study file")
    arguments.add_argument("--data-root", type=Path, help="folder that holds the folder of the study's data")
    arguments.add_argument("--folder", type=Path, help="where to keep study and trainings; by default nowhere")
    arguments.add_argument("--max-train", type=int, help="at most so many training images")
    arguments.add_argument("--epochs", type=int, help="of every training, instead of the study file's")
    arguments.add_argument("--device", default="cpu")
    args = arguments.parse_args()
    wanted, epochs = (6, 3) if args.quick else (LIVE, args.epochs)
    config = study_file(args.study, args.data_root, epochs=epochs, max_train=args.max_train)
    report = Report("fidelity", args.quick)
    with contextlib.ExitStack() as stack:
        folder = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spikesearch-fidelity-")))
        folder.mkdir(parents=True, exist_ok=True)
        trained, done = measure(config, folder, wanted, args.device)
        precision = half_precision(trained, done)
        if args.json is not None and (done.folder / PICTURE).exists():
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.with_suffix(".png").write_bytes((done.folder / PICTURE).read_bytes())
    claims(report, done, wanted)
    for claim, agreement in precision.items():
        report.claim(f"{claim}: tau", str(agreement.tau))
        report.claim(f"{claim}: Spearman", str(agreement.spearman))
    report.details = done.to_dict()
    report.write(args.json)


def measure(config: StudyConfig, folder: Path, wanted: int, device: str) -> tuple[Session, Fidelity]:
    storage = f"sqlite:///{folder.resolve() / 'spikesearch.db'}"
    began = time.perf_counter()
    open_session(config, storage=storage, device=device).train(progress=False)
    print(f"Supernet of {config.name}: {time.perf_counter() - began:.0f} s", flush=True)
    trained = open_trained(config.name, storage=storage, device=device)
    n = wanted
    while True:
        done = measure_fidelity(trained, n=n, progress=False)
        print(f"{n} networks, {len(done.live)} live: {time.perf_counter() - began:.0f} s", flush=True)
        if len(done.live) >= wanted or n >= 3 * wanted:  # a supernet of the dead will not come to life
            return trained, done
        n += wanted - len(done.live)


def half_precision(trained: Session, done: Fidelity) -> dict[str, Agreement]:
    """Score the live networks with inherited weights in bfloat16; tell how well that ranks them."""
    config = trained.config.scoring.model_copy(update={"precision": "bfloat16"})
    scorer = Scorer(trained.scorer().supernet, trained.data, config, device=trained.scorer().device)
    reduced = np.array([scorer.score(network.arch).accuracy for network in done.live])
    full = np.array([network.inherited.accuracy for network in done.live])
    alone = np.array([score.accuracy for network in done.live if (score := network.alone[0])])
    against_alone = compare({"float32": full, "bfloat16": reduced}, alone)
    return {
        "bfloat16 with float32, inherited": compare({"bfloat16": reduced}, full).rankings["bfloat16"],
        "inherited in bfloat16 with alone": against_alone.rankings["bfloat16"],
        "the same in float32 minus bfloat16": against_alone.lead["bfloat16"],
    }


def claims(report: Report, done: Fidelity, wanted: int) -> None:
    whole = done.groups["all"]
    tau = whole.rankings["inherited"].tau
    lead = whole.lead["energy"].tau
    report.claim("live networks", len(done.live), f"at least {wanted}", len(done.live) >= wanted)
    report.claim("dead networks: inherited, alone, either", ", ".join(str(count) for count in done.dead.values()))
    report.claim("epochs of each training alone", done.facts["epochs"])
    report.claim(
        "tau(inherited) - tau(energy alone)",
        str(lead),
        "lower bound above 0",
        lead.low is not None and lead.low > 0,
    )
    report.claim("tau(inherited)", str(tau), "at least 0.55", tau.value is not None and tau.value >= 0.55)
    retest = done.retest
    report.claim("networks with two seeds: tau(inherited), mean over the seeds", str(retest.tau))
    report.claim("networks with two seeds: one seed with another, the ceiling", str(retest.ceiling))
    report.claim(
        "tau(inherited) over the ceiling",
        str(retest.share),
        "at least 0.75",
        retest.share.value is not None and retest.share.value >= 0.75,
    )
    twice = done.groups["two_seeds"]
    report.claim("networks with two seeds", twice.n, f"at least {min(TWICE, wanted)}", twice.n >= min(TWICE, wanted))
    for name, group in done.groups.items():
        for ranking, found in group.rankings.items():
            what = f"{name} ({group.n}), {ranking}".replace("_", " ")
            report.claim(f"{what}: tau", str(found.tau))
            report.claim(f"{what}: Spearman", str(found.spearman))
    report.claim("tau(inherited) - tau(parameters alone)", str(whole.lead["params"].tau))
    pairs = [(network.inherited, score) for network in done.live if (score := network.alone[0])]
    if not pairs:
        return
    ratios = np.array([inherited.energy_uJ / alone.energy_uJ for inherited, alone in pairs])
    low, middle, high = np.quantile(ratios, (0.1, 0.5, 0.9))
    report.claim(
        "energy inherited over alone: median, 10th and 90th percentile",
        f"{middle:.2f}, {low:.2f} and {high:.2f}",
        "median at most 1.15",
        middle <= 1.15,
    )


if __name__ == "__main__":
    main()
