"""A study's network in the formats of other tools: inherited weights of a trial, or those it was retrained to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikesearch.errors import StudyError
from spikesearch.io import user_path
from spikesearch.study.results import find_trial
from spikesearch.study.session import Session
from spikesearch.subnet.extract import data_facts, subnet_facts

if TYPE_CHECKING:
    from spikesearch.data import Split
    from spikesearch.device import Program
    from spikesearch.energy import EnergyReport
    from spikesearch.nn import Spikformer

CHECK_SAMPLES = 256


def export_subnet(
    session: Session,
    number: int | None = None,
    *,
    to: str = "safetensors",
    output: Path | None = None,
    network: Path | None = None,
    opset: int | None = None,
) -> Path:
    """Write a trial's network in some format, with a model card, checked on images of the search split.

    Args:
        session: The study.
        number: Number of a COMPLETE trial, with inherited weights; ``None`` for the recommended one.
        to: A key of :data:`spikesearch.export.FORMATS`.
        output: Folder to write; by default ``exports/<number>-<to>`` in the study's folder.
        network: Folder of a network of this study, as retraining leaves it, instead of a trial.
        opset: Version of the ONNX operators, for ``onnx`` alone.

    Returns:
        The folder.

    Raises:
        StudyError: If there is no such trial, or ``network`` is of another study.
        CheckpointError: If ``network`` is corrupt.
        StorageError: If ``output`` cannot be written.
        ExportError: See :func:`spikesearch.export.export_network`.
        MissingDependencyError: Without the extra that the format needs.
    """
    from spikesearch.data.bundle import StoredSplit
    from spikesearch.export import check_format, export_network
    from spikesearch.export.folder import CARD, FACTS, describe, refuse_other

    if output is not None:  # before the test split is looked at
        output = user_path(output, "`output`")
    if network is not None and number is not None:
        raise StudyError("Give either a trial or the folder of a network, not both.")
    if network is not None:
        net, facts = retrained_network(session, network)
        chosen = check_format(net, to, opset=opset)
        name = Path(network).resolve().name
    else:
        trial = find_trial(session.study, number)
        net = session.scorer().extract(trial.architecture)
        chosen = check_format(net, to, opset=opset)
        if output is not None:
            refuse_other(output, describe(net, {}, (FACTS, CARD, *chosen.files)))
        test = session.final_score(trial.architecture)
        facts = {**subnet_facts(session, trial), "test_accuracy": test["accuracy"]}
        name = str(trial.number)
    program = None
    if chosen.integer:
        program = stored_program(network) if network is not None else None
        program = quantised(session, net) if program is None else program
        facts.setdefault("int8", {"split": "search", "accuracy": integer_accuracy(program, session.data.search)})
    search = session.data.search
    return export_network(
        net,
        session.folder / "exports" / f"{name}-{to}" if output is None else output,
        to,
        samples=search.images(range(min(len(search), CHECK_SAMPLES))),
        images=search.whole if isinstance(search, StoredSplit) and session.data.frames is None else None,
        facts=facts,
        energies=_energies(session, net),
        program=program,
        opset=opset,
    )


def quantised(session: Session, net: Spikformer) -> Program:
    """Return the integer network of a network of a study, calibrated on its training samples."""
    from spikesearch.data.bundle import StoredSplit
    from spikesearch.device import Normalisation, quantise
    from spikesearch.scoring.calibration import calibration_images

    norm, train = None, session.data.train
    if isinstance(train, StoredSplit):
        norm = Normalisation(train.normalisation.mean.tolist(), train.normalisation.std.tolist())
    return quantise(net, calibration_images(session.data, session.config.scoring), normalisation=norm)


def integer_accuracy(program: Program, samples: Split) -> float:
    """Return the share of samples that an integer network classifies correctly."""
    batches = samples.batches(256)
    return sum(int((program.run(x).argmax(-1) == y.numpy()).sum()) for _, x, y in batches) / len(samples)


def stored_program(network: Path) -> Program | None:
    """Return the integer network that ``subnet quantise`` left in a folder; ``None`` if there is none."""
    from spikesearch.device import Program
    from spikesearch.device.program import DESCRIPTION

    return Program.load(network) if (network / DESCRIPTION).exists() else None


def retrained_network(session: Session, network: Path) -> tuple[Spikformer, dict[str, Any]]:
    """Return a network of a study from the folder that retraining left, and what is known of it.

    Raises:
        StudyError: If it is of another study.
        CheckpointError: If the folder is corrupt.
    """
    from spikesearch.export import load_network, read_facts

    net, facts = load_network(network), read_facts(network)
    if facts.get("study") != session.name:
        raise StudyError(
            f"{network} holds a network of the study {facts.get('study')!r}, but this is {session.name!r}."
        )
    source = facts.get("retrained", {}).get("from")
    how = {"inherited": "inherited from the supernet, then trained alone", "scratch": "trained alone, from scratch"}
    weights = {"weights": how[source]} if source in how else {}
    return net.to(session.device), {**data_facts(session), **facts, **weights}


def _energies(session: Session, net: Spikformer) -> list[EnergyReport]:
    """Measure a network once on the search split and price it under every convention."""
    import torch

    from spikesearch.energy import every_model
    from spikesearch.scoring import observe

    config = session.config.scoring
    seen = observe(net, session.data.search, batch_size=config.batch_size, device=torch.device(session.device))
    return [model.price(seen.activity) for model in every_model(config)]
