"""Which files of a folder are samples, of which class, and in which part: the same rules for images and recordings.

The class of a file is the first folder on its way; a data set may lie one folder deeper, and in parts for training and
testing. What is not used, and what could be meant in another way, is said in a note or refused.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from spikesearch.errors import DataError

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "val", "validation", "valid")
"""Folders of the test part in any case, the likeliest first; the others are then not used."""
_SYSTEM_FILES = ("thumbs.db", "desktop.ini", "icon\r")
_SYSTEM_FOLDERS = ("__macosx", "@eadir", "$recycle.bin", "system volume information")


@dataclass(frozen=True)
class Placed:
    """A file and its place in a data set.

    Args:
        path: Below the folder of the data set, with ``/``.
        label: Its class.
        test: Whether the data set says that it is for testing.
        inner: Its path below its part, if that lies in the data set's folder itself; else ``path``.
    """

    path: str
    label: str
    test: bool
    inner: str


@dataclass
class Files:
    """What lies below a folder: paths below it, with ``/``.

    Args:
        usable: Files with the right ending.
        others: Files with another ending.
        system: Files that a system put there, not a person.
        linked: Links to folders that are not followed, because they lead back.
        empty: Folders in which, and below which, nothing is usable.
    """

    usable: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    system: list[str] = field(default_factory=list)
    linked: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)

    def add(self, path: str, endings: Sequence[str]) -> bool:
        """Put a file where it belongs, and say whether it is usable: whether it has a right ending, in any case."""
        *way, name = path.split("/")
        if _of_system(way) or name.startswith("._") or name.lower() in _SYSTEM_FILES:
            self.system.append(path)
        elif Path(name).suffix.lower() in endings:
            self.usable.append(path)
            return True
        else:
            (self.system if _is_hidden([*way, name]) else self.others).append(path)
        return False


@dataclass(frozen=True)
class Placing:
    """Where the files of a data set belong.

    Args:
        files: Those that are used, in the order in which they were given.
        homes: Folders that hold classes; ``""`` is the data set's own.
        notes: What the owner may not expect.
        nested: Of these, what is said of files that lie deeper than their class.
    """

    files: list[Placed]
    homes: list[str]
    notes: list[str]
    nested: list[str]


def list_files(root: Path, endings: Sequence[str]) -> Files:
    """List what lies below a folder; links are followed, unless they lead back.

    Args:
        root: An existing folder.
        endings: Of usable files, in lower case; theirs may be in any case.

    Raises:
        DataError: If a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}). Make it readable, or move it away.")

    files = Files()
    home = Path(os.path.realpath(root))
    behind = {root: frozenset({home})}  # folder -> what it and the links on the way to it lead to
    folders: list[Path] = []
    full: set[Path] = set()
    for name_of_folder, below, names in os.walk(root, followlinks=True, onerror=refuse):
        folder = Path(name_of_folder)
        way = folder.relative_to(root).parts
        if way and not _of_system(way) and not _is_hidden(way):
            folders.append(folder)
        for name in names:
            if files.add("/".join((*way, name)), endings):
                full.add(folder)
        for name in list(below):
            entry = folder / name
            behind[entry] = behind[folder]
            if entry.is_symlink():
                target = Path(os.path.realpath(entry))
                if any(target.is_relative_to(known) or known.is_relative_to(target) for known in behind[folder]):
                    below.remove(name)
                    files.linked.append("/".join((*way, name)))
                behind[entry] |= {target}
    full |= {parent for folder in full for parent in folder.parents}
    files.empty = [folder.relative_to(root).as_posix() for folder in folders if folder not in full]
    return files


