"""ASGI: what the doors of that kind have in common. The types are those of the specification (ASGI 3.0, HTTP and WebSocket)."""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from cachesync.core.http import failure

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Identify = Callable[[Scope], Awaitable[str | None] | str | None]
"""Who a caller is, by the scope of the connection: a text, or ``None`` for nobody in particular."""

REFUSED_CLOSE: Final = 1008
"""What the caller wants is against the rules of the server (RFC 6455, 7.4.1)."""


async def identity_of(identify: Identify | None, scope: Scope) -> str | None:
    """Who a caller is. An empty text is nobody. Raises ``TypeError`` for what is no text."""
    found = None if identify is None else identify(scope)
    who = await found if inspect.isawaitable(found) else found
    if who is not None and not isinstance(who, str):  # pyright: ignore[reportUnnecessaryIsInstance] - a function of the user's
        raise TypeError(f"who a caller is, is a text or None, not {type(who).__name__}")
    return who or None


def target_of(scope: Scope) -> bytes:
    """The path and the query of a request, as they were sent; and the path that somebody has made of it since, if it is another. That alone
    has a blank before it, so nobody can send what would be the same.
    """
    path, raw = scope["path"], (scope.get("raw_path") or b"").split(b"?")[0]
    is_rewritten = raw.decode("latin-1") != path and (not raw or unquote(raw) != path)
    raw = raw.replace(b" ", b"%20")
    if is_rewritten:
        raw += b" " + quote(path).encode("ascii") if raw else quote(path).encode("ascii")
    query: bytes = scope.get("query_string", b"").replace(b" ", b"%20")
    return raw + b"?" + query if query else raw


class Refusal:
    """An answer of JSON that says why something is refused, and what to do."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        self.status = status
        self.body = json.dumps(failure(code, message)).encode()
        self.headers = {
            "content-type": "application/json",
            "content-length": str(len(self.body)),
            "cache-control": "no-store",
            "x-content-type-options": "nosniff",
            **(headers or {}),
        }

    async def send(self, send: Send, kind: str = "http.response") -> None:
        """As an ASGI application answers."""
        await send({"type": f"{kind}.start", "status": self.status, "headers": raw(self.headers)})
        await send({"type": f"{kind}.body", "body": self.body})


def raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Headers as ASGI has them."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


def header_of(scope: Scope, name: bytes) -> str | None:
    """A header of a request, ``None`` where there is none."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


def is_cross_site(scope: Scope, origins: Collection[str] = ()) -> bool:
    """Whether a browser sends this for a page of another origin (Fetch Metadata; RFC 6454). What is no browser sends neither header."""
    origin = header_of(scope, b"origin")
    if origin is not None and origin in origins:
        return False
    if origin is not None and _host_of(origin) != (header_of(scope, b"host") or "").casefold():
        return True
    return header_of(scope, b"sec-fetch-site") in ("cross-site", "same-site")


def _host_of(origin: str) -> str | None:
    """The host and port of an origin; ``None`` for what is none."""
    try:
        return urlsplit(origin).netloc.casefold()
    except ValueError:
        return None
