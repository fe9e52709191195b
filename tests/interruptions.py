"""Trainings that are killed between two epochs, and what is trained when they go on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch.distributed as dist

from spikesearch.train.checkpoint import Checkpoint, CheckpointFolder


class Interrupted(BaseException):
    """Stands for a kill: nothing may catch it."""


@contextmanager
def interruption(epochs: int = 1, *, before_save: bool = False) -> Iterator[None]:
    """Stop the training inside a ``with`` block when some epochs are over.

    Args:
        epochs: How many, over all trainings inside the block.
        before_save: Whether the checkpoint of the last of them is not written any more.
    """
    original = CheckpointFolder.save
    saved: list[int] = []
    seen: list[int] = []

    def save(self: CheckpointFolder, checkpoint: Checkpoint) -> None:
        saved.append(checkpoint.facts["epoch"])
        if before_save and len(saved) == epochs:
            raise Interrupted
        original(self, checkpoint)
        if len(saved) == epochs:
            raise Interrupted

    def note(number: int) -> None:
        seen.append(number)
        if dist.is_initialized() and dist.get_rank() > 0 and len(seen) == epochs:  # only the first process saves
            raise Interrupted

    with pytest.MonkeyPatch.context() as patch, epochs_trained(note):
        patch.setattr(CheckpointFolder, "save", save)
        with pytest.raises(Interrupted):
            yield


@contextmanager
def epochs_trained(note: Callable[[int], object] | None = None) -> Iterator[list[int]]:
    """Collect the numbers of the epochs that are trained inside a ``with`` block, from 1, as the log tells them.

    Args:
        note: Called with the number after each of them.
    """
    numbers: list[int] = []

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("epoch "):
                assert isinstance(record.args, tuple)
                numbers.append(int(str(record.args[0])))
                if note is not None:
                    note(numbers[-1])

    logger, handler = logging.getLogger("spikesearch.train.loop"), Notes()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield numbers
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
