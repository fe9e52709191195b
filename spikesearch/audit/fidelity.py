"""Fidelity of a supernet: how well scores with inherited weights rank networks that are trained alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikesearch.audit.candidates import Candidate, NetworkList, digest, fixed_neurons, read_kept
from spikesearch.audit.rank_statistics import (
    CONFIDENCE,
    MIN_MEMBERS,
    RESAMPLES,
    Comparison,
    Estimate,
    Retest,
    compare,
    quantile_bins,
    retest,
)
from spikesearch.energy import energy_model
from spikesearch.errors import MissingDependencyError, StudyError, TrainingError
from spikesearch.io import atomic_write_bytes, atomic_write_json
from spikesearch.scoring import Score
from spikesearch.scoring.calibration import calibration_images
from spikesearch.scoring.network import calibrate_network, score_network
from spikesearch.study import prepare, provenance
from spikesearch.study.store import expect_study
from spikesearch.train.checkpoint import CheckpointFolder
from spikesearch.train.network import applicable_recipe, fresh_network, train_network

if TYPE_CHECKING:
    from torch import Tensor

    from spikesearch.config import ScoringConfig, TrainConfig
    from spikesearch.space import Architecture
    from spikesearch.study.trained import Trained

_log = logging.getLogger(__name__)

FOLDER = "fidelity"
TWICE = 10  # networks that are trained with a second seed
ENERGY_BINS = 3


@dataclass(frozen=True)
class Network:
    """An architecture with inherited weights, and trained alone.

    Args:
        arch: The architecture.
        inherited: Its score with inherited weights.
        alone: Its score trained alone with the first seed and, if that was done, the second; ``None`` if that diverged.
        fixed_neurons: Whether all its neuron genes are those of the reference.
    """

    arch: Architecture
    inherited: Score
    alone: tuple[Score | None, ...]
    fixed_neurons: bool

    @property
    def dead(self) -> bool:
        """Whether it is dead with inherited weights or trained alone with the first seed."""
        return self.inherited.dead or _dead(self.alone[0])

    @property
    def twice(self) -> bool:
        """Whether it lives and has been trained with a second seed, which it survived."""
        return not self.dead and len(self.alone) > 1 and not _dead(self.alone[1])

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "key": self.arch.key,
            "architecture": self.arch.to_dict(),
            "fixed_neurons": self.fixed_neurons,
            "dead": self.dead,
            "inherited": self.inherited.to_dict(),
            "alone": [None if score is None else score.to_dict() for score in self.alone],
        }


@dataclass(frozen=True)
class Fidelity:
    """What was found; everything on the search split.

    Args:
        study: Name of the study.
        folder: Holds ``report.json``, ``scatter.png`` where matplotlib is installed, and the kept trainings.
        facts: What the numbers depend on, in plain JSON types.
        convention: Energy convention of every energy.
        networks: In the order in which they were drawn.
    """

    study: str
    folder: Path
    facts: dict[str, Any]
    convention: str
    networks: tuple[Network, ...]

    @cached_property
    def live(self) -> tuple[Network, ...]:
        """The networks that are not dead; only these are ranked."""
        return tuple(network for network in self.networks if not network.dead)

    @property
    def dead(self) -> dict[str, int]:
        """Number of networks that are dead with ``inherited`` weights, trained ``alone``, or in ``either`` way."""
        return {
            "inherited": sum(network.inherited.dead for network in self.networks),
            "alone": sum(_dead(network.alone[0]) for network in self.networks),
            "either": len(self.networks) - len(self.live),
        }

    @cached_property
    def groups(self) -> dict[str, Comparison]:
        """Agreement of rankings with the accuracies of the first seed's trainings, among groups of live networks.

        ``all``; ``top_half``, those at or above the median accuracy; ``energy_bins``, where only pairs of one of three
        bins count; ``fixed_neurons``; and ``two_seeds``, where the accuracies of the second seed are one more ranking.
        """
        live = self.live
        truth = np.array([_accuracy(network.alone[0]) for network in live])
        energies = np.array([network.inherited.energy_uJ for network in live])
        median = np.median(truth) if live else 0.0
        return {
            "all": _compare(live),
            "top_half": _compare([each for each, value in zip(live, truth, strict=True) if value >= median]),
            "energy_bins": _compare(live, bins=quantile_bins(energies, ENERGY_BINS)),
            "fixed_neurons": _compare([network for network in live if network.fixed_neurons]),
            "two_seeds": _compare([network for network in live if network.twice], second=True),
        }

    @property
    def tau(self) -> float | None:
        """Kendall's tau-b of inherited against stand-alone accuracy over all live networks."""
        return self.groups["all"].rankings["inherited"].tau.value

    @cached_property
    def retest(self) -> Retest:
        """Agreement with the accuracies of either seed, and of these with each other, where there are two."""
        twice = [network for network in self.live if network.twice]
        return retest(
            np.array([network.inherited.accuracy for network in twice]),
            *(np.array([_accuracy(network.alone[seed]) for network in twice]) for seed in (0, 1)),
        )

    @property
    def ceiling(self) -> float | None:
        """Kendall's tau-b of one seed's trainings with another's: what one more training tells, and no bound.

        See :class:`~spikesearch.audit.rank_statistics.Retest`.
        """
        return self.retest.ceiling.value

    @property
    def share_of_ceiling(self) -> Estimate:
        """Kendall's tau-b of inherited accuracy over ``ceiling``, both among the networks with two seeds."""
        return self.retest.share

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "study": self.study,
            **self.facts,
            "split": "search",
            "energy_convention": self.convention,
            "n": len(self.networks),
            "live": len(self.live),
            "dead": self.dead,
            "tau": self.tau,
            "ceiling": self.ceiling,
            "tau_two_seeds": asdict(self.retest.tau),
            "share_of_ceiling": asdict(self.share_of_ceiling),
            "confidence": CONFIDENCE,
            "resamples": RESAMPLES,
            "groups": {name: asdict(group) for name, group in self.groups.items()},
            "networks": [network.to_dict() for network in self.networks],
        }


