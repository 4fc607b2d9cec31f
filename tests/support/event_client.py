"""An event stream without a server, as its client reads it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

LONG = 30.0
"""Seconds after which something that was expected is taken for missing."""


class Event(NamedTuple):
    """One message of a stream."""

    event: str
    data: dict[str, Any]
    id: str | None


def scope_of(kind: str, path: str, headers: Mapping[str, str], method: str = "GET") -> dict[str, Any]:
    """The scope of a connection."""
    plain, _, query = path.partition("?")
    scope: dict[str, Any] = {"type": kind, "path": plain, "root_path": "", "query_string": query.encode(), "http_version": "1.1"}
    scope["headers"] = [(b"host", b"testserver"), *((name.encode(), value.encode()) for name, value in headers.items())]
    scope["server"], scope["client"], scope["scheme"] = ("testserver", 80), ("127.0.0.1", 1), "http" if kind == "http" else "ws"
    return {**scope, "method": method} if kind == "http" else {**scope, "subprotocols": []}


class EventClient:
    """A client of an event stream: ``async with EventClient(app, user="bob") as client: (await client.next()).event``."""

    def __init__(self, app: Any, path: str = "/events", *, kind: str = "http", method: str = "GET", **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._app = app
        self.scope = scope_of(kind, path, named, method)
        self._received: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.may_send = asyncio.Event()
        """Cleared: the client does not read, and what is sent to it waits."""
        self.may_send.set()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self.scope["type"] == "websocket":
            self._received.put_nowait({"type": "websocket.connect"})
        self._task = asyncio.create_task(self._app(self.scope, self._received.get, self._send))
        return self

    async def _send(self, message: dict[str, Any]) -> None:
        await self.may_send.wait()
        self._sent.put_nowait(message)

    async def message(self) -> dict[str, Any]:
        """The next message as the application has sent it."""
        assert self._task is not None
        getting = asyncio.ensure_future(self._sent.get())
        await asyncio.wait({getting, self._task}, timeout=LONG, return_when=asyncio.FIRST_COMPLETED)
        if not getting.done():
            getting.cancel()
            if self._task.done():
                self._task.result()
            raise AssertionError("nothing was sent")
        return getting.result()

    async def next(self) -> Event:
        """The next event."""
        while True:
            message = await self.message()
            if message["type"] == "websocket.send":
                return Event(**json.loads(message["text"]))
            if message["type"] == "http.response.body":
                fields = dict(line.split(": ", 1) for line in message["body"].decode().splitlines() if line)
                return Event(fields["event"], json.loads(fields["data"]), fields.get("id"))

    async def until(self, name: str) -> Event:
        """The next event of this name."""
        while (found := await self.next()).event != name:
            pass
        return found

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON of an answer that is no stream."""
        start, body = await self.message(), await self.message()
        headers = {name.decode(): value.decode() for name, value in start["headers"]}
        return start["status"], headers, json.loads(body["body"])

    async def leave(self) -> None:
        """Go away."""
        kind = "http" if self.scope["type"] == "http" else "websocket"
        self._received.put_nowait({"type": f"{kind}.disconnect"})

    async def ended(self) -> None:
        """Wait until the application has ended the connection."""
        assert self._task is not None
        await asyncio.wait_for(self._task, LONG)

    async def __aexit__(self, *_: object) -> None:
        self.may_send.set()
        await self.leave()
        await self.ended()
