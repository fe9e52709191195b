"""A folder of one's own event-camera recordings, one sub-folder per class."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from spikesearch.config.data import EventSection
from spikesearch.data.kind import Inference, Kind, register
from spikesearch.errors import DataError

if TYPE_CHECKING:
    from spikesearch.data.bundle import Source
    from spikesearch.data.events import Recordings
    from spikesearch.data.frames import Unit

FRAMES = (2, 4, 8)  # frames per recording to choose from
FRAME_MS = 100  # a frame is about as long, as far as FRAMES allow


class EventFolderData(EventSection):
    """A folder of event recordings: ``path/<class>/*.npz``, or ``path/{train,test}/<class>/*.npz``, which is kept.

    Parts and sub-folders of classes are read by the same rules as those of images. Every file holds four arrays of one
    length: ``t``, ``x``, ``y`` and ``p`` (0 or 1).

    Args:
        time_unit: Of ``t``: ``us`` or ``ns`` (whole numbers), ``ms`` or ``s``.
        sensor: Height and width of the sensor in pixels; ``None`` infers it from the largest coordinate
            (up to 4095).
    """

    kind: Literal["events"]
    time_unit: Literal["us", "ms", "s", "ns"] = "us"
    sensor: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None


def load(config: EventFolderData) -> Source:
    """Read a folder of ``.npz`` recordings.

    Raises:
        DataError: If a recording cannot be used; the message names the file.
    """
    from dataclasses import replace

    from spikesearch.data.events import event_source, find_recordings, survey

    recordings, notes, rereads = find_recordings(Path(config.path))
    sensor, doubts = survey(recordings, config.sensor, config.time_unit, skip_unreadable=config.skip_unreadable)
    source = event_source(recordings, config, sensor, config.time_unit)
    return replace(source, notes=(*notes, *doubts), rereads=tuple(rereads))


def infer(folder: Path) -> Inference | None:
    """See :class:`spikesearch.data.Kind`."""
    from spikesearch.data.class_folders import list_files
    from spikesearch.data.events import ENDINGS, event_source, find_recordings, survey
    from spikesearch.data.infer import LARGEST_SIZE, left_out

    if not folder.is_dir() or not list_files(folder, ENDINGS).usable:
        return None
    recordings, _, _ = find_recordings(folder)
    unit = _time_unit(recordings)
    sensor, _ = survey(recordings, None, unit, skip_unreadable=True)
    side = sensor[0]
    downsample = -(-side // LARGEST_SIZE)
    duration = _typical_duration(recordings, unit)
    frames = next((count for count in FRAMES if count * FRAME_MS >= duration), FRAMES[-1])
    # memory_mb 0: every recording is cut once to see whether it can be, and no frame is kept
    config = EventFolderData(
        kind="events", path=str(folder), frames=frames, downsample=downsample, memory_mb=0, skip_unreadable=True
    )
    source = event_source(recordings, config, sensor, unit)
    return Inference(
        source.labels,
        source.defined_test,
        source.class_names,
        source.store.shape[-1],
        f"{len(source.labels)} recordings of {side}x{side} pixels, {len(source.class_names)} classes",
        keys=(
            ("sensor", [side, side], "height and width in pixels, from the largest coordinate of all"),
            *((("time_unit", unit, "of t, guessed from its fractions: s, ms, us or ns"),) if unit != "us" else ()),
            ("frames", frames, f"per recording: the median one lasts {duration:.0f} ms; more cost time and energy"),
            ("split_by", "number", "number: equally many events per frame; time: equally long frames"),
            ("downsample", downsample, "sums blocks of this many pixels squared"),
            *left_out(len(source.skipped), len(recordings), "recordings"),
        ),
        augment=(
            ("hflip", 0.0, "probability of a left-right flip: 0.5 where a mirrored recording keeps its class"),
            ("roll", 2, "pixels, each way"),
            ("drop_frames", 0.05, "probability that a frame is emptied"),
        ),
        frames=frames,
    )


def _time_unit(recordings: Recordings) -> Unit:
    """Return the unit in which recordings whose times have fractions last about a second; else microseconds."""
    from spikesearch.data.frames import span

    spans = [length for length, whole in map(span, _some(recordings)) if not whole]
    return "us" if not spans else "s" if median(spans) < 30 else "ms"


def _typical_duration(recordings: Recordings, unit: Unit) -> float:
    """Return the median duration of some recordings in milliseconds."""
    from spikesearch.data.frames import read_events

    durations = []
    for path in _some(recordings):
        try:
            events = read_events(path, unit)
        except DataError:
            continue  # left out anyway
        durations.append(float(events.t[-1] - events.t[0]) / 1000)
    return median(durations) if durations else 0.0


def _some(recordings: Recordings) -> list[Path]:
    """Return up to 200 of the files."""
    return [path for path, _, _ in recordings[:: -(-len(recordings) // 200)]]


register(
    Kind(
        "events",
        EventFolderData,
        "your own event-camera recordings, .npz files of t, x, y, p",
        "path/<class>/*.npz, or path/train/<class>/ and path/test/<class>/",
        load,
        infer,
    )
)
