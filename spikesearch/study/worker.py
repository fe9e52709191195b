"""Who runs a trial: a process that can be told apart from every other one, and whether it still lives."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikesearch.storage.urls import storage_option
from spikesearch.study.attributes import WORKER

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

# Runs that are in progress in this process. A notebook outlives the runs it starts: its process lives, yet a trial of
# a run that is not in this set has been abandoned.
_RUNS_HERE: set[str] = set()


@dataclass(frozen=True)
class Worker:
    """A process at work on a study; stored with every trial it starts.

    Args:
        host: Name of the machine.
        pid: Process id on that machine.
        start: When the process started, so that a process id that is used again is told apart.
        run: The call of ``run_study`` that the process works for; budgets are counted by it.
        lost: Whether the user has said that its machine is gone.
    """

    host: str
    pid: int
    start: str
    run: str
    lost: bool = False

    @classmethod
    def here(cls, run: str) -> Worker:
        """Return this process, at work for a run."""
        pid = os.getpid()
        return cls(socket.gethostname(), pid, process_start(pid) or "unknown", run)

    @classmethod
    def of(cls, trial: FrozenTrial) -> Worker | None:
        """Return the worker that a trial names, or ``None`` if it names none (a plain Optuna user's trial)."""
        return cls.from_dict(trial.user_attrs.get(WORKER))

    @classmethod
    def from_dict(cls, data: object) -> Worker | None:
        """Return the worker of :meth:`to_dict`, or ``None`` for anything else."""
        if not isinstance(data, Mapping):
            return None
        try:
            return cls(
                str(data["host"]), int(data["pid"]), str(data["start"]), str(data["run"]), bool(data.get("lost"))
            )
        except (KeyError, TypeError, ValueError):
            return None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; the inverse of :meth:`from_dict`."""
        return {key: value for key, value in asdict(self).items() if key != "lost" or value}

    def remedy(self, study: optuna.Study) -> str:
        """Say what to do if a process of another machine is not at work on a study any more."""
        command = f"spikesearch study release {study.study_name} {self.host}{storage_option(study)}"
        return f"If that machine is gone, `{command}` says so, and the next `study run` repeats its trials."

    def on_this_host(self) -> bool:
        """Tell whether the process belongs to this machine, so that :meth:`is_alive` can be answered."""
        return self.host == socket.gethostname()

    def is_alive(self) -> bool:
        """Tell whether the process still works on the run; one of another machine counts as alive until it is lost."""
        if self.lost:
            return False
        if not self.on_this_host():
            return True
        if process_start(self.pid) != self.start:
            return False
        return self.pid != os.getpid() or self.run in _RUNS_HERE


@contextmanager
def running_here(run: str) -> Iterator[None]:
    """Mark a run as in progress in this process."""
    _RUNS_HERE.add(run)
    try:
        yield
    finally:
        _RUNS_HERE.discard(run)


def process_start(pid: int) -> str | None:
    """Return when a process started, as an opaque text, or ``None`` if there is no such living process."""
    # Ticks since the boot, with the boot's own name: exact, and untouched when somebody sets the clock.
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    except (OSError, UnicodeDecodeError):  # died while being read, or not ours to read
        return None
    else:
        return None if fields[0] in {"Z", "X"} else f"{_boot()}:{fields[19]}"
    return start_by_psutil(pid)


def start_by_psutil(pid: int) -> str | None:
    """Answer :func:`process_start` where there is no ``/proc``."""
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return f"{process.create_time():.2f}"
    except psutil.Error:
        return None


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    except OSError:
        return "boot"
