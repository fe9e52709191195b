"""From events to frames: every event is counted once, where and when it happened."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikesearch.data.frames import (
    JUMP,
    LONG,
    SHORT,
    THOUSANDS,
    UNSORTED,
    Events,
    Windows,
    doubts,
    integrate,
    read_events,
    window_edges,
)
from spikesearch.data.kinds.spikingjelly import importable_datasets
from spikesearch.errors import DataError

SENSOR = (9, 11)


@st.composite
def recordings(draw: st.DrawFn, smallest: int = 12) -> Events:
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    count = draw(st.integers(smallest, 60))
    return Events(
        np.sort(rng.integers(0, 10_000, count)),
        rng.integers(0, SENSOR[1], count),
        rng.integers(0, SENSOR[0], count),
        rng.integers(0, 2, count).astype(bool),
    )


def counted(events: Events, first: int, last: int, size: int, downsample: int = 1) -> np.ndarray:
    frame = np.zeros((2, size, size), int)
    for i in range(first, last):
        frame[int(events.p[i]), events.y[i] // downsample, events.x[i] // downsample] += 1
    return frame


@given(events=recordings(), frames=st.integers(1, 6), downsample=st.integers(1, 3))
def test_frames_by_number_count_every_event_once(events: Events, frames: int, downsample: int) -> None:
    made = integrate(events, Windows(frames, "number"), SENSOR, downsample=downsample)
    size = -(-11 // downsample)
    assert made.shape == (frames, 2, size, size)
    step = len(events.t) // frames
    for i in range(frames):
        last = len(events.t) if i == frames - 1 else (i + 1) * step
        assert np.array_equal(made[i], counted(events, i * step, last, size, downsample))


@given(events=recordings(smallest=40), frames=st.integers(1, 3))
def test_frames_by_time_hold_the_events_of_their_window(events: Events, frames: int) -> None:
    made = integrate(events, Windows(frames, "time"), SENSOR)
    length = (events.t[-1] - events.t[0]) // frames
    window = np.minimum((events.t - events.t[0]) // length, frames - 1)
    for i in range(frames):
        chosen = np.flatnonzero(window == i)
        assert np.array_equal(made[i], counted(events, chosen[0], chosen[-1] + 1, 11))


def test_frames_of_a_duration_leave_out_what_comes_later() -> None:
    events = Events(
        np.array([100, 150, 1099, 1100, 2099, 2100]), x=np.zeros(6, int), y=np.zeros(6, int), p=np.ones(6, bool)
    )
    made = integrate(events, Windows(2, "number", frame_us=1000), (4, 4))
    assert made.sum((1, 2, 3)).tolist() == [3, 2]
    assert window_edges(events, Windows(2, "time", frame_us=1000), "x").tolist() == [0, 3, 5]


@given(events=recordings(smallest=40), frames=st.integers(1, 3), split_by=st.sampled_from(["number", "time"]))
def test_frames_are_those_of_spikingjelly(events: Events, frames: int, split_by: Any) -> None:
    with importable_datasets():
        utils = importlib.import_module("spikingjelly.datasets.utils")
    arrays = {"t": events.t, "x": events.x, "y": events.y, "p": events.p}
    theirs = utils.integrate_events_by_fixed_frames_number(arrays, split_by, frames, 11, 11)
    assert np.array_equal(integrate(events, Windows(frames, split_by), (11, 11)), theirs)


def test_a_sensor_that_is_not_square_is_padded() -> None:
    events = Events(np.arange(3), np.array([0, 10, 3]), np.array([8, 0, 2]), np.ones(3, bool))
    made = integrate(events, Windows(1, "number"), SENSOR)
    assert made.shape == (1, 2, 11, 11)
    assert made[0, 1, 9:].sum() == 0
    assert made[0, 1, 8, 0] == made[0, 1, 0, 10] == made[0, 1, 2, 3] == 1


def test_counts_do_not_overflow() -> None:
    many = Events(np.arange(70_000), x=np.zeros(70_000, int), y=np.zeros(70_000, int), p=np.ones(70_000, bool))
    assert integrate(many, Windows(1, "number"), (2, 2)).max() == 65535


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("x", "y"), [(11, 0), (0, 9), (-1, 0), (0, 300)])
def test_an_event_outside_of_the_sensor_is_named(x: int, y: int) -> None:
    events = Events(np.arange(3), np.array([0, x, 0]), np.array([0, y, 0]), np.ones(3, bool))
    with pytest.raises(DataError, match=rf"a.npz: event 1 lies at x={x}, y={y}, outside of the sensor \(11x9 pixels\)"):
        integrate(events, Windows(1, "number"), SENSOR, name="a.npz")


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        (Windows(3, "time"), r"a.npz: frame 1 of 3 holds no event \(1000 to 2000 us after the first event\)"),
        (Windows(5, "number", frame_us=1000), "a.npz: frame 1 of 5 holds no event"),
        (Windows(8, "number"), r"a.npz: frame 0 of 8 holds no event \(4 events in all\)"),
    ],
)
def test_an_empty_window_is_named(windows: Windows, message: str) -> None:
    events = Events(np.array([0, 10, 2500, 3000]), x=np.zeros(4, int), y=np.zeros(4, int), p=np.ones(4, bool))
    with pytest.raises(DataError, match=message):
        integrate(events, windows, SENSOR, name="a.npz")


GOOD: dict[str, Any] = {"t": np.arange(5), "x": np.arange(5), "y": np.arange(5), "p": np.array([0, 1, 0, 1, 1])}


def test_a_file_is_read_in_the_order_of_time(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **{**GOOD, "t": np.array([3, 1, 2, 9, 0], np.uint32), "p": np.array([1, -1, 1, -1, 1])})
    events = read_events(path)
    assert events.t.tolist() == [0, 1, 2, 3, 9]
    assert events.x.tolist() == [4, 1, 2, 0, 3]
    assert events.p.tolist() == [True, False, True, True, False]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"p": None}, "lacks the array 'p'"),
        ({"x": np.arange(4)}, "must hold four arrays of one length"),
        ({key: np.zeros(0) for key in "txyp"}, "holds no event"),
        ({key: np.zeros((5, 1)) for key in "txyp"}, "must hold four arrays of one length"),
        ({"t": np.array([0, 1, 2, 3, np.nan])}, "`t` must hold finite numbers, but got float64"),
        ({"y": np.array(list("abcde"))}, "`y` must hold finite numbers, but got <U1"),
        ({"p": np.array([0, 1, 2, 1, 0])}, r"`p` must hold 0 and 1, or -1 and 1, but got 0, 1, 2\."),
        ({"p": np.array([0, -1, 0, -1, 0])}, r"`p` must hold 0 and 1, or -1 and 1, but got -1, 0\."),
        ({"p": np.array([0, -1, 1, -1, 0])}, r"`p` must hold 0 and 1, or -1 and 1, but got -1, 0, 1\."),
        ({"p": np.array([None] * 5)}, "cannot be read as an .npz file"),
        ({"x": np.arange(5) + 0.5}, r"`x` must hold whole numbers of pixels, but got 0\.5"),
        ({"y": np.array([0, 1, 2, 1e300, 4])}, r"`y` must hold whole numbers of pixels, but got 1e\+300"),
        ({"t": np.array([-(2**63), 0, 1, 2, 2**63 - 1])}, "`t` goes from -9223372036854775808 to .*, which no clock"),
        ({"t": np.array([0, 1, 2, 3, 2**64 - 1], np.uint64)}, "`t` goes from 0 to 18446744073709551615"),
        ({"t": np.array([0, 1, 2, 3, 1e19])}, r"`t` goes from 0\.0 to 1e\+19"),
    ],
)
def test_a_malformed_file_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **{key: value for key, value in {**GOOD, **changes}.items() if value is not None})
    with pytest.raises(DataError, match=message) as caught:
        read_events(path)
    assert str(caught.value).startswith(str(path))


TIMES = np.sort(np.random.default_rng(0).integers(0, 1_900_000, 400))  # microseconds, 1.9 s
SHUFFLED = np.random.default_rng(1).permutation(400)


def written(path: Path, t: np.ndarray, p: np.ndarray | None = None, order: np.ndarray | slice = slice(None)) -> Path:
    """Write events at columns that tell their true order."""
    numbers = np.arange(len(t))
    p = numbers % 2 if p is None else p
    np.savez(path, t=t[order], x=numbers[order], y=numbers[order], p=p[order])
    return path


@pytest.mark.parametrize(
    ("unit", "times"),
    [
        *(("us", TIMES), ("us", TIMES.astype(float)), ("us", TIMES.astype(np.uint32)), ("us", TIMES - 10**6)),
        *(("us", 1_700_000_000_000_000 + TIMES), ("us", (2**64 - 10**7 + TIMES.astype(np.uint64)))),
        *(("ns", 1000 * TIMES), ("ns", 1_700_000_000_000_000_000 + 1000 * TIMES + 999)),
        *(("ms", TIMES / 1e3), ("ms", (TIMES // 1000) * 1.0), ("s", TIMES / 1e6), ("s", 1.7e9 + TIMES / 1e6)),
        *(("s", (TIMES / 1e6).astype(np.float32)), ("us", TIMES.astype(np.float32))),
    ],
)
@pytest.mark.parametrize("order", [slice(None), SHUFFLED])
def test_times_of_every_unit_are_sorted_and_exact(
    tmp_path: Path, unit: Any, times: np.ndarray, order: np.ndarray | slice
) -> None:
    events = read_events(written(tmp_path / "a.npz", times, order=order), unit)
    exact = unit != "ms" or bool((times % 1).any())  # else cut to whole milliseconds
    assert np.abs(events.t - events.t[0] - (TIMES - TIMES[0])).max() <= (1 if exact else 1000)
    ties = np.diff(times[np.argsort(times, kind="stable")]) == 0
    assert (np.diff(events.x)[~ties] > 0).all() or ties.any()
    assert sorted(events.x) == list(range(400))


@pytest.mark.parametrize(
    ("unit", "times", "message"),
    [
        ("us", TIMES / 1e6, r"`t` must hold whole microseconds, but got [0-9.e-]+\. Set `data.time_unit` to s or ms"),
        ("us", 1.7e9 + TIMES / 1e6, "must hold whole microseconds"),
        ("us", TIMES / 1e3, "must hold whole microseconds"),
        ("ns", TIMES + 0.5, "must hold whole nanoseconds"),
        ("s", (1.7e9 + TIMES / 1e6).astype(np.float32), "float32 numbers, which are too coarse"),
    ],
)
@pytest.mark.parametrize("order", [slice(None), SHUFFLED])
def test_times_that_cannot_be_in_the_unit_are_refused(
    tmp_path: Path, unit: Any, times: np.ndarray, message: str, order: np.ndarray | slice
) -> None:
    with pytest.raises(DataError, match=message):
        read_events(written(tmp_path / "a.npz", times, order=order), unit)


@pytest.mark.parametrize(
    "times",
    [
        ((TIMES + 2**32 - 10**6) % 2**32).astype(np.uint32),
        ((TIMES + 2**31 - 10**6) % 2**32).astype(np.uint32).view(np.int32),
        (TIMES + 2**24 - 10**6) % 2**24,
        (TIMES + 2**23 - 10**5) % 2**23 / 1.0,
        TIMES % 2**19,  # wraps three times
        np.concatenate([TIMES[:200], TIMES[:200]]),  # two recordings
        np.concatenate([TIMES[200:], TIMES[:200]]),
        (TIMES + np.random.default_rng(2).integers(-300, 300, 400) + 2**24 - 10**6) % 2**24,  # with jitter
        np.arange(2000) * 150 % 2**16 - 1000 * (np.arange(2000) == 700),  # one event out of place
        np.arange(60) * 5000 % 2**16,  # few events between wraps
        np.concatenate([TIMES, 3 * TIMES]),  # a short recording, then a long one
        np.concatenate([3 * TIMES, TIMES]),
        np.concatenate([TIMES // 200, 3 * (TIMES - TIMES[0])]),  # a very short one
        np.concatenate([3 * TIMES, TIMES // 200]),
        np.concatenate([10**6 + TIMES, 1_800_000 + TIMES]),  # that begins while the first one lasts
        np.concatenate([TIMES, 3 * TIMES, TIMES // 2]),
        np.concatenate([TIMES[::2], TIMES % 2**19]),
    ],
)
def test_counters_that_wrap_are_refused(tmp_path: Path, times: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"a.npz: `t` falls from .* behind event \d+, as where a counter wraps"):
        read_events(written(tmp_path / "a.npz", times))


def test_a_wrap_of_one_polarity_is_refused(tmp_path: Path) -> None:
    p = np.arange(400) >= 200  # one polarity after the other, and each of them wraps
    with pytest.raises(DataError, match="as where a counter wraps"):
        read_events(written(tmp_path / "a.npz", TIMES % 2**19, p))


def test_other_disorder_is_sorted(tmp_path: Path) -> None:
    by_polarity = np.concatenate([np.arange(0, 400, 2), np.arange(1, 400, 2)])
    jitter = TIMES + np.random.default_rng(2).integers(-300, 300, 400)
    packets = TIMES.reshape(-1, 8)[:, ::-1].ravel()
    early = np.concatenate([[900, 700, 300, 100, 0], 1000 + TIMES])
    for times, order in (
        *((TIMES, by_polarity), (TIMES, slice(None, None, -1)), (TIMES, SHUFFLED), (TIMES[:5], SHUFFLED[:400] % 5)),
        *((jitter, slice(None)), (packets, slice(None)), (early, slice(None))),
    ):
        events = read_events(written(tmp_path / "a.npz", times, order=order))
        assert events.t.tolist() == sorted(times[order].tolist())
        assert UNSORTED in doubts(events, "us")
    assert UNSORTED not in doubts(read_events(written(tmp_path / "a.npz", TIMES)), "us")


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (TIMES, set()),
        (TIMES // 2000, {SHORT}),
        (TIMES * 3000, {LONG, THOUSANDS}),
        (np.append(TIMES[:-1], 10**7), {JUMP}),
        (np.append(TIMES[:-1], 10**12), {JUMP, LONG}),
        (TIMES * 1000, {THOUSANDS}),
        (np.array([0, 900_000]), set()),
    ],
)
def test_times_that_are_doubtful_are_named(times: np.ndarray, expected: set[str]) -> None:
    zeros = np.zeros(len(times), int)
    events = Events(times, zeros, zeros, zeros > 0)
    assert doubts(events, "us") == expected
    assert doubts(events, "ms") == expected - {THOUSANDS}  # whoever names a unit has thought of it


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 truncated"])
def test_a_file_that_is_no_npz_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a.npz (cannot be read as an .npz file of events|lacks)"):
        read_events(path)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **GOOD)
    data = bytearray(path.read_bytes())
    data[60:80] = b"\xff" * 20
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"a.npz cannot be read"):
        read_events(path)
