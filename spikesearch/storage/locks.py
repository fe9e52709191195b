"""Locks between the processes that work on one study.

Proposing an architecture reads every trial and writes one; two processes must not do that at once. The lock belongs to
the process: the operating system, or the database, releases it when the process dies, however it dies.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from spikesearch.errors import StorageError
from spikesearch.storage.urls import study_folder

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

LOCK_TIMEOUT_S = 600.0  # a proposal takes milliseconds; only a stopped process holds the lock for longer


class StudyLock:
    """Mutual exclusion between processes; for SQLite a file lock, for PostgreSQL an advisory lock.

    Args:
        url: Storage URL of the study.
        study_name: Name of the study.
        purpose: Locks of one study with different purposes are independent.
        engine: SQLAlchemy engine of the storage; needed for PostgreSQL.

    Use it with ``with lock:``; the same object may be entered again by the thread that holds it.

    Raises:
        StorageError: If the lock's folder cannot be written, or another process keeps the lock for ten minutes.
    """

    def __init__(self, url: str, study_name: str, *, purpose: str = "study", engine: Engine | None = None) -> None:
        self._what = f"{purpose} lock of study {study_name!r}"
        self._depth = 0
        self._thread = threading.RLock()
        self._context: AbstractContextManager[None] | None = None
        folder = study_folder(url, study_name)
        if folder is not None:
            self._acquire = _file_lock(folder / f".{purpose}.lock", self._what)
        else:
            assert engine is not None
            self._acquire = _advisory_lock(engine, f"spikesearch:{study_name}:{purpose}", self._what)

    def __enter__(self) -> StudyLock:
        self._thread.acquire()
        try:
            if self._depth == 0:
                context = self._acquire(LOCK_TIMEOUT_S)
                context.__enter__()
                self._context = context
            self._depth += 1
        except BaseException:
            self._thread.release()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._depth -= 1
        try:
            if self._depth == 0 and self._context is not None:
                context, self._context = self._context, None
                context.__exit__(None, None, None)
        finally:
            self._thread.release()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Hold the lock, without waiting for it.

        Raises:
            LockBusyError: If another process holds it.
        """
        with self._thread, self._acquire(0.0):
            yield

    @contextmanager
    def wait(self, message: Callable[[], None]) -> Iterator[None]:
        """Hold the lock, however long another process keeps it; ``message`` is called once if that takes a while."""
        told = False
        with self._thread:
            while True:
                context = self._acquire(1.0 if not told else 60.0)
                try:
                    context.__enter__()
                    break
                except StorageError as error:
                    if not isinstance(error, LockBusyError):
                        raise
                    if not told:
                        message()
                        told = True
            try:
                yield
            finally:
                context.__exit__(None, None, None)


class NullLock:
    """The lock of a storage that only this process can reach: it has the methods of a lock and keeps nobody out."""

    def __enter__(self) -> NullLock:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def at_once(self) -> NullLock:
        """See :meth:`StudyLock.at_once`."""
        return self

    def wait(self, message: Callable[[], None]) -> NullLock:
        """See :meth:`StudyLock.wait`; ``message`` is never called."""
        return self


Lock = StudyLock | NullLock


class LockBusyError(StorageError):
    """Another process holds the lock."""


def _file_lock(path: Path, what: str) -> Callable[[float], AbstractContextManager[None]]:
    lock = FileLock(path)

    @contextmanager
    def acquire(timeout: float) -> Iterator[None]:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=timeout, poll_interval=0.005)
        except Timeout:
            raise LockBusyError(f"Another process holds the {what} ({path}); end it and try again.") from None
        except OSError as error:
            raise StorageError(
                f"Cannot write {path}: {error.strerror or error}. Choose a folder that is writable."
            ) from error
        try:
            yield
        finally:
            lock.release()

    return acquire


def _advisory_lock(engine: Engine, key: str, what: str) -> Callable[[float], AbstractContextManager[None]]:
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], signed=True)

    @contextmanager
    def acquire(timeout: float) -> Iterator[None]:
        from sqlalchemy import text
        from sqlalchemy.exc import OperationalError

        # A connection of its own: the lock lives as long as it does, and ends with the process at the latest.
        with engine.connect() as connection:
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.execute(text(f"SET lock_timeout = {max(1, int(timeout * 1000))}"))
            try:
                connection.execute(text("SELECT pg_advisory_lock(:number)"), {"number": number})
            except OperationalError as error:
                raise LockBusyError(f"Another process holds the {what}; end it and try again.") from error
            finally:
                connection.execute(text("SET lock_timeout = 0"))
            try:
                yield
            finally:
                connection.execute(text("SELECT pg_advisory_unlock(:number)"), {"number": number})

    return acquire
