"""``spikesearch dashboard``: optuna-dashboard on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from spikesearch.cli.output import StorageOption


def dashboard(
    storage: StorageOption = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.", min=0, max=65535)] = 8080,
) -> None:
    """Show the studies of a storage in the browser, on 127.0.0.1 only, until Ctrl-C."""
    from spikesearch.dashboard import serve

    serve(storage, port=port)
