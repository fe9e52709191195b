"""What several kinds of data tell ``study init``."""

from __future__ import annotations

from spikesearch.data.bundle import Source, check_square
from spikesearch.data.kind import Inference, Lines

SIZES = (8, 16, 28, 32, 48, 64, 96, 128, 160, 224)
LARGEST_SIZE = 64  # what a CPU can train in an evening; a line of the file says how to raise it
_COLORS = {1: "grey", 3: "colour"}


def of_images(source: Source) -> Inference:
    """Return what is known of images that have one size and are square, or are refused.

    Raises:
        DataError: If they are not square.
    """
    check_square(source.store.shape)
    channels, _, size = source.store.shape
    comment = f"{len(source.labels)} {_COLORS[channels]} images {size}x{size}, {len(source.class_names)} classes"
    return Inference(
        source.labels,
        source.defined_test,
        source.class_names,
        size,
        comment,
        augment=image_augment(size),
        channels=channels,
    )


def image_augment(size: int) -> Lines:
    """Return the lines of :class:`spikesearch.config.data.ImageAugment` for images of a size."""
    return (
        ("crop_padding", max(1, size // 8), "pad by this many pixels, then cut a random window"),
        ("hflip", 0.0, "probability of a left-right flip: 0.5 where a mirrored image keeps its class"),
        ("auto_augment", None, "timm's RandAugment, such as rand-m9-n1-mstd0.4-inc1"),
        ("erase_prob", 0.0, ""),
    )


def left_out(count: int, everything: int, what: str) -> Lines:
    """Return the line that leaves unusable files out, if there are any."""
    if not count:
        return ()
    return (("skip_unreadable", True, f"{count} of {everything} {what} cannot be used, see `data check`"),)


def nearest(size: int) -> int:
    """Return the usual image size that is nearest."""
    return min(SIZES, key=lambda known: (abs(known - size), known))
