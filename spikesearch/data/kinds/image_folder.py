"""A folder or tar file of one's own images, one sub-folder per class."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from spikesearch.config.data import ImageSection, PathText
from spikesearch.data.kind import Inference, Kind, register
from spikesearch.errors import DataError

if TYPE_CHECKING:
    from spikesearch.data.bundle import Source
    from spikesearch.data.image_files import ImageFiles
    from spikesearch.data.images import Headers


class ImageFolderData(ImageSection):
    """A folder (or tar file) with one sub-folder per class, read through timm's readers.

    Args:
        path: ``path/<class>/*.png``; or ``path/train/<class>/...`` and ``path/test/<class>/...`` (``val`` or
            ``validation`` also count as test), which is kept. A ``.tar`` file of either, a folder that holds
            ``train.tar`` and ``test.tar``, or one with a ``.tar`` file per class is read as well (not compressed).
        image_size: Height and width after resizing (shorter side) and centre crop; ``None`` takes the images' own size,
            which must then be square and one for all.
        color: ``auto`` infers it and refuses a mixture; ``rgb`` and ``grey`` convert.
        skip_unreadable: Leave out images that cannot be read or have more than 8 bits per value (they are reported)
            instead of stopping.
        memory_mb: Images above this size in all stay on disk and are decoded on demand, with the same result. The
            data's fingerprint is of all pixels, whatever is kept in memory; above 2 GiB of them, of the files' names
            and sizes.
    """

    kind: Literal["image-folder"]
    path: PathText
    image_size: Annotated[int, Field(ge=4)] | None = None
    color: Literal["auto", "rgb", "grey"] = "auto"
    skip_unreadable: bool = False
    memory_mb: Annotated[int, Field(ge=0)] = 2048


def load(config: ImageFolderData) -> Source:
    """Read a folder or tar file of images.

    Raises:
        DataError: If an image cannot be read, grey and colour are mixed, or sizes differ and none is asked for.
    """
    from spikesearch.data.augment import image_augmenter
    from spikesearch.data.bundle import Source
    from spikesearch.data.image_files import ImageFiles
    from spikesearch.data.images import FileStore, in_memory, inspect

    files = ImageFiles(Path(config.path))
    headers = inspect(files, skip_unreadable=config.skip_unreadable)
    channels, size = _decide(files, headers, config)
    on_disk = FileStore(files, size, channels)
    small = len(on_disk) * channels * size**2 <= config.memory_mb * 2**20
    return Source(
        in_memory(on_disk) if small else on_disk,
        files.labels,
        files.class_names,
        defined_test=files.defined_test,
        augment=None if config.augment is None else image_augmenter(config.augment),
        notes=tuple(files.notes),
        skipped=tuple(files.skipped),
        files_hash=on_disk.files_hash,
    )


def _decide(files: ImageFiles, headers: Headers, config: ImageFolderData) -> tuple[int, int]:
    """Return channels and size, from the study file or from the images.

    Raises:
        DataError: If they are to be inferred, but the images differ or are not square.
    """
    channels = {"rgb": 3, "grey": 1}.get(config.color)
    if channels is None:
        if len(set(headers.grey)) > 1:
            raise DataError(
                f"Grey and colour images are mixed: {files.files[headers.grey.index(True)].name} is grey, "
                f"{files.files[headers.grey.index(False)].name} is colour. Set `data.color` to rgb or grey to convert "
                "them."
            )
        channels = 1 if headers.grey[0] else 3
    if config.image_size is not None:
        return channels, config.image_size
    width, height = headers.sizes[0]
    other = next((i for i, size in enumerate(headers.sizes) if size != (width, height)), None)
    if other is not None:
        raise DataError(
            f"Images have different sizes: {files.files[0].name} is {width}x{height}, {files.files[other].name} is "
            f"{headers.sizes[other][0]}x{headers.sizes[other][1]}. Set `data.image_size` to resize them."
        )
    if width != height:
        raise DataError(
            f"{files.files[0].name} is {width}x{height} pixels, but square images are needed. Set `data.image_size` "
            "to resize and cut them."
        )
    return channels, width


def infer(path: Path) -> Inference | None:
    """See :class:`spikesearch.data.Kind`."""
    from spikesearch.data.image_files import ImageFiles, holds_images
    from spikesearch.data.images import inspect
    from spikesearch.data.infer import LARGEST_SIZE, image_augment, left_out, nearest

    if not holds_images(path):
        return None
    files = ImageFiles(path)
    headers = inspect(files, skip_unreadable=True)
    color = "grey" if all(headers.grey) else "rgb"
    sizes = sorted(set(headers.sizes))
    same = len(sizes) == 1 and sizes[0][0] == sizes[0][1]
    typical = int(median(min(size) for size in headers.sizes))
    size = typical if same and typical <= LARGEST_SIZE else nearest(min(typical, LARGEST_SIZE))
    shown = f"{sizes[0][0]}x{sizes[0][1]}" if len(sizes) == 1 else f"{min(sizes)[0]} to {max(sizes)[0]} pixels wide"
    mixed = len(set(headers.grey)) > 1
    keys = (
        ("image_size", size, f"the images are {shown}; larger costs time and energy"),
        ("color", color, "grey and colour are mixed: all become colour" if mixed else "or: rgb, grey, auto"),
        *left_out(len(files.skipped), len(files.files) + len(files.skipped), "images"),
    )
    kind = "colour" if color == "rgb" else "grey"
    comment = f"{len(files.files)} {kind} images, {len(files.class_names)} classes"
    return Inference(
        files.labels, files.defined_test, files.class_names, size, comment, keys, augment=image_augment(size)
    )


register(
    Kind(
        "image-folder",
        ImageFolderData,
        "your own images, one folder per class (or .tar files of them)",
        "path/<class>/*.png, or path/train/<class>/ and path/test/<class>/",
        load,
        infer,
    )
)
