"""ASGI: what the doors of that kind have in common. The types are those of the specification (ASGI 3.0, HTTP and WebSocket)."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import quote, unquote

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Identify = Callable[[Scope], Awaitable[str | None] | str | None]
"""Who a caller is, by the scope of the connection: a text, or ``None`` for nobody in particular."""


async def identity_of(identify: Identify | None, scope: Scope) -> str | None:
    """Who a caller is. An empty text is nobody. Raises ``TypeError`` for what is no text."""
    found = None if identify is None else identify(scope)
    who = await found if inspect.isawaitable(found) else found
    if who is not None and not isinstance(who, str):  # pyright: ignore[reportUnnecessaryIsInstance] - a function of the user's
        raise TypeError(f"who a caller is, is a text or None, not {type(who).__name__}")
    return who or None


def target_of(scope: Scope) -> bytes:
    """The path and the query of a request, as they were sent; and the path that somebody has made of it since, if it is another."""
    path, raw = scope["path"], (scope.get("raw_path") or b"").split(b"?")[0]
    if raw.decode("latin-1") != path and (not raw or unquote(raw) != path):
        raw += b" " + quote(path).encode("ascii") if raw else quote(path).encode("ascii")
    query: bytes = scope.get("query_string", b"")
    return raw + b"?" + query if query else raw
