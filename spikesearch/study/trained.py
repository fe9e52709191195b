"""A study together with its trained supernet: scores on the test split, single subnets, facts."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from optuna.storages import BaseStorage

from spikesearch.config import StudyConfig
from spikesearch.study import prepare, provenance
from spikesearch.study.results import StudyResult, TrialResult, find_trial, read_results
from spikesearch.study.store import Store, expect_study, load_study, open_store, run_folder
from spikesearch.versions import package_versions

if TYPE_CHECKING:
    import optuna

    from spikesearch.data import DataBundle
    from spikesearch.energy import EnergyReport
    from spikesearch.scoring import Scorer
    from spikesearch.space import Architecture

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """A study whose supernet is trained.

    Args:
        store: Its storage.
        study: The study.
        config: Its study file.
        data: Its data.
        folder: Folder of its files.
        scorer: Scores its architectures.
    """

    store: Store
    study: optuna.Study
    config: StudyConfig
    data: DataBundle
    folder: Path
    scorer: Scorer

    def results(self) -> StudyResult:
        """Return the state of the study as it is now."""
        return read_results(self.study, self.store.name)


@dataclass(frozen=True)
class Evaluation:
    """One subnet with inherited weights, measured again.

    Args:
        number: Its trial.
        split: Which images.
        accuracy: As a fraction.
        energy: Layer by layer.
    """

    number: int
    split: str
    accuracy: float
    energy: EnergyReport

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "number": self.number,
            "split": self.split,
            "accuracy": self.accuracy,
            "energy_uJ": self.energy.total_uJ,
            "energy": self.energy.to_dict(),
        }


def open_trained(
    name: str,
    *,
    storage: str | BaseStorage | None = None,
    run_dir: str | Path | None = None,
    device: str = "cpu",
) -> Trained:
    """Open a study with its data and its supernet, and verify that they are the ones that it was made with.

    Args:
        name: Name of the study.
        storage: As for :func:`spikesearch.load_study`.
        run_dir: Folder of the study's files, where it is not the usual one.
        device: Where to compute.

    Raises:
        SpikesearchError: If something is missing or not the study's.
    """
    store = open_store(storage, create=False)
    study = load_study(name, storage=store.storage)
    prepare.check_device(device)
    config = provenance.stored_config(study)
    folder = run_folder(store.url, name, run_dir, study.user_attrs.get(provenance.RUN_DIR))
    supernet = prepare.open_supernet(study, folder, device)
    data = prepare.load_data_of(config)
    with store.locked(name):
        prepare.check_data(study, data)
    return Trained(store, study, config, data, folder, prepare.make_scorer(config, supernet, data, device))


def final_score(store: Store, study: optuna.Study, scorer: Scorer, arch: Architecture) -> dict[str, Any]:
    """Return an architecture's score on the test split, with inherited weights; never computed twice.

    Finished trials are immutable, so it is an attribute of the study, ``test:<key>``.

    Args:
        store: Storage of the study.
        study: The study.
        scorer: Scores its architectures.
        arch: What to score.
    """
    key = provenance.TEST_PREFIX + arch.key
    with expect_study(store, study.study_name), store.lock(study.study_name, "test") or nullcontext():
        stored = study.user_attrs.get(key)
        if stored is None:
            _log.info("Scoring architecture %s on the test split.", arch.key)
            stored = scorer.score(arch, split="test").to_dict()
            study.set_user_attr(key, stored)
    return dict(stored)


def evaluate_subnet(trained: Trained, number: int | None, split: Literal["search", "test"]) -> Evaluation:
    """Measure a trial's network with inherited weights again.

    Args:
        trained: The study.
        number: Number of a COMPLETE trial; ``None`` for the recommended one.
        split: Which images.
    """
    trial = find_trial(trained.study, number)
    accuracy, energy = trained.scorer.evaluate(trial.architecture, split)
    return Evaluation(trial.number, split, accuracy, energy)


def extract_subnet(trained: Trained, number: int | None, output: Path | None = None) -> Path:
    """Write a trial's network with its inherited weights: ``model.safetensors`` and ``model.json``.

    :func:`spikesearch.export.load_network` reads it.

    Args:
        trained: The study.
        number: Number of a COMPLETE trial; ``None`` for the recommended one.
        output: Folder to write; by default ``subnets/<number>`` in the study's folder.

    Returns:
        The folder.

    Raises:
        ExportError: If the folder holds another network.
    """
    from spikesearch.export import save_network

    trial = find_trial(trained.study, number)
    folder = Path(output) if output is not None else trained.folder / "subnets" / str(trial.number)
    return save_network(folder, trained.scorer.extract(trial.architecture), subnet_facts(trained, trial))


def supernet_info(
    name: str, *, storage: str | BaseStorage | None = None, run_dir: str | Path | None = None
) -> dict[str, Any]:
    """Return what is known of a study's supernet, in plain JSON types.

    Raises:
        StudyError: If it is not trained.
        CheckpointError: If its file is corrupt.
    """
    from spikesearch.nn import count_parameters
    from spikesearch.train import supernet_facts

    store = open_store(storage, create=False)
    study = load_study(name, storage=store.storage)
    config = provenance.stored_config(study)
    folder = run_folder(store.url, name, run_dir, study.user_attrs.get(provenance.RUN_DIR))
    supernet = prepare.open_supernet(study, folder)
    facts = supernet_facts(folder)
    last = facts["history"][-1] if facts.get("history") else {}
    return {
        "architectures": config.space.search_space().size,
        "parameters": count_parameters(supernet),
        "hash": study.user_attrs[provenance.SUPERNET_HASH],
        "file": str(folder / "supernet.safetensors"),
        "epochs": config.train.epochs,
        "last_epoch": {key: round(value, 4) for key, value in last.items() if isinstance(value, int | float)},
        "versions": facts.get("versions", {}),
    }


def subnet_facts(trained: Trained, trial: TrialResult) -> dict[str, Any]:
    """Return what ``model.json`` tells of a trial's network with inherited weights, in plain JSON types."""
    return {
        "study": trained.study.study_name,
        "trial": trial.number,
        "weights": "inherited from the supernet",
        "accuracy": trial.accuracy,
        "energy_uJ": trial.energy_uJ,
        "energy_convention": trained.config.scoring.convention,
        "scored_in": trained.config.scoring.precision,
        **data_facts(trained),
        "supernet_hash": trained.study.user_attrs[provenance.SUPERNET_HASH],
        "versions": package_versions(),
    }


def data_facts(trained: Trained) -> dict[str, Any]:
    """Return what whoever runs a network must know of the data, in plain JSON types."""
    from spikesearch.data.bundle import StoredSplit

    data = trained.data
    facts: dict[str, Any] = {
        "class_names": list(data.class_names),
        "frames": data.frames,
        "data": {
            "kind": trained.config.data.kind,
            "summary": data.summary(),
            "splits": {name: len(getattr(data, name)) for name in ("train", "search", "test")},
            "fingerprint": data.fingerprint,
        },
    }
    if isinstance(data.train, StoredSplit):
        norm = data.train.normalisation
        facts["normalisation"] = {"mean": norm.mean.tolist(), "std": norm.std.tolist()}
    return facts
