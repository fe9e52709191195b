"""Signs of life of whoever scores the reference, for those on other machines who wait for it.

Nothing can be scored before the reference. Whether a process of this machine lives is known; one of another machine is
only believed to as long as it writes, from time to time, to the study that it is at work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from spikesearch.errors import StudyError
from spikesearch.study.attributes import SIGN_OF_LIFE
from spikesearch.study.worker import Worker

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

EVERY_S = 10.0
PATIENCE_S = 30.0


@contextmanager
def signs_of_life(study: optuna.Study) -> Iterator[None]:
    """Write to a study, every few seconds inside a ``with`` block, that this process is at work."""
    ended = threading.Event()

    def write() -> None:
        while not ended.wait(EVERY_S):
            with suppress(Exception):  # a sign that is lost is followed by the next
                study.set_user_attr(SIGN_OF_LIFE, time.time())

    thread = threading.Thread(target=write, daemon=True, name="spikesearch-signs")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class Watch:
    """Waits for signs of life; the clocks of the machines may differ.

    Args:
        study: The study.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._last: object = None
        self._since: float | None = None

    def look(self, reference: FrozenTrial) -> str | None:
        """Return whom to wait for, if that is nobody of this machine.

        Args:
            reference: The running trial that is waited for.

        Raises:
            StudyError: If no sign of life has come for a while, since this was first asked.
        """
        worker = Worker.of(reference)
        if worker is not None and worker.on_this_host():
            return None
        who = f"process {worker.pid} on {worker.host}" if worker else "something other than spikesearch"
        last = self._study.user_attrs.get(SIGN_OF_LIFE)
        if self._since is None or last != self._last:
            self._last, self._since = last, time.monotonic()
        if time.monotonic() - self._since >= PATIENCE_S:
            fail = f"study.tell({reference.number}, state=optuna.trial.TrialState.FAIL)"
            raise StudyError(
                f"Nothing can be scored before trial {reference.number}, the reference. It is run by {who}, without a "
                f"sign of life for {PATIENCE_S:.0f} s. "
                + (worker.remedy(self._study) if worker else f"If that has ended, {fail} makes way.")
            )
        return f"Waiting for trial {reference.number}, the reference, which is run by {who}."
