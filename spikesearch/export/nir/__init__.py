"""Networks as NIR graphs (Pedersen et al., "Neuromorphic Intermediate Representation", Nature Communications 2024)."""

from __future__ import annotations

from spikesearch.export.nir.run import run_graph

__all__ = ["run_graph"]
