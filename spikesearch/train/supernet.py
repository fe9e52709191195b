"""Training a supernet, keeping it, and loading it again."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from spikesearch.energy import EnergyModel
from spikesearch.errors import CheckpointError, SpikesearchError, TeamError
from spikesearch.nn import Supernet
from spikesearch.space import SearchSpace
from spikesearch.train.checkpoint import (
    Checkpoint,
    CheckpointFolder,
    check_identity,
    load_facts,
    load_weights,
    save_weights,
)
from spikesearch.train.distributed import Team, gathered
from spikesearch.train.loop import Trainer, recipe_identity
from spikesearch.train.strategies import SandwichStrategy, Strategy, UniformStrategy
from spikesearch.versions import package_versions

if TYPE_CHECKING:
    from spikesearch.config import TrainConfig
    from spikesearch.data import DataBundle

NAME = "supernet"
_STATES = "checkpoints"


def train_supernet(
    supernet: Supernet,
    data: DataBundle,
    config: TrainConfig,
    *,
    seed: int,
    run_dir: Path,
    energy_model: EnergyModel = EnergyModel(),  # noqa: B008 - immutable
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> Supernet:
    """Train a supernet and keep it in ``run_dir``; continue where an earlier call was stopped.

    Under ``torchrun`` or ``accelerate launch`` every process calls this with the same arguments, and all of them train
    together; only the first one reads and writes ``run_dir``.

    Writes ``supernet.safetensors`` and ``supernet.json`` when finished, and ``checkpoints/`` until then. If they exist
    already, nothing is trained.

    Args:
        supernet: A supernet of the wanted space and shape; its weights are drawn anew from ``seed``.
        data: Its training split is used.
        config: The recipe.
        seed: Of everything random.
        run_dir: Folder of the study.
        energy_model: Prices the energy in the loss, where ``config.energy_weight`` wants it there.
        device: Where to train; see :func:`~spikesearch.train.distributed.own_device`.
        progress: Whether to show a progress bar.

    Returns:
        A supernet with the final weights, on ``device``, in evaluation mode.

    Raises:
        CheckpointError: If ``run_dir`` holds a corrupt supernet, or that of another space, data set, recipe or seed, or
            one whose loss holds the energy of another model.
        StorageError: If ``run_dir`` cannot be written.
        TeamError: If the processes cannot be connected, were called with different arguments, or one of them ends.
    """
    with gathered(device) as (team, own):
        return _train(
            team,
            supernet,
            data,
            config,
            seed=seed,
            run_dir=run_dir,
            energy_model=energy_model,
            device=own,
            progress=progress,
        )


def _train(
    team: Team,
    supernet: Supernet,
    data: DataBundle,
    config: TrainConfig,
    *,
    seed: int,
    run_dir: Path,
    energy_model: EnergyModel,
    device: torch.device,
    progress: bool,
) -> Supernet:
    run_dir = Path(run_dir)
    wanted = _identity(supernet, data, config, seed, energy_model)
    if team.from_first(wanted) != wanted:
        raise TeamError(
            f"Process {team.rank} was given other data or another recipe than the first; make them the same."
        )
    if team.from_first(is_trained(run_dir)):
        finished = _load_finished(run_dir, wanted) if team.is_first else supernet
        return team.from_first(finished).to(device)
    # Built anew under the seed, so that the first weights depend on nothing else.
    fresh = seeded_supernet(supernet, seed)
    trainer = Trainer(
        fresh,
        _strategy(fresh.space, config, seed),
        data.train,
        config,
        num_classes=data.num_classes,
        seed=seed,
        identity=wanted,
        folder=run_dir / _STATES,
        device=device,
        team=team,
        energy_model=energy_model,
    )
    history = trainer.run(title=f"Supernet of {fresh.space.size:,} architectures", progress=progress)
    if team.is_first:
        versions = {"python": platform.python_version(), **package_versions()}
        facts = {"identity": trainer.identity, "history": history, "versions": versions}
        save_weights(run_dir, NAME, trainer.final.state_dict(), facts)
        trainer.checkpoints.delete()
    final = trainer.final
    assert isinstance(final, Supernet)
    return final.eval()


def is_trained(run_dir: Path) -> bool:
    """Tell whether a folder holds a finished supernet; its facts are written last."""
    return (run_dir / f"{NAME}.json").exists()


def discard_checkpoints(run_dir: Path) -> None:
    """Delete what a training that has not ended has left in a folder."""
    CheckpointFolder(Path(run_dir) / _STATES).delete()


def check_run_dir(
    supernet: Supernet,
    data: DataBundle,
    config: TrainConfig,
    *,
    seed: int,
    run_dir: Path,
    energy_model: EnergyModel = EnergyModel(),  # noqa: B008 - immutable
) -> None:
    """Raise what :func:`train_supernet` would because of what ``run_dir`` holds, without reading weights.

    Raises:
        CheckpointError: If it holds, finished or not, a supernet of another space, data set, recipe or seed.
    """
    wanted = _identity(supernet, data, config, seed, energy_model)
    if is_trained(run_dir):
        path = Path(run_dir) / f"{NAME}.json"
        check_identity(path, load_facts(path), wanted)
    else:
        CheckpointFolder(Path(run_dir) / _STATES).check(wanted)


def _identity(
    supernet: Supernet, data: DataBundle, config: TrainConfig, seed: int, energy_model: EnergyModel
) -> dict[str, Any]:
    recipe = recipe_identity(config, energy_model)
    return {**_shape(supernet), "data": data.fingerprint, "recipe": recipe, "seed": seed}


def _load_finished(run_dir: Path, identity: Mapping[str, Any]) -> Supernet:
    checkpoint = load_weights(run_dir, NAME)
    check_identity(run_dir / f"{NAME}.json", checkpoint.facts, identity)
    CheckpointFolder(run_dir / _STATES).delete()  # an earlier call may have been killed before it did this
    return _rebuild(checkpoint, run_dir)


def load_supernet(run_dir: Path, device: str | torch.device = "cpu") -> Supernet:
    """Return the finished supernet of a study, in evaluation mode.

    Args:
        run_dir: Folder of the study.
        device: Where to put it.

    Raises:
        CheckpointError: If there is none, or it is corrupt or of a newer version.
    """
    return _rebuild(_finished(Path(run_dir)), Path(run_dir)).to(device)


def supernet_facts(run_dir: Path) -> dict[str, Any]:
    """Return what ``supernet.json`` says: identity, training history, versions, hash of the weights.

    Raises:
        CheckpointError: As :func:`load_supernet`.
    """
    checkpoint = _finished(Path(run_dir))
    _rebuild(checkpoint, Path(run_dir))
    return checkpoint.facts


def _finished(run_dir: Path) -> Checkpoint:
    if not is_trained(run_dir):
        raise CheckpointError(f"There is no trained supernet in {run_dir}; train it with `spikesearch supernet train`.")
    return load_weights(run_dir, NAME)


def seeded_supernet(like: Supernet, seed: int) -> Supernet:
    """Return a supernet of the same space and shape whose weights depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build(_shape(like))


