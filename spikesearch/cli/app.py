"""The commands put together, and what happens when one fails."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from spikesearch.cli import dashboard, data, doctor, energy, space, study, subnet, supernet
from spikesearch.errors import SpikesearchError

BROKEN_PIPE, MISTAKE, INTERRUPTED = 1, 2, 130
# Newer typers bring a click of their own, so that the class cannot be imported from one place.
_UsageError: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "UsageError")

app = typer.Typer(
    name="spikesearch",
    help="Search for spiking vision transformers that are accurate and spend little energy.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(study.app, name="study")
app.add_typer(supernet.app, name="supernet")
app.add_typer(subnet.app, name="subnet")
app.add_typer(data.app, name="data")
app.command(name="energy")(energy.energy)
app.add_typer(space.app, name="space")
app.command(name="dashboard")(dashboard.dashboard)
app.command(name="doctor")(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        from spikesearch import __version__

        typer.echo(f"spikesearch {__version__}")
        raise typer.Exit


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say only warnings on stderr.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """Search for spiking vision transformers that are accurate and spend little energy."""
    _set_up_logging(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


def main() -> None:
    """Run the command line and end the process."""
    sys.exit(_run())


def _run() -> int:
    signal.signal(signal.SIGTERM, _terminate)  # a batch system's way to say Ctrl-C
    _open_closed_streams()
    try:
        status = _run_command()
        sys.stdout.flush()  # what is only buffered may still not arrive
        return status
    except BrokenPipeError:  # `spikesearch study list | head`
        _discard(sys.stdout)
        return BROKEN_PIPE
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        _discard(sys.stdout)
        return _complain(f"Cannot write {error.filename or 'the result'}: {error.strerror}. Make room and try again.")


def _run_command() -> int:
    try:
        status = int(app(prog_name="spikesearch", standalone_mode=False) or 0)
        return status if status != INTERRUPTED else _interrupted()  # newer typers turn Ctrl-C into a status
    except SpikesearchError as error:
        return _complain(str(error))
    except _UsageError as error:  # a wrong command or option
        if not sys.argv[1:] or type(error).__name__ == "NoArgsIsHelpError":
            error.show()
            return MISTAKE
        command = error.ctx.command_path if error.ctx is not None else "spikesearch"
        message = error.format_message().replace("Value error, ", "").rstrip(".")  # pydantic's words, in newer typers
        return _complain(f"{message}. See {command} --help.")
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except Exception as error:
        message = _storage_failure(error)
        if message is None:
            raise
        return _complain(message)


def _interrupted() -> int:
    print("spikesearch: interrupted; the same command goes on from here.", file=sys.stderr)
    return INTERRUPTED


def _complain(message: str) -> int:
    try:
        print(f"spikesearch: error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    except OSError:  # full as well
        _discard(sys.stderr)
    return MISTAKE


def _open_closed_streams() -> None:
    """Give the streams that the caller closed (``>&-``) somewhere to go, before a database gets their number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - for the life of the process


def _discard(stream: TextIO) -> None:
    # or the interpreter would try to write the rest when it ends, and fail aloud
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _storage_failure(error: Exception) -> str | None:
    # A database that is locked, full or gone in the middle of a run: no bug, and Optuna's message hides the cause.
    if type(error).__name__ != "StorageInternalError":
        return None
    cause = getattr(error.__cause__, "orig", None) or error.__cause__ or error
    return f"The storage failed: {cause}. The same command goes on from here when it works again."


def _set_up_logging(level: int) -> None:
    handler = logging.StreamHandler()  # stderr
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("spikesearch")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(level)


def _terminate(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt
