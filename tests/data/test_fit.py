"""How images are resized and cut: as torchvision does it, and square images as ever."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from spikesearch.data import load_data
from spikesearch.data.images import fit
from spikesearch.data.kinds.image_folder import ImageFolderData


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


def test_a_study_of_square_images_keeps_its_fingerprint(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for i in range(6):
            side = 8 + 3 * i
            picture(i, (side, side)).save(tmp_path / label / f"{i}.png")
    config = ImageFolderData(kind="image-folder", path=str(tmp_path), image_size=8)
    assert load_data(config, seed=0).fingerprint == "b0bb175a9c82b08d"  # of 0.1.0
