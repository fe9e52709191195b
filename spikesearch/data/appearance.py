"""Images as viewers show them: turned as their EXIF orientation says, without transparency, in sRGB.

Whatever is done to an image beside decoding has a name here, so that it can be counted and said.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image, ImageCms

from spikesearch.errors import DataError

Ground = Literal["white", "grey", "black"]
GREY_MODES = ("1", "L", "LA")
COLOR_MODES = ("RGB", "RGBA", "RGBa", "P", "PA", "CMYK", "YCbCr", "HSV", "LAB", "RGBX")

TURNED, FLATTENED, MANAGED = "turned", "flattened", "managed"
PICTURES, DEEP, GAMMA = "pictures", "deep", "gamma"
SENTENCES = {
    TURNED: "{} turned as the EXIF orientation says.",
    FLATTENED: "{} laid on a {ground} ground, because pixels are transparent (`data.background`).",
    MANAGED: "{} converted from a colour profile to sRGB.",
    PICTURES: "{} read from files of several pictures, of which the first is used.",
    DEEP: "{} cut to the upper 8 of 16 bits per value.",
    GAMMA: "{} used without the gamma that is written in the file.",
}
"""What is said of each of the changes."""
PIXELS = (TURNED, FLATTENED, MANAGED)
"""Changes that spikesearch 0.1.0 did not make."""

GROUNDS: dict[Ground, int] = {"white": 255, "black": 0, "grey": 128}
"""What transparent pixels may be laid on."""
_LEAST_CONTRAST = 16  # of 255, below which a drawing on a ground cannot be seen
_LARGEST_ERROR = 12  # of 255, up to which a colour profile is as good as sRGB: a gamma of 2.2 is
_ORIENTATION = 0x0112
_GREY_STEPS = {"L;2": 85, "L;4": 17}  # between two greys of few bits, when they are brought to 8
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Appearance:
    """What an image looks like.

    Args:
        size: Width and height as shown.
        grey: Whether it is grey.
        changes: What has to be done to show it.
        unseen_on: Grounds on which nothing can be seen of it, but on another.
    """

    size: tuple[int, int]
    grey: bool
    changes: frozenset[str]
    unseen_on: frozenset[Ground] = frozenset()

    @property
    def square(self) -> bool:
        """Whether nothing has to be cut."""
        return self.size[0] == self.size[1]


def appearance(image: Image.Image, name: str) -> Appearance:
    """Look at an image that has just been opened; its pixels are decoded only if they may be transparent.

    Raises:
        DataError: If it cannot be shown in 8 bits per value, has several frames, or is transparent everywhere; the
            message begins with ``name``.
    """
    check_mode(image, name)
    changes = set()
    pictures = getattr(image, "n_frames", 1)
    if pictures > 1:
        if image.format != "MPO":  # a photograph with a preview or a second view behind it
            raise DataError(f"{name} is a moving picture of {pictures} frames. Write one of them as an image.")
        changes.add(PICTURES)
    if any(";16" in mode for mode in _raw_modes(image)):
        changes.add(DEEP)
    if "transparency" in image.info:
        _decode(image)  # before anything else does
    if _gamma_is_ignored(image):
        changes.add(GAMMA)
    width, height = image.size
    turn = _turn(image)
    if turn is not None:
        changes.add(TURNED)
        if turn.value >= Image.Transpose.ROTATE_90 and turn is not Image.Transpose.ROTATE_180:
            width, height = height, width
    if _transform(image) is not None:
        changes.add(MANAGED)
    unseen: set[Ground] = set()
    alpha = _alpha(image)
    if alpha is not None:
        if alpha.getextrema() == (0, 0):
            raise DataError(f"{name} is transparent everywhere, so that nothing can be seen of it. Remove it.")
        changes.add(FLATTENED)
        contrast = {ground: _contrast(as_seen(image, ground)) for ground in GROUNDS}
        if max(contrast.values()) >= _LEAST_CONTRAST:
            unseen = {ground for ground in GROUNDS if contrast[ground] < _LEAST_CONTRAST}
    return Appearance((width, height), image.mode in GREY_MODES, frozenset(changes), frozenset(unseen))


def as_seen(image: Image.Image, ground: Ground) -> Image.Image:
    """Return an image as viewers show it, on a ground; opaque ones that need no change keep their mode.

    Args:
        image: Of one of :data:`GREY_MODES` or :data:`COLOR_MODES`.
        ground: What transparent pixels are laid on.
    """
    alpha, transform, turn = _alpha(image), _transform(image), _turn(image)
    grey = image.mode in GREY_MODES
    if transform is not None:
        mode = _profile_mode(image)
        colors = transform.apply(image.convert("RGBA").convert(mode) if mode == "RGB" else image.convert(mode))
        image = colors.convert("L") if grey else colors
    if alpha is not None:
        base = (
            image.convert("L") if grey else image.convert("RGBA").convert("RGB")
        )  # Pillow warns of palettes otherwise
        image = Image.new(base.mode, base.size, "#" + 3 * f"{GROUNDS[ground]:02x}")
        image.paste(base, mask=alpha)
    return image if turn is None else image.transpose(turn)


def check_mode(image: Image.Image, name: str) -> None:
    """Refuse grey pixels of more than 8 bits per value, on whose brightness viewers do not agree.

    Raises:
        DataError: Naming the image.
    """
    deep = next((mode for mode in _raw_modes(image) if mode.startswith("LA;16")), None)  # Pillow makes it colour
    if deep is not None or image.mode not in GREY_MODES + COLOR_MODES:
        raise DataError(
            f"{name} has pixels of mode {deep or image.mode!r}, but 8-bit grey or colour images are expected. Convert "
            "it."
        )


def _alpha(image: Image.Image) -> Image.Image | None:
    """Return how opaque the pixels are; ``None`` if all are."""
    if image.mode not in ("LA", "PA", "RGBA", "RGBa") and "transparency" not in image.info:
        return None
    _decode(image)
    alpha = image.convert("RGBA").getchannel("A")
    return None if alpha.getextrema() == (255, 255) else alpha


def _decode(image: Image.Image) -> None:
    """Decode an image, and bring the colour that a PNG calls transparent to 8 bits, as its pixels are."""
    color = image.info.get("transparency")
    for mode in _raw_modes(image):
        if mode in _GREY_STEPS and isinstance(color, int):
            image.info["transparency"] = _GREY_STEPS[mode] * color
        elif mode.startswith("RGB;16") and isinstance(color, tuple):
            image.info["transparency"] = tuple(value >> 8 for value in color)
    image.load()  # only now a palette is known with its transparency


def _raw_modes(image: Image.Image) -> list[str]:
    """Return how the pixels of an image lie in its file, in Pillow's words; nothing once they are decoded."""
    arguments = [tile[3] for tile in getattr(image, "tile", ())]
    return [str(argument[0] if isinstance(argument, tuple) else argument) for argument in arguments if argument]


