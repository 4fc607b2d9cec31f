"""An ASGI application asked without a server: one request, and all the messages of its answer in their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cachesync.coordination.asgi import App, Message
from cachesync.core.header_fields import HeaderFields


@dataclass
class Answered:
    """What came back. ``events`` are the messages, as they came."""

    events: list[Message] = field(default_factory=list[Message])

    @property
    def status(self) -> int:
        status: int = self.events[0]["status"]
        return status

    @property
    def fields(self) -> HeaderFields:
        return HeaderFields(self.events[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.events[1:])

    def __getitem__(self, name: str) -> str:
        """A header field; empty where there is none."""
        return (self.fields.value(name.encode()) or b"").decode("latin-1")


def scope_of(method: str, target: str, headers: Mapping[str, str]) -> dict[str, Any]:
    path, _, query = target.partition("?")
    pairs = [(name.lower().encode(), text.encode("latin-1")) for name, text in headers.items()]
    return {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": pairs,
        "server": ("testserver", 80),
        "client": ("127.0.0.1", 1),
    }


async def ask(
    app: App,
    target: str = "/",
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    on_message: Callable[[Message], None] | None = None,
) -> Answered:
    """Ask, and wait for the end of the answer. ``on_message`` is told of each message when it is sent."""
    answered = Answered()

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        answered.events.append(message)
        if on_message is not None:
            on_message(message)

    await app(scope_of(method, target, headers or {}), receive, send)
    return answered
