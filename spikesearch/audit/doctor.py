"""What is wrong with a study, and what to do: layers, statistics, training, splits, mixers, borders of the space."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from spikesearch.audit.finding import Finding
from spikesearch.audit.mixers import hardly_trained, never_competitive
from spikesearch.fitness import dead_below
from spikesearch.nn.plan import Spec
from spikesearch.nn.units import network_neurons
from spikesearch.study.results import StudyResult, TrialResult
from spikesearch.study.session import Session

if TYPE_CHECKING:
    from spikesearch.data import DataBundle
    from spikesearch.energy.activity import Activity
    from spikesearch.nn import ChannelStats
    from spikesearch.scoring import Observation, Scorer
    from spikesearch.space import Architecture, BlockSpec, SearchSpace, StemSpec

DEAD_RATE = 1e-3
"""Spikes per neuron and time step below which a layer passes hardly anything on."""
SATURATED_RATE = 0.9
"""The same, above which its spikes hardly say anything."""
LARGEST_DRIFT = 0.15
"""How far the means of a batch-norm may lie apart on two splits (median over channels, standard deviations)."""
BORDER_SHARE = 0.75
"""Share of a front's genes at one end of the space from which on it seems too small."""
LEAST_GENES = 3
"""How many genes of a kind are needed to speak of a share."""


def diagnose(session: Session) -> list[Finding]:
    """Look for what most often spoils a study; nothing is changed, and the test split is read but not scored.

    Args:
        session: The study with its supernet.
    """
    result, scorer, space = session.results(), session.scorer(), session.space
    findings: list[Finding] = []
    for role, trial in _networks(result):
        findings += firing_rates(scorer, role, trial.architecture)
        findings += batch_norm_drift(scorer, role, trial.architecture)
    findings += size_order(scorer, space)
    findings += guesses(session.data, result)
    findings += split_overlap(session)
    findings += borders(space, result)
    findings += never_competitive(space, result.trials, len(session.data.search))
    findings += hardly_trained(scorer.supernet)
    return findings


def firing_rates(scorer: Scorer, role: str, arch: Architecture) -> Iterator[Finding]:
    """Find layers of a network whose neurons never fire on the search split, or nearly always do."""
    specs = network_neurons(arch, scorer.supernet.form)
    for layer, (rate, neurons) in _rates(_observe(scorer, arch).activity).items():
        where = f"{layer} of the {role} network ({describe_neurons(specs[neurons])})"
        measured = f"{rate:.4f} spikes per neuron and time step"
        if rate < DEAD_RATE:
            yield Finding(
                "dead layer",
                where,
                measured,
                "Nothing gets through it. Leave the largest choices out of space.v_thresholds and space.taus, or train "
                "longer (train.epochs); both need another study.",
            )
        elif rate > SATURATED_RATE:
            yield Finding(
                "saturated layer",
                where,
                measured,
                "Its spikes cost energy and say nothing. Lower train.lr, raise train.weight_decay, or leave the "
                "smallest choices out of space.v_thresholds; all need another study.",
            )


def batch_norm_drift(scorer: Scorer, role: str, arch: Architecture) -> Iterator[Finding]:
    """Compare a network's calibrated batch-norm statistics with those on the search split."""
    data, count = scorer.data, 2 * scorer.config.calibration_images
    images = data.search.images(range(min(len(data.search), max(count, scorer.config.batch_size))))
    ours, theirs = scorer.calibrate(arch), scorer.supernet.calibrate(arch, images.to(scorer.device))
    drift = {}
    for layer, stats in ours.items():
        spread = ((stats.var + theirs[layer].var) / 2 + 1e-5).sqrt()
        drift[layer] = float(((stats.mean - theirs[layer].mean).abs() / spread).median())
    layer = max(drift, key=lambda name: drift[name])
    if drift[layer] <= LARGEST_DRIFT:
        return
    with_ours, with_theirs = (_observe(scorer, arch, stats).accuracy for stats in (ours, theirs))
    yield Finding(
        "batch-norm drift",
        f"{layer} of the {role} network",
        f"means on calibration images and on the search split are {drift[layer]:.2f} standard deviations apart; "
        f"accuracy {with_ours:.2%} with the first, {with_theirs:.2%} with the second",
        f"Raise scoring.calibration_images ({scorer.config.calibration_images}, of {len(data.train)} training images). "
        "If that does not help, the splits differ in kind: look at how data were divided. Both need another study.",
    )


def size_order(scorer: Scorer, space: SearchSpace) -> Iterator[Finding]:
    """Find out whether the smallest architecture beats the largest, by more than chance."""
    if space.largest == space.smallest:
        return
    large, small = (_observe(scorer, arch) for arch in (space.largest, space.smallest))
    only_small, only_large = int((small.right & ~large.right).sum()), int((large.right & ~small.right).sum())
    # one standard error of the difference of two paired counts (McNemar)
    if only_small - only_large <= (only_small + only_large) ** 0.5:
        return
    yield Finding(
        "largest below smallest",
        "supernet",
        f"accuracy on the search split: largest {large.accuracy:.2%}, smallest {small.accuracy:.2%}",
        "The supernet is not trained well: its scores do not rank architectures. Train longer (train.epochs), with "
        "train.strategy sandwich, or with a lower train.lr; all need another study.",
    )


