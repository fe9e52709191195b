from __future__ import annotations

import json
import math
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikesearch.errors import CheckpointError, StorageError
from spikesearch.io import atomic_write_bytes, atomic_write_json, atomic_write_text, read_json


@given(before=st.none() | st.binary(), data=st.binary())
def test_afterwards_the_file_holds_all_of_it(
    tmp_path_factory: pytest.TempPathFactory, before: bytes | None, data: bytes
):
    path = tmp_path_factory.mktemp("io") / "file"
    if before is not None:
        path.write_bytes(before)
    atomic_write_bytes(path, data)
    assert path.read_bytes() == data
    assert list(path.parent.iterdir()) == [path]


def test_text_is_utf8_and_folders_are_created(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "text"
    atomic_write_text(path, "µJ\n")
    assert path.read_bytes() == b"\xc2\xb5J\n"


def test_json_ends_with_a_line_break_and_keeps_the_order(tmp_path: Path) -> None:
    data = {"b": [1, 2.5, None], "a": {"text": "µJ"}}
    atomic_write_json(tmp_path / "x.json", data)
    text = (tmp_path / "x.json").read_text()
    assert text.endswith("}\n")
    assert json.loads(text) == data
    assert text.index('"b"') < text.index('"a"')


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_has_no_word_for_nan_and_infinity(tmp_path: Path, value: float) -> None:
    path = tmp_path / "x.json"
    path.write_text("before")
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic_write_json(path, {"x": value})
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="file modes of POSIX")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_mode_that_open_would_give_them(tmp_path: Path, umask: int, mode: int) -> None:
    previous = os.umask(umask)
    try:
        atomic_write_bytes(tmp_path / "x", b"")
        assert os.umask(umask) == umask  # the process keeps its own
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == mode


def test_a_folder_that_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match=r"Cannot write .*file/x: .*Choose a folder that is writable") as caught:
        atomic_write_bytes(tmp_path / "file" / "x", b"data")
    assert isinstance(caught.value, OSError)
    assert (tmp_path / "file").read_text() == "not a folder"


def test_a_target_that_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "target"
    (target / "inside").mkdir(parents=True)
    with pytest.raises(StorageError, match="Cannot write"):
        atomic_write_bytes(target, b"data")
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(os.name != "posix", reason="kill -9 of POSIX")
def test_a_killed_writer_leaves_the_old_or_the_new_file(tmp_path: Path) -> None:
    """Kill a process that rewrites one file for ever; whatever the moment, a reader sees one whole version."""
    path = tmp_path / "file"
    size = 200_000
    code = (
        "import itertools, sys; from pathlib import Path; from spikesearch.io import atomic_write_bytes\n"
        "for i in itertools.count():\n"
        f"    atomic_write_bytes(Path(sys.argv[1]), bytes([i % 256]) * {size})\n"
        "    print(i, flush=True)\n"
    )
    for rounds in (1, 3, 5):
        with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(rounds):
                process.stdout.readline()
            process.kill()
        content = path.read_bytes()
        assert len(content) == size
        assert len(set(content)) == 1


def test_json_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    data = {"b": [1, 2.5, None], "a": {"text": "\u00b5J"}}
    atomic_write_json(tmp_path / "x.json", data)
    assert read_json(tmp_path / "x.json", error=CheckpointError, remedy="") == data


def test_json_that_cannot_be_read_is_the_error_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(CheckpointError, match=r"x\.json is missing; make it anew\.$"):
        read_json(path, error=CheckpointError, remedy="make it anew.")
    with pytest.raises(StorageError, match=r"^There is no study\.$"):
        read_json(path, error=StorageError, remedy="make it anew.", missing="There is no study.")
    for content in (b"{", b"", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"x\.json is corrupt \(.+\); make it anew\.$"):
            read_json(path, error=CheckpointError, remedy="make it anew.", missing="There is none.")
