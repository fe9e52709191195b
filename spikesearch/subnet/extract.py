"""Taking a trial's network out of the supernet, and what is known of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spikesearch.study.results import TrialResult, find_trial
from spikesearch.study.session import Session
from spikesearch.versions import package_versions


def extract_subnet(session: Session, number: int | None, output: Path | None = None) -> Path:
    """Write a trial's network with its inherited weights: ``model.safetensors`` and ``model.json``.

    :func:`spikesearch.export.load_network` reads it.

    Args:
        session: The study.
        number: Number of a COMPLETE trial; ``None`` for the recommended one.
        output: Folder to write; by default ``subnets/<number>`` in the study's folder.

    Returns:
        The folder.

    Raises:
        ExportError: If the folder holds another network.
    """
    from spikesearch.export import save_network

    trial = find_trial(session.study, number)
    folder = Path(output) if output is not None else session.folder / "subnets" / str(trial.number)
    return save_network(folder, session.scorer().extract(trial.architecture), subnet_facts(session, trial))


def subnet_facts(session: Session, trial: TrialResult) -> dict[str, Any]:
    """Return what ``model.json`` tells of a trial's network with inherited weights, in plain JSON types."""
    return {
        "study": session.name,
        "trial": trial.number,
        "weights": "inherited from the supernet",
        "accuracy": trial.accuracy,
        "energy_uJ": trial.energy_uJ,
        "energy_convention": session.config.scoring.convention,
        "scored_in": session.config.scoring.precision,
        **data_facts(session),
        "supernet_hash": session.supernet_hash,
        "versions": package_versions(),
    }


def data_facts(session: Session) -> dict[str, Any]:
    """Return what whoever runs a network must know of the data, in plain JSON types."""
    from spikesearch.data.bundle import StoredSplit

    data = session.data
    facts: dict[str, Any] = {
        "class_names": list(data.class_names),
        "frames": data.frames,
        "data": {
            "kind": session.config.data.kind,
            "summary": data.summary(),
            "splits": {name: len(getattr(data, name)) for name in ("train", "search", "test")},
            "fingerprint": data.fingerprint,
        },
    }
    if isinstance(data.train, StoredSplit):
        norm = data.train.normalisation
        facts["normalisation"] = {"mean": norm.mean.tolist(), "std": norm.std.tolist()}
    return facts
