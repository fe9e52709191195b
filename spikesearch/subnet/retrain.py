"""Training a network by itself, that of a trial or a preset: once, with a comparison at the end."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikesearch.errors import CheckpointError, StudyError
from spikesearch.io import user_path
from spikesearch.recipe.study import best_recipe
from spikesearch.study.attributes import RETRAINED_PREFIX
from spikesearch.study.results import TrialResult, find_trial
from spikesearch.study.session import Session
from spikesearch.versions import package_versions

if TYPE_CHECKING:
    from spikesearch.config import TrainConfig
    from spikesearch.nn import Spikformer
    from spikesearch.space import Architecture
    from spikesearch.space.presets import Preset
    from spikesearch.train.network import Source

_log = logging.getLogger(__name__)

FOLDER = "retrained"


@dataclass(frozen=True)
class Row:
    """One network of the comparison.

    Args:
        role: ``inherited``, ``retrained``, ``largest`` (with inherited weights) or ``largest, retrained``; beside a
            preset also ``recommended`` (with inherited weights).
        trial: Number of its trial; ``None`` for a preset.
        search_accuracy: On the search split, as a fraction.
        test_accuracy: On the test split, as a fraction.
        energy_uJ: Microjoules per sample on the search split, under the study's convention.
        params: Learnable values.
    """

    role: str
    trial: int | None
    search_accuracy: float
    test_accuracy: float
    energy_uJ: float  # noqa: N815 - the unit
    params: int


@dataclass(frozen=True)
class Retraining:
    """A network that was trained by itself, beside what it is to be compared with.

    Args:
        study: Name of the study.
        folder: Holds the network, as ``model.safetensors`` and ``model.json``.
        source: What training began with: ``inherited`` weights or new ones (``scratch``).
        recipe: The keys of the recipe that differ from their default.
        convention: Energy convention of every energy.
        rows: The networks.
        preset: Name of the preset; ``None`` for the network of a trial.
    """

    study: str
    folder: Path
    source: Source
    recipe: dict[str, Any]
    convention: str
    rows: tuple[Row, ...]
    preset: str | None = None

    @property
    def retrained(self) -> Row:
        """The network itself."""
        return next(row for row in self.rows if row.role == "retrained")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "study": self.study,
            **({} if self.preset is None else {"preset": self.preset}),
            "folder": str(self.folder),
            "from": self.source,
            "recipe": self.recipe,
            "energy_convention": self.convention,
            "networks": [asdict(row) for row in self.rows],
        }


def retrain_subnet(
    session: Session,
    number: int | None = None,
    *,
    preset: Preset | None = None,
    source: Source | None = None,
    epochs: int | None = None,
    energy_weight: float | None = None,
    recipe: TrainConfig | None = None,
    recipe_from: str | None = None,
    seed: int | None = None,
    output: Path | None = None,
    progress: bool = True,
) -> Retraining:
    """Train a trial's network, or a preset, by itself, measure it on the test split, and compare it; never done twice.

    A preset begins with weights of its own, so that the study need not have a supernet yet. The network is kept in
    ``retrained/`` of the study's folder and its scores as an attribute of the study. Training that was stopped goes on.
    At its end the batch-norm statistics are calibrated as those of a subnet are.

    Args:
        session: The study.
        number: Number of a COMPLETE trial; ``None`` for the recommended one.
        preset: To be trained instead, on the study's data and as its study file says.
        source: Begin with ``inherited`` weights or from ``scratch``; ``None`` for what the recipe was found for, else
            inherited. Presets have none to inherit.
        epochs: Instead of the recipe's.
        energy_weight: Instead of the recipe's; see :class:`~spikesearch.config.TrainConfig`.
        recipe: Instead of the study file's ``train`` section, whose ``strategy``, ``random_subnets`` and
            ``distillation`` concern the supernet alone.
        recipe_from: Name of a study of recipes in the same storage; its best trial's values replace those of the
            recipe.
        seed: Instead of the study file's.
        output: Folder to write the network to as well.
        progress: Whether to show progress on stderr.

    Raises:
        StudyError: If there is no such trial, ``epochs`` is below 1, or ``energy_weight`` below 0.
        SpaceError: If the preset does not fit the images.
        TrainingError: If the training diverges.
        StudyNotFoundError: If the study is deleted meanwhile.
        ExportError: If ``output`` holds something else.
        StorageError: If ``output`` cannot be written.
        CheckpointError: If what an earlier call left is corrupt.
    """
    if source is not None and source not in _NAMES:
        raise StudyError(f"`source` must be 'inherited' or 'scratch', but got {source!r}.")
    if preset is not None:
        if number is not None or source == "inherited":
            raise StudyError("A preset has no trial and no weights to inherit; leave out `number` and `source`.")
        source = "scratch"
        preset.check_image_size(session.data.image_size)
    if output is not None:
        output = user_path(output, "`output`")
    config = session.config.train if recipe is None else recipe
    with session.expected():
        trial = find_trial(session.study, number) if preset is None else None
        subject = _Subject.of(trial, preset)
        if recipe_from is not None:
            config, about = best_recipe(recipe_from, config, storage=session.store.storage)
            if (about.architecture, about.source) != (subject.arch, source or about.source):
                _log.warning("The recipe of study %r was found for another architecture or start.", recipe_from)
            source = source or about.source
        if epochs is not None:
            if epochs < 1:
                raise StudyError(f"`epochs` must be at least 1, but got {epochs}.")
            config = config.model_copy(update={"epochs": epochs})
        if energy_weight is not None:
            if not 0 <= energy_weight < math.inf:
                raise StudyError(f"`energy_weight` must be a finite number of at least 0, but got {energy_weight}.")
            config = config.model_copy(update={"energy_weight": energy_weight})
        seed = session.config.seed if seed is None else seed
        training = _Training(session, source or "inherited", config, seed)
        if output is not None:
            training.check_output(subject, output)  # before hours of training
        stored = training.result(subject, progress=progress)
        folder = training.folder(subject)
        if output is not None:
            _copy(folder, output)
        return Retraining(
            study=session.name,
            folder=folder if output is None else output,
            source=training.source,
            recipe=dict(stored["recipe"]),
            convention=session.config.scoring.convention,
            rows=tuple(_rows(training, trial, stored)),
            preset=None if preset is None else preset.name,
        )


@dataclass(frozen=True)
class _Subject:
    """What is trained: an architecture, and what it is called."""

    arch: Architecture
    title: str
    name: str  # of its folder
    trial: int | None = None
    preset: Preset | None = None

    @classmethod
    def of(cls, trial: TrialResult | None, preset: Preset | None) -> _Subject:
        if preset is not None:
            return cls(preset.arch, f"preset {preset.name}", preset.name, preset=preset)
        assert trial is not None
        return cls(trial.architecture, f"trial {trial.number}", str(trial.number), trial.number)

    @property
    def facts(self) -> dict[str, Any]:
        """What its weights depend on beside the architecture; the model of a trial's network is the study's."""
        return {} if self.preset is None else {"preset": self.preset.name, "model": dict(self.preset.model)}


@dataclass(frozen=True)
class _Training:
    """One way to train networks by themselves."""

    session: Session
    source: Source
    config: TrainConfig
    seed: int

    def key(self, subject: _Subject) -> str:
        """Everything that the weights depend on, in 12 digits."""
        facts = self._own_facts(subject)
        if self.source == "inherited":
            facts["supernet"] = self.session.supernet_hash
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]

    def attr(self, subject: _Subject) -> str:
        return f"{RETRAINED_PREFIX}{self.key(subject)}"

    def folder(self, subject: _Subject) -> Path:
        return self.session.folder / FOLDER / f"{subject.name}-{self.source}-{self.key(subject)}"

    def known(self, subject: _Subject) -> dict[str, Any] | None:
        """Return the scores of an earlier call, if there was one."""
        stored = self.session.study.user_attrs.get(self.attr(subject))
        return dict(stored) if stored is not None else None

    def check_output(self, subject: _Subject, output: Path) -> None:
        """Make sure that a folder holds nothing, or the network that this training makes.

        Raises:
            ExportError: If it holds something else.
        """
        from spikesearch.export.folder import FACTS, WEIGHTS, network_in, refuse_other

        there = network_in(output)
        if there is None:
            return
        own = self._own_facts(subject)
        retrained = there.get("retrained")
        known = {key: retrained.get(key) for key in own} if isinstance(retrained, dict) else {}
        coming = {
            "files": sorted((FACTS, WEIGHTS)),
            "architecture": subject.arch.to_dict(),
            "model": self._like(subject).plain_settings,
            "data_fingerprint": self.session.data.fingerprint,
            "retrained": retrained if known == own else own,
        }
        if self.source == "inherited":
            coming["supernet_hash"] = self.session.supernet_hash
        refuse_other(output, coming, coming.keys() - {"files"})

    def _own_facts(self, subject: _Subject) -> dict[str, Any]:
        from spikesearch.train.network import applicable_recipe

        recipe = dict(applicable_recipe(self.config))
        return {"arch": subject.arch.key, **subject.facts, "from": self.source, "recipe": recipe, "seed": self.seed}

    def result(self, subject: _Subject, *, progress: bool) -> dict[str, Any]:
        """Return the scores of the trained network; train it if that has not been done."""
        with self._alone(subject):
            facts = self._kept(subject)
            if facts is None:
                facts = self._train(subject, progress=progress)
            stored: dict[str, Any] = facts["retrained"]
            if self.known(subject) != stored:
                self.session.study.set_user_attr(self.attr(subject), stored)
        return stored

    def _alone(self, subject: _Subject) -> AbstractContextManager[object]:
        name = self.session.name
        return self.session.lock(f"retrain-{self.key(subject)}").wait(
            lambda: _log.warning("Waiting: another process trains this network of study %r.", name)
        )

    def _kept(self, subject: _Subject) -> dict[str, Any] | None:
        from spikesearch.export.folder import load_network, read_facts

        folder = self.folder(subject)
        if not folder.exists():
            return None
        try:
            load_network(folder)  # proves that the weights are whole
        except CheckpointError as error:
            reason = str(error).partition("; ")[0].rstrip(".")
            raise CheckpointError(f"{reason}. Delete {folder} to train that network again.") from None
        return read_facts(folder)

    def _train(self, subject: _Subject, *, progress: bool) -> dict[str, Any]:
        import torch

        from spikesearch.energy import energy_model
        from spikesearch.export.folder import save_network
        from spikesearch.scoring.calibration import calibration_images
        from spikesearch.scoring.network import calibrate_network, score_network
        from spikesearch.train.network import train_network

        session = self.session
        scoring, device = session.config.scoring, torch.device(session.device)
        _log.info("Training the network of %s, from %s weights.", subject.title, _NAMES[self.source])
        folder = self.folder(subject)
        trained = train_network(
            self._start(subject),
            session.data,
            self.config,
            seed=self.seed,
            folder=folder.with_name(f"{folder.name}.checkpoints"),
            title=subject.title.capitalize(),
            energy_model=energy_model(scoring),
            device=device,
            progress=progress,
        )
        calibrate_network(trained.net, calibration_images(session.data, scoring).to(device))
        retrained: dict[str, Any] = {
            **self._own_facts(subject),
            "search": score_network(trained.net, session.data, scoring, "search").to_dict(),
            "test": score_network(trained.net, session.data, scoring, "test").to_dict(),
        }
        facts: dict[str, Any] = {
            "class_names": list(session.data.class_names),
            "study": session.name,
            **({"trial": subject.trial} if subject.preset is None else {"preset": subject.preset.name}),
            "accuracy": retrained["search"]["accuracy"],
            "test_accuracy": retrained["test"]["accuracy"],
            "energy_uJ": retrained["search"]["energy_uJ"],
            "energy_convention": scoring.convention,
            "data_fingerprint": session.data.fingerprint,
            "versions": package_versions(),
            "retrained": retrained,
            "history": trained.history,
        }
        if self.source == "inherited":
            facts["supernet_hash"] = session.supernet_hash
        save_network(folder, trained.net, facts)
        trained.checkpoints.delete()
        return facts

    def _start(self, subject: _Subject) -> Spikformer:
        from spikesearch.train.network import fresh_network

        like = self._like(subject)
        return like if self.source == "inherited" else fresh_network(like, self.seed)

    def _like(self, subject: _Subject) -> Spikformer:
        """Return the network with inherited weights; of a preset, with any."""
        from spikesearch.nn import Spikformer

        if subject.preset is None:
            return self.session.scorer().extract(subject.arch)
        data = self.session.data
        return Spikformer(
            subject.arch,
            in_channels=data.in_channels,
            image_size=data.image_size,
            num_classes=data.num_classes,
            **subject.preset.model,
        )


_NAMES = {"inherited": "inherited", "scratch": "new"}


def _rows(training: _Training, trial: TrialResult | None, stored: Mapping[str, Any]) -> list[Row]:
    session = training.session
    results = session.results()
    reference = results.reference
    if trial is None:  # beside a preset, what has been scored on the test split: the study may have no supernet
        finalists = (("recommended", results.recommended), ("largest", reference))
        others = [_inherited(session, role, other) for role, other in finalists if other is not None and other.test]
        return [_row("retrained", None, stored), *others]
    rows = [_inherited(session, "inherited", trial), _row("retrained", trial.number, stored)]
    if reference is not None and reference.architecture != trial.architecture:
        rows.append(_inherited(session, "largest", reference))
        known = training.known(_Subject.of(reference, None))
        if known is not None:
            rows.append(_row("largest, retrained", reference.number, known))
    return rows


def _inherited(session: Session, role: str, trial: TrialResult) -> Row:
    test = session.final_score(trial.architecture)
    return Row(role, trial.number, trial.accuracy, test["accuracy"], trial.energy_uJ, test["params"])


def _row(role: str, number: int | None, stored: Mapping[str, Any]) -> Row:
    search = stored["search"]
    return Row(role, number, search["accuracy"], stored["test"]["accuracy"], search["energy_uJ"], search["params"])


def _copy(folder: Path, output: Path) -> None:
    from spikesearch.export.folder import load_network, read_facts, save_network

    save_network(output, load_network(folder), read_facts(folder))
