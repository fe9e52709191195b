"""How far a search is: a progress bar on a terminal, a line now and then elsewhere; always on stderr."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from spikesearch.study.search.loop import FinishedTrial

_log = logging.getLogger(__name__)
_LINES = 20


class SearchBar:
    """Counts the trials of a run and remembers the best of them."""

    def __init__(self, progress: Progress, task: TaskID, total: int, best: float | None) -> None:
        self._progress = progress
        self._task = task
        self._total = total
        self._best = best
        self._count = 0
        self._began = time.monotonic()

    def __call__(self, trial: FinishedTrial) -> None:
        """Count a trial."""
        self._count += 1
        if trial.feasible:
            self._best = max(trial.f_aeb, self._best if self._best is not None else trial.f_aeb)
        best = "none" if self._best is None else f"{self._best:.4f}"
        self._progress.update(self._task, advance=1, best=best)
        if self._progress.disable and (self._count % max(1, self._total // _LINES) == 0 or self._count == self._total):
            left = (time.monotonic() - self._began) / self._count * max(0, self._total - self._count)
            _log.info(
                "%d of %d trials, best F_AEB %s, %.0f s left; trial %d: accuracy %.4f, energy %.4g uJ",
                *(self._count, self._total, best, left, trial.number, trial.accuracy, trial.energy_uJ),
            )


@contextmanager
def search_progress(total: int, best: float | None, *, visible: bool) -> Iterator[SearchBar]:
    """Show the progress of a search inside a ``with`` block.

    Args:
        total: Trials to come.
        best: Best F_AEB of earlier runs.
        visible: Whether to show anything.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("Search"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("trials, best F_AEB {task.fields[best]}"),
        TimeRemainingColumn(),
    )
    shown = visible and console.is_terminal
    with Progress(*columns, console=console, disable=not shown) as progress:
        task = progress.add_task("search", total=total, best="none" if best is None else f"{best:.4f}")
        yield SearchBar(progress, task, total, best)
