#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = ["nox>=2025.2.9"]
# ///
"""What is checked and how: every session is a thin wrapper around commands that can be typed by hand.

`nox -l` lists the sessions and marks those that a plain `nox` runs; `nox -s tests -- tests/test_space.py` passes
arguments on.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"

HERE = Path(__file__).resolve().parent
# The versions that the project is developed with. `minimums` is the session that leaves them aside.
CONSTRAINTS = ("-c", str(HERE / "constraints.txt"))
# Everything optional is there: what is not installed is skipped by its tests.
EVERYTHING = ".[test,grpc,nir,onnx,plots,postgres]"
BENCHMARKS = (
    "ablations",
    "baselines",
    "conventions",
    "cost",
    "digits",
    "fidelity",
    "fronts",
    "neurons",
    "nmnist",
    "sampler",
    "scoring",
    "training",
    "whole_job",
)
# One file of tests stays on one worker, so that what is trained for a file is trained once.
PARALLEL = ("-n", "logical", "--maxprocesses", "4", "--dist", "loadfile")


@nox.session
def lint(session: nox.Session) -> None:
    """Check rules and layout of the source with ruff."""
    session.install(*CONSTRAINTS, "ruff")
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check", *session.posargs)


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy, against the types of what is used: strictly in the package, plainly around it."""
    session.install(*CONSTRAINTS, "-e", ".[test,onnx,nir]", "mypy", "types-psutil", "types-PyYAML")
    session.run("mypy", "--strict", "spikesearch")
    session.run("mypy", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests; without arguments all of them, which must cover what pyproject.toml demands.

    `nox -s tests -- -m "not slow"` leaves out those that train, or start commands, for more than a few seconds.
    """
    session.install(*CONSTRAINTS, "-e", EVERYTHING)
    session.run("pytest", *(session.posargs or (*PARALLEL, "--cov")))


@nox.session(default=False)
def minimums(session: nox.Session) -> None:
    """Run the tests with the lowest versions that pyproject.toml admits."""
    session.install("uv")
    session.run("uv", "pip", "install", "--resolution", "lowest-direct", "-e", EVERYTHING)
    session.run("pytest", *(session.posargs or PARALLEL))


@nox.session(default=False)
def wheel(session: nox.Session) -> None:
    """Build the wheel from the source archive, install it elsewhere and do the main job with it."""
    session.install("build", "twine")
    with tempfile.TemporaryDirectory() as folder:
        dist = Path(folder, "dist")
        session.run("python", "-m", "build", "--outdir", str(dist), str(HERE))
        session.run("twine", "check", "--strict", *map(str, dist.iterdir()))
        session.install(*CONSTRAINTS, str(next(dist.glob("*.whl"))))
        empty = Path(folder, "empty")
        empty.mkdir()
        with session.chdir(empty):
            session.run("spikesearch", "study", "run", "digits", *(session.posargs or ("--n-trials", "3")))
            session.run("spikesearch", "study", "best", "digits")


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Run benchmarks quickly, those named or all of them: `nox -s bench -- digits sampler`."""
    session.install(*CONSTRAINTS, "-e", ".[test,plots]", "pymoo")
    for name in session.posargs or BENCHMARKS:
        session.run("python", f"benchmarks/{name}.py", "--quick")


if __name__ == "__main__":
    nox.main()