def measure_fidelity(trained: Trained, *, n: int = 30, epochs: int | None = None, progress: bool = True) -> Fidelity:
    """Train architectures alone and compare what they reach with their scores with inherited weights.

    Draws ``n`` architectures (:class:`~spikesearch.audit.candidates.NetworkList`) and trains each from scratch
    with the study's recipe, ten of them with a second seed. Every training is kept in ``fidelity/`` of the study's
    folder: a call that was stopped goes on, and one with a larger ``n`` trains what is missing. The test split is not
    looked at.

    Args:
        trained: The study.
        n: Number of architectures, at least 4.
        epochs: Of the stand-alone trainings, instead of the recipe's.
        progress: Whether to show progress on stderr.

    Raises:
        StudyError: If ``n`` is below 4 or larger than the search space, or ``epochs`` is below 1.
        CheckpointError: If what an earlier call left is corrupt.
        StorageError: If the study's folder cannot be written.
    """
    _check_arguments(n, epochs)
    config = trained.config.train if epochs is None else trained.config.train.model_copy(update={"epochs": epochs})
    folder = trained.folder / FOLDER
    prepare.check_folder(folder)
    with expect_study(trained.store, trained.study.study_name), _locked(trained):
        alone = _Alone(trained, config, folder, n + min(TWICE, n), progress)
        candidates = _candidates(trained, folder, n)
        networks = alone.train_all(candidates)
        facts = {
            "supernet_hash": trained.study.user_attrs[provenance.SUPERNET_HASH],
            "data_fingerprint": trained.data.fingerprint,
            "epochs": config.epochs,
            "recipe": dict(applicable_recipe(config)),
            "seeds": alone.seeds,
        }
        name = trained.study.study_name
        done = Fidelity(name, folder, facts, trained.config.scoring.convention, tuple(networks))
        _report(done)
    return done


class _Alone:
    """Trains architectures alone, each once.

    Args:
        trained: The study.
        config: The recipe.
        folder: Where trainings are kept.
        total: Number of trainings to come, at most; shown beside the progress bar.
        progress: Whether to show one.
    """

    def __init__(self, trained: Trained, config: TrainConfig, folder: Path, total: int, progress: bool) -> None:
        self.trained = trained
        self.config = config
        self.folder = folder
        self.total = total
        self.progress = progress
        self.count = 0
        # Not the study's own seed: with it the images would come in the order in which the supernet saw them.
        self.seeds = [trained.config.seed + 1, trained.config.seed + 2]
        self.key = digest(
            {
                "recipe": applicable_recipe(config),
                "model": trained.config.model.model_dump(mode="json"),
                "data": trained.data.fingerprint,
                "scoring": _scoring_facts(trained.config.scoring),  # alone, networks are scored in full precision
            }
        )

    @cached_property
    def calibration(self) -> Tensor:
        return calibration_images(self.trained.data, self.trained.config.scoring).to(self.trained.scorer.device)

    def train_all(self, candidates: list[Candidate]) -> list[Network]:
        """Train every candidate with the first seed, and the first ten that live with the second."""
        fixed = fixed_neurons(self.trained.config.space.search_space())
        first, second = self.seeds
        networks = [
            Network(each.arch, each.score, (self.score(each.arch, first),), each.arch in fixed) for each in candidates
        ]
        chosen = [network.arch for network in networks if not network.dead][:TWICE]
        return [
            replace(network, alone=(*network.alone, self.score(network.arch, second)))
            if network.arch in chosen
            else network
            for network in networks
        ]

    def score(self, arch: Architecture, seed: int) -> Score | None:
        """Return the score on the search split; train the network if that has not been done."""
        self.count += 1
        path = self.folder / f"alone-{arch.key}-{seed}-{self.key}.json"
        kept = read_kept(path, _score_of)
        if kept is None:
            score = self._train(arch, seed, path.with_suffix(".checkpoints"))
            facts = {
                "architecture": arch.to_dict(),
                "seed": seed,
                "recipe": dict(applicable_recipe(self.config)),
                "score": None if score is None else score.to_dict(),
            }
            atomic_write_json(path, facts)
            kept = (score,)
        CheckpointFolder(path.with_suffix(".checkpoints")).delete()  # also what a kill after the line above left
        return kept[0]

    def _train(self, arch: Architecture, seed: int, checkpoints: Path) -> Score | None:
        trained = self.trained
        try:
            done = train_network(
                fresh_network(trained.scorer.supernet.extract(arch), seed),
                trained.data,
                self.config,
                seed=seed,
                folder=checkpoints,
                title=f"Training {self.count} of {self.total}",
                energy_model=energy_model(trained.config.scoring),
                device=trained.scorer.device,
                progress=self.progress,
            )
        except TrainingError as error:
            _log.warning("Architecture %s counts as dead: %s", arch.key, error)
            return None
        calibrate_network(done.net, self.calibration)
        score = score_network(done.net, trained.data, trained.config.scoring, "search")
        _log.info("Training %d of %d: accuracy %.4f", self.count, self.total, score.accuracy)
        return score


def _check_arguments(n: int, epochs: int | None) -> None:
    if n < MIN_MEMBERS:
        raise StudyError(f"`n` must be at least {MIN_MEMBERS}, but got {n}.")
    if epochs is not None and epochs < 1:
        raise StudyError(f"`epochs` must be at least 1, but got {epochs}.")


def _candidates(trained: Trained, folder: Path, n: int) -> list[Candidate]:
    config = trained.config
    facts = {
        "space": config.space.search_space().to_dict(),
        "seed": config.seed,
        "supernet": trained.study.user_attrs[provenance.SUPERNET_HASH],
        "data": trained.data.fingerprint,
        "scoring": _scoring_facts(config.scoring),
    }
    if config.scoring.precision != "float32":
        facts["precision"] = config.scoring.precision  # left out where lists of before know none
    path = folder / f"networks-{digest(facts)}.json"
    return NetworkList(config.space.search_space(), config.seed, trained.scorer.score, path).first(n)


def _scoring_facts(scoring: ScoringConfig) -> dict[str, Any]:
    return scoring.model_dump(mode="json", exclude={"cache_mb", "precision", "racing"})


def _score_of(data: Mapping[str, Any]) -> tuple[Score | None]:
    # in a tuple, because None alone would say that there is no file
    return (None if data["score"] is None else Score(**data["score"]),)


def _compare(networks: Any, *, bins: np.ndarray | None = None, second: bool = False) -> Comparison:
    rankings = {
        "inherited": np.array([network.inherited.accuracy for network in networks]),
        "energy": np.array([network.inherited.energy_uJ for network in networks]),
        "params": np.array([network.inherited.params for network in networks]),
    }
    if second:
        rankings["second_seed"] = np.array([_accuracy(network.alone[1]) for network in networks])
    return compare(rankings, np.array([_accuracy(network.alone[0]) for network in networks]), bins=bins)


def _accuracy(score: Score | None) -> float:
    return float("nan") if score is None else score.accuracy


def _dead(score: Score | None) -> bool:
    return score is None or score.dead


def _locked(trained: Trained) -> AbstractContextManager[Any]:
    name = trained.study.study_name
    lock = trained.store.lock(name, f"retrain-{FOLDER}")  # such locks keep the study from being deleted
    if lock is None:
        return nullcontext()
    return lock.wait(lambda: _log.warning("Waiting: another process measures the fidelity of study %r.", name))


def _report(done: Fidelity) -> None:
    from spikesearch.audit.fidelity_figure import fidelity_figure

    atomic_write_json(done.folder / "report.json", done.to_dict())
    try:
        atomic_write_bytes(done.folder / "scatter.png", fidelity_figure(done))
    except MissingDependencyError as error:
        _log.warning("No scatter plot. %s", error)
