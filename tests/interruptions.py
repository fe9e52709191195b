"""Trainings that are killed between two epochs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from spikesearch.train import Trainer


class Interrupted(BaseException):
    """Stands for a kill: nothing may catch it."""


@contextmanager
def interruption(epochs: int = 1, *, before_save: bool = False) -> Iterator[None]:
    """Stop the training inside a ``with`` block when some epochs are done.

    Args:
        epochs: How many, over all trainings inside the block.
        before_save: Whether the checkpoint of the last of them is not written any more.
    """
    original, done = Trainer._save, []

    def save(self: Trainer, epoch: int) -> None:
        done.append(epoch)
        if before_save and len(done) == epochs:
            raise Interrupted
        original(self, epoch)
        if len(done) == epochs:
            raise Interrupted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_save", save)
        with pytest.raises(Interrupted):
            yield