def place(paths: Iterable[str], root: Path, what: str, empty: Iterable[str] = ()) -> Placing:
    """Say of which class and in which part files are.

    Args:
        paths: Below ``root``, with ``/``.
        root: The folder or archive that holds them, for messages.
        what: What they are, such as ``images``.
        empty: Folders without them.

    Raises:
        DataError: If that cannot be told, or the parts have different classes.
    """
    paths, empty = list(paths), list(empty)
    hidden = next((name for path in paths for name in path.split("/")[:-1] if name.startswith(".")), None)
    if hidden is not None:
        raise DataError(
            f"{root} has {what} in the hidden folder {hidden!r}, which would be a class. Remove that folder."
        )
    notes: list[str] = []
    base = _wrapper(paths, empty, parts=TRAIN_NAMES)
    if base:
        notes.append(f"{root / base} is the only folder with {what} in {root}: the classes are the folders in it.")
    parts = _parts(_below(base, paths), _below(base, empty), root / base, what, notes)
    placed: dict[str, Placed] = {}
    homes: list[str] = []
    nested: list[Placed] = []
    inner: dict[str, set[str]] = {}  # class -> its sub-folders; "" stands for files of its own
    for part, test in parts.items():
        prefix = f"{base}{part}/" if part else base
        deeper = _wrapper(_below(prefix, paths), _below(prefix, empty)) if part else ""
        homes.append((prefix + deeper).rstrip("/"))
        for path in paths:
            if path.startswith(prefix):
                *way, name = path[len(prefix + deeper) :].split("/")
                if not way:
                    raise DataError(
                        f"{root / prefix} holds {what} outside of class folders, such as {name}. Put all {what} into "
                        "the sub-folder of their class."
                    )
                placed[path] = Placed(path, way[0], test, path if base else path[len(prefix) :])
                nested += [placed[path]] if len(way) > 1 else []
                inner.setdefault(way[0], set()).add(way[1] if len(way) > 1 else "")
    deep = []
    if nested:
        nested.sort(key=lambda file: file.path)
        named = _named(root, [file.path for file in nested], what)
        deep = [f"{named} of the class of the first folder, {nested[0].label!r}, and not of a sub-folder's."]
        notes += _on_sub_folders(inner, root, what)
    notes += _alike(sorted(inner))
    labels = {test: {file.label for file in placed.values() if file.test is test} for test in (False, True)}
    if labels[True]:
        check_same_classes(root, labels[False], labels[True], what)
    return Placing([placed[path] for path in paths if path in placed], homes, notes + deep, deep)


def notes_on(files: Files, homes: Iterable[str], root: Path, what: str, endings: Sequence[str]) -> Iterator[str]:
    """Yield what is not used of a folder, and why.

    Args:
        files: What lies below it.
        homes: See :class:`Placing`.
        root: The folder.
        what: What usable files are, such as ``images``.
        endings: With which they end.
    """
    if files.others:
        yield f"{_named(root, files.others)} not used: {what} end in {', '.join(endings)}."
    if files.system:
        yield f"{_named(root, files.system)} not used: a system put them there."
    if files.linked:
        yield f"{_named(root, files.linked, 'links')} not followed: the files are read where they lie."
    for home in homes:
        empty = sorted(name for parent, _, name in (path.rpartition("/") for path in files.empty) if parent == home)
        if empty:
            yield f"No class without {what}: {', '.join(empty)} in {root / home} holds none."


def check_same_classes(path: Path, train: set[str], test: set[str], what: str) -> None:
    """Refuse a part for testing that has other classes than the one for training.

    Raises:
        DataError: Naming the classes of ``path`` that are in one part only.
    """
    if train != test:
        raise DataError(
            f"The classes of the training and test {what} in {path} differ: only in training "
            f"{sorted(train - test) or 'none'}, only in test {sorted(test - train) or 'none'}. "
            "Make the class folders the same."
        )


def listed(names: Sequence[object], noun: str) -> str:
    """Return the beginning of a sentence about some things, of which the first is named."""
    return f"{names[0]} is" if len(names) == 1 else f"{len(names)} {noun}, such as {names[0]}, are"


