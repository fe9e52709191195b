"""One training loop for the supernet and for plain networks: deterministic, resumable, with a progress bar.

Everything random depends on (seed, epoch, step): the order of the images, their augmentation, mixup, the subnets. On
the CPU, with as many threads, a training that was killed and resumed therefore ends with the same weights as one that
was not; on a GPU the libraries' own kernels may differ in the last bits.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikesearch.errors import TrainingError
from spikesearch.train.checkpoint import Checkpoint, CheckpointFolder
from spikesearch.train.progress import training_progress
from spikesearch.train.strategies import Strategy

if TYPE_CHECKING:
    from spikesearch.config import TrainConfig
    from spikesearch.data import Split

logger = logging.getLogger(__name__)

_ORDER, _MIX = 1, 2  # streams of random numbers; the subnets have one of their own

EpochCallback = Callable[[int, dict[str, float], nn.Module], None]
"""Takes the number of finished epochs, their last record (to which it may add) and the module as it would be kept."""


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
        self.identity = {**identity, "recipe": recipe_identity(config), "seed": seed}
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
            Loss, training accuracy (of the first network of every step) and images per second of each epoch.

        Raises:
            CheckpointError: If the checkpoint is corrupt or of another training.
        """
        start = self._resume()
        steps = self.steps_per_epoch
        with training_progress(title, self.config.epochs * steps, start * steps, progress) as bar:
            for epoch in range(start, self.config.epochs):
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
        order = np.random.default_rng([_ORDER, self.seed, epoch]).permutation(len(self.split))
        size = min(self.config.batch_size, len(order))
        loss = correct = images_seen = 0.0
        began = time.perf_counter()
        for step in range(self.steps_per_epoch):
            indices = order[step * size : (step + 1) * size]
            images = self.split.augmented(indices, (self.seed, epoch, step)).to(self.device)
            labels = self.split.labels[torch.from_numpy(indices)].to(self.device)
            images, targets = self._mix(images, labels, epoch, step)
            labels = labels[: len(images)]  # mixing pairs images, so that an odd one is left out
            update = epoch * self.steps_per_epoch + step
            self.scheduler.step_update(update)
            self.optimizer.zero_grad(set_to_none=True)
            with self._autocast():
                result = self.strategy(self.model, images, self._loss(targets), epoch=epoch, step=step)
            # The norm sees every network of the step; the loss that is shown is that of the first.
            limit = math.inf if self.config.clip_grad is None else self.config.clip_grad
            norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), limit))
            if not math.isfinite(norm + result.loss):
                raise TrainingError(f"The training diverged in epoch {epoch + 1}; lower `train.lr`.")
            self.optimizer.step()
            if self.ema is not None:
                self.ema.update(self.model, step=update + 1)
            loss += result.loss * len(images)
            correct += float((result.logits.argmax(-1) == labels).sum())
            images_seen += len(images)
            bar.advance(loss=loss / images_seen, accuracy=correct / images_seen, images=len(images), epoch=epoch + 1)
        seconds = time.perf_counter() - began
        record = {"loss": loss / images_seen, "accuracy": correct / images_seen, "images_per_s": images_seen / seconds}
        logger.info("epoch %d/%d: loss %.3f, accuracy %.3f", epoch + 1, self.config.epochs, *list(record.values())[:2])
        return record

    def _loss(self, targets: Tensor) -> Any:
        smoothing = 0.0 if targets.is_floating_point() else self.config.label_smoothing
        return lambda logits: F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)

    def _mix(self, images: Tensor, labels: Tensor, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        cutmix = self.config.cutmix if images.ndim == 4 else 0.0  # on event frames it would cut the wrong axes
        if (self.config.mixup == 0 and cutmix == 0) or len(images) < 2:
            return images, labels
        from timm.data import Mixup

        even = len(images) // 2 * 2
        mixup = Mixup(
            self.config.mixup, cutmix, label_smoothing=self.config.label_smoothing, num_classes=self.num_classes
        )
        with _numpy_seed(_MIX, self.seed, epoch, step):
            mixed: tuple[Tensor, Tensor] = mixup(images[:even].clone(), labels[:even])
        return mixed

    def _autocast(self) -> Any:
        wanted = self.config.amp != "off" and self.device.type == "cuda"
        if wanted and torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def _save(self, epoch: int) -> None:
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        if self.ema is not None:
            tensors |= {f"ema.{name}": value for name, value in self.ema.module.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        self.checkpoints.save(Checkpoint(tensors, {"identity": self.identity, "epoch": epoch, "history": self.history}))

    def _resume(self) -> int:
        checkpoint = self.checkpoints.load(self.identity)
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


def recipe_identity(config: TrainConfig) -> dict[str, Any]:
    """Return what of a recipe decides the weights (how often a checkpoint is written does not)."""
    return config.model_dump(mode="json", exclude={"checkpoint_every_epochs"})


@contextmanager
def _numpy_seed(*key: int) -> Iterator[None]:
    """Seed numpy's global generator, which timm's mixup draws from, and restore it."""
    before = np.random.get_state()
    np.random.seed(np.random.SeedSequence(key).generate_state(4))
    try:
        yield
    finally:
        np.random.set_state(before)
