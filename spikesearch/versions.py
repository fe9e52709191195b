"""Which versions of other packages something was made with."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("spikesearch", "optuna", "torch", "spikingjelly", "timm", "numpy")  # those that scores depend on


def package_versions(*others: str) -> dict[str, str]:
    """Return the versions of the packages that scores depend on, and of others; ``unknown`` of one not installed."""
    versions = {}
    for package in (*PACKAGES, *others):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # spikesearch itself, run from a source tree that nobody installed
            versions[package] = "unknown"
    return versions