def _contrast(image: Image.Image) -> int:
    extrema = np.reshape(image.convert("RGB").getextrema(), (3, 2))
    return int((extrema[:, 1] - extrema[:, 0]).max())


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # viewers do not mind damaged EXIF either
        return None


def _gamma_is_ignored(image: Image.Image) -> bool:
    info = image.info
    return "icc_profile" not in info and "srgb" not in info and abs(info.get("gamma", 0.45455) - 0.45455) > 0.05


def _profile_mode(image: Image.Image) -> str:
    if image.mode in GREY_MODES:
        return "L"
    return image.mode if image.mode in ("CMYK", "LAB") else "RGB"


def _transform(image: Image.Image) -> ImageCms.ImageCmsTransform | None:
    """Return what converts an image to sRGB; ``None`` if it is in sRGB, or as good as that."""
    return _to_srgb(image.info.get("icc_profile"), _profile_mode(image))


@lru_cache(maxsize=64)
def _to_srgb(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform | None:
    if not profile and mode != "LAB":
        return None
    try:
        source = (
            ImageCms.createProfile("LAB") if mode == "LAB" else ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
        )
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError):  # damaged, or of another kind of image: viewers ignore it
        return None
    if mode in ("CMYK", "LAB"):
        return transform
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    colors = levels[:, None] if mode == "L" else np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, 18, 3)
    shown = np.asarray(transform.apply(Image.fromarray(colors)), dtype=np.int64)
    error = np.abs(shown - (colors[..., None] if mode == "L" else colors)).max()
    return transform if error > _LARGEST_ERROR else None
