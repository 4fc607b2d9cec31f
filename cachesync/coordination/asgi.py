"""ASGI: what the doors of that kind have in common. The types are those of the specification (ASGI 3.0, HTTP and WebSocket)."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

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
