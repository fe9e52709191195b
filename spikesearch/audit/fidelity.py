"""Fidelity of a supernet: how well scores with inherited weights rank networks that are trained alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikesearch.audit.candidates import Candidate, NetworkList, digest, fixed_neurons, read_kept
from spikesearch.audit.fidelity_figure import fidelity_figure
from spikesearch.audit.fidelity_result import Fidelity, Network
from spikesearch.audit.rank_statistics import MIN_MEMBERS
from spikesearch.energy import energy_model
from spikesearch.errors import MissingDependencyError, StudyError, TrainingError
from spikesearch.io import atomic_write_bytes, atomic_write_json
from spikesearch.scoring import Score
from spikesearch.scoring.calibration import calibration_images
from spikesearch.scoring.network import calibrate_network, score_network
from spikesearch.study.checks import check_folder
from spikesearch.train.checkpoint import CheckpointFolder
from spikesearch.train.network import applicable_recipe, fresh_network, train_network

if TYPE_CHECKING:
    from torch import Tensor

    from spikesearch.config import ScoringConfig, TrainConfig
    from spikesearch.space import Architecture
    from spikesearch.study.session import Session

_log = logging.getLogger(__name__)

FOLDER = "fidelity"
TWICE = 10  # networks that are trained with a second seed


def measure_fidelity(session: Session, *, n: int = 30, epochs: int | None = None, progress: bool = True) -> Fidelity:
    """Train architectures alone and compare what they reach with their scores with inherited weights.

    Draws ``n`` architectures (:class:`~spikesearch.audit.candidates.NetworkList`) and trains each from scratch
    with the study's recipe, ten of them with a second seed. Every training is kept in ``fidelity/`` of the study's
    folder: a call that was stopped goes on, and one with a larger ``n`` trains what is missing. The test split is not
    looked at.

    Args:
        session: The study.
        n: Number of architectures, at least 4.
        epochs: Of the stand-alone trainings, instead of the recipe's.
        progress: Whether to show progress on stderr.

    Raises:
        StudyError: If ``n`` is below 4 or larger than the search space, or ``epochs`` is below 1.
        CheckpointError: If what an earlier call left is corrupt.
        StorageError: If the study's folder cannot be written.
    """
    _check_arguments(n, epochs)
    config = session.config.train if epochs is None else session.config.train.model_copy(update={"epochs": epochs})
    folder = session.folder / FOLDER
    check_folder(folder)
    lock = session.lock(f"retrain-{FOLDER}")  # such locks keep the study from being deleted
    waiting = "Waiting: another process measures the fidelity of study %r."
    with session.expected(), lock.wait(lambda: _log.warning(waiting, session.name)):
        alone = _Alone(session, config, folder, n + min(TWICE, n), progress)
        networks = alone.train_all(_candidates(session, folder, n))
        facts = {
            "supernet_hash": session.supernet_hash,
            "data_fingerprint": session.data.fingerprint,
            "epochs": config.epochs,
            "recipe": dict(applicable_recipe(config)),
            "seeds": alone.seeds,
        }
        fidelity = Fidelity(session.name, folder, facts, session.config.scoring.convention, tuple(networks))
        _write_report(fidelity)
    return fidelity


class _Alone:
    """Trains architectures alone, each once.

    Args:
        session: The study.
        config: The recipe.
        folder: Where trainings are kept.
        total: Number of trainings to come, at most; shown beside the progress bar.
        progress: Whether to show one.
    """

    def __init__(self, session: Session, config: TrainConfig, folder: Path, total: int, progress: bool) -> None:
        self.session = session
        self.config = config
        self.folder = folder
        self.total = total
        self.progress = progress
        self.count = 0
        # Not the study's own seed: with it the images would come in the order in which the supernet saw them.
        self.seeds = [session.config.seed + 1, session.config.seed + 2]
        self.key = digest(
            {
                "recipe": applicable_recipe(config),
                "model": session.config.model.model_dump(mode="json"),
                "data": session.data.fingerprint,
                "scoring": scoring_facts(session.config.scoring),  # alone, networks are scored in full precision
            }
        )

    @cached_property
    def calibration(self) -> Tensor:
        return calibration_images(self.session.data, self.session.config.scoring).to(self.session.device)

    def train_all(self, candidates: list[Candidate]) -> list[Network]:
        """Train every candidate with the first seed, and the first ten that live with the second."""
        fixed = fixed_neurons(self.session.space)
        first, second = self.seeds
        networks = [
            Network(candidate.arch, candidate.score, (self.score(candidate.arch, first),), candidate.arch in fixed)
            for candidate in candidates
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
        session = self.session
        try:
            trained = train_network(
                fresh_network(session.supernet().extract(arch), seed),
                session.data,
                self.config,
                seed=seed,
                folder=checkpoints,
                title=f"Training {self.count} of {self.total}",
                energy_model=energy_model(session.config.scoring),
                device=session.device,
                progress=self.progress,
            )
        except TrainingError as error:
            _log.warning("Architecture %s counts as dead: %s", arch.key, error)
            return None
        calibrate_network(trained.net, self.calibration)
        score = score_network(trained.net, session.data, session.config.scoring, "search")
        _log.info("Training %d of %d: accuracy %.4f", self.count, self.total, score.accuracy)
        return score


def _check_arguments(n: int, epochs: int | None) -> None:
    if n < MIN_MEMBERS:
        raise StudyError(f"`n` must be at least {MIN_MEMBERS}, but got {n}.")
    if epochs is not None and epochs < 1:
        raise StudyError(f"`epochs` must be at least 1, but got {epochs}.")


def _candidates(session: Session, folder: Path, n: int) -> list[Candidate]:
    config = session.config
    facts = {
        "space": session.space.to_dict(),
        "seed": config.seed,
        "supernet": session.supernet_hash,
        "data": session.data.fingerprint,
        "scoring": scoring_facts(config.scoring),
    }
    if config.scoring.precision != "float32":  # the names of files that 0.1.0 has written say nothing of the default
        facts["precision"] = config.scoring.precision
    path = folder / f"networks-{digest(facts)}.json"
    return NetworkList(session.space, config.seed, session.scorer().score, path).first(n)


def scoring_facts(scoring: ScoringConfig) -> dict[str, Any]:
    """Return what of a study's scoring decides the score of a network that is trained alone."""
    return scoring.model_dump(mode="json", exclude={"cache_mb", "precision", "racing"})


def _score_of(data: Mapping[str, Any]) -> tuple[Score | None]:
    # in a tuple, because None alone would say that there is no file
    return (None if data["score"] is None else Score(**data["score"]),)


def _write_report(fidelity: Fidelity) -> None:
    atomic_write_json(fidelity.folder / "report.json", fidelity.to_dict())
    try:
        atomic_write_bytes(fidelity.folder / "scatter.png", fidelity_figure(fidelity))
    except MissingDependencyError as error:
        _log.warning("No scatter plot. %s", error)
