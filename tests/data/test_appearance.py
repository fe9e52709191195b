"""Images are read as viewers show them; what is done to them is counted, and what cannot be shown is named."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from PIL import Image, ImageCms, ImageOps

from spikesearch.data import DataBundle, check_data, load_data
from spikesearch.data.appearance import as_seen
from spikesearch.data.kinds.image_folder import ImageFolderData
from spikesearch.errors import DataError
from tests.commands import Result

SIDE = 16
STUDY = """
name: icons
data: {kind: image-folder, path: icons}
space:
  {embed_dims: [8], depths: [1], num_heads: [1], mlp_ratios: [1], v_thresholds: [1.0], taus: [2.0], time_steps: [1, 2]}
train: {epochs: 1, batch_size: 4, warmup_epochs: 0}
search: {n_trials: 1}
"""


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def fill(folder: Path, image: Image.Image, ending: str = "png", count: int = 5, **options: Any) -> Path:
    """Write one image many times, into two classes."""
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            image.save(folder / name / f"{i}.{ending}", **options)
    return folder


def load(folder: Path, **keys: Any) -> DataBundle:
    return load_data(ImageFolderData(kind="image-folder", path=str(folder), **keys), seed=0)


def first(data: DataBundle) -> np.ndarray:
    """Return one image as it is kept: uint8 [C, H, W]."""
    array: np.ndarray = data.train.store.stored(np.arange(1))[0]  # type: ignore[attr-defined]
    return array


# --- orientation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_photographs_are_turned_as_exif_says(tmp_path: Path, orientation: int, mode: str, ending: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.kron(noise(2, 3, *([3] * (mode == "RGB"))), np.ones((8, 8, *([1] * (mode == "RGB")))))
                            .astype(np.uint8))  # fmt: skip
    fill(tmp_path, image, ending, exif=exif, **({"quality": 100} if ending == "jpg" else {}))
    data = load(tmp_path, image_size=16)
    shown = ImageOps.exif_transpose(Image.open(tmp_path / "a" / f"0.{ending}"))
    wide = shown.size == (24, 16)
    expected = np.asarray(shown)[:, 4:20] if wide else np.asarray(shown)[4:20]
    assert np.array_equal(first(data).transpose(1, 2, 0).squeeze(), expected)
    turned = 2 <= orientation <= 8
    assert len(data.notes) == turned
    assert data.rereads == data.notes
    if turned:
        assert data.notes[0].startswith("10 images, such as ")
        assert data.notes[0].endswith("are turned as the EXIF orientation says.")


def test_the_size_of_an_image_is_the_one_that_is_seen(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    fill(tmp_path, Image.fromarray(noise(12, 20)), exif=exif)
    with pytest.raises(DataError, match=r"0.png is 12x20 pixels, but square images are needed"):
        load(tmp_path)


def test_damaged_exif_does_not_matter(tmp_path: Path) -> None:
    fill(tmp_path, Image.fromarray(noise(SIDE, SIDE)), "jpg", exif=b"Exif\0\0nonsense")
    assert load(tmp_path).notes == ()


def test_random_crops_are_of_the_turned_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    pixels = noise(SIDE, SIDE)
    fill(tmp_path, Image.fromarray(pixels), exif=exif)
    for memory_mb in (0, 100):
        store = load(tmp_path, memory_mb=memory_mb).train.store  # type: ignore[attr-defined]
        assert np.array_equal(np.asarray(store.image(0)), pixels[::-1, ::-1])


# --- transparency -----------------------------------------------------------------------------------------------------


def transparent(kind: str) -> tuple[Image.Image, dict[str, Any], np.ndarray, np.ndarray]:
    """Return an image that is transparent in some way, how to save it, its colours [H, W, 3] and its alpha [H, W]."""
    alpha = noise(SIDE, SIDE, seed=1)
    alpha[:4], alpha[4:8] = 0, 255
    hard = np.where(alpha > 127, 255, 0).astype(np.uint8)
    rgb, grey = noise(SIDE, SIDE, 3), noise(SIDE, SIDE)
    grey3 = np.repeat(grey[..., None], 3, -1)
    if kind == "RGBA":
        return Image.fromarray(np.dstack([rgb, alpha])), {}, rgb, alpha
    if kind == "LA":
        return Image.fromarray(np.dstack([grey, alpha])), {}, grey3, alpha
    if kind == "L tRNS":
        grey = np.where(hard == 0, 7, np.where(grey == 7, 8, grey)).astype(np.uint8)
        return Image.fromarray(grey), {"transparency": 7}, np.repeat(grey[..., None], 3, -1), hard
    if kind == "RGB tRNS":
        rgb[..., 0] |= 1
        rgb[hard == 0] = (2, 3, 4)
        return Image.fromarray(rgb), {"transparency": (2, 3, 4)}, rgb, hard
    if kind == "1 tRNS":
        bits = hard > 0
        return (
            Image.fromarray(bits),
            {"transparency": 0},
            np.repeat(255 * bits[..., None], 3, -1).astype(np.uint8),
            hard,
        )
    palette = noise(256, 3, seed=2)
    indices = noise(SIDE, SIDE)
    if kind == "P index":
        indices[hard == 0] = 9
        indices[(hard > 0) & (indices == 9)] = 10
        return _palette(indices, palette), {"transparency": 9}, palette[indices], hard
    levels = noise(256, seed=3)
    return _palette(indices, palette), {"transparency": levels.tobytes()}, palette[indices], levels[indices]


def _palette(indices: np.ndarray, palette: np.ndarray) -> Image.Image:
    image = Image.new("P", indices.shape[::-1])
    image.putdata(indices.ravel().tolist())
    image.putpalette(palette.tobytes())
    return image


KINDS = ["RGBA", "LA", "L tRNS", "RGB tRNS", "1 tRNS", "P index", "P levels"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("background", "level"), [("white", 255), ("black", 0), ("grey", 128)])
def test_transparent_pixels_show_the_ground(tmp_path: Path, kind: str, background: str, level: int) -> None:
    image, options, colors, alpha = transparent(kind)
    fill(tmp_path, image, **options)
    if (kind, background) == ("1 tRNS", "white"):  # white on white
        with pytest.raises(DataError, match="nothing can be seen of it on a white ground"):
            load(tmp_path, color="rgb", background=background)
        return
    data = load(tmp_path, color="rgb", background=background)
    share = alpha[..., None].astype(float) / 255
    expected = colors * share + level * (1 - share)
    assert np.abs(first(data).transpose(1, 2, 0) - expected).max() <= 1
    (note,) = data.rereads
    assert f"are laid on a {background} ground" in note


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P levels"])
def test_opaque_images_with_an_alpha_channel_are_read_as_before(tmp_path: Path, kind: str) -> None:
    rgb = noise(SIDE, SIDE, 3)
    image = Image.fromarray(rgb).convert("P") if kind == "P levels" else Image.fromarray(rgb).convert(kind)
    options: dict[str, Any] = {"transparency": b"\xff" * 256} if kind == "P levels" else {}
    fill(tmp_path, image, **options)
    data = load(tmp_path)
    assert data.notes == data.rereads == ()
    assert data.in_channels == (1 if kind == "LA" else 3)
    plain = fill(tmp_path / "plain", image.convert("L" if kind == "LA" else "RGB"))
    assert load(plain).fingerprint == data.fingerprint


def test_drawings_that_vanish_on_their_ground_are_named(tmp_path: Path) -> None:
    image = Image.new("RGBA", (SIDE, SIDE), (255, 255, 255, 0))
    image.paste((255, 255, 255, 255), (4, 4, 9, 9))
    fill(tmp_path, image)
    with pytest.raises(
        DataError, match=r"a/0.png has transparent pixels, and nothing can be seen of it on a white"
    ) as e:
        load(tmp_path)
    assert "Set `data.background` to black." in str(e.value)
    assert "9 more cannot be used" in str(e.value)
    assert len(check_data(ImageFolderData(kind="image-folder", path=str(tmp_path), background="grey"))["notes"]) == 1
    drawn = first(load(tmp_path, background="black"))[0]
    assert drawn[4:9, 4:9].min() == 255
    assert drawn.sum() == 25 * 255


def test_a_study_whose_pixels_would_be_others_is_refused_with_the_reason(
    tmp_path: Path, cli: Callable[..., Result]
) -> None:
    """As one of 0.1.0 would be: its fingerprint was of other pixels."""
    fill(tmp_path / "icons", transparent("RGBA")[0])
    study_file = tmp_path / "icons.yaml"
    study_file.write_text(STUDY)
    assert cli("study", "create", study_file).status == 0
    study = optuna.load_study(study_name="icons", storage="sqlite:///spikesearch.db")
    study.set_user_attr("data_fingerprint", "0123456789abcdef")
    complaint = cli("study", "run", study_file).complaint
    assert "read in another way than by spikesearch 0.1.0: 10 images, such as" in complaint
    assert "are laid on a white ground" in complaint


def test_a_changed_ground_changes_the_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, transparent("RGBA")[0])
    for limit in (10**9, 100):  # of pixels, and of files
        monkeypatch.setattr("spikesearch.data.bundle.HASHED_BYTES", limit)
        prints = {load(tmp_path, background=ground).fingerprint for ground in ("white", "black", "grey")}
        assert len(prints) == 3


# --- modes, profiles, several pictures --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P"])
def test_plain_images_of_all_modes_are_read_as_they_are(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(noise(SIDE, SIDE, 3)).convert(mode)
    data = load(fill(tmp_path, image))
    expected = image.convert("L" if mode in "1L" else "RGB")
    assert np.array_equal(first(data).transpose(1, 2, 0).squeeze(), np.asarray(expected))
    assert data.notes == ()


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_more_than_8_bits_are_refused_by_name_and_counted(tmp_path: Path, dtype: type) -> None:
    ending = "png" if dtype is np.uint16 else "jpg"  # a TIFF file with a wrong name
    options: dict[str, Any] = {} if ending == "png" else {"format": "TIFF"}
    folder = fill(tmp_path, Image.fromarray(np.full((SIDE, SIDE), 300, dtype)), ending, **options)
    with pytest.raises(
        DataError, match=r"a/0\..* has pixels of mode '[IF].*', but 8-bit .* 9 more cannot be used"
    ) as e:
        load(folder)
    assert "data check" in str(e.value)


def test_lab_and_cmyk_are_converted(tmp_path: Path) -> None:
    lab = ImageCms.profileToProfile(
        Image.new("RGB", (SIDE, SIDE), (200, 30, 60)),
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        outputMode="LAB",
    )
    assert lab is not None
    data = load(fill(tmp_path / "lab", lab, "jpg", format="TIFF"))
    assert np.abs(first(data)[:, 0, 0].astype(int) - (200, 30, 60)).max() <= 3
    cmyk = Image.new("RGB", (SIDE, SIDE), (200, 30, 60)).convert("CMYK")
    data = load(fill(tmp_path / "cmyk", cmyk, "jpg", quality=100))
    assert np.abs(first(data)[:, 0, 0].astype(int) - (200, 30, 60)).max() <= 3


def matrix_profile(gamma: float, swap: bool) -> bytes:
    """Return an ICC profile of sRGB with another gamma, or with red and green exchanged."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {bytes(profile[i : i + 4]): i for i in range(132, 132 + 12 * profile[131], 12)}
    if swap:
        red, green = tags[b"rXYZ"], tags[b"gXYZ"]
        profile[red + 4 : red + 12], profile[green + 4 : green + 12] = (
            profile[green + 4 : green + 12],
            profile[red + 4 : red + 12],
        )
    if gamma:
        curve = b"curv" + bytes(4) + (1).to_bytes(4, "big") + round(gamma * 256).to_bytes(2, "big")
        place = len(profile).to_bytes(4, "big") + len(curve).to_bytes(4, "big")
        for tag in (b"rTRC", b"gTRC", b"bTRC"):
            profile[tags[tag] + 4 : tags[tag] + 12] = place
        profile += curve + bytes(-len(curve) % 4)
        profile[:4] = len(profile).to_bytes(4, "big")
    return bytes(profile)


