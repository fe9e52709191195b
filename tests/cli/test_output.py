from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from spikesearch.cli.output import Format, emit

RESULT: dict[str, Any] = {"name": "a: b", "numbers": [1, 2.5], "none": None}


@pytest.mark.parametrize(
    ("chosen", "read"),
    [
        (Format.table, lambda text: text == "the table\n"),
        (Format.value, lambda text: text == "1\n2.5\n"),
        (Format.json, lambda text: json.loads(text) == RESULT and list(json.loads(text)) == list(RESULT)),
        (Format.yaml, lambda text: yaml.safe_load(text) == RESULT and list(yaml.safe_load(text)) == list(RESULT)),
    ],
)
def test_a_result_in_every_format(
    chosen: Format, read: Callable[[str], bool], capsys: pytest.CaptureFixture[str]
) -> None:
    emit(
        RESULT,
        chosen,
        table=lambda result: print("the table"),
        value=lambda result: result["numbers"],
        data=lambda result: result,
    )
    assert read(capsys.readouterr().out)
