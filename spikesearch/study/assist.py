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
from spikesearch.errors import ConfigError, StudyError, TrainingError
from spikesearch.study import prepare

Job = tuple[StudyConfig, Path]
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
        prepare.check_device(device)
        with gathered(device) as (team, own):
            job: Job | None = team.from_first(None)
            if job is not None:
                config, folder = job
                data = prepare.load_data_of(config)
                prepare.train_supernet_of(config, data, folder, own, progress=False)
    except (ConfigError, StudyError, TrainingError, TeamLostError):
        # What is wrong is found by the first process, too. It says so and fails; a failure here would make the launcher
        # end it before it could.
        pass
    raise SystemExit(0)


def _handle(handlers: Mapping[signal.Signals, Any]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)
