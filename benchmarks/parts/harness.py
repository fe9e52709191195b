"""What every benchmark script shares: its arguments, the claims it makes, and the JSON that RESULTS.md quotes."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from spikesearch.config import StudyConfig, find_study_file, load_study_file
from spikesearch.io import atomic_write_json
from spikesearch.versions import package_versions

CONVENTIONS = ("spikformer", "strict")  # those that tables have side by side
MAC_PJ, AC_PJ = 4.6, 0.9  # of the studies here: 45 nm, 32-bit float
OTHER_PACKAGES = ("optuna-dashboard", "scikit-learn")


def _beside_checkout(argument: str) -> str:
    """Return an argument as it would be typed in the checkout, without the folders of this machine."""
    checkout = Path(__file__).resolve().parents[2]
    return os.path.relpath(argument, checkout) if Path(argument).is_absolute() else argument


@dataclass(frozen=True)
class Claim:
    """A sentence, the figure that was measured, the target, and whether it was met (None: no target)."""

    claim: str
    figure: Any
    target: str
    met: bool | None


@dataclass
class Report:
    """Collects what a benchmark finds.

    Args:
        name: The script.
        quick: Whether it ran in its short form, whose figures prove nothing.
    """

    name: str
    quick: bool = False
    claims: list[Claim] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def claim(self, claim: str, figure: Any, target: str = "", met: bool | None = None) -> None:
        """Add a claim and print it."""
        self.claims.append(Claim(claim, figure, target, None if met is None else bool(met)))
        verdict = {True: "met", False: "MISSED", None: ""}[self.claims[-1].met]
        print(f"  {claim}: {figure}" + (f"   [target {target}: {verdict}]" if target else ""), flush=True)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "benchmark": self.name,
            "command": " ".join(["python", f"benchmarks/{self.name}.py", *map(_beside_checkout, sys.argv[1:])]),
            "quick": self.quick,
            "cores": os.cpu_count(),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "versions": package_versions(*OTHER_PACKAGES),
            "claims": [asdict(claim) for claim in self.claims],
            "details": self.details,
        }

    def write(self, path: Path | None) -> None:
        """Write the JSON, if a file was asked for."""
        if path is not None:
            atomic_write_json(path, self.to_dict())


def data_folder() -> Path:
    """Return the folder with public data: `$SPIKESEARCH_DATA`, else `../shared/data` beside the checkout."""
    return Path(os.environ.get("SPIKESEARCH_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def study_file(
    name: str, data_root: Path | None, *, epochs: int | None = None, max_train: int | None = None
) -> StudyConfig:
    """Read a study file; where given, with its data in another folder, other epochs, or fewer training images."""
    config = load_study_file(find_study_file(name))
    data: Any = config.data
    train = config.train
    if data_root is not None:
        data = data.model_copy(update={"path": str(data_root.resolve() / Path(data.path).name)})
    if max_train is not None:
        data = data.model_copy(update={"splits": data.splits.model_copy(update={"max_train": max_train})})
    if epochs is not None:
        train = train.model_copy(update={"epochs": epochs})
    return config.model_copy(update={"data": data, "train": train})


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a JSON file holds; make and write it if there is none."""
    if not path.exists():
        atomic_write_json(path, make())
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return mean and half width of the 95 % interval (Student's t)."""
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return float(np.mean(values)), float(half)


def shown(values: np.ndarray, digits: int = 2) -> str:
    """Return mean and interval as text; of one value there is no interval."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    mean, half = interval(values)
    return f"{mean:.{digits}f} +- {half:.{digits}f}"


@contextmanager
def resident_rise() -> Iterator[list[float]]:
    """Yield a list that holds, behind the ``with`` block, by how many MiB it raised the resident set (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _resident_peak()
    rise: list[float] = []
    yield rise
    rise.append((_resident_peak() - before) / 1024)


def _resident_peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser that knows ``--quick`` and ``--json FILE``."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--quick", action="store_true", help="a short form, whose figures prove nothing")
    result.add_argument("--json", type=Path, metavar="FILE", help="write claims and details there")
    return result
