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
Unit = Literal["us", "ms", "s", "ns"]
_NAMES: dict[Unit, str] = {"us": "microseconds", "ns": "nanoseconds"}
_MICROSECONDS: dict[Unit, float] = {"us": 1, "ms": 1e3, "s": 1e6, "ns": 1e-3}

SHORT, LONG, JUMP, THOUSANDS, UNSORTED = "short", "long", "jump", "thousands", "unsorted"
DOUBTS = {
    SHORT: "{} shorter than 1 ms: are the times in `data.time_unit`?",
    LONG: "{} longer than 1 h: are the times in `data.time_unit`?",
    JUMP: "{} interrupted by a pause of more than half the length: is there a jump in the times?",
    THOUSANDS: "{} timed in whole thousands of microseconds: are the times nanoseconds (`data.time_unit`)?",
    UNSORTED: "{} not in the order of time in the file: the events are sorted before they are cut into frames.",
}
"""What is said of times that are possible, but unlikely."""
LARGEST_COORDINATE = 2**31  # far beyond any sensor
LONGEST = 2**62  # between the first and the last time, so that differences fit into 64 bits


@dataclass(frozen=True)
class Events:
    """One recording, ordered in time; four arrays [N].

    Args:
        t: Microseconds, int64.
        x: Column, int64.
        y: Row, int64.
        p: Polarity, bool.
        sorted: Whether they had to be sorted.
    """

    t: np.ndarray
    x: np.ndarray
    y: np.ndarray
    p: np.ndarray
    sorted: bool = False


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


def span(path: Path) -> tuple[float, bool]:
    """Return the length of a recording in its own unit and whether its times are whole; (0, True) if unreadable."""
    try:
        with _open(path) as file:
            t = file["t"]
        return float(t.max() - t.min()), bool((t == np.floor(t)).all())
    except (DataError, TypeError, ValueError):
        return 0.0, True


def read_events(path: Path, unit: Unit = "us") -> Events:
    """Read and check an ``.npz`` file of events; whatever their order in the file, they are sorted by time.

    Args:
        path: The file.
        unit: Of its times. Microseconds and nanoseconds must be whole numbers, and so must coordinates.

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
    signs = np.unique(polarity)
    if not (np.isin(signs, (0, 1)).all() or np.isin(signs, (-1, 1)).all()):
        values = ", ".join(map(str, signs.tolist())) if len(signs) <= 3 else f"{signs[0]} to {signs[-1]}"
        raise DataError(f"{path}: `p` must hold 0 and 1, or -1 and 1, but got {values}.")
    for key in ("x", "y"):
        wrong = arrays[key][(arrays[key] != np.floor(arrays[key])) | (np.abs(arrays[key]) >= LARGEST_COORDINATE)]
        if len(wrong):
            raise DataError(f"{path}: `{key}` must hold whole numbers of pixels, but got {wrong[0]}.")
    t = _whole(arrays["t"], unit, path)
    order: slice | np.ndarray = slice(None)
    unsorted = bool((np.diff(t) < 0).any())
    if unsorted:
        _refuse_falls(t, polarity > 0, path)
        order = np.argsort(t, kind="stable")
    x, y = (arrays[key].astype(np.int64)[order] for key in ("x", "y"))
    return Events(_microseconds(t[order], unit), x, y, (polarity > 0)[order], unsorted)


def _whole(t: np.ndarray, unit: Unit, path: Path) -> np.ndarray:
    """Return times as int64 where they are whole, else, for units that have fractions, as float64."""
    first, last = t.min().item(), t.max().item()
    if last - first >= LONGEST or (t.dtype.kind == "f" and max(-first, last) >= LONGEST):
        raise DataError(f"{path}: `t` goes from {first} to {last}, which no clock counts to. Write the times anew.")
    if t.dtype.kind != "f":
        return (t - t.min() if t.dtype == np.uint64 else t).astype(np.int64)
    fractions = t[t != np.floor(t)]
    if len(fractions) and unit in ("us", "ns"):
        raise DataError(
            f"{path}: `t` must hold whole {_NAMES[unit]}, but got {float(fractions[0])!r}. Set `data.time_unit` to s "
            "or ms where times are seconds or milliseconds."
        )
    length, step = float(last) - float(first), float(np.spacing(np.abs(t).max()))
    if step * _MICROSECONDS[unit] > 1 and 1000 * step > length:
        raise DataError(f"{path}: `t` holds {t.dtype} numbers, which are too coarse for their size. Write them anew.")
    return t.astype(np.float64 if len(fractions) else np.int64)


def _microseconds(t: np.ndarray, unit: Unit) -> np.ndarray:
    """Return sorted times in microseconds; of other units, since the first event."""
    if unit == "us":
        return t
    since = t - t[0]
    whole: np.ndarray = since // 1000 if unit == "ns" else np.rint(since * _MICROSECONDS[unit]).astype(np.int64)
    return whole


def _refuse_falls(t: np.ndarray, p: np.ndarray, path: Path) -> None:
    """Refuse times that fall back behind much of what was before, which sorting would mix up.

    A counter that wraps leaves such falls, and so does a second recording in the file. Other disorder is sorted:
    jitter, which passes few events; one polarity after the other; no order at all, where a quarter of all steps are
    such falls.
    """
    turns = np.flatnonzero(np.diff(p)) + 1
    for start, stop in [(0, turns[0]), (turns[0], len(t))] if len(turns) == 1 else [(0, len(t))]:
        falls = start + _deep_falls(t[start:stop])
        if not len(falls) or len(falls) >= (stop - start) / 4:
            continue
        i = int(falls[0])
        raise DataError(
            f"{path}: `t` falls from {t[i]} to {t[i + 1]} behind event {i}, as where a counter wraps or another "
            "recording begins. Make the times go on from there, or write two files; if it is one recording in "
            "disorder, sort its events by time."
        )


def _deep_falls(t: np.ndarray) -> np.ndarray:
    """Return behind which events of some the next one belongs before much of what was before.

    That is a tenth of the events before it and ten of them; of falls by less than 1 % of the recording, as jitter may
    be at its beginning, half of them and a hundred.
    """
    before = np.arange(1, len(t))  # events before the next one
    rank = np.empty(len(t), np.int64)
    rank[np.argsort(t, kind="stable")] = np.arange(len(t))
    steps, passed = np.diff(t), before - rank[1:]
    far = steps < -(int(t.max()) - int(t.min())) / 100
    return np.flatnonzero(
        (steps < 0) & (passed >= np.where(far, np.maximum(10, before / 10), np.maximum(100, before / 2)))
    )


def doubts(events: Events, unit: Unit) -> set[str]:
    """Return which of :data:`DOUBTS` there are about the times of a recording, given in some unit."""
    pauses, length = np.diff(events.t), int(events.t[-1] - events.t[0])
    many = len(pauses) >= 10
    return {
        name
        for name, doubtful in (
            (SHORT, length < 1000),
            (LONG, length > 3_600_000_000),
            (JUMP, many and length >= 1000 and pauses.max() > length / 2),
            (THOUSANDS, unit == "us" and many and length >= 1000 and not (pauses % 1000).any()),
            (UNSORTED, events.sorted),
        )
        if doubtful
    }


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
