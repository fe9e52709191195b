"""What a doctor says of a study."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """Something that is probably wrong.

    Args:
        kind: ``dead layer``, ``saturated layer``, ``batch-norm drift``, ``largest below smallest``, ``no better than
            a guess``, ``split overlap``, ``border of the space``, ``mixer never competitive`` or ``mixer hardly
            trained``.
        where: The network, layer, gene or split that it is about.
        found: What was measured.
        advice: What to do.
    """

    kind: str
    where: str
    found: str
    advice: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)