def natural(text: str) -> tuple[list[int | str], str]:
    """Return a key that sorts ``a2`` before ``a10``, as timm does."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text.lower())], text


def _wrapper(paths: Sequence[str], empty: Sequence[str], parts: Sequence[str] = ()) -> str:
    """Return the folders that hold everything, one in the other, with a ``/`` behind each: those that an archive adds.

    None of ``parts`` is one, and neither is a folder beside which there are others, though without samples.
    """
    prefix = ""
    while True:
        inner = _below(prefix, paths)
        firsts = {path.split("/")[0] for path in inner}
        beside = {path.split("/")[0] for path in _below(prefix, empty)} - firsts
        if len(firsts) != 1 or beside or any(path.count("/") < 2 for path in inner):
            return prefix
        (name,) = firsts
        if name.lower() in parts:
            return prefix
        prefix += f"{name}/"


def _parts(paths: Sequence[str], empty: Sequence[str], root: Path, what: str, notes: list[str]) -> dict[str, bool]:
    """Return the folders that hold classes and whether they are for testing; ``""`` is the data set's own folder."""
    firsts = sorted({path.split("/")[0] for path in paths if "/" in path})
    deep = {path.split("/")[0] for path in paths if path.count("/") > 1}
    trains = [name for name in firsts if name in deep and name.lower() in TRAIN_NAMES]
    tests = sorted((name for name in firsts if name.lower() in TEST_NAMES), key=lambda name: _rank(name, TEST_NAMES))
    if not trains:
        all_parts = all(name.lower() in (*TRAIN_NAMES, *TEST_NAMES) for name in firsts)
        alike = [name for name in firsts if all_parts or (name in deep and _words(name) & {*TRAIN_NAMES, *TEST_NAMES})]
        if alike:
            raise DataError(
                f"{root} holds {' and '.join(alike)}, which could be a part of the data set or a class. Call parts "
                "train and test, each with the folders of its classes, or give the folder of one as `data.path`."
            )
        notes += [
            f"{root / name} is a class, because there is no folder train with classes beside it." for name in tests
        ]
        return {"": False}
    others = [path for path in paths if path.split("/")[0] not in (*trains, *tests)]
    if len(trains) > 1 or (others and not tests):
        beside = trains if len(trains) > 1 else [trains[0], others[0].split("/")[0]]
        raise DataError(
            f"{root} holds {' and '.join(beside)}: is {trains[0]} a part of the data set or a class? Leave only train "
            "and test there, or rename the class."
        )
    if not tests:
        gone = next((name for name in empty if "/" not in name and name.lower() in TEST_NAMES), None)
        if gone is not None:
            raise DataError(
                f"{root / gone} holds no {what} that can be used. Put them in one sub-folder per class, or remove the "
                "folder."
            )
    notes += [f"{root / name} is not used: {tests[0]} is the test split." for name in tests[1:]]
    if others:
        notes.append(f"{_named(root, others)} not used: only {trains[0]} and {tests[0]} are.")
    return {trains[0]: False, **dict.fromkeys(tests[:1], True)}


def _on_sub_folders(inner: dict[str, set[str]], root: Path, what: str) -> Iterator[str]:
    """Yield a note if all classes have the same sub-folders, which then may be the classes.

    Raises:
        DataError: If these are parts for training and testing.
    """
    first, *others = sorted(inner, key=natural)
    names = inner[first]
    if not others or "" in names or len(names) < 2 or any(inner[other] != names for other in others):
        return
    kinds = [any(name.lower() in part for name in names) for part in (TRAIN_NAMES, TEST_NAMES)]
    listing = ", ".join(sorted(names, key=natural))
    if all(kinds):
        raise DataError(
            f"{root} holds {what} in {listing} below {first}, {others[0]} and so on: parts belong above the classes. "
            f"Put {what} into train/<class> and test/<class>, or give the folder of one part alone."
        )
    yield (
        f"Each of the {len(inner)} classes, {first} to {others[-1]}, has the same sub-folders: {listing}. If those are "
        "the classes, put all of each into one folder."
    )


def _alike(labels: Iterable[str]) -> Iterator[str]:
    """Yield a note on classes whose names differ in case, spaces or the Unicode form of their letters only."""
    known: dict[str, str] = {}
    for label in labels:
        other = known.setdefault(unicodedata.normalize("NFKC", label).casefold().strip(), label)
        if other != label:
            yield f"{ascii(other)[1:-1]} and {ascii(label)[1:-1]} are two classes; rename one if they are the same."


def _named(root: Path, paths: Sequence[str], noun: str = "files") -> str:
    return listed([root / path for path in sorted(paths)], noun)


def _of_system(way: Iterable[str]) -> bool:
    return any(name.lower() in _SYSTEM_FOLDERS for name in way)


def _is_hidden(way: Iterable[str]) -> bool:
    return any(name.startswith(".") for name in way)


def _below(prefix: str, paths: Iterable[str]) -> list[str]:
    return [path[len(prefix) :] for path in paths if path.startswith(prefix)]


def _rank(name: str, names: Sequence[str]) -> tuple[int, str]:
    return names.index(name.lower()), name


def _words(name: str) -> set[str]:
    return set(re.split("[^a-z]+", name.lower()))
