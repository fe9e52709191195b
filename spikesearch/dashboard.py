"""The real optuna-dashboard, served to this machine only."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from spikesearch.errors import StorageError
from spikesearch.storage.urls import backend_of
from spikesearch.study.store import open_store

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

_log = logging.getLogger(__name__)

HOST = "127.0.0.1"
_LOCAL_NAMES = {HOST, "localhost"}


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        _log.debug(format, *args)


def make_dashboard(storage: str | BaseStorage | None = None, *, port: int = 8080) -> WSGIServer:
    """Return a server of optuna-dashboard that listens on 127.0.0.1.

    Args:
        storage: As for :func:`spikesearch.create_study`; a SQLite file must exist.
        port: Port; 0 takes a free one (see ``server_port``).

    Raises:
        StorageError: If the storage cannot be opened or the port is taken.
        StudyNotFoundError: If the SQLite file does not exist.
    """
    from optuna_dashboard import wsgi

    store = open_store(storage, create=False)
    # Without Optuna's cache: the dashboard has one of its own, and must see what other processes write.
    app = wsgi(backend_of(store.storage))
    try:
        return make_server(HOST, port, _local_only(app), server_class=_Server, handler_class=_QuietHandler)
    except OSError as error:
        raise StorageError(f"Cannot listen on {HOST}:{port}: {error.strerror}. Choose another --port.") from error


def serve(storage: str | BaseStorage | None = None, *, port: int = 8080) -> None:
    """Serve optuna-dashboard on 127.0.0.1 until Ctrl-C.

    Args:
        storage: As for :func:`make_dashboard`.
        port: Port; 0 takes a free one.
    """
    with make_dashboard(storage, port=port) as server:
        _log.info("Dashboard on http://%s:%d, Ctrl-C ends it.", HOST, server.server_port)
        server.serve_forever()


def _local_only(app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """Refuse what a foreign web page makes the browser ask for.

    The dashboard has no login and may delete studies. Listening on 127.0.0.1 keeps other machines out, but not a page
    that is open in the same browser: its requests carry its own name as origin or, after DNS rebinding, as host.
    """

    def checked(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        host = urlsplit(f"//{environ.get('HTTP_HOST', '')}").hostname
        origin = environ.get("HTTP_ORIGIN")
        if host not in _LOCAL_NAMES or (origin and urlsplit(origin).hostname not in _LOCAL_NAMES):
            start_response("403 Forbidden", [("Content-Type", "text/plain")])
            return [b"This dashboard answers to this machine only.\n"]
        return app(environ, start_response)

    return checked
