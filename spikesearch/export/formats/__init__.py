"""The formats that a network can be exported to: a file each, called like the format, which registers itself."""

from __future__ import annotations

from spikesearch._moved import moved_names

__getattr__ = moved_names(__name__)
