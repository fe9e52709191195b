"""How much faster the search scores when trials share what they have in common, at equal scores.

    python benchmarks/scoring.py [--images 2000] [--trials 200] [--device cpu] [--quick] [--json FILE]

Replays ``tables/proposals.json``, the first 200 architectures of a real search, on random 32x32 colour images and a
supernet with random weights, in the order of the search. Every trial is scored four times in one process, side by side:
by a scorer without any of what makes scoring fast (the base of all ratios: no cache, neurons in one PyTorch operation
after the other, activity sums in float64), by one that has the compiled neurons, by today's without a cache, and by
today's with its default cache. Scores must be equal. The speed does not depend on what weights and images mean, but on
the firing rates a little; batch-norm calibration keeps them where training has them.

The *reuse bound* is the multiplications of a scorer that computes everything over those that are really done. With a
cache that never forgets it follows from the list alone; no cache can reach more.

A second replay adds racing and, where the processor computes in bfloat16, ``scoring.precision: bfloat16``; see
``scoring_racing.py`` for its images and weights, which have to mean something there.

``--quick`` replays on 64 images of 8x8 pixels; its ratios say little, for fixed costs weigh more there. A full run
takes hours on two cores.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

import torch
from parts.harness import Report, parser
from parts.noise import noise_bundle
from parts.scoring_racing import replay_races
from tables.scoring_proposals import FILE, load

from spikesearch import Architecture, EnergyReport, Supernet
from spikesearch.config import ScoringConfig
from spikesearch.energy import measure
from spikesearch.nn import lif
from spikesearch.scoring import Scorer

CALIBRATION = 256
HALF = 100


@contextmanager
def float64_sums() -> Iterator[None]:
    """Sum every input and output of every layer in float64, one by one."""

    class Forgetful(measure._LastSpikes):
        def keep(self, spikes: torch.Tensor) -> float:
            return measure._sum(spikes)

    with mock.patch.object(measure, "count", measure._sum), mock.patch.object(measure, "_LastSpikes", Forgetful):
        yield


@contextmanager
def nothing_fast() -> Iterator[None]:
    """Run neurons as separate PyTorch operations too."""
    with float64_sums(), mock.patch.object(lif, "lif_kernel", return_value=None):
        yield


def timed(scorer: Scorer, arch: Architecture) -> tuple[float, tuple[float, EnergyReport]]:
    # CPU time of one thread is that of the work, whatever else the machine does.
    alone = scorer.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    start = clock()
    result = scorer.evaluate(arch)
    return clock() - start, result


def work_without_forgetting(supernet: Supernet, proposals: Sequence[Architecture], size: int) -> list[tuple]:
    """Return multiplications done and needed per trial, of a cache without a limit: on one image, for they scale."""
    data = noise_bundle(search=1, calibration=2, size=size)
    scorer = Scorer(supernet, data, ScoringConfig(cache_mb=1 << 20, calibration_images=2))
    result = []
    for arch in proposals:
        before = scorer.work.done, scorer.work.needed
        scorer.evaluate(arch)
        result.append((scorer.work.done - before[0], scorer.work.needed - before[1]))
    return result


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--images", type=int, help="images of the search split (2000; quick: 64)")
    arguments.add_argument("--trials", type=int, default=200, help="how many of the proposals (200)")
    arguments.add_argument("--threads", type=int, help="threads of torch")
    arguments.add_argument("--device", default="cpu", help="where to compute (cpu)")
    arguments.add_argument("--part", choices=("all", "replay"), default="all", help="replay: without races")
    options = arguments.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    size = 8 if options.quick else 32
    images = options.images or (64 if options.quick else 2000)
    calibration = min(CALIBRATION, max(2, images * CALIBRATION // 2000))
    space, proposals = load()
    proposals = proposals[: options.trials]

    torch.manual_seed(0)
    data = noise_bundle(search=images, calibration=calibration, size=size)
    supernet = Supernet(space, in_channels=3, image_size=size, num_classes=10)
    # The limit holds for 2,000 images: fewer get their share of it, so that as much is forgotten and computed again.
    tokens = images * (16 if options.quick else 64) / (2000 * 64)
    cache_mb = ScoringConfig().cache_mb
    settings = {"calibration_images": calibration, "batch_size": 256}
    ideal = work_without_forgetting(supernet, proposals, size)
    plain = Scorer(supernet, data, ScoringConfig(cache_mb=0, **settings), device=options.device)
    cached = Scorer(supernet, data, ScoringConfig(cache_mb=cache_mb, **settings), device=options.device)
    cached.cache.limit = int(cached.cache.limit * min(1.0, tokens))

    report = Report("scoring", quick=options.quick)
    print(
        f"{len(proposals)} trials of {FILE.name}, {images} images of {size}x{size}, {calibration} for calibration, "
        f"{torch.get_num_threads()} threads, cache {cached.cache.limit / 2**20:.1f} MiB"
    )
    rows = []
    equal = True
    for number, arch in enumerate(proposals):
        with nothing_fast():
            base, expected = timed(plain, arch)
        with float64_sums():
            sums64, also = timed(plain, arch)
        off, without = timed(plain, arch)
        before = cached.work.done, cached.work.needed
        on, result = timed(cached, arch)
        done, needed = cached.work.done - before[0], cached.work.needed - before[1]
        equal &= result == without == also == expected
        assert equal, f"trial {number}: other scores with the cache"
        assert cached.cache.nbytes <= cached.cache.limit
        rows.append({"base": base, "sums": sums64, "off": off, "on": on, "done": done, "needed": needed})
        if number % 20 == 19:
            print(f"  trial {number + 1}: {base:.2f} s, {off:.2f} s without cache, {on:.2f} s with it", flush=True)

    for first in range(0, len(rows), HALF):
        part = rows[first : first + HALF]
        sums = {key: sum(row[key] for row in part) for key in part[0]}
        name = f"trials {first + 1}-{first + len(part)}"
        ratio, bound = sums["base"] / sums["on"], sums["needed"] / sums["done"]
        late = first >= HALF
        report.claim(
            f"{name}: times faster than the scorer without reuse (total time)",
            round(ratio, 2),
            *(("at least 4", ratio >= 4) if late else ()),
        )
        report.claim(f"{name}: reuse bound", round(bound, 2))
        possible = [sum(column) for column in zip(*ideal[first : first + HALF], strict=True)]
        report.claim(f"{name}: reuse bound of a cache that never forgets", round(possible[1] / possible[0], 2))
        share = ratio / bound
        report.claim(
            f"{name}: that ratio over the reuse bound",
            round(share, 2),
            *(("at least 0.8", share >= 0.8) if late else ()),
        )
        report.claim(f"{name}: times faster with the cache than without it", round(sums["off"] / sums["on"], 2))
        report.claim(f"{name}: times faster by compiled neurons alone", round(sums["base"] / sums["sums"], 2))
        report.claim(f"{name}: times faster by cheaper activity sums alone", round(sums["sums"] / sums["off"], 2))
        report.claim(f"{name}: median seconds per trial, base", round(statistics.median(r["base"] for r in part), 3))
    report.claim("scores equal in all trials, accuracy and every line of the energy report", equal, "true", equal)
    races = None
    if options.part == "all":
        races = replay_races(report, space, proposals, timed, nothing_fast, device=options.device, quick=options.quick)
    report.details = {
        "images": images,
        "image_size": size,
        "calibration_images": calibration,
        "threads": torch.get_num_threads(),
        "cache_bytes_limit": cached.cache.limit,
        "cache_bytes": cached.cache.nbytes,
        "proposals_versions": json.loads(FILE.read_text(encoding="utf-8"))["versions"],
        "trials": rows,
        "racing": races,
    }
    report.write(options.json)


if __name__ == "__main__":
    main()
