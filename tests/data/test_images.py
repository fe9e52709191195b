"""Image folders and tar files: what is inferred, what is kept, and how bad input is named."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from spikesearch.config.data import ImageAugment, SplitConfig
from spikesearch.data import load_data
from spikesearch.data.image_files import ImageFiles
from spikesearch.data.images import FileStore, fit, to_array
from spikesearch.data.kinds.image_folder import ImageFolderData
from spikesearch.errors import DataError, DataNotFoundError


def picture(seed: int, size: tuple[int, int] = (12, 12), mode: str = "RGB") -> Image.Image:
    channels = {"RGB": 3, "L": 1, "RGBA": 4}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels)


def fill(folder: Path, classes: Iterable[str] = ("cat", "dog"), count: int = 6, seed: int = 0, **kwargs: Any) -> Path:
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            picture(seed + 1000 * k + i, **kwargs).save(folder / name / f"{i:03}.png")
    return folder


def to_tar(folder: Path, target: Path) -> Path:
    with tarfile.open(target, "w") as tar:
        for file in sorted(folder.rglob("*.png")):
            tar.add(file, arcname=str(file.relative_to(folder)))
    return target


def config(path: Path, **keys: Any) -> ImageFolderData:
    return ImageFolderData(kind="image-folder", path=str(path), **keys)


def all_raw(data: Any) -> set[bytes]:
    return {
        raw.numpy().tobytes()
        for split in (data.train, data.search, data.test)
        for raw in split.store.raw(split.positions)
    }


def test_facts_are_inferred(tmp_path: Path) -> None:
    data = load_data(config(fill(tmp_path)), seed=0)
    assert (data.num_classes, data.in_channels, data.image_size, data.frames) == (2, 3, 12, None)
    assert data.class_names == ("cat", "dog")
    assert len(data.train) + len(data.search) + len(data.test) == 12
    expected = {to_array(picture(1000 * k + i)).tobytes() for k in range(2) for i in range(6)}
    assert all_raw(data) == expected
    images = data.train.images(range(len(data.train)))
    assert torch.allclose(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)


def test_labels_belong_to_their_images(tmp_path: Path) -> None:
    for name, value in (("black", 0), ("white", 255)):
        (tmp_path / name).mkdir()
        for i in range(5):
            Image.new("L", (8, 8), value).save(tmp_path / name / f"{i}.png")
    data = load_data(config(tmp_path), seed=3)
    assert data.in_channels == 1
    for split in (data.train, data.search, data.test):
        assert (split.images(range(len(split))).mean((1, 2, 3)) > 0).long().tolist() == split.labels.tolist()


@pytest.mark.parametrize("test_name", ["test", "val", "validation"])
def test_a_defined_test_split_is_kept(tmp_path: Path, test_name: str) -> None:
    fill(tmp_path / "train", count=8)
    fill(tmp_path / test_name, count=2, seed=50)
    data = load_data(config(tmp_path), seed=0)
    assert (len(data.train), len(data.search), len(data.test)) == (12, 4, 4)
    expected = {to_array(picture(50 + 1000 * k + i)).tobytes() for k in range(2) for i in range(2)}
    assert {raw.numpy().tobytes() for raw in data.test.store.raw(data.test.positions)} == expected  # type: ignore[attr-defined]


def test_a_third_part_is_noted_and_left_alone(tmp_path: Path) -> None:
    for name in ("train", "test", "val"):
        fill(tmp_path / name)
    data = load_data(config(tmp_path), seed=0)
    assert len(data.test) == 12
    assert "val is not used: test is the test split" in data.notes[0]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    data = load_data(config(fill(tmp_path, classes=("car", "train"))), seed=0)
    assert data.class_names == ("car", "train")
    assert (len(data.train), len(data.search), len(data.test)) == (8, 2, 2)


def test_folds_pool_the_parts(tmp_path: Path) -> None:
    fill(tmp_path / "train", count=8)
    fill(tmp_path / "test", count=2, seed=50)
    data = load_data(config(tmp_path, splits=SplitConfig(folds=5, fold=1)), seed=0)
    assert len(data.test) == 4
    assert len(data.train) + len(data.search) == 16


@pytest.mark.parametrize("pack", ["one", "parts", "nested", "classes"])
def test_tar_files_hold_the_same_as_folders(tmp_path: Path, pack: str) -> None:
    folder, packed = tmp_path / "folder", tmp_path / "packed"
    packed.mkdir()
    if pack == "one":
        path = to_tar(fill(folder), packed / "all.tar")
    elif pack == "classes":
        fill(folder)
        for name in ("cat", "dog"):
            to_tar(folder / name, packed / f"{name}.tar")
        path = packed
    else:
        fill(folder / "train")
        fill(folder / "test", count=3, seed=50)
        if pack == "parts":
            to_tar(folder / "train", packed / "train.tar")
            to_tar(folder / "test", packed / "test.tar")
            path = packed
        else:
            path = to_tar(folder, packed / "all.tar")
    plain, tarred = load_data(config(folder), seed=0), load_data(config(path), seed=0)
    assert tarred.class_names == plain.class_names
    assert [len(split) for split in (tarred.train, tarred.search, tarred.test)] == [
        len(split) for split in (plain.train, plain.search, plain.test)
    ]
    assert all_raw(tarred) == all_raw(plain)
    on_disk = load_data(config(path, memory_mb=0), seed=0)
    assert torch.equal(on_disk.test.images([0, 1]), tarred.test.images([0, 1]))
    assert not list(tmp_path.rglob("*.pickle"))


@pytest.mark.parametrize(
    "augment", [ImageAugment(crop_padding=1, hflip=0.5), ImageAugment(crop_scale=(0.1, 1.0), hflip=0.5)]
)
def test_large_data_stays_on_disk_and_gives_the_same(tmp_path: Path, augment: ImageAugment) -> None:
    fill(tmp_path, size=(20, 14))
    memory = load_data(config(tmp_path, image_size=10, augment=augment), seed=0)
    disk = load_data(config(tmp_path, image_size=10, color="rgb", augment=augment, memory_mb=0), seed=0)
    assert isinstance(disk.train.store, FileStore)  # type: ignore[attr-defined]
    assert not isinstance(memory.train.store, FileStore)  # type: ignore[attr-defined]
    assert torch.equal(disk.train.images(range(4)), memory.train.images(range(4)))
    assert torch.equal(disk.train.augmented(range(4), (1,)), memory.train.augmented(range(4), (1,)))
    assert disk.fingerprint == memory.fingerprint


def test_the_fingerprint_is_of_the_images_that_are_used(tmp_path: Path) -> None:
    fill(tmp_path)

    def fingerprint(**keys: Any) -> str:
        return load_data(config(tmp_path, **keys), seed=0).fingerprint

    first = fingerprint()
    assert fingerprint(skip_unreadable=True) == first
    picture(77).save(tmp_path / "dog" / "003.png")
    assert fingerprint() == fingerprint(memory_mb=0) != first
    (tmp_path / "dog" / "003.png").write_bytes(b"oops")
    assert fingerprint(skip_unreadable=True) != first
    picture(1003).save(tmp_path / "dog" / "003.png")
    assert fingerprint() == first


def test_the_fingerprint_of_very_many_images_is_of_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path)

    def fingerprints() -> set[str]:
        return {load_data(config(tmp_path, memory_mb=memory), seed=0).fingerprint for memory in (0, 100)}

    of_pixels = fingerprints()
    monkeypatch.setattr("spikesearch.data.bundle.HASHED_BYTES", 100)
    of_files = fingerprints()
    (tmp_path / "dog" / "003.png").rename(tmp_path / "dog" / "003b.png")
    renamed = fingerprints()
    assert len(of_pixels) == len(of_files) == len(renamed) == len(of_files | renamed) - 1 == 1
    monkeypatch.undo()
    assert fingerprints() == of_pixels


def test_large_files_are_decoded_in_threads_with_the_same_result(tmp_path: Path) -> None:
    fill(tmp_path, size=(120, 120), count=4)
    files = ImageFiles(tmp_path)
    if (os.cpu_count() or 1) > 1:
        assert files.workers > 1
    store = FileStore(files, 50, 3)
    together = store.raw(np.arange(8))
    files.workers = 1
    assert torch.equal(store.raw(np.arange(8)), together)


def test_fit_resizes_the_shorter_side_and_cuts_the_middle() -> None:
    wide = Image.new("L", (40, 20), 0)
    wide.paste(255, (10, 0, 30, 20))
    assert np.asarray(fit(wide, 10))[:, 1:9].min() > 200
    assert fit(wide, 20).size == (20, 20)
    assert np.asarray(fit(wide, 20)).min() == 255
    tall = picture(0, (7, 31))
    assert fit(tall, 16).size == (16, 16)
    same = picture(0, (16, 16))
    assert fit(same, 16) is same


def test_alpha_is_flattened_and_colour_converted(tmp_path: Path) -> None:
    data = load_data(config(fill(tmp_path, mode="RGBA")), seed=0)
    assert data.in_channels == 3
    assert load_data(config(tmp_path, color="grey"), seed=0).in_channels == 1


# --- bad input --------------------------------------------------------------------------------------------------------


def break_image(folder: Path) -> Path:
    bad = folder / "dog" / "003.png"
    bad.write_bytes(bad.read_bytes()[:60])
    return bad


def test_what_is_in_no_class_is_noted(tmp_path: Path) -> None:
    fill(tmp_path)
    for name in ("a.webp", "b.txt", ".DS_Store"):
        (tmp_path / "dog" / name).write_text("")
    (tmp_path / "bird").mkdir()
    (tmp_path / "cat" / "old" / "dog").mkdir(parents=True)
    shutil.copy(tmp_path / "cat" / "000.png", tmp_path / "cat" / "old" / "dog")
    data = load_data(config(tmp_path), seed=0)
    assert data.class_names == ("cat", "dog")
    files, system, empty, nested = data.notes
    assert files == f"2 files, such as {tmp_path / 'dog' / 'a.webp'}, are not used: images end in .png, .jpg, .jpeg."
    assert empty == f"No class without images: bird in {tmp_path} holds none."
    assert system == f"{tmp_path / 'dog' / '.DS_Store'} is not used: a system put them there."
    inner = tmp_path / "cat" / "old" / "dog" / "000.png"
    assert nested == f"{inner} is of the class of the first folder, 'cat', and not of a sub-folder's."
    (tmp_path / ".ipynb_checkpoints").mkdir()
    shutil.copy(tmp_path / "cat" / "000.png", tmp_path / ".ipynb_checkpoints")
    with pytest.raises(DataError, match=r"hidden folder '\.ipynb_checkpoints'"):
        load_data(config(tmp_path), seed=0)


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    link = fill(tmp_path) / "dog" / "000.png"
    link.unlink()
    link.symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match="cannot be read") as caught:
        load_data(config(tmp_path), seed=0)
    assert str(link) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n\x00\x00"])
def test_an_unreadable_image_is_named(tmp_path: Path, content: bytes) -> None:
    bad = fill(tmp_path) / "dog" / "003.png"
    bad.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as an image") as caught:
        load_data(config(tmp_path), seed=0)
    assert str(bad) in str(caught.value)
    assert "skip_unreadable" in str(caught.value)


def test_a_truncated_image_is_named_and_skipped_only_if_asked(tmp_path: Path) -> None:
    bad = break_image(fill(tmp_path, count=30))
    with pytest.raises(DataError, match=r"003.png cannot be read"):
        load_data(config(tmp_path), seed=0)
    for memory in (0, 100):
        data = load_data(config(tmp_path, skip_unreadable=True, memory_mb=memory), seed=0)
        assert len(data.train) + len(data.search) + len(data.test) == 59
        assert len(data.skipped) == 1
        assert str(bad) in data.skipped[0]
        assert len(all_raw(data)) == 59


def test_an_unreadable_image_on_disk_is_named_before_training(tmp_path: Path) -> None:
    fill(tmp_path / "train")
    bad = fill(tmp_path / "test", seed=50) / "dog" / "003.png"
    bad.write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"test/dog/003.png cannot be read"):
        load_data(config(tmp_path, memory_mb=0, image_size=12, color="rgb"), seed=0)


def test_a_class_with_one_image_is_named(tmp_path: Path) -> None:
    fill(tmp_path)
    fill(tmp_path, classes=["lynx"], count=1)
    with pytest.raises(DataError, match="Class 'lynx' has 1 image to divide"):
        load_data(config(tmp_path), seed=0)


def test_classes_that_differ_between_splits_are_named(tmp_path: Path) -> None:
    fill(tmp_path / "train", classes=["cat", "dog", "lynx"])
    fill(tmp_path / "test", classes=["cat", "dog", "wolf"])
    with pytest.raises(DataError, match=r"only in training \['lynx'\], only in test \['wolf'\]"):
        load_data(config(tmp_path), seed=0)


def test_grey_and_colour_mixed_are_named(tmp_path: Path) -> None:
    fill(tmp_path)
    picture(5, mode="L").save(tmp_path / "dog" / "002.png")
    with pytest.raises(
        DataError, match=r"Grey and colour images are mixed: .*002.png is grey, .*000.png is colour"
    ) as e:
        load_data(config(tmp_path), seed=0)
    assert "`data.color`" in str(e.value)
    assert load_data(config(tmp_path, color="rgb"), seed=0).in_channels == 3


@pytest.mark.parametrize(
    ("size", "message"),
    [((10, 10), "Images have different sizes: .* is 12x12, .*002.png is 10x10"), ((12, 9), "12x9")],
)
def test_different_sizes_are_named(tmp_path: Path, size: tuple[int, int], message: str) -> None:
    fill(tmp_path)
    picture(5, size).save(tmp_path / "dog" / "002.png")
    with pytest.raises(DataError, match=message):
        load_data(config(tmp_path), seed=0)
    assert load_data(config(tmp_path, image_size=8), seed=0).image_size == 8


def test_images_that_are_not_square_are_named(tmp_path: Path) -> None:
    fill(tmp_path, size=(12, 9))
    with pytest.raises(DataError, match=r"cat/000.png is 12x9 pixels, but square images are needed"):
        load_data(config(tmp_path), seed=0)


@pytest.mark.parametrize("keys", [{}, {"image_size": 12, "color": "grey"}])
@pytest.mark.parametrize("memory_mb", [0, 100])
def test_sixteen_bit_images_are_refused(tmp_path: Path, keys: dict[str, Any], memory_mb: int) -> None:
    deep = fill(tmp_path, mode="L") / "dog" / "003.png"
    Image.fromarray(np.full((12, 12), 300, np.uint16)).save(deep)
    with pytest.raises(DataError, match=r"003\.png has pixels of mode 'I(;16)?', but 8-bit"):
        load_data(config(tmp_path, memory_mb=memory_mb, **keys), seed=0)
    data = load_data(config(tmp_path, memory_mb=memory_mb, skip_unreadable=True, **keys), seed=0)
    assert [str(deep) in message for message in data.skipped] == [True]


@pytest.mark.parametrize(
    ("arrange", "message"),
    [
        (lambda path: None, "holds no images that can be used"),
        (lambda path: fill(path, classes=["cat"]), "has the single class 'cat'"),
        (lambda path: picture(0).save(fill(path) / "stray.png"), "holds images outside of class folders"),
    ],
)
def test_a_folder_without_classes_is_named(tmp_path: Path, arrange: Callable[[Path], Any], message: str) -> None:
    arrange(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        load_data(config(tmp_path), seed=0)
    assert str(tmp_path) in str(caught.value)


def test_a_compressed_or_damaged_tar_file_is_named(tmp_path: Path) -> None:
    compressed = tmp_path / "data.tar.xz"
    compressed.write_bytes(b"")
    with pytest.raises(DataError, match=r"data.tar.xz must be a folder or an uncompressed .tar file. Unpack it"):
        load_data(config(compressed), seed=0)
    damaged = tmp_path / "data.tar"
    damaged.write_bytes(b"nonsense" * 200)
    with pytest.raises(DataError, match=r"data.tar holds no images that can be used"):
        load_data(config(damaged), seed=0)


def test_an_unreadable_image_in_a_tar_file_is_named(tmp_path: Path) -> None:
    path = to_tar(fill(tmp_path / "folder"), tmp_path / "all.tar")
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("cat/bad.png")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"oops"))
    with pytest.raises(DataError, match=r"all.tar:cat/bad.png cannot be read"):
        load_data(config(path), seed=0)


def test_a_wrong_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataNotFoundError, match=r"`data.path` is 'nowhere', but there is no such file or folder"
    ) as caught:
        load_data(config(Path("nowhere")), seed=0, base_dir=tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "path/<class>/*.png" in str(caught.value)
