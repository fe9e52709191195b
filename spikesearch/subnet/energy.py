"""The energy of a network under every convention: of a study's trial, or of any module; and how it drifts."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikesearch.config import ScoringConfig, StudyConfig, find_study_file, load_study_file, shipped_study_files
from spikesearch.errors import ConfigError, DataError, StudyError
from spikesearch.study.results import find_trial
from spikesearch.study.session import Session

if TYPE_CHECKING:
    import torch
    from torch import nn

    from spikesearch.config.data import DataSection
    from spikesearch.data import Source, Split
    from spikesearch.energy import EnergyReport
    from spikesearch.scoring.scorer import SplitName


@dataclass(frozen=True)
class MeasuredNetwork:
    """A network on some samples.

    Args:
        name: What it is.
        samples: What it was measured on.
        accuracy: As a fraction.
        reports: One per convention that the hardware has prices for.
    """

    name: str
    samples: str
    accuracy: float
    reports: tuple[EnergyReport, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "name": self.name,
            "samples": self.samples,
            "accuracy": self.accuracy,
            "energy": {report.convention: report.to_dict() for report in self.reports},
        }


@dataclass(frozen=True)
class Drift:
    """A study's network on its own samples, and on others of the same classes.

    Args:
        own: On its own.
        other: On the others.
    """

    own: MeasuredNetwork
    other: MeasuredNetwork

    def rates(self) -> list[tuple[str, float, float]]:
        """Return the input rate of every layer on either, by name."""
        pairs = zip(self.own.reports[-1].layers, self.other.reports[-1].layers, strict=True)
        return [(mine.name, mine.input_rate, theirs.input_rate) for mine, theirs in pairs]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        rates = {name: {"own": own, "other": other} for name, own, other in self.rates()}
        return {"own": self.own.to_dict(), "other": self.other.to_dict(), "rates": rates}


def subnet_energy(
    session: Session, number: int | None, split: SplitName = "search", *, hardware: str | None = None
) -> MeasuredNetwork:
    """Measure a trial's network with inherited weights under every convention.

    Args:
        session: The study.
        number: Number of a COMPLETE trial; ``None`` for the recommended one.
        split: Which samples.
        hardware: A profile, or the path of one; by default that of the study.
    """
    net, name = _network(session, number)
    samples: Split = getattr(session.data, split)
    return _measure(
        net, name, samples, f"the {split} split", _scoring(session.config.scoring, hardware), session.device
    )


def subnet_drift(
    session: Session, number: int | None, split: SplitName, other: str, *, hardware: str | None = None
) -> Drift:
    """Compare a trial's network on its own samples with the same network on other recordings of the same classes.

    Args:
        session: The study.
        number: Number of a COMPLETE trial; ``None`` for the recommended one.
        split: Of its own samples.
        other: A folder or file of the study's kind of data, or a study file. All its samples are used, normalised as
            those of the study.
        hardware: A profile, or the path of one; by default that of the study.

    Raises:
        DataError: If the samples have another shape or other classes.
    """
    from spikesearch.data.load import load_source

    net, name = _network(session, number)
    scoring = _scoring(session.config.scoring, hardware)
    theirs = _other_split(session, load_source(_section(other, like=session.config)), other)
    mine: Split = getattr(session.data, split)
    return Drift(
        _measure(net, name, mine, f"the {split} split", scoring, session.device),
        _measure(net, name, theirs, other, scoring, session.device),
    )


def module_energy(
    what: str, data: str, *, hardware: str | None = None, device: str = "cpu", batch_size: int = 64
) -> MeasuredNetwork:
    """Measure any network of torch's layers and SpikingJelly's neurons under every convention.

    Args:
        what: ``module:factory``; the factory is called without arguments and returns the network.
        data: A folder of data, a study file, or the id of a shipped one; the search split is used.
        hardware: A profile, or the path of one.
        device: Where to compute.
        batch_size: Samples per forward pass.

    Raises:
        ConfigError: If there is no such factory, or it returns something else.
    """
    from spikesearch.data import load_data

    net = _build(what).to(device).eval()
    samples = load_data(_section(data), seed=0).search
    scoring = _scoring(ScoringConfig(batch_size=batch_size), hardware)
    return _measure(net, what, samples, f"the search split of {data}", scoring, device)


def _network(session: Session, number: int | None) -> tuple[nn.Module, str]:
    trial = find_trial(session.study, number)
    return session.scorer().extract(trial.architecture), f"trial {trial.number} of study {session.name}"


def _measure(
    net: nn.Module, name: str, samples: Split, what: str, scoring: ScoringConfig, device: str | torch.device
) -> MeasuredNetwork:
    import torch

    from spikesearch.energy import every_model
    from spikesearch.scoring import observe

    seen = observe(net, samples, batch_size=scoring.batch_size, device=torch.device(device))
    reports = tuple(model.price(seen.activity) for model in every_model(scoring))
    return MeasuredNetwork(name, what, seen.accuracy, reports)


def _scoring(config: ScoringConfig, hardware: str | None) -> ScoringConfig:
    from spikesearch.config.hardware import hardware as profile_of

    if hardware is None:
        return config
    return ScoringConfig(batch_size=config.batch_size, hardware=profile_of(hardware))


def _section(what: str, like: StudyConfig | None = None) -> DataSection:
    """Return the data section that a study file holds, or that reads a folder."""
    from spikesearch.data.init import infer
    from spikesearch.data.kind import KINDS

    path = Path(what).expanduser()
    if path.suffix in {".yaml", ".yml"} or (not path.exists() and what in shipped_study_files()):
        return load_study_file(find_study_file(what)).data
    if like is not None:
        if not hasattr(like.data, "path"):
            raise StudyError(f"`--data` must be a study file, because data of kind {like.data.kind} have no folder.")
        return like.data.model_copy(update={"path": what})
    if not path.exists():
        raise DataError(f"There is no folder, study file or shipped study file {what!r}.")
    kind, facts = infer(path)
    keys = {key: value for key, value, _ in facts.keys}
    section: DataSection = KINDS[kind].model.model_validate({"kind": kind, "path": what, **keys})
    return section


def _other_split(session: Session, source: Source, what: str) -> Split:
    import numpy as np
    import torch

    from spikesearch.data.bundle import StoredSplit

    own = session.data.train
    assert isinstance(own, StoredSplit)
    if source.class_names != session.data.class_names:
        raise DataError(
            f"{what} must have the classes of the study {session.name!r}, {', '.join(session.data.class_names)}, but "
            f"has {', '.join(source.class_names)}."
        )
    if source.store.shape != own.store.shape:
        raise DataError(
            f"{what} must have samples of the shape {own.store.shape}, as the study {session.name!r}, but has "
            f"{source.store.shape}."
        )
    positions = np.arange(len(source.labels))
    return StoredSplit(source.store, positions, torch.from_numpy(source.labels), own.normalisation)


def _build(what: str) -> nn.Module:
    from torch import nn

    module_name, _, factory_name = what.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # as for `python -m`: modules beside the user
    try:
        factory = getattr(import_module(module_name), factory_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"`{what}` must be an importable module:factory, but: {error}.") from error
    net = factory()
    if not isinstance(net, nn.Module):
        raise ConfigError(f"`{what}` must return a torch module, but returned {type(net).__name__}.")
    return net
