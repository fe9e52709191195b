"""Which files are samples, of which class and in which part: folders as people have them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spikesearch.data.class_folders import Placing, list_files, notes_on, place
from spikesearch.errors import DataError

ENDINGS = (".png", ".jpg")


def arrange(root: Path, *paths: str) -> tuple[dict[str, str], set[str], list[str]]:
    """Make empty files; return the class of each that is used, which are for testing, and the notes."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if not path.endswith("/"):
            (root / path).touch()
        else:
            (root / path).mkdir(exist_ok=True)
    files = list_files(root, ENDINGS)
    placing: Placing = place(sorted(files.usable), root, "images", files.empty)
    notes = [*notes_on(files, placing.homes, root, "images", ENDINGS), *placing.notes]
    labels = {file.path: file.label for file in placing.files}
    return labels, {file.path for file in placing.files if file.test}, [note.replace(f"{root}/", "") for note in notes]


def test_the_first_folder_is_the_class(tmp_path: Path) -> None:
    labels, _, notes = arrange(tmp_path, "cat/a.png", "cat/more/b.JPG", "dog/alice/day 1/c.Png", "dog/bob/d.png")
    assert labels == {
        "cat/a.png": "cat", "cat/more/b.JPG": "cat", "dog/alice/day 1/c.Png": "dog", "dog/bob/d.png": "dog",
    }  # fmt: skip
    assert notes == [
        "3 images, such as cat/more/b.JPG, are of the class of the first folder, 'cat', and not of a sub-folder's."
    ]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        *(("train", "test"), ("Training", "Testing"), ("TRAIN", "TEST"), ("Train", "val"), ("training", "Validation")),
        ("train", "VALID"),
    ],
)
@pytest.mark.parametrize("wrapper", ["", "data set/", "archive/v2/"])
def test_parts_are_known_in_any_case_and_depth(tmp_path: Path, train: str, test: str, wrapper: str) -> None:
    paths = [f"{wrapper}{part}/{name}/{part}.png" for part in (train, test) for name in ("cat", "dog")]
    labels, tests, notes = arrange(tmp_path, *paths)
    assert list(labels.values()) == ["cat", "dog"] * 2
    assert tests == {path for path in paths if f"{test}/" in path}
    assert len(notes) == bool(wrapper)


def test_a_part_may_have_a_folder_of_its_own_name_in_it(tmp_path: Path) -> None:
    labels, tests, _ = arrange(tmp_path, *(f"{p}/{p}/{c}/1.png" for p in ("train", "test") for c in ("sea", "wood")))
    assert set(labels.values()) == {"sea", "wood"}
    assert len(tests) == 2


def test_what_is_not_used_is_said(tmp_path: Path) -> None:
    labels, tests, notes = arrange(
        tmp_path,
        *("train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png", "val/a/1.png", "extra/1.png", "1.png"),
        *("train/a/readme.txt", "train/c/1.npy", "train/a/._1.png", "__MACOSX/train/a/1.png", "train/Thumbs.db"),
        *("train/.DS_Store", "train/d/", ".git/config"),
    )
    assert set(labels) == {"train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png"}
    assert len(tests) == 2
    assert notes == [
        "2 files, such as train/a/readme.txt, are not used: images end in .png, .jpg.",
        "5 files, such as .git/config, are not used: a system put them there.",
        "No class without images: c, d in train holds none.",
        "val is not used: test is the test split.",
        "2 files, such as 1.png, are not used: only train and test are.",
    ]


