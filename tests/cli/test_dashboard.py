"""The dashboard shows the study, to this machine only."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from optuna_dashboard import wsgi

from spikesearch.dashboard import make_dashboard
from spikesearch.errors import StorageError, StudyNotFoundError
from tests.commands import Result
from tests.study.helpers import new_study, search


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/spikesearch.db"
    search(new_study(url), url=url, total=8, constraints={"energy_uJ": 20.0})
    return url


@pytest.fixture
def address(url: str) -> Iterator[str]:
    with make_dashboard(url, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def get(address: str, **headers: str) -> Any:
    request = urllib.request.Request(address, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read()


def test_the_study_is_shown_with_names_and_sortable_attributes(address: str) -> None:
    (summary,) = json.loads(get(f"{address}/api/studies"))["study_summaries"]
    assert summary["study_name"] == "tiny"
    assert summary["directions"] == ["maximize", "minimize"]
    study = json.loads(get(f"{address}/api/studies/{summary['study_id']}"))
    assert study["objective_names"] == ["accuracy", "energy_uJ"]
    assert len(study["trials"]) == 8
    sortable = {attr["key"] for attr in study["union_user_attrs"] if attr["sortable"]}
    assert sortable == {"f_aeb", "params", "macs", "acs", "mean_firing_rate", "feasible"}
    shown = {attr["key"]: attr["value"] for attr in study["trials"][3]["user_attrs"]}
    assert float(shown["f_aeb"]) > 0
    assert int(shown["feasible"]) in (0, 1)
    assert b"<html" in get(f"{address}/dashboard").lower()


def test_a_foreign_page_gets_nothing(address: str) -> None:
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        with pytest.raises(urllib.error.HTTPError) as refused:
            get(f"{address}/api/studies", **headers)
        assert refused.value.code == 403
    assert get(f"{address}/api/studies", Host="localhost:1", Origin="http://localhost:1")


def test_plain_optuna_dashboard_shows_the_same(url: str, address: str) -> None:
    answers: list[str] = []
    environ: dict[str, Any] = {"PATH_INFO": "/api/studies/1"}
    setup_testing_defaults(environ)
    body = b"".join(wsgi(url)(environ, lambda status, headers, exc_info=None: answers.append(status)))
    assert answers == ["200 OK"]
    assert json.loads(body) == json.loads(get(f"{address}/api/studies/1"))


def test_what_cannot_be_served(url: str, tmp_path: Path, address: str, cli: Callable[..., Result]) -> None:
    port = address.rpartition(":")[2]
    with pytest.raises(StorageError, match=rf"127.0.0.1:{port}.*--port"):
        make_dashboard(url, port=int(port))
    with pytest.raises(StudyNotFoundError, match="no storage"):
        make_dashboard(f"sqlite:///{tmp_path}/missing.db", port=0)
    assert "--port" in cli("dashboard", "--storage", url, "--port", port).complaint
    assert "port" in cli("dashboard", "--port", 70000).complaint
