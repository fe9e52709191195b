from __future__ import annotations

import optuna
import torch

from spikesearch.versions import PACKAGES, package_versions


def test_versions_are_those_of_the_packages() -> None:
    versions = package_versions()
    assert tuple(versions) == PACKAGES
    assert versions["optuna"] == optuna.__version__
    assert torch.__version__.startswith(versions["torch"])  # without the build behind a plus


def test_what_is_not_installed_is_unknown() -> None:
    assert package_versions("no-such-package") == {**package_versions(), "no-such-package": "unknown"}
