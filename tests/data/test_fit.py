"""How images are resized and cut: as torchvision does it, and square images as ever."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from spikesearch.data import load_data
from spikesearch.data.image_files import ImageFiles
from spikesearch.data.images import FileStore, cut_anew, fit, inspect
from spikesearch.data.kinds.image_folder import ImageFolderData, load


def picture(seed: int, size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    size=st.sampled_from([4, 9, 16, 32, 64]),
    mode=st.sampled_from(["L", "RGB"]),
)
def test_images_are_resized_and_cut_as_by_torchvision(width: int, height: int, size: int, mode: str) -> None:
    image = picture(width, (width, height), mode)
    resize = transforms.Resize(size, transforms.InterpolationMode.BICUBIC)
    expected = transforms.CenterCrop(size)(resize(image))
    assert np.array_equal(np.asarray(fit(image, size)), np.asarray(expected))


def folder_of(path: Path, *sizes: tuple[int, int]) -> ImageFolderData:
    for label in ("cat", "dog"):
        (path / label).mkdir()
        for i, size in enumerate(sizes):
            picture(i, size).save(path / label / f"{i}.png")
    return ImageFolderData(kind="image-folder", path=str(path), image_size=8)


def test_a_study_of_square_images_keeps_its_fingerprint(tmp_path: Path) -> None:
    data = load_data(folder_of(tmp_path, *((8 + 3 * i, 8 + 3 * i) for i in range(6))), seed=0)
    assert data.fingerprint == "b0bb175a9c82b08d"  # of 0.1.0
    assert data.rereads == ()


def test_images_that_were_cut_otherwise_are_counted_and_make_other_data(tmp_path: Path) -> None:
    # 16 x 9 became 14 x 8 and is so still; 9 x 11 became 8 x 10 with one column off, and is 8 x 9
    sizes = [(8, 8), (16, 9), (9, 11), (11, 9), (20, 20), (40, 40)]
    data = load_data(folder_of(tmp_path, *sizes), seed=0)
    (note,) = data.rereads
    assert note.startswith("4 images, such as ")
    assert note.endswith("2.png, are resized and cut with the arithmetic of torchvision.")


@given(width=st.integers(1, 300), height=st.integers(1, 300), size=st.integers(1, 40))
def test_what_0_1_0_cut_otherwise_is_known(width: int, height: int, size: int) -> None:
    image = picture(0, (width, height), "L")
    scale = size / min(image.size)
    sides = [max(size, round(side * scale)) for side in image.size]
    resized = image.resize(sides, Image.Resampling.BICUBIC)
    left, top = ((side - size) // 2 for side in resized.size)
    before = resized.crop((left, top, left + size, top + size))
    if not cut_anew(image.size, size):
        assert np.array_equal(np.asarray(fit(image, size)), np.asarray(before))


def test_of_very_much_data_the_hash_of_files_tells_too(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    square = load(folder_of(tmp_path / "a", (20, 20), (16, 9)))
    wide = load(folder_of(tmp_path / "b", (20, 20), (9, 11)))
    for source, same in ((square, True), (wide, False)):
        assert source.files_hash is not None
        files = ImageFiles(tmp_path / ("a" if same else "b"))
        looks = inspect(files, "white", skip_unreadable=False)[1]
        as_before = FileStore(files, 8, 3, "white", tuple(looks))
        assert (source.files_hash() == as_before.files_hash()) == same