def test_classes_that_are_called_like_parts_are_classes(tmp_path: Path) -> None:
    labels, tests, notes = arrange(tmp_path, "car/1.png", "train/1.png", "test/1.png")
    assert set(labels.values()) == {"car", "train", "test"}
    assert not tests
    assert notes == ["test is a class, because there is no folder train with classes beside it."]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (("seg_train/a/1.png", "seg_test/a/1.png"), "holds seg_test and seg_train, which could be a part"),
        (("Train/1.png", "Test/1.png"), "holds Test and Train, which could be a part of the data set or a class"),
        (("a/1.png", "b/1.png", "test/a/1.png"), "holds test, which could be a part of the data set or a class"),
        (("car/vw/1.png", "train/ice/1.png"), "holds train and car: is train a part of the data set or a class"),
        (("train/a/1.png", "Training/a/1.png"), "holds Training and train: is Training a part"),
        (("train/a/1.png", "train/b/1.png", "test/"), "test holds no images that can be used"),
        (("train/a/1.png", "train/b/1.png", "test/1.png"), "holds images outside of class folders, such as 1.png"),
        (("a/1.png", "b/1.png", "2.png"), "holds images outside of class folders, such as 2.png"),
        (("a/1.png", "b/.thumbnails/1.png"), r"images in the hidden folder '\.thumbnails'"),
        (
            tuple(f"{name}/{part}/1.png" for name in ("cat", "dog") for part in ("train", "Test")),
            "images in Test, train below cat, dog and so on: parts belong above the classes",
        ),
        (
            tuple(f"{name}/{part}/1.png" for name in ("images", "labels") for part in ("train", "val", "test")),
            "images in test, train, val below images, labels and so on",
        ),
        (("train/a/1.png", "train/b/1.png", "test/a/1.png"), r"only in training \['b'\], only in test none"),
    ],
)
def test_what_could_be_meant_in_two_ways_is_asked(tmp_path: Path, paths: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        arrange(tmp_path, *paths)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    "folders", [("fold1", "fold2"), ("cam1", "cam2", "cam10"), ("trn", "tst"), ("images", "masks"), ("a", "b")]
)
def test_classes_with_the_same_sub_folders_may_not_be_the_classes(tmp_path: Path, folders: tuple[str, ...]) -> None:
    labels, _, notes = arrange(tmp_path, *(f"{folder}/{name}/1.png" for folder in folders for name in ("cat", "dog")))
    assert set(labels.values()) == set(folders)
    assert notes[0] == (
        f"Each of the {len(folders)} classes, {folders[0]} to {folders[-1]}, has the same sub-folders: cat, dog. If "
        "those are the classes, put all of each into one folder."
    )


@pytest.mark.parametrize(
    "paths", [("a/x/1.png", "a/y/1.png", "b/x/1.png"), ("a/x/1.png", "a/y/1.png", "b/x/1.png", "b/y/1.png", "b/1.png")]
)
def test_classes_with_other_sub_folders_are_classes(tmp_path: Path, paths: tuple[str, ...]) -> None:
    assert len(arrange(tmp_path, *paths)[2]) == 1


def test_names_that_a_person_reads_as_one_are_said(tmp_path: Path) -> None:
    names = ("Cat", "cat", "caf\u00e9", "cafe\u0301", "dog", "dog ", "bird")
    labels, _, notes = arrange(tmp_path, *(f"{name}/1.png" for name in names))
    assert set(labels.values()) == set(names)
    assert notes == [
        r"cafe\u0301 and caf\xe9 are two classes; rename one if they are the same.",
        "Cat and cat are two classes; rename one if they are the same.",
        "dog and dog  are two classes; rename one if they are the same.",
    ]


def test_a_class_beside_an_empty_one_is_no_wrapper(tmp_path: Path) -> None:
    labels, _, _ = arrange(tmp_path, "cat/alice/1.png", "cat/bob/1.png", "dog/")
    assert set(labels.values()) == {"cat"}  # to be refused as a single class


def test_links_are_followed_unless_they_lead_back(tmp_path: Path) -> None:
    pool, root = tmp_path / "pool", tmp_path / "root"
    for path in ("wolf/1.png", "wolf/den/2.png"):
        (pool / path).parent.mkdir(parents=True, exist_ok=True)
        (pool / path).touch()
    (root / "dog").mkdir(parents=True)
    (root / "dog" / "3.png").touch()
    (root / "wolf").symlink_to(pool / "wolf", target_is_directory=True)
    (pool / "wolf" / "up").symlink_to(pool, target_is_directory=True)  # a loop outside
    (root / "dog" / "self").symlink_to(root, target_is_directory=True)  # a loop inside
    (root / "dog" / "everything").symlink_to("/", target_is_directory=True)
    (root / "again").symlink_to(root / "dog", target_is_directory=True)
    (root / "gone").symlink_to(root / "nowhere", target_is_directory=True)
    labels, _, notes = arrange(root)
    assert labels == {"wolf/1.png": "wolf", "wolf/den/2.png": "wolf", "dog/3.png": "dog"}
    assert "gone is not used: images end in .png, .jpg." in notes
    assert "4 links, such as again, are not followed: the files are read where they lie." in notes


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="everybody may read everything")
def test_a_folder_that_is_closed_is_named(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir(mode=0)
    with pytest.raises(DataError, match=r"cat cannot be read \(Permission denied\)"):
        list_files(tmp_path, ENDINGS)
