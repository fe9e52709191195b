"""Scores of subnets with inherited weights: accuracy up, energy down, no training."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from spikesearch.energy import EnergyReport, energy_model
from spikesearch.energy.activity import Activity
from spikesearch.energy.measure import measure_activity
from spikesearch.fitness import dead_below
from spikesearch.nn import ChannelStats, Segment, Spikformer, Supernet
from spikesearch.nn.units import HEAD, HEAD_NEURONS
from spikesearch.racing import Race, Rival
from spikesearch.scoring.cache import Node, PrefixCache
from spikesearch.scoring.calibration import calibration_images
from spikesearch.scoring.packing import Packed, pack, unpack_sum
from spikesearch.space import Architecture
from spikesearch.space.residual import RESIDUALS

if TYPE_CHECKING:
    from spikesearch.config import ScoringConfig
    from spikesearch.data import DataBundle, Split

SplitName = Literal["search", "test"]
_KEEP_BYTES = 1 << 30  # splits up to this size are kept in memory instead of being read for every trial


@dataclass(frozen=True)
class Score:
    """What a trial is judged by.

    Args:
        accuracy: On the split, as a fraction.
        energy_uJ: Per sample in microjoules, under the convention of the scorer.
        params: Learnable values of the extracted network.
        macs: Multiply-accumulates per sample.
        acs: Accumulates per sample.
        mean_firing_rate: Spikes per neuron and time step.
        n_images: Size of the split.
        dead: Whether the accuracy is hardly better than guessing (:func:`~spikesearch.fitness.dead_below`).
    """

    accuracy: float
    energy_uJ: float  # noqa: N815 - the unit
    params: int
    macs: float
    acs: float
    mean_firing_rate: float
    n_images: int
    dead: bool

    @classmethod
    def of(cls, accuracy: float, report: EnergyReport, *, params: int, data: DataBundle) -> Score:
        """Return the score that an accuracy and an energy report make."""
        return cls(
            accuracy=accuracy,
            energy_uJ=report.total_uJ,
            params=params,
            macs=report.macs,
            acs=report.acs,
            mean_firing_rate=report.mean_firing_rate,
            n_images=report.n_images,
            dead=accuracy < dead_below(data.num_classes, data.majority_share),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


@dataclass
class Work:
    """Multiplications on the images that were scored, dense and head excluded, over all scores of a scorer.

    Args:
        done: Computed.
        needed: Of a scorer that computes every stage of every architecture.
    """

    done: float = 0.0
    needed: float = 0.0


class Scorer:
    """Scores architectures of one supernet on one data set.

    A score depends on the architecture alone: batch-norm statistics are calibrated on a fixed list of un-augmented
    training images, neurons start at rest, and the network runs in evaluation mode. Another batch size may move an
    accuracy by floating-point ties only.

    What an architecture has in common with earlier ones, its first stages, is kept in memory and not computed again;
    the score is the same bit for bit. ``work`` tells how much that saved.

    Args:
        supernet: Trained; moved to ``device``.
        data: Calibration images come from its training split.
        config: Batch size, number of calibration images, energy convention and constants, memory of the cache.
        device: Where to compute.
    """

    def __init__(
        self, supernet: Supernet, data: DataBundle, config: ScoringConfig, *, device: str | torch.device = "cpu"
    ) -> None:
        self.device = torch.device(device)
        self.supernet = supernet.to(self.device).eval()
        self.data = data
        self.config = config
        self.energy_model = energy_model(config)
        self._calibration = calibration_images(data, config).to(self.device)
        self._kept: dict[str, Tensor] = {}
        self.cache = PrefixCache(config.cache_mb << 20)
        self.work = Work()

    def score(self, arch: Architecture, split: SplitName = "search") -> Score:
        """Score an architecture with inherited weights.

        Args:
            arch: An architecture of the supernet's space.
            split: ``search`` for trials; ``test`` for the final report only.

        Raises:
            SpaceError: If ``arch`` is not in the space.
        """
        return self._as_score(arch, *self.evaluate(arch, split))

    def race(self, arch: Architecture, rivals: Sequence[Rival]) -> Score:
        """Score an architecture as for a trial, unless it turns out early that a rival dominates it.

        What has been computed of an architecture that is stopped is not kept: nobody is offspring of it.

        Args:
            arch: An architecture of the supernet's space.
            rivals: The Pareto front that it would have to reach.

        Raises:
            Dominated: If it cannot, with 99 % confidence; see :mod:`spikesearch.racing`.
            SpaceError: If ``arch`` is not in the space.
        """
        race = Race(rivals, len(self.data.search), self.config.batch_size)
        return self._as_score(arch, *self.evaluate(arch, race=race))

    def _as_score(self, arch: Architecture, accuracy: float, report: EnergyReport) -> Score:
        params = self.count_parameters(arch)
        return Score.of(accuracy, report, params=params, data=self.data)

    @torch.no_grad()
    def evaluate(
        self, arch: Architecture, split: SplitName = "search", *, race: Race | None = None, detailed: bool = False
    ) -> tuple[float, EnergyReport]:
        """Return accuracy (fraction) and energy report of an architecture with inherited weights.

        Args:
            arch: An architecture of the supernet's space.
            split: Which images.
            race: Looks on after every batch.
            detailed: Whether the report compares in NeuroBench's terms, too; earlier scores do not help with that.

        Raises:
            Dominated: By the race.
            SpaceError: If ``arch`` is not in the space.
        """
        stages = self.supernet.segments(arch)
        reduced = split == "search" and self.config.precision == "bfloat16"
        if split == "search" and self.cache.limit and not detailed:
            path = self.cache.find([stage.genes for stage in stages])
            run = _Run(arch, stages, path, keep=True, reduced=reduced)
        else:  # the test split is scored once, and details are not kept: nothing to share
            run = _Run(arch, stages, reduced=reduced)
        self._calibrate(run)
        images: Split = getattr(self.data, split)
        correct = 0
        energies: list[float] = []
        new = Activity()
        with self.supernet.subnet(arch, run.stats), measure_activity(self.supernet, detailed=detailed) as recorded:
            recorded.static = self.data.frames is None
            for number, start in enumerate(range(0, len(images), self.config.batch_size)):
                positions = range(start, min(start + self.config.batch_size, len(images)))
                logits = self._logits(run, number, split, positions)
                labels = images.labels[start : positions.stop].to(self.device)
                correct += int((logits.argmax(-1) == labels).sum())
                batch = recorded.take()
                batch.n_images, batch.time_steps = len(positions), arch.time_steps
                new.add_samples(batch)
                energies.append(self._price_batch(run, number, batch))
                if race is not None:
                    race.look(correct, energies)
        whole = Activity()
        for part in (*(node.activity for node in run.path), new):
            whole.add_part(part)
        if run.keep:
            nodes = list(run.nodes(new))
            self.cache.add(run.genes[: len(run.path) + len(nodes)], nodes)
        self._count_work(run, whole)
        return correct / len(images), self.energy_model.price(whole)

    def calibrate(self, arch: Architecture) -> dict[str, ChannelStats]:
        """Return the batch-norm statistics that :meth:`score` uses (for trials only if their precision is full)."""
        stages = self.supernet.segments(arch)
        shared = self.config.precision == "float32"
        run = _Run(arch, stages, self.cache.find([stage.genes for stage in stages]) if shared else ())
        self._calibrate(run)
        return run.stats

    def extract(self, arch: Architecture) -> Spikformer:
        """Return the plain network that :meth:`score` judges (a trial in full precision), in evaluation mode."""
        return self.supernet.extract(arch, self.calibrate(arch))

    def count_parameters(self, arch: Architecture) -> int:
        """Return the learnable values of the extracted network, without building it."""
        return self.supernet.count_parameters(arch)

    @torch.no_grad()
    def _calibrate(self, run: _Run) -> None:
        """Complete the statistics of a run, and keep what its unknown stages do on the calibration images."""
        for node in run.path:
            run.stats.update(node.stats)
        normed = RESIDUALS[self.supernet.residual].normed  # then the neurons in front of the head have statistics
        if not run.unknown and not normed:
            return
        x = unpack_sum([node.calibration for node in run.state], self.device) if run.path else self._calibration
        with self.supernet.calibrating(run.arch) as stats:
            with run.precision(self.device):
                for position, stage in enumerate(run.unknown):
                    x, out = stage.advance(x)
                    if position < len(run.batches):
                        run.calibration.append(pack(out))
                        self._make_room(run)
            if normed:
                self.supernet.features(x, run.arch)
        run.stats.update(stats)

    def _logits(self, run: _Run, number: int, split: SplitName, positions: range) -> Tensor:
        """Classify a batch, and keep what the unknown stages do on it."""
        if run.path:
            x = unpack_sum([node.batches[number] for node in run.state], self.device)
        else:
            x = self._images(split, positions)
        with run.precision(self.device):
            for position, stage in enumerate(run.unknown):
                x, out = stage.advance(x)
                if position < len(run.batches):
                    run.batches[position].append(pack(out))
                    self._make_room(run)
        return self.supernet.classify(x)

    def _make_room(self, run: _Run) -> None:
        """Let older outputs give way to those of a run, or forget its last stages where that is not enough."""
        while run.batches and not self.cache.make_room(run.nbytes, run.genes[: len(run.path)]):
            run.drop_last()

    def _price_batch(self, run: _Run, number: int, batch: Activity) -> float:
        """Return microjoules per sample of a batch, the same whether its first stages are known or not."""
        for stage, energies in zip(run.unknown, run.energies, strict=True):
            energies.append(self.energy_model.price_part(batch.part(stage.name)))
        known = (node.energies[number] for node in run.path)
        computed = (energies[-1] for energies in run.energies)
        return sum((*known, *computed, self.energy_model.price_part(batch.part(HEAD, HEAD_NEURONS))))

    def _count_work(self, run: _Run, whole: Activity) -> None:
        needed = [whole.part(stage.name).dense_ops for stage in run.stages]
        self.work.needed += sum(needed)
        self.work.done += sum(needed[len(run.path) :])

    def _images(self, split: str, positions: range) -> Tensor:
        if split not in self._kept:
            source: Split = getattr(self.data, split)
            batch = source.images(positions)
            if batch[0].nbytes * len(source) > _KEEP_BYTES:
                return batch.to(self.device)
            self._kept[split] = source.images(range(len(source))).to(self.device)
        return self._kept[split][positions.start : positions.stop]


@dataclass
class _Run:
    """One architecture on its way through the stages that are not known yet.

    Args:
        arch: The architecture.
        stages: All its stages.
        path: What is known of the first ones.
        keep: Whether the outputs of the others are packed, to be known to later architectures: of the first of them,
            as many as ``batches`` has entries.
        reduced: Whether stages are run in bfloat16.
    """

    arch: Architecture
    stages: Sequence[Segment]
    path: Sequence[Node] = ()
    keep: bool = False
    reduced: bool = False
    stats: dict[str, ChannelStats] = field(default_factory=dict)
    calibration: list[Packed] = field(default_factory=list)
    batches: list[list[Packed]] = field(init=False)
    energies: list[list[float]] = field(init=False)

    def __post_init__(self) -> None:
        self.energies = [[] for _ in self.unknown]
        self.batches = [[] for _ in self.unknown] if self.keep else []

    def precision(self, device: torch.device) -> torch.autocast:
        """Return the context in which stages are run."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.reduced)

    @property
    def genes(self) -> list[Hashable]:
        return [stage.genes for stage in self.stages]

    @property
    def state(self) -> Sequence[Node]:
        """What is known of the stages whose outputs are summed in the state behind the last known one."""
        first = max(i for i, stage in enumerate(self.stages[: len(self.path)]) if not stage.residual)
        return self.path[first:]

    @property
    def unknown(self) -> Sequence[Segment]:
        return self.stages[len(self.path) :]

    @property
    def nbytes(self) -> int:
        """Memory of the outputs that are packed."""
        batches = (batch for stage in self.batches for batch in stage)
        return sum(packed.nbytes for packed in (*self.calibration, *batches))

    def drop_last(self) -> None:
        """Forget the last stage whose outputs are packed."""
        self.batches.pop()
        del self.calibration[len(self.batches) :]

    def nodes(self, activity: Activity) -> Iterator[Node]:
        """Yield what has become known and was not dropped, in the order of the stages."""
        kept = zip(self.unknown, self.calibration, self.batches, self.energies, strict=False)
        for stage, calibration, batches, energies in kept:
            # Copies: the originals lie between large tensors that are free by now. Were these small ones to stay, the
            # heap would be in pieces, and the process grow by tens of MiB with every architecture.
            stats = {name: one.clone() for name, one in self.stats.items() if name.startswith(f"{stage.name}.")}
            yield Node(stats, activity.part(stage.name), calibration, tuple(batches), tuple(energies))
