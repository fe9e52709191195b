"""From events to frames: pure functions of arrays, with every recording checked.

A frame counts the events of every pixel and polarity in one window (Fang et al., SpikingJelly's "integration"). Windows
hold equally many events (``number``), or cover equal shares of the recording (``time``), or a fixed duration each.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from spikesearch.errors import DataError

KEYS = ("t", "x", "y", "p")


@dataclass(frozen=True)
class Events:
    """One recording, ordered in time; four arrays [N].

    Args:
        t: Microseconds, int64.
        x: Column, int64.
        y: Row, int64.
        p: Polarity, bool.
    """

    t: np.ndarray
    x: np.ndarray
    y: np.ndarray
    p: np.ndarray


@dataclass(frozen=True)
class Windows:
    """How a recording is cut.

    Args:
        frames: Number of windows T.
        split_by: ``number`` or ``time``; not used where ``frame_us`` is given.
        frame_us: Microseconds per window from the first event on, or ``None`` to divide the whole recording.
    """

    frames: int
    split_by: Literal["number", "time"]
    frame_us: float | None = None


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in KEYS if key not in file]
            if missing:
                raise DataError(f"{path} lacks the array {missing[0]!r}; event files hold t, x, y and p.")
            yield file
    except DataError:
        raise
    except (OSError, ValueError, TypeError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read as an .npz file of events ({error}). Repair or remove it.") from None


def check_event_file(path: Path) -> None:
    """Look only at which arrays an ``.npz`` file has; their list is at its end, so that half a file is noticed.

    Raises:
        DataError: If it is no such file or lacks an array; the message names the file.
    """
    with _open(path):
        pass


def read_events(path: Path) -> Events:
    """Read and check an ``.npz`` file of events.

    Raises:
        DataError: If it cannot be read, lacks an array, or holds impossible values; the message names the file.
    """
    with _open(path) as file:
        arrays = {key: file[key] for key in KEYS}
    lengths = {key: array.shape for key, array in arrays.items()}
    if len(set(lengths.values())) > 1 or arrays["t"].ndim != 1:
        raise DataError(f"{path} must hold four arrays of one length, but got {lengths}.")
    if not len(arrays["t"]):
        raise DataError(f"{path} holds no event. Remove it.")
    for key, array in arrays.items():
        if array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and not np.isfinite(array).all()):
            raise DataError(f"{path}: `{key}` must hold finite numbers, but got {array.dtype}.")
    polarity = arrays["p"]
    if not np.isin(polarity, (-1, 0, 1)).all():
        raise DataError(f"{path}: `p` must hold 0 and 1 (or -1 and 1), but got {polarity.min()} to {polarity.max()}.")
    t = arrays["t"].astype(np.int64)
    order = slice(None) if (np.diff(t) >= 0).all() else np.argsort(t, kind="stable")
    return Events(
        t[order], arrays["x"].astype(np.int64)[order], arrays["y"].astype(np.int64)[order], (polarity > 0)[order]
    )


def window_edges(events: Events, windows: Windows, name: str) -> np.ndarray:
    """Return the first event of every window and one past the last event of the last: int64 [T + 1].

    ``number`` and ``time`` divide as SpikingJelly does: what does not divide evenly goes to the last window.

    Args:
        events: A recording.
        windows: How it is cut.
        name: Named in the error.

    Raises:
        DataError: If a window holds no event.
    """
    count, frames = len(events.t), windows.frames
    if windows.frame_us is None and windows.split_by == "number":
        edges = np.arange(frames + 1) * (count // frames)
        edges[-1] = count
        bounds = None
    else:
        start = events.t[0]
        if windows.frame_us is not None:
            bounds = start + windows.frame_us * np.arange(frames + 1)
        else:
            bounds = start + (events.t[-1] - start) // frames * np.arange(frames + 1)
        edges = np.searchsorted(events.t, bounds, side="left")
        if windows.frame_us is None:
            edges[-1] = count
    empty = np.flatnonzero(np.diff(edges) <= 0)
    if len(empty):
        i = int(empty[0])
        when = f"{count} events in all"
        if bounds is not None:
            when = f"{bounds[i] - events.t[0]:.0f} to {bounds[i + 1] - events.t[0]:.0f} us after the first event"
        raise DataError(
            f"{name}: frame {i} of {frames} holds no event ({when}). Use fewer frames, `data.split_by: number`, or set "
            "`data.skip_unreadable: true` to leave such recordings out."
        )
    return edges


def integrate(
    events: Events, windows: Windows, sensor: tuple[int, int], *, downsample: int = 1, name: str = "recording"
) -> np.ndarray:
    """Count events per window, polarity and pixel.

    Args:
        events: A recording.
        windows: How it is cut.
        sensor: Height and width in pixels.
        downsample: Sums blocks of this many pixels squared.
        name: Named in errors.

    Returns:
        uint16 [T, 2, S, S], saturating; a sensor that is not square is padded with zeros at the bottom or right.

    Raises:
        DataError: If an event lies outside the sensor or a window holds no event.
    """
    height, width = sensor
    outside = (events.x < 0) | (events.x >= width) | (events.y < 0) | (events.y >= height)
    if outside.any():
        i = int(np.flatnonzero(outside)[0])
        raise DataError(
            f"{name}: event {i} lies at x={events.x[i]}, y={events.y[i]}, outside of the sensor ({width}x{height} "
            "pixels). Correct `data.sensor` or remove the file."
        )
    edges = window_edges(events, windows, name)
    size = -(-max(sensor) // downsample)
    used = slice(edges[0], edges[-1])
    frame = np.repeat(np.arange(windows.frames), np.diff(edges))
    row, column = events.y[used] // downsample, events.x[used] // downsample
    position = ((frame * 2 + events.p[used]) * size + row) * size + column
    counts = np.bincount(position, minlength=windows.frames * 2 * size * size)
    return np.minimum(counts, 65535).astype(np.uint16).reshape(windows.frames, 2, size, size)
