"""The replay of benchmarks/scoring.py with races: where accuracies decide what is computed, they have to be real ones.

Scored are scikit-learn's 8x8 digits, half of them as search split, by a supernet of the list's space that was
trained on the others, a random subnet per step: the data and the space of the search that made the list, so that its
later proposals are as close to the front as they are in a search. Races are run as in a study: against the front of
what was scored before, the first trial in full, and no more trials stopped than scored.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from parts.harness import Report
from tables.scoring_proposals import STUDY

from spikesearch import Architecture, EnergyReport, SearchSpace, Supernet
from spikesearch.config import ScoringConfig, TrainConfig
from spikesearch.data import load_data
from spikesearch.data.kinds.digits import DigitsData
from spikesearch.fitness import dead_below
from spikesearch.racing import Dominated, Race, Rival, enter
from spikesearch.scoring import Scorer
from spikesearch.train import train_supernet

BATCH = 64
HALF = 100
TOLERANCE_ACCURACY, TOLERANCE_ENERGY = 0.001, 0.001  # or one image

Timed = Callable[..., tuple[float, tuple[float, EnergyReport]]]


def computes_bfloat16(device: str) -> bool:
    """Tell whether the processor has instructions for bfloat16; it can compute with it, slowly, in any case."""
    if device != "cpu":
        return True
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def replay_races(
    report: Report,
    space: SearchSpace,
    proposals: Sequence[Architecture],
    timed: Timed,
    as_base: Callable[[], AbstractContextManager[None]],
    *,
    device: str,
    quick: bool,
) -> dict[str, Any]:
    """Replay the list without reuse, with the cache, and with the cache and races; report times and fronts.

    Args:
        report: Gets the claims.
        space: The space of the list.
        proposals: The list.
        timed: Scores an architecture and returns seconds and result.
        as_base: Inside a ``with`` block scoring is done as in the base of the ratios.
        device: Where to compute.
        quick: Fewer images, trials and epochs.
    """
    proposals = proposals[:30] if quick else proposals
    splits = {"train": 0.45, "search": 0.2 if quick else 0.5, "test": 0.05}
    data = load_data(DigitsData(kind="digits", splits=splits), seed=0)
    supernet = trained(space, data, epochs=2 if quick else 10, device=device)
    reduced = "bfloat16" if computes_bfloat16(device) else "float32"
    settings: dict[str, Any] = {"batch_size": BATCH, "calibration_images": STUDY["scoring"]["calibration_images"]}
    base = Scorer(supernet, data, ScoringConfig(cache_mb=0, **settings), device=device)
    cached = Scorer(supernet, data, ScoringConfig(**settings), device=device)
    raced = Scorer(supernet, data, ScoringConfig(precision=reduced, **settings), device=device)
    images = len(data.search)
    for scorer in (cached, raced):  # as much is forgotten as of 2,000 larger images
        scorer.cache.limit = scorer.cache.limit * images * 16 // (2000 * 64)
    print(f"races: {images} digits of 8x8 in batches of {BATCH}, {reduced}, cache {raced.cache.limit / 2**20:.1f} MiB")

    lowest = dead_below(data.num_classes)
    full: list[Rival] = []
    front: list[Rival] = []
    rows = []
    stopped = 0
    for number, arch in enumerate(proposals):
        with as_base():
            slow, (accuracy, energy) = timed(base, arch)
        if accuracy >= lowest:
            full = enter(full, Rival(number, accuracy, energy.total_uJ))
        reused, result = timed(cached, arch)
        assert result == (accuracy, energy)
        race = Race(front if stopped < number - stopped else (), images, BATCH)
        lost: list[Dominated] = []
        fast, score = timed(Raced(raced, race, lost), arch)
        if lost:
            stopped += 1
        elif score[0] >= lowest:
            front = enter(front, Rival(number, score[0], score[1].total_uJ))
        seen = lost[0].images_seen if lost else images
        rows.append(
            {
                "base": slow,
                "cached": reused,
                "raced": fast,
                "images_seen": seen,
                "stopped": bool(lost),
                "accuracy": accuracy,
                "energy_uJ": energy.total_uJ,
            }
        )
        if number % 20 == 19:
            print(f"  trial {number + 1}: {slow:.2f} s, {reused:.2f} s cached, {fast:.2f} s raced", flush=True)

    what = "bf16 and racing" if reduced == "bfloat16" else "racing alone (this processor has no bf16)"
    for first in range(0, len(rows), HALF):
        part = rows[first : first + HALF]
        sums = {key: sum(row[key] for row in part) for key in ("base", "cached", "raced", "images_seen", "stopped")}
        name = f"races, trials {first + 1}-{first + len(part)}"
        ratio = sums["base"] / sums["raced"]
        report.claim(
            f"{name}: times faster with reuse and {what}",
            round(ratio, 2),
            *(("at least 8", ratio >= 8) if first >= HALF else ()),
        )
        report.claim(f"{name}: times faster with reuse alone", round(sums["base"] / sums["cached"], 2))
        report.claim(f"{name}: trials stopped", sums["stopped"])
        report.claim(
            f"{name}: bound by racing alone (all images over images seen)",
            round(len(part) * images / sums["images_seen"], 2),
        )
    reached = [one for one in full if any(_reaches(other, one, images) for other in front)]
    report.claim(
        "races: points of the full Pareto front that the raced one reaches up to the tolerance",
        f"{len(reached)} of {len(full)}",
        "all",
        len(reached) == len(full),
    )
    return {"images": images, "precision": reduced, "batch_size": BATCH, "trials": rows}


class Raced:
    """A scorer whose scores may end early; what ended them is added to a list."""

    def __init__(self, scorer: Scorer, race: Race, lost: list[Dominated]) -> None:
        self._scorer, self._race, self._lost = scorer, race, lost
        self.device = scorer.device

    def evaluate(self, arch: Architecture) -> Any:
        try:
            return self._scorer.evaluate(arch, race=self._race)
        except Dominated as end:
            self._lost.append(end)


def trained(space: SearchSpace, data: Any, *, epochs: int, device: str) -> Supernet:
    """Return a supernet after some epochs."""
    recipe = TrainConfig(epochs=epochs, batch_size=64, lr=3e-3, strategy="uniform")
    torch.manual_seed(0)
    fresh = Supernet(space, in_channels=1, image_size=8, num_classes=10, pool_stages=(3,))
    with tempfile.TemporaryDirectory() as folder:
        return train_supernet(fresh, data, recipe, seed=0, run_dir=Path(folder), device=device, progress=False)


def _reaches(one: Rival, other: Rival, images: int) -> bool:
    accurate = one.accuracy >= other.accuracy - max(TOLERANCE_ACCURACY, 1 / images) - 1e-12
    return accurate and one.energy_uJ <= other.energy_uJ * (1 + TOLERANCE_ENERGY)
