"""A folder or tar file of one's own images, one sub-folder per class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from spikesearch.config.data import ImageSection, PathText
from spikesearch.data.kind import Inference, Kind, register
from spikesearch.errors import DataError

if TYPE_CHECKING:
    from spikesearch.data.appearance import Appearance
    from spikesearch.data.bundle import Source
    from spikesearch.data.image_files import ImageFiles


class ImageFolderData(ImageSection):
    """A folder (or tar file) with one sub-folder per class, read through timm's readers.

    Args:
        path: ``path/<class>/...``; or ``path/train/<class>/...`` and ``path/test/<class>/...`` (``val`` and ``valid``
            count as test, too, and so do ``Training``, ``Testing`` and ``validation``, in any case), which is kept.
            What lies deeper than its class belongs to that class. A ``.tar`` file of either, a folder that holds
            ``train.tar`` and ``test.tar``, or one with a ``.tar`` file per class is read as well (not compressed).
        image_size: Height and width after resizing (shorter side) and centre crop; ``None`` takes the images' own size,
            which must then be square and one for all.
        color: ``auto`` infers it and refuses a mixture; ``rgb`` and ``grey`` convert.
        background: What transparent pixels are laid on. An image of which nothing could be seen there is refused.
        skip_unreadable: Leave out images that cannot be used, such as damaged or moving ones, instead of stopping; they
            are reported.
        memory_mb: Images above this size in all stay on disk and are decoded on demand, with the same result. The
            data's fingerprint is of all pixels, whatever is kept in memory; above 2 GiB of them, of the files' names
            and sizes.
    """

    kind: Literal["image-folder"]
    path: PathText
    image_size: Annotated[int, Field(ge=4)] | None = None
    color: Literal["auto", "rgb", "grey"] = "auto"
    background: Literal["white", "grey", "black"] = "white"
    skip_unreadable: bool = False
    memory_mb: Annotated[int, Field(ge=0)] = 2048


def load(config: ImageFolderData) -> Source:
    """Read a folder or tar file of images.

    Raises:
        DataError: If an image cannot be read, grey and colour are mixed, or sizes differ and none is asked for.
    """
    from spikesearch.data.augment import image_augmenter
    from spikesearch.data.bundle import Source
    from spikesearch.data.class_folders import listed
    from spikesearch.data.image_files import ImageFiles
    from spikesearch.data.images import CUT, FileStore, cut_anew, in_memory, inspect

    files = ImageFiles(Path(config.path))
    _, seen = inspect(files, config.background, skip_unreadable=config.skip_unreadable)
    channels, size = _decide(files, seen, config)
    anew = [cut_anew(each.size, size) for each in seen]
    if any(anew):
        names = [file.name for file, other in zip(files.files, anew, strict=True) if other]
        files.rereads.append(f"{listed(names, 'images')} resized and cut with the arithmetic of torchvision.")
    seen = [
        replace(each, changes=each.changes | {CUT}) if other else each for each, other in zip(seen, anew, strict=True)
    ]
    on_disk = FileStore(files, size, channels, config.background, tuple(seen))
    small = len(on_disk) * channels * size**2 <= config.memory_mb * 2**20
    return Source(
        in_memory(on_disk) if small else on_disk,
        files.labels,
        files.class_names,
        defined_test=files.defined_test,
        augment=None if config.augment is None else image_augmenter(config.augment),
        notes=tuple(files.notes),
        rereads=tuple(files.rereads),
        skipped=tuple(files.skipped),
        files_hash=on_disk.files_hash,
    )


def _decide(files: ImageFiles, seen: list[Appearance], config: ImageFolderData) -> tuple[int, int]:
    """Return channels and size, from the study file or from the images.

    Raises:
        DataError: If they are to be inferred, but the images differ or are not square.
    """
    grey, names = [each.grey for each in seen], [file.name for file in files.files]
    channels = {"rgb": 3, "grey": 1}.get(config.color)
    if channels is None:
        if len(set(grey)) > 1:
            raise DataError(
                f"Grey and colour images are mixed: {names[grey.index(True)]} is grey, {names[grey.index(False)]} is "
                "colour. Set `data.color` to rgb or grey to convert them."
            )
        channels = 1 if grey[0] else 3
    if config.image_size is not None:
        return channels, config.image_size
    width, height = seen[0].size
    for name, each in zip(names, seen, strict=True):
        if each.size != (width, height):
            raise DataError(
                f"Images have different sizes: {names[0]} is {width}x{height}, {name} is "
                f"{each.size[0]}x{each.size[1]}. Set `data.image_size` to resize them."
            )
    if width != height:
        raise DataError(
            f"{names[0]} is {width}x{height} pixels, but square images are needed. Set `data.image_size` to resize and "
            "cut them."
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
    ground, seen = inspect(files, None, skip_unreadable=True)
    grey = {each.grey for each in seen}
    color = "grey" if grey == {True} else "rgb"
    sizes = sorted({each.size for each in seen})
    same = len(sizes) == 1 and sizes[0][0] == sizes[0][1]
    typical = int(median(min(each.size) for each in seen))
    size = typical if same and typical <= LARGEST_SIZE else nearest(min(typical, LARGEST_SIZE))
    shown = f"{sizes[0][0]}x{sizes[0][1]}" if len(sizes) == 1 else f"{min(sizes)[0]} to {max(sizes)[0]} pixels wide"
    mixed = len(grey) > 1
    keys = (
        ("image_size", size, f"the images are {shown}; larger costs time and energy"),
        ("color", color, "grey and colour are mixed: all become colour" if mixed else "or: rgb, grey, auto"),
        *((("background", ground, "what transparent pixels are laid on"),) if ground != "white" else ()),
        *left_out(len(files.skipped), len(files.files) + len(files.skipped), "images"),
    )
    kind = "colour" if color == "rgb" else "grey"
    comment = f"{len(files.files)} {kind} images, {len(files.class_names)} classes"
    return Inference(
        files.labels,
        files.defined_test,
        files.class_names,
        size,
        comment,
        keys,
        augment=image_augment(size),
        channels=1 if color == "grey" else 3,
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
