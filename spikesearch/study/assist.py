"""What the processes do that a launcher starts beside the first one: they help to train, and end.

Only the first process works on the study: it reads the study file, holds the locks, writes the files, and searches. It
tells the others what to train when the time has come.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spikesearch.config import StudyConfig
from spikesearch.errors import ConfigError, SpikesearchError, StudyError, TrainingError
from spikesearch.study.assembly import load_data_of, train_supernet_of
from spikesearch.study.checks import check_device
from spikesearch.study.resolve import Target, resolve

TrainingOrder = tuple[StudyConfig, Path]
"""What is trained, and the folder of its files, which only the first process uses."""


def assist(device: str) -> None:
    """Help the first process with its training and end; in the first process, or one without others, do nothing.

    Args:
        device: As in the first process.

    Raises:
        SystemExit: When the first process needs no help any more, or has ended.
        SpikesearchError: If something is wrong with this process alone, such as data that are missing on its machine.
    """
    if os.environ.get("RANK", "0") == "0":  # importing torch takes seconds, and a mistake is to be told at once
        return
    # There is nothing to tidy up here, and while a process waits for the others no Python handler would run. Before the
    # imports: the launcher ends this process as soon as the first one has failed.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    _handle(dict.fromkeys(handlers, signal.SIG_DFL))
    from spikesearch.train.distributed import TeamLostError, gathered, started

    if started().is_first:  # a rank without a team
        _handle(handlers)
        return
    logging.getLogger("spikesearch").setLevel(logging.ERROR)  # everything is said once, by the first
    try:
        check_device(device)
        with gathered(device) as (team, own):
            order: TrainingOrder | None = team.from_first(None)
            if order is not None:
                config, folder = order
                train_supernet_of(config, load_data_of(config), folder, own, progress=False)
    except (ConfigError, StudyError, TrainingError, TeamLostError):
        # What is wrong is found by the first process, too. It says so and fails; a failure here would make the launcher
        # end it before it could.
        pass
    raise SystemExit(0)


def resolve_or_assist(
    what: str | Path | StudyConfig, *, storage: str | None = None, study_name: str | None = None, device: str
) -> Target:
    """Find out what to run, with :func:`~spikesearch.study.resolve.resolve`; of a mistake only the first process tells.

    Args:
        what: See :func:`~spikesearch.study.resolve.resolve`.
        storage: Likewise.
        study_name: Likewise.
        device: See :func:`assist`.
    """
    try:
        return resolve(what, storage=storage, study_name=study_name)
    except SpikesearchError:
        assist(device)
        raise


def _handle(handlers: Mapping[signal.Signals, Any]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)
