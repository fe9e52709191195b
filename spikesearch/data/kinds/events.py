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
    from spikesearch.data.events import Files

FRAMES = (2, 4, 8)  # frames per recording to choose from
FRAME_MS = 100  # a frame is about as long, as far as FRAMES allow


class EventFolderData(EventSection):
    """A folder of event recordings: ``path/<class>/*.npz``, or ``path/{train,test}/<class>/*.npz``, which is kept.

    Every file holds four arrays of one length: ``t`` (microseconds), ``x``, ``y`` and ``p`` (0 or 1).

    Args:
        sensor: Height and width of the sensor in pixels; ``None`` infers it from the largest coordinate
            (up to 4095).
    """

    kind: Literal["events"]
    sensor: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None


def load(config: EventFolderData) -> Source:
    """Read a folder of ``.npz`` recordings.

    Raises:
        DataError: If a recording cannot be used; the message names the file.
    """
    from spikesearch.data.events import event_source, find_recordings

    return event_source(find_recordings(Path(config.path)), config, config.sensor)


def infer(folder: Path) -> Inference | None:
    """See :class:`spikesearch.data.Kind`."""
    from spikesearch.data.events import event_source, find_recordings, infer_sensor
    from spikesearch.data.infer import LARGEST_SIZE, left_out

    if not folder.is_dir() or next(folder.rglob("*.npz"), None) is None:
        return None
    files = find_recordings(folder)
    sensor = infer_sensor(files, skip_unreadable=True)
    side = sensor[0]
    downsample = -(-side // LARGEST_SIZE)
    duration = _typical_duration(files)
    frames = next((count for count in FRAMES if count * FRAME_MS >= duration), FRAMES[-1])
    # memory_mb 0: every recording is cut once to see whether it can be, and no frame is kept
    config = EventFolderData(
        kind="events", path=str(folder), frames=frames, downsample=downsample, memory_mb=0, skip_unreadable=True
    )
    source = event_source(files, config, sensor)
    return Inference(
        source.labels,
        source.defined_test,
        source.class_names,
        source.store.shape[-1],
        f"{len(source.labels)} recordings of {side}x{side} pixels, {len(source.class_names)} classes",
        keys=(
            ("sensor", [side, side], "height and width in pixels, from the largest coordinate of all"),
            ("frames", frames, f"per recording: the median one lasts {duration:.0f} ms; more cost time and energy"),
            ("split_by", "number", "number: equally many events per frame; time: equally long frames"),
            ("downsample", downsample, "sums blocks of this many pixels squared"),
            *left_out(len(source.skipped), len(files), "recordings"),
        ),
        augment=(
            ("hflip", 0.0, "probability of a left-right flip: 0.5 where a mirrored recording keeps its class"),
            ("roll", 2, "pixels, each way"),
            ("drop_frames", 0.05, "probability that a frame is emptied"),
        ),
        frames=frames,
    )


def _typical_duration(files: Files) -> float:
    """Return the median duration of up to 200 recordings in milliseconds."""
    from spikesearch.data.frames import read_events

    durations = []
    for path, _, _ in files[:: -(-len(files) // 200)]:
        try:
            events = read_events(path)
        except DataError:
            continue  # left out anyway
        durations.append(float(events.t[-1] - events.t[0]) / 1000)
    return median(durations) if durations else 0.0


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
