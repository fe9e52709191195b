"""A study's network in integers: accuracy, rates, energy and size of what would run on a device."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikesearch.errors import StudyError
from spikesearch.io import user_path
from spikesearch.study.results import find_trial
from spikesearch.study.session import Session
from spikesearch.subnet.export import quantised, retrained_network
from spikesearch.subnet.extract import subnet_facts

if TYPE_CHECKING:
    from spikesearch.device import Program
    from spikesearch.device.size import DeviceSize
    from spikesearch.energy import EnergyReport
    from spikesearch.nn import Spikformer
    from spikesearch.scoring.scorer import SplitName

_log = logging.getLogger(__name__)

FOLDER = "quantised"
FINE_TUNING = 0.1  # of the learning rate of the study file: the weights are trained already


@dataclass(frozen=True)
class Measured:
    """A network on a split.

    Args:
        accuracy: As a fraction.
        energy: One report per convention that the hardware has prices for.
    """

    accuracy: float
    energy: tuple[EnergyReport, ...]

    @property
    def rate(self) -> float:
        """Spikes per neuron and time step."""
        return self.energy[0].mean_firing_rate

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "accuracy": self.accuracy,
            "mean_firing_rate": self.rate,
            "energy_uJ": {report.convention: report.total_uJ for report in self.energy},
        }


@dataclass(frozen=True)
class Quantisation:
    """A network, and what it computes with integers.

    Args:
        study: Name of the study.
        folder: Holds the integer network, and the network that it was made of.
        split: What both were measured on.
        epochs: Passes over the training split with rounded weights.
        floats: The network, as it was given.
        integers: The integer network.
        size: What the integer network needs on a device.
        nbytes: Bytes of the parameters and buffers of the network in float32.
        wide: Whether currents and potentials need 32 bits instead of 16, which doubles their RAM.
    """

    study: str
    folder: Path
    split: SplitName
    epochs: int
    floats: Measured
    integers: Measured
    size: DeviceSize
    nbytes: int
    wide: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "study": self.study,
            "folder": str(self.folder),
            "split": self.split,
            "epochs": self.epochs,
            "float": {**self.floats.to_dict(), "nbytes": self.nbytes},
            "int8": {**self.integers.to_dict(), "size": self.size.to_dict(), "wide": self.wide},
        }


def quantise_subnet(
    session: Session,
    number: int | None = None,
    *,
    network: Path | None = None,
    bits: int = 8,
    epochs: int = 0,
    split: SplitName = "search",
    output: Path | None = None,
    progress: bool = True,
) -> Quantisation:
    """Turn a trial's network into one of integers, calibrated on training samples, and measure it again.

    The folder holds ``program.safetensors`` and ``program.json``, which :meth:`spikesearch.device.Program.load` reads,
    and the network itself as :func:`spikesearch.export.save_network` writes it.

    Args:
        session: The study.
        number: Number of a COMPLETE trial, with inherited weights; ``None`` for the recommended one.
        network: Folder of a network of this study, as retraining leaves it, instead of a trial.
        bits: Of a weight: 8.
        epochs: Passes over the training split, with rounded weights and a tenth of the study's learning rate, before.
        split: Which samples to measure on: ``search``, or ``test`` for the final report only.
        output: Folder to write; by default ``quantised/<number>`` in the study's folder.
        progress: Whether to show progress on stderr.

    Raises:
        StudyError: If there is no such trial, ``network`` is of another study, or ``epochs`` is below 0.
        CheckpointError: If ``network`` is corrupt.
        ExportError: See :func:`spikesearch.device.quantise`; or if ``output`` holds something else.
        StorageError: If ``output`` cannot be written.
    """
    from spikesearch.device import BITS
    from spikesearch.device.replay import replay
    from spikesearch.device.size import layout_size
    from spikesearch.errors import ExportError
    from spikesearch.export.folder import network_in

    if bits != BITS:
        raise ExportError(f"`bits` must be {BITS}, but got {bits}.")
    if epochs < 0:
        raise StudyError(f"`epochs` must be at least 0, but got {epochs}.")
    if network is not None and number is not None:
        raise StudyError("Give either a trial or the folder of a network, not both.")
    if output is not None:
        output = user_path(output, "`output`")
        network_in(output)  # refuses what is no network, before anything is trained
    if network is not None:
        net, facts = retrained_network(session, network)
        name = Path(network).resolve().name
    else:
        trial = find_trial(session.study, number)
        net, facts, name = session.scorer().extract(trial.architecture), subnet_facts(session, trial), str(trial.number)
    given = net
    folder = session.folder / FOLDER / (f"{name}-{epochs}" if epochs else name) if output is None else output
    if epochs:
        net = _fine_tuned(session, net, epochs, folder, progress=progress)
    program = quantised(session, net)
    floats, integers = _measure(session, given, split), _measure(session, replay(net, program), split)
    stated = {**facts, "int8": {"epochs": epochs, "split": split, **integers.to_dict()}}
    _write(folder, net, program, stated)
    nbytes = sum(unit.nbytes for unit in net.units())
    return Quantisation(
        session.name, folder, split, epochs, floats, integers, layout_size(program.layout), nbytes, program.layout.wide
    )


def _fine_tuned(session: Session, net: Spikformer, epochs: int, folder: Path, *, progress: bool) -> Spikformer:
    import torch

    from spikesearch.device.quantiser import round_weights
    from spikesearch.energy import energy_model
    from spikesearch.scoring.calibration import calibration_images
    from spikesearch.scoring.network import calibrate_network
    from spikesearch.train.network import train_network

    config = session.config.train.model_copy(
        update={"epochs": epochs, "warmup_epochs": 0, "lr": FINE_TUNING * session.config.train.lr, "compile": False}
    )
    _log.info("Training with rounded weights.")
    trained = train_network(
        net,
        session.data,
        config,
        seed=session.config.seed,
        folder=folder.with_name(f"{folder.name}.checkpoints"),
        title="Rounded network",
        energy_model=energy_model(session.config.scoring),
        device=session.device,
        progress=progress,
        prepare=round_weights,
    )
    trained.checkpoints.delete()
    calibrated: Spikformer = trained.net
    calibrate_network(
        calibrated, calibration_images(session.data, session.config.scoring).to(torch.device(session.device))
    )
    return calibrated


def _measure(session: Session, net: Spikformer, split: SplitName) -> Measured:
    import torch

    from spikesearch.energy import every_model
    from spikesearch.scoring import observe

    scoring = session.config.scoring
    samples = getattr(session.data, split)
    seen = observe(net, samples, batch_size=scoring.batch_size, device=torch.device(session.device))
    return Measured(seen.accuracy, tuple(model.price(seen.activity) for model in every_model(scoring)))


def _write(folder: Path, net: Spikformer, program: Program, facts: dict[str, Any]) -> None:
    from spikesearch.device.program import DESCRIPTION, TENSORS
    from spikesearch.export.folder import FACTS, WEIGHTS, describe, new_folder, write_weights
    from spikesearch.io import atomic_write_json

    description = describe(net, facts, (FACTS, WEIGHTS, DESCRIPTION, TENSORS))
    with new_folder(folder, description) as scratch:
        write_weights(scratch, net)
        program.save(scratch)
        atomic_write_json(scratch / FACTS, description)
