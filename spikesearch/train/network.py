"""Training one plain network: from inherited weights, or from scratch."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from spikesearch.energy import EnergyModel
from spikesearch.nn import Spikformer
from spikesearch.nn.fast import fast_copy
from spikesearch.train.checkpoint import CheckpointFolder, weights_hash
from spikesearch.train.loop import FREE_KEYS, EpochCallback, Trainer
from spikesearch.train.strategies import SingleStrategy

if TYPE_CHECKING:
    from spikesearch.config import TrainConfig
    from spikesearch.data import DataBundle

logger = logging.getLogger(__name__)

Source = Literal["inherited", "scratch"]
# Keys of a recipe that only a supernet has a use for.
SUPERNET_KEYS = frozenset({"strategy", "random_subnets", "distillation", "sync_batch_norm"})


@dataclass(frozen=True)
class Retrained:
    """A network that has been trained to the end.

    Args:
        net: With the final weights (their average, if the recipe has one), in evaluation mode, on the device. Its
            batch-norm statistics are the running ones of the training.
        identity: What was trained.
        history: One entry per epoch.
        checkpoints: To be deleted when the network is safe.
    """

    net: Spikformer
    identity: dict[str, Any]
    history: list[dict[str, float]]
    checkpoints: CheckpointFolder


def train_network(
    net: Spikformer,
    data: DataBundle,
    config: TrainConfig,
    *,
    seed: int,
    folder: Path,
    title: str = "Network",
    energy_model: EnergyModel = EnergyModel(),  # noqa: B008 - immutable
    device: str | torch.device = "cpu",
    progress: bool = True,
    on_epoch: EpochCallback | None = None,
    prepare: Callable[[Spikformer], object] | None = None,
) -> Retrained:
    """Train a plain network, or go on where an earlier call was stopped.

    Args:
        net: The network to begin with; not changed.
        data: Its training split is used.
        config: The recipe; ``strategy``, ``random_subnets`` and ``distillation`` say nothing about one network.
        seed: Of the order of the images and of everything else that is random.
        folder: Where checkpoints are kept until the caller deletes them.
        title: Shown beside the progress bar.
        energy_model: Prices the energy in the loss, where ``config.energy_weight`` wants it there.
        device: Where to train.
        progress: Whether to show a progress bar.
        on_epoch: See :meth:`Trainer.run`.
        prepare: Called with the copy that is trained; may give its weights parametrizations, through which it then
            computes. The weights of the result are those behind them.

    Raises:
        CheckpointError: If ``folder`` holds a corrupt checkpoint, or that of another training.
        TrainingError: If the loss is no longer finite.
    """
    identity = {
        "architecture": net.arch.to_dict(),
        **net.settings,
        "data": data.fingerprint,
        "start": weights_hash(net),
    }
    model = fast_copy(net)
    if prepare is not None:
        prepare(model)
    if config.compile and config.energy_weight:
        logger.warning(
            "`train.compile` has no effect beside `train.energy_weight`: the hooks that count spikes are not compiled."
        )
    elif config.compile and can_compile(device):
        logger.info("The network is compiled in the first step, which takes minutes.")
        compile_network(model)
    trainer = Trainer(
        model,
        SingleStrategy(),
        data.train,
        config,
        num_classes=data.num_classes,
        seed=seed,
        identity=identity,
        folder=folder,
        device=device,
        energy_model=energy_model,
    )
    history = trainer.run(title=title, progress=progress, on_epoch=on_epoch)
    return Retrained(plain_copy(net, trainer.final), trainer.identity, history, trainer.checkpoints)


def can_compile(device: str | torch.device) -> bool:
    """Whether ``torch.compile`` works for a device: it needs a C++ compiler, and Triton on a GPU. If not, say why."""
    from torch._dynamo.exc import TorchDynamoException  # takes seconds; the base of all errors of compiling

    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
    except TorchDynamoException as error:
        reason = str(error).strip().partition("\n")[0]
        logger.warning("`train.compile` has no effect: torch.compile does not work here (%s).", reason)
        return False
    return True


def compile_network(model: nn.Module, backend: str = "inductor") -> None:
    """Make ``torch.compile`` compile a :func:`fast_copy` in its first forward pass; its weights stay its own.

    Args:
        model: The network, which is changed.
        backend: As for ``torch.compile``.
    """
    torch.compiler.reset()  # a process that trains many networks would soon have compiled as many variants as may be
    model.compile(backend=backend, fullgraph=True)


def fresh_network(like: Spikformer, seed: int) -> Spikformer:
    """Return a network of the same architecture and shape whose weights depend on ``seed`` alone.

    Its batch-norms start at the gain ``v_threshold * tau / 2`` at which its neurons fire.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Spikformer(like.arch, **like.settings)


def plain_copy(net: Spikformer, trained: nn.Module) -> Spikformer:
    """Return ``net`` with the weights of its trained :func:`fast_copy`, on that one's device, in evaluation mode."""
    result = copy.deepcopy(net).to(next(trained.parameters()).device)
    state = {name.replace("parametrizations.weight.original", "weight"): x for name, x in trained.state_dict().items()}
    result.load_state_dict(state)
    return result.eval()


def applicable_recipe(config: TrainConfig) -> Mapping[str, Any]:
    """Return the keys of a recipe that decide the weights of one network and differ from their default."""
    return config.model_dump(mode="json", exclude_defaults=True, exclude={*SUPERNET_KEYS, *FREE_KEYS})
