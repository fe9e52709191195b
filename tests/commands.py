"""What a command of the command line leaves; the fixture `cli` runs one in the test's own process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Result:
    """What a command left."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def complaint(self) -> str:
        """The one line that a user's mistake prints."""
        lines = self.err.strip().splitlines()
        assert self.status == 2, self
        assert self.out == ""
        assert len(lines) == 1, self.err
        assert lines[0].startswith("spikesearch: error: ")
        return lines[0]