def _strategy(space: SearchSpace, config: TrainConfig, seed: int) -> Strategy:
    if config.strategy == "uniform":
        return UniformStrategy(space, seed=seed)
    return SandwichStrategy(space, seed=seed, random_subnets=config.random_subnets, distillation=config.distillation)


def _shape(supernet: Supernet) -> dict[str, Any]:
    return {
        "space": supernet.space.to_dict(),
        "in_channels": supernet.in_channels,
        "image_size": supernet.image_size,
        "num_classes": supernet.num_classes,
        "pool_stages": list(supernet.pool_stages),
        "residual": supernet.residual,
        **supernet.stem_settings,
    }


def _build(shape: dict[str, Any]) -> Supernet:
    return Supernet(
        SearchSpace.from_dict(shape["space"]),
        in_channels=shape["in_channels"],
        image_size=shape["image_size"],
        num_classes=shape["num_classes"],
        pool_stages=tuple(shape["pool_stages"]),
        residual=shape["residual"],
        **{name: shape[name] for name in ("stem", "stem_stride") if name in shape},
    )


def _rebuild(checkpoint: Checkpoint, run_dir: Path) -> Supernet:
    try:
        supernet = _build(checkpoint.facts["identity"])
        supernet.load_state_dict(checkpoint.tensors)
    except (KeyError, TypeError, RuntimeError, SpikesearchError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{run_dir / NAME}.json does not describe its weights: {reason}") from None
    return supernet.eval()