def test_a_profile_that_matters_is_applied(tmp_path: Path) -> None:
    pixels = noise(SIDE, SIDE, 3)
    linear = load(fill(tmp_path / "linear", Image.fromarray(pixels), icc_profile=matrix_profile(1.0, False)))
    value = pixels / 255
    srgb = np.where(value <= 0.0031308, 12.92 * value, 1.055 * value ** (1 / 2.4) - 0.055)  # IEC 61966-2-1
    assert np.abs(first(linear).transpose(1, 2, 0) - 255 * srgb).max() <= 2
    assert "converted from a colour profile to sRGB" in linear.rereads[0]
    swapped = load(fill(tmp_path / "swapped", Image.fromarray(pixels), icc_profile=matrix_profile(0, True)))
    assert np.abs(first(swapped).transpose(1, 2, 0).astype(int) - pixels[..., [1, 0, 2]]).max() <= 2


@pytest.mark.parametrize("profile", [matrix_profile(0, False), b"damaged", matrix_profile(2.2, False)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_profile_that_does_not_matter_changes_no_pixel(tmp_path: Path, profile: bytes, mode: str) -> None:
    image = Image.fromarray(noise(SIDE, SIDE, 3)).convert(mode)
    plain, marked = load(fill(tmp_path / "a", image)), load(fill(tmp_path / "b", image, icc_profile=profile))
    assert plain.fingerprint == marked.fingerprint
    assert marked.notes == ()


def test_moving_pictures_are_named(tmp_path: Path) -> None:
    frames = [Image.fromarray(noise(SIDE, SIDE, seed=seed)) for seed in range(3)]
    fill(tmp_path, frames[0])
    frames[0].save(tmp_path / "b" / "3.png", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=r"b/3.png is a moving picture of 3 frames"):
        load(tmp_path)
    data = load(tmp_path, skip_unreadable=True)
    assert len(data.skipped) == 1


def test_the_first_of_several_pictures_of_a_photograph_is_used(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (SIDE, SIDE), color) for color in ("red", "blue")]
    fill(tmp_path, pictures[0], "jpg", format="MPO", save_all=True, append_images=pictures[1:])
    data = load(tmp_path)
    assert first(data)[0].min() > 240
    assert "of several pictures, of which the first is used" in data.notes[0]


def fill_png(folder: Path, values: np.ndarray, depth: int, kind: int, transparent: tuple[int, ...] = ()) -> Path:
    """Write a PNG of a sort that Pillow does not write, built by hand: rows of filter 0, big-endian values."""
    rows = b""
    for row in values.reshape(SIDE, -1):
        bits = "".join(f"{value:0{depth}b}" for value in row.tolist())
        rows += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")

    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")

    header = SIDE.to_bytes(4, "big") * 2 + bytes([depth, kind, 0, 0, 0])
    color = b"".join(value.to_bytes(2, "big") for value in transparent)
    parts = [(b"IHDR", header), *([(b"tRNS", color)] if color else []), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)
    for name in ("a", "b"):
        (folder / name).mkdir()
        for i in range(5):
            (folder / name / f"{i}.png").write_bytes(png)
    return folder


def test_the_upper_half_of_16_bit_colours_is_used_and_said(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (SIDE, SIDE, 3))
    data = load(fill_png(tmp_path, values, 16, 2))
    assert np.array_equal(first(data).transpose(1, 2, 0), (values >> 8).astype(np.uint8))
    assert "upper 8 of 16 bits" in data.notes[0]


@pytest.mark.parametrize("depth", [2, 4, 8])
@pytest.mark.parametrize("level", [0, 1, 3])
def test_one_grey_of_few_bits_is_transparent(tmp_path: Path, depth: int, level: int) -> None:
    values = np.random.default_rng(0).integers(0, 2**depth, (SIDE, SIDE))
    values[0] = level
    data = load(fill_png(tmp_path, values, depth, 0, (level,)))
    expected = np.where(values == level, 255, values * 255 // (2**depth - 1))
    assert np.array_equal(first(data)[0], expected)
    assert "laid on a white ground" in data.notes[0]


def test_one_colour_of_16_bits_is_transparent(tmp_path: Path) -> None:
    values = 257 * np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3))
    values[:4, :4] = (0xFF12, 0xFF12, 0)
    data = load(fill_png(tmp_path, values, 16, 2, (0xFF12, 0xFF12, 0)))
    expected = (values >> 8).astype(np.uint8)
    expected[:4, :4] = 255
    assert np.array_equal(first(data).transpose(1, 2, 0), expected)


def test_grey_of_16_bits_with_transparency_is_refused_like_grey(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (SIDE, SIDE, 2))
    with pytest.raises(DataError, match=r"a/0.png has pixels of mode 'LA;16B', but 8-bit grey"):
        load(fill_png(tmp_path, values, 16, 4))


def test_images_of_which_nothing_is_left_are_refused(tmp_path: Path) -> None:
    pixels = noise(SIDE, SIDE, 4)
    pixels[..., 3] = 0
    with pytest.raises(DataError, match=r"a/0.png is transparent everywhere, so that nothing can be seen of it"):
        load(fill(tmp_path, Image.fromarray(pixels)))


def test_nothing_is_done_to_plain_images() -> None:
    image = Image.fromarray(noise(SIDE, SIDE, 3))
    assert as_seen(image, "white") is as_seen(image, "black") is image
