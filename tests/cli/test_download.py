"""``--download``: nothing is fetched without it, and a study does not remember it."""

from __future__ import annotations

import pickle
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml
from torchvision import datasets

from spikesearch.study import load_study
from tests.commands import Result
from tests.study.helpers import TINY


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder that is served on this machine, and its URL."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path_factory.mktemp("server")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.fixture
def mine(tmp_path: Path, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """A study of CIFAR-10, whose archive (a small one in its format) lies where torchvision fetches it from."""
    folder, url = server
    content = folder / "cifar-10-batches-py"
    content.mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("train", 60), ("test", 12)):
        data = {"data": rng.integers(0, 256, (count, 3072), dtype=np.uint8), "labels": [i % 3 for i in range(count)]}
        (content / name).write_bytes(pickle.dumps(data))
    (content / "meta").write_bytes(pickle.dumps({"label_names": ["a", "b", "c"]}))
    with tarfile.open(folder / "cifar.tar.gz", "w:gz") as archive:
        archive.add(content, content.name)
    monkeypatch.setattr(datasets.CIFAR10, "url", f"{url}/cifar.tar.gz")
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", None)
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["train", None]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test", None]])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": "meta", "key": "label_names", "md5": None})
    changes = {
        "data": {"kind": "cifar10", "path": "data/cifar10"},
        "model": {"pool_stages": [1, 2, 3]},
        "train": {**TINY["train"], "epochs": 1},
        "scoring": {"calibration_images": 16},
        "search": {**TINY["search"], "n_trials": 2},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**TINY, **changes}))
    return "mine.yaml"


def test_a_study_whose_data_are_fetched(tmp_path: Path, mine: str, cli: Callable[..., Result]) -> None:
    for command in (("study", "create"), ("study", "run"), ("supernet", "train"), ("data", "check")):
        assert "--download" in cli(*command, mine).complaint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.yaml"]
    done = cli("study", "run", mine, "--download", "-f", "json")
    assert done.status == 0, done.err
    assert done.json()["states"]["complete"] == 2
    assert load_study("tiny", storage="sqlite:///spikesearch.db").user_attrs["study_file"]["data"]["download"] is False
    for again in ((), ("--download",)):
        assert cli("study", "run", mine, *again, "-f", "json").json()["states"]["complete"] == 2
    assert cli("study", "verify", "tiny", "-f", "value").status == 0


@pytest.mark.parametrize("command", [("study", "create"), ("data", "check"), ("supernet", "train")])
def test_every_command_that_first_reads_data_can_fetch_them(
    tmp_path: Path, mine: str, cli: Callable[..., Result], command: tuple[str, str]
) -> None:
    done = cli(*command, mine, "--download")
    assert done.status == 0, done.err
    assert (tmp_path / "data/cifar10/cifar-10-batches-py/train").is_file()


def test_what_needs_no_download_may_be_asked_for_one(tiny_file: Path, cli: Callable[..., Result]) -> None:
    assert cli("study", "create", tiny_file, "--download").out == "tiny\n"
