"""The progress bar of a training: loss, accuracy, images per second, time left; on stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class TrainingBar:
    """A rich progress bar that knows what a training reports."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self._began = time.perf_counter()
        self._images = 0

    def advance(self, *, loss: float, accuracy: float, images: int, epoch: int) -> None:
        """Show that a step is done.

        Args:
            loss: Mean of the epoch so far.
            accuracy: Mean training accuracy of the epoch so far, as a fraction.
            images: Images of this step.
            epoch: From 1.
        """
        self._images += images
        speed = self._images / max(time.perf_counter() - self._began, 1e-9)
        status = f"epoch {epoch}  loss {loss:.3f}  accuracy {accuracy:.1%}  {speed:,.0f} images/s"
        self._progress.update(self._task, advance=1, status=status)


@contextmanager
def training_progress(title: str, total: int, done: int, visible: bool) -> Iterator[TrainingBar]:
    """Show a progress bar inside a ``with`` block.

    Args:
        title: What is trained.
        total: Number of steps.
        done: Steps that an earlier run has done.
        visible: Whether to show anything.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%  {task.fields[status]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not visible) as progress:
        yield TrainingBar(progress, progress.add_task(title, total=total, completed=done, status=""))