def guesses(data: DataBundle, result: StudyResult) -> Iterator[Finding]:
    """Find networks that are hardly better than answering the most frequent class always."""
    least = dead_below(data.num_classes, data.majority_share)
    for role, trial in _networks(result):
        if trial.accuracy < least:
            yield Finding(
                "no better than a guess",
                f"the {role} network",
                f"accuracy {trial.accuracy:.2%} on the search split, where always answering the most frequent class "
                f"scores {data.majority_share:.2%}",
                "It has learnt next to nothing. Train longer (train.epochs), or give rare classes more samples; both "
                "need another study.",
            )


def split_overlap(session: Session) -> Iterator[Finding]:
    """Find samples that are in two splits."""
    from spikesearch.data.check import split_overlaps

    for sentence in split_overlaps(session.data):
        yield Finding(
            "split overlap",
            "data",
            sentence,
            "Remove the copies from the data (`spikesearch data check` counts them), then start another study.",
        )


def borders(space: SearchSpace, result: StudyResult) -> Iterator[Finding]:
    """Find genes of which the front takes an end of what the space offers."""
    archs = [trial.architecture for trial in result.front]
    specs: list[StemSpec | BlockSpec] = []
    for arch in archs:
        specs += [arch.stem, *arch.blocks]
    yield from _border("time_steps", space.time_steps, [arch.time_steps for arch in archs], least=1)
    yield from _border("taus", space.taus, [spec.tau for spec in specs], least=1)
    yield from _border("v_thresholds", space.v_thresholds, [spec.v_threshold for spec in specs], least=0)
    best = result.recommended
    if best is not None and _at_the_top_alone(best, space, archs):
        yield Finding(
            "border of the space",
            "space.time_steps",
            f"the recommended network takes the most time steps ({best.architecture.time_steps})",
            _WIDEN.format(side="larger", key="time_steps", hint=_FRAMES),
        )


_FRAMES = " (event data: at most data.frames)"
_WIDEN = "Better networks may lie beyond: add a {side} choice to space.{key}{hint}, in another study."


def _border(key: str, choices: Sequence[float], genes: Sequence[float], *, least: float) -> Iterator[Finding]:
    if len(set(choices)) < 2 or len(genes) < LEAST_GENES:
        return
    for side, extreme, end in (("larger", "largest", max(choices)), ("smaller", "smallest", min(choices))):
        share = sum(gene == end for gene in genes) / len(genes)
        if share < BORDER_SHARE or (side == "smaller" and end <= least):
            continue
        hint = _FRAMES if key == "time_steps" and side == "larger" else ""
        yield Finding(
            "border of the space",
            f"space.{key}",
            f"{share:.0%} of the front's {len(genes)} genes have the {extreme} choice, {end:g}",
            _WIDEN.format(side=side, key=key, hint=hint),
        )


def _at_the_top_alone(best: TrialResult, space: SearchSpace, archs: Sequence[Architecture]) -> bool:
    """Whether the recommended network takes the most time steps, and the front's share has not said so already."""
    most = max(space.time_steps)
    share = sum(arch.time_steps == most for arch in archs) / max(1, len(archs))
    said = len(archs) >= LEAST_GENES and share >= BORDER_SHARE
    return len(set(space.time_steps)) > 1 and best.architecture.time_steps == most and not said


def _networks(result: StudyResult) -> list[tuple[str, TrialResult]]:
    trials = {"recommended": result.recommended, "reference": result.reference}
    networks = [(role, trial) for role, trial in trials.items() if trial is not None]
    if len(networks) == 2 and networks[0][1].number == networks[1][1].number:
        return networks[:1]
    return networks


def _observe(scorer: Scorer, arch: Architecture, stats: dict[str, ChannelStats] | None = None) -> Observation:
    """Observe a subnet on the search split, by default with the statistics that it is scored with."""
    from spikesearch.scoring import observe

    split, size = scorer.data.search, scorer.config.batch_size
    with scorer.supernet.subnet(arch, scorer.calibrate(arch) if stats is None else stats):
        return observe(scorer.supernet, split, batch_size=size, device=scorer.device)


def _rates(activity: Activity) -> dict[str, tuple[float, str]]:
    """Firing rates and names of neurons by layer; queries, keys and values by themselves."""
    rates = {name.removesuffix(".lif"): (neurons.rate, name) for name, neurons in activity.neurons.items()}
    for name, ssa in activity.attention.items():
        attention = name.removesuffix(".product")
        _, neurons = rates.pop(f"{attention}.qkv")
        rates |= {f"{attention}.{part}": (getattr(ssa, part) / ssa.elements, neurons) for part in ("q", "k", "v")}
    return rates


def describe_neurons(spec: Spec | None) -> str:
    """Return the genes of a layer's neurons in a few words."""
    if spec is None:
        return "attention, threshold and tau are fixed"
    return f"v_threshold {spec.v_threshold:g}, tau {spec.tau:g}"
