"""An ASGI application under uvicorn, in a thread of this process: it can be stopped, and started again on the same port.

::

    with Served(app) as site:
        page.go(site.url)
        site.stop()
        site.start()
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any, Final, Self

import uvicorn

from support.nodes import LONG, until

GRACE: Final = 1


class Served:
    """A server that is not started yet. ``app`` is an ASGI application."""

    def __init__(self, app: Callable[..., Any], **options: Any) -> None:
        self._app = app
        self._options = options
        self._port = 0
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where it is, with a slash at the end."""
        return f"http://127.0.0.1:{self._port}/"

    def start(self) -> Self:
        """Start it, and return when it listens."""
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", self._port))
        self._port = listening.getsockname()[1]
        config = uvicorn.Config(self._app, log_level="warning", timeout_graceful_shutdown=GRACE, **self._options)
        server = self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="served", daemon=True)
        self._thread.start()
        until(lambda: server.started, "the server's start")
        return self

    def stop(self) -> None:
        """Stop it, and return when it has ended. Connections that are open then are cut."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(LONG)
            assert not self._thread.is_alive(), "the server does not end"
            self._server = self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
