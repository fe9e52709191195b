"""One training loop for the supernet and for plain networks: deterministic, resumable, with a progress bar.

Everything random depends on (seed, epoch, step): the order of the images, their augmentation, mixup, the subnets. On
the CPU, with as many threads, a training that was killed and resumed therefore ends with the same weights as one that
was not; on a GPU the libraries' own kernels may differ in the last bits. Several processes see the images that one
would see, each its share of every batch; only batch-norm can tell the difference.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikesearch.energy import EnergyModel
from spikesearch.errors import CheckpointError, ConfigError, TrainingError
from spikesearch.nn.elastic import ElasticBatchNorm
from spikesearch.nn.lif import set_surrogate_slope
from spikesearch.nn.network import Network
from spikesearch.streams import MIXUP, TRAINING_ORDER
from spikesearch.train.checkpoint import Checkpoint, CheckpointFolder
from spikesearch.train.distributed import Team, shares
from spikesearch.train.drop_path import DropPath
from spikesearch.train.energy_loss import EnergyLoss
from spikesearch.train.progress import training_progress
from spikesearch.train.strategies import LossFunction, Strategy

if TYPE_CHECKING:
    from spikesearch.config import TrainConfig
    from spikesearch.data import Split

logger = logging.getLogger(__name__)

# Keys that an identity names only where they change something; one that is added to the recipe joins them, so that what
# was trained without it stays the same training.
_OPTIONAL_KEYS = frozenset({"accumulate", "sync_batch_norm", "drop_path", "surrogate_slope", "energy_weight"})
# What may change when training is resumed: the weights do not depend on it, or by rounding alone, as on the device.
FREE_KEYS = frozenset({"checkpoint_every_epochs", "compile"})

EpochCallback = Callable[[int, dict[str, float], nn.Module], None]
"""Takes the number of finished epochs, their last record (to which it may add) and the module as it would be kept."""


@dataclass(frozen=True)
class _Share:
    """A process's share of a batch: its images, what to train them on, and how many images all shares have together."""

    indices: np.ndarray
    images: Tensor
    targets: Tensor
    labels: Tensor
    total: int


@dataclass
class _Tally:
    """What a step reports: the loss, right answers and energy of its first network, summed over images."""

    loss: float = 0.0
    correct: float = 0.0
    energy: float = 0.0
    images: int = 0


