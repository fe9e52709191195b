"""Ctrl-C, delivered only where it can do no harm.

Python raises ``KeyboardInterrupt`` between any two instructions: also inside a database driver, which then keeps a
transaction open that locks everybody out, or inside a destructor, where it is swallowed. While a search runs, a signal
is therefore noted, and raised only while something is computed or waited for; everywhere else it waits for the next
such place, a few milliseconds away.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_IMPATIENT = 3  # as many signals mean that the storage hangs, and are raised wherever they come


class Interrupts:
    """Holds back the signals that would raise ``KeyboardInterrupt``, inside a ``with`` block.

    Only signals that have a Python handler are held back: those that are ignored, or end the process at once, stay as
    they are. In a thread that is not the main one, nothing is done; signals do not arrive there.
    """

    def __init__(self) -> None:
        self._pending = 0
        self._open = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if callable(signal.getsignal(number)):
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Let signals through inside the block, and those that came before it."""
        self.check()
        self._open = True
        try:
            yield
        finally:
            self._open = False
        self.check()  # the exception may have been swallowed by a destructor

    def check(self) -> None:
        """Raise ``KeyboardInterrupt`` if a signal has come."""
        if self._pending:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._pending += 1
        if self._open or self._pending >= _IMPATIENT:
            self._open = False  # what follows is the tidying up, and must not be interrupted again
            raise KeyboardInterrupt