class Trainer:
    """Trains a module with AdamW, cosine decay after a warm-up, an average of the weights, and checkpoints.

    Args:
        model: The module; trained in place.
        strategy: What one step does.
        split: Training images.
        config: The recipe.
        num_classes: Number of classes.
        seed: Of everything random.
        identity: What distinguishes this training from others; kept in the checkpoints and compared on resume.
        folder: Where checkpoints are kept while training.
        device: Where to train.
        team: The processes that train the module together; each has a trainer with the same arguments. Only the first
            one reads and writes ``folder``. After every step all of them hold the same weights, and the same running
            batch-norm statistics: the mean of theirs.
        energy_model: Prices the energy in the loss, where ``config.energy_weight`` wants it there.

    Raises:
        ConfigError: If the batches are too small to be divided.
    """

    def __init__(
        self,
        model: nn.Module,
        strategy: Strategy,
        split: Split,
        config: TrainConfig,
        *,
        num_classes: int,
        seed: int,
        identity: Mapping[str, Any],
        folder: Path,
        device: str | torch.device = "cpu",
        team: Team = Team(),  # noqa: B008 - immutable
        energy_model: EnergyModel = EnergyModel(),  # noqa: B008 - immutable
    ) -> None:
        from timm.optim import create_optimizer_v2  # takes seconds; who loads a supernet needs none of it
        from timm.scheduler import create_scheduler_v2
        from timm.utils import ModelEmaV3

        self.device = torch.device(device)
        self.model = model.to(self.device)
        self.strategy = strategy
        self.split = split
        self.config = config
        self.num_classes = num_classes
        self.seed = seed
        self.team = team
        parts = team.size * config.accumulate
        if parts > 1 and min(config.batch_size, len(split)) < 2 * parts:
            raise ConfigError(
                f"`train.batch_size` and the training split must hold at least {2 * parts} images, 2 for each of the "
                f"{parts} parts of a batch ({team.size} processes, `train.accumulate` {config.accumulate}), but got "
                f"{config.batch_size} and {len(split)}."
            )
        may_mix = config.mixup > 0 or config.cutmix > 0
        self._mixing = may_mix and self._mixes(split.images(np.zeros(1, dtype=np.int64)))
        self.identity = {**identity, "recipe": recipe_identity(config, energy_model), "seed": seed}
        self.checkpoints = CheckpointFolder(folder)
        self.optimizer = create_optimizer_v2(model, opt="adamw", lr=config.lr, weight_decay=config.weight_decay)
        self.steps_per_epoch = max(1, len(split) // config.batch_size)
        self.scheduler, _ = create_scheduler_v2(
            self.optimizer,
            sched="cosine",
            num_epochs=config.epochs,
            warmup_epochs=min(config.warmup_epochs, config.epochs - 1),
            warmup_lr=config.lr / 100,
            min_lr=min(config.min_lr, config.lr),
            step_on_epochs=False,
            updates_per_epoch=self.steps_per_epoch,
        )
        self.ema: ModelEmaV3 | None = None
        if config.ema_decay is not None:
            self.ema = ModelEmaV3(model, decay=config.ema_decay, use_warmup=True)
        self.drop_path: DropPath | None = None
        if config.drop_path:
            assert isinstance(model, Network)
            self.drop_path = DropPath(model, config.drop_path)
        self.energy = EnergyLoss(model, config.energy_weight, energy_model) if config.energy_weight else None
        self.history: list[dict[str, float]] = []

    @property
    def final(self) -> nn.Module:
        """The module whose weights are the result: the average if there is one."""
        module: nn.Module = self.model if self.ema is None else self.ema.module
        return module

    def run(
        self, *, title: str, progress: bool = True, on_epoch: EpochCallback | None = None
    ) -> list[dict[str, float]]:
        """Train to the end, from the newest checkpoint if there is one.

        Args:
            title: Shown beside the progress bar.
            progress: Whether to show one, on stderr.
            on_epoch: Called after every epoch, before it is kept; it must not change the module. An exception ends the
                training.

        Returns:
            Loss, training accuracy (of the first network of every step) and images per second of each epoch; with the
            energy in the loss also that energy, in microjoules per image as it was seen in training.

        Raises:
            CheckpointError: If the checkpoint is corrupt, of another training, or of another number of processes.
        """
        start = self._resume()
        steps = self.steps_per_epoch
        visible = progress and self.team.is_first
        shown = training_progress(title, self.config.epochs * steps, start * steps, visible)
        with shown as bar, self._shared_statistics(), self._in_training():
            for epoch in range(start, self.config.epochs):
                with nullcontext() if self.energy is None else self.energy.attached():
                    record = self._epoch(epoch, bar)
                if on_epoch is not None:
                    on_epoch(epoch + 1, record, self.final)
                self.history.append(record)
                last = epoch + 1 == self.config.epochs
                if last or (epoch + 1) % self.config.checkpoint_every_epochs == 0:
                    self._save(epoch + 1)
        return self.history

    def _epoch(self, epoch: int, bar: Any) -> dict[str, float]:
        self.model.train()
        order = TRAINING_ORDER.generator(self.seed, epoch).permutation(len(self.split))
        size = min(self.config.batch_size, len(order))
        seen = _Tally()
        began = time.perf_counter()
        for step in range(self.steps_per_epoch):
            update = epoch * self.steps_per_epoch + step
            self.scheduler.step_update(update)
            if self.energy is not None:
                self.energy.progress = update / (self.config.epochs * self.steps_per_epoch)
            self.optimizer.zero_grad(set_to_none=True)
            tally = self._backward(order[step * size : (step + 1) * size], epoch, step)
            # The norm sees every network of the step; the loss that is shown is that of the first.
            limit = math.inf if self.config.clip_grad is None else self.config.clip_grad
            norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), limit))
            if not math.isfinite(norm + tally.loss):
                remedy = "`train.lr`" if self.energy is None else "`train.lr` or the energy weight"
                raise TrainingError(f"The training diverged in epoch {epoch + 1}; lower {remedy}.")
            self.optimizer.step()
            if self.ema is not None:
                self.ema.update(self.model, step=update + 1)
            seen.loss += tally.loss
            seen.correct += tally.correct
            seen.energy += tally.energy
            seen.images += tally.images
            loss, accuracy = seen.loss / seen.images, seen.correct / seen.images
            bar.advance(loss=loss, accuracy=accuracy, images=tally.images, epoch=epoch + 1)
        seconds = time.perf_counter() - began
        record = {"loss": loss, "accuracy": accuracy, "images_per_s": seen.images / seconds}
        if self.energy is not None:
            record["energy_uJ"] = seen.energy / seen.images
        if self.team.size > 1:
            record["processes"] = self.team.size
        logger.info("epoch %d/%d: loss %.3f, accuracy %.3f", epoch + 1, self.config.epochs, *list(record.values())[:2])
        return record

    def _backward(self, indices: np.ndarray, epoch: int, step: int) -> _Tally:
        """Leave the gradient of a batch in the module, that of the mean over its images (of its parts, for energy)."""
        share = self._share(indices, epoch, step)
        tally = _Tally(images=share.total)
        for part in shares(len(share.images), self.config.accumulate):
            images = share.images[part]
            if self.drop_path is not None:
                self.drop_path.draw((self.seed, epoch, step), share.indices[part], self.device)
            with self._autocast():
                result = self.strategy(
                    self.model,
                    images,
                    self._loss(share.targets[part]),
                    epoch=epoch,
                    step=step,
                    weight=len(images) / share.total,
                )
            if self.energy is not None:
                tally.energy += float(self.energy.energies[0]) * len(images)
                self.energy.energies.clear()
            tally.loss += result.loss * len(images)
            tally.correct += float((result.logits.argmax(-1) == share.labels[part]).sum())
        if self.team.size > 1:
            self._add_up(tally, len(share.images) / share.total)
        return tally

    def _add_up(self, tally: _Tally, weight: float) -> None:
        # All processes train the same networks, so that the same parameters have a gradient in each.
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        statistics = [buffer for buffer in self.model.buffers() if buffer.is_floating_point()]
        for buffer in statistics:
            buffer.mul_(weight)
        counts = torch.tensor([tally.loss, tally.correct, tally.energy], device=self.device)
        self.team.add_up([*gradients, *statistics, counts])
        tally.loss, tally.correct, tally.energy = counts.tolist()

    def _share(self, indices: np.ndarray, epoch: int, step: int) -> _Share:
        """Return this process's share of a batch, augmented and mixed as in the whole batch."""
        mixing = self._mixing and len(indices) > 1
        if mixing:
            indices = indices[: len(indices) // 2 * 2]  # mixing pairs images, so that an odd one is left out
        total, mine = len(indices), self.team.share(len(indices))
        chosen = indices[mine]
        if mixing and self.team.size > 1:  # with their partners, which are those at the same distance from the end
            chosen = np.concatenate([chosen, indices[total - mine.stop : total - mine.start]])
        images = self.split.augmented(chosen, (self.seed, epoch, step)).to(self.device)
        labels = self.split.labels[torch.from_numpy(chosen)].to(self.device)
        images, targets = self._mix(images, labels, epoch, step)
        count = mine.stop - mine.start
        return _Share(chosen[:count], images[:count], targets[:count], labels[:count], total)

    def _loss(self, labels: Tensor) -> LossFunction:
        def loss(logits: Tensor, targets: Tensor | None = None) -> Tensor:
            targets = labels if targets is None else targets
            smoothing = 0.0 if targets.is_floating_point() else self.config.label_smoothing
            value = F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
            return value if self.energy is None else value + self.energy()

        return loss

    def _mix(self, images: Tensor, labels: Tensor, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        if not self._mixes(images) or len(images) < 2:
            return images, labels
        from timm.data import Mixup

        mixup = Mixup(
            self.config.mixup,
            self.config.cutmix if images.ndim == 4 else 0.0,
            label_smoothing=self.config.label_smoothing,
            num_classes=self.num_classes,
        )
        with _numpy_seed(MIXUP.seed(self.seed, epoch, step)):
            mixed: tuple[Tensor, Tensor] = mixup(images.clone(), labels)
        return mixed

    def _mixes(self, images: Tensor) -> bool:
        # on event frames cutmix would cut the wrong axes
        return self.config.mixup > 0 or (self.config.cutmix > 0 and images.ndim == 4)

    @contextmanager
    def _shared_statistics(self) -> Iterator[None]:
        """Make the processes share their batch-norm statistics inside a ``with`` block, if the recipe wants it."""
        wanted = self.config.sync_batch_norm and self.team.size > 1
        norms = [module for module in self.model.modules() if wanted and isinstance(module, ElasticBatchNorm)]
        for norm in norms:
            norm.add_up = self.team.summed
        try:
            yield
        finally:
            for norm in norms:
                norm.add_up = None

    @contextmanager
    def _in_training(self) -> Iterator[None]:
        """Give the module the surrogate slope and the drop path of the recipe inside a ``with`` block."""
        skipping = nullcontext() if self.drop_path is None else self.drop_path.attached()
        with set_surrogate_slope(self.model, self.config.surrogate_slope), skipping:
            yield

    def _autocast(self) -> Any:
        wanted = self.config.amp != "off" and self.device.type == "cuda"
        if wanted and torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def _save(self, epoch: int) -> None:
        if not self.team.is_first:
            return
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        if self.ema is not None:
            tensors |= {f"ema.{name}": value for name, value in self.ema.module.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        self.checkpoints.save(Checkpoint(tensors, {"identity": self.identity, "epoch": epoch, "history": self.history}))

    def _resume(self) -> int:
        checkpoint = self.team.from_first(self._load() if self.team.is_first else None)
        if checkpoint is None:
            return 0
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "optimizer": {}}
        for name, tensor in checkpoint.tensors.items():
            group, _, rest = name.partition(".")
            groups[group][rest] = tensor
        self.model.load_state_dict(groups["model"])
        if self.ema is not None:
            self.ema.module.load_state_dict(groups["ema"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in groups["optimizer"].items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        self.history = list(checkpoint.facts["history"])
        epoch: int = checkpoint.facts["epoch"]
        logger.info("training continues after epoch %d", epoch)
        return epoch

    def _load(self) -> Checkpoint | None:
        checkpoint = self.checkpoints.load(self.identity)
        before = 1 if checkpoint is None else int(checkpoint.facts["history"][-1].get("processes", 1))
        if checkpoint is not None and before != self.team.size:
            how = (
                "without a launcher" if before == 1 else f"with `torchrun --nproc-per-node {before} -m spikesearch ...`"
            )
            raise CheckpointError(
                f"{self.checkpoints.folder} holds the training of {_processes(before)}, but this is one of "
                f"{_processes(self.team.size)}, in which the weights would become others. Go on {how}; if nobody needs "
                f"that training any more, remove {self.checkpoints.folder} to train anew."
            )
        return checkpoint


def _processes(count: int) -> str:
    return f"{count} process{'es' if count > 1 else ''}"


def recipe_identity(config: TrainConfig, energy_model: EnergyModel) -> dict[str, Any]:
    """Return what of a recipe decides the weights (how often a checkpoint is written does not).

    Args:
        config: The recipe.
        energy_model: Prices the energy in the loss, if the recipe wants that.
    """
    recipe = config.model_dump(mode="json", exclude={*FREE_KEYS})
    if config.energy_weight:
        recipe["energy_model"] = energy_model.to_dict()
    fields = type(config).model_fields
    return {key: value for key, value in recipe.items() if key not in _OPTIONAL_KEYS or value != fields[key].default}


@contextmanager
def _numpy_seed(seed: np.ndarray) -> Iterator[None]:
    """Seed numpy's global generator, which timm's mixup draws from, and restore it."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
