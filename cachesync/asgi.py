"""ASGI: validators, headers and early answers for Starlette, FastAPI, Litestar and whatever else speaks it.

``app.add_middleware(CacheMiddleware, cache=cache)``, or ``app = CacheMiddleware(app, cache=cache)``: pure ASGI, no framework is imported.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Final

from cachesync.cache import Cache
from cachesync.coordination.answers import LARGEST, OF_A_WRITE, Exchange, Reply
from cachesync.coordination.asgi import App, Identify, Message, Receive, Scope, Send, identity_of, target_of
from cachesync.coordination.remembered import REMEMBERED
from cachesync.core.header_fields import HeaderFields
from cachesync.core.http import Current, current_of

LOOK_TAKES: Final = 10.0
"""Seconds that it may take to find out what stands there now, before a write."""


class CacheMiddleware:
    """Makes HTTP a part of the cache: what an application answers from cached data gets its headers from the policies of that data.

    Around each request stands `Cache.request`. An answer made of data whose policies have an ``http`` table is given an ETag,
    Cache-Control, Vary, groups and the stamp; conditional requests are answered with 304 (RFC 9110, 13), and with ``etag = "stamp"``
    before the application is called. Writes with ``If-Match`` are refused with 412 before they have any effect. A body is only waited
    for where its length is told and at most ``largest`` bytes; streams pass as they come.

    ``identify`` is given the connection's scope and returns whose request it is: a text, or ``None`` for nobody in particular; it may be
    ``async``, and it is the authoriser of early answers: without it only those for everybody (``visibility = "public"``) are given before
    the application is called. ``require_match`` are the methods that must have a condition (428; RFC 6585, 3). ``remember`` is how many
    answers are remembered.

    Put it outside of whatever compresses, and inside of what finds out who asks.
    """

    def __init__(
        self,
        app: App,
        cache: Cache,
        *,
        identify: Identify | None = None,
        require_match: Collection[str] = (),
        largest: int = LARGEST,
        remember: int = REMEMBERED,
    ) -> None:
        self.app = app
        self._identify = identify
        self._answers = cache.answers(require_match=require_match, largest=largest, remember=remember)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection. What is not HTTP passes."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        identity = await identity_of(self._identify, scope)
        request = HeaderFields(scope["headers"])
        exchange = self._answers.begin(scope["method"], target_of(scope), request, identity)
        reply = exchange.early()
        if reply is None and exchange.wants_confirmation:
            await self._answers.arun(exchange.confirming())
        if reply is None and exchange.wants_current:
            reply = exchange.settle(await self._current(scope, request))
        if reply is not None:
            await _say(send, reply, scope["method"])
            return
        with exchange.scope():
            await self.app(scope, receive, _Answer(exchange, send, scope["method"]))

    async def _current(self, scope: Scope, request: HeaderFields) -> Current | None:
        """The validators of what stands at the target of a write now: what a GET of it by the same client is answered. The application is
        interrupted once it is known how its answer begins. ``None`` where that can not be found out, or takes longer than `LOOK_TAKES`.
        """
        fields = request.without(OF_A_WRITE)
        asked = {**scope, "method": "GET", "headers": list(fields)}
        exchange = self._answers.begin("GET", target_of(scope), fields, None, is_look=True)
        await self._answers.arun(exchange.confirming())
        look, ended = _Look(), None
        with exchange.scope():
            calling = asyncio.ensure_future(self.app(asked, look.receive, _Answer(exchange, look.send, "GET")))
            hearing = asyncio.ensure_future(look.heard.wait())
            try:
                await asyncio.wait({calling, hearing}, timeout=LOOK_TAKES, return_when=asyncio.FIRST_COMPLETED)
            finally:
                hearing.cancel()
                calling.cancel()
                ended = (await asyncio.gather(calling, return_exceptions=True))[0]
        if not look.status and isinstance(ended, Exception):
            raise ended
        return current_of(look.status, look.fields)


class _Answer:
    """The ``send`` of an application. Where the length of a body is told, how the answer begins is sent with its first part, as servers may
    do (ASGI, HTTP, Response Start): what that is made of is known then. Parts are held back only while a body is waited for that is
    known to be short.
    """

    def __init__(self, exchange: Exchange, send: Send, method: str) -> None:
        self._exchange = exchange
        self._send = send
        self._method = method
        self._start: Message | None = None
        self._fields = HeaderFields()
        self._parts: list[bytes] = []
        self._length = 0
        self._awaited: int | None = None
        self._is_replaced = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._fields = HeaderFields(message.get("headers", ()))
            if b"content-length" in self._fields:
                self._start = message
            else:
                await self._tell(message, self._exchange.answer(message["status"], self._fields))
        elif (start := self._start) is not None and message["type"] == "http.response.body":
            await self._go_on(start, message)
        elif not self._is_replaced:
            if start is not None:  # a body that goes past us, such as a file that the server sends
                self._start = None
                await self._tell(start, self._exchange.answer(start["status"], self._fields))
            if not self._is_replaced:
                await self._send(message)

    async def _go_on(self, start: Message, message: Message) -> None:
        if not self._parts and not start.get("trailers"):
            self._awaited = self._exchange.awaits(start["status"], self._fields)
        self._parts.append(message.get("body", b""))
        self._length += len(self._parts[-1])
        awaited, length = self._awaited, self._length
        if message.get("more_body", False) and awaited is not None and length < awaited:
            return
        self._start, body = None, b"".join(self._parts)
        is_whole = awaited is not None and length <= awaited  # of one that is longer than it said the server complains
        await self._tell(start, self._exchange.answer(start["status"], self._fields, body if is_whole else None))
        if not self._is_replaced:
            await self._send({**message, "body": body})

    async def _tell(self, start: Message, reply: Reply) -> None:
        if reply.body is None:
            await self._send({**start, "headers": list(reply.fields)})
            return
        self._is_replaced = True
        await _say(self._send, reply, self._method)


async def _say(send: Send, reply: Reply, method: str) -> None:
    await send({"type": "http.response.start", "status": int(reply.status), "headers": list(reply.fields)})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else reply.body or b""})


class _Look:
    """The client of a look: it sends no body, stays to the end, and hears how the answer begins."""

    def __init__(self) -> None:
        self.status = 0
        self.fields = HeaderFields()
        self.heard = asyncio.Event()
        self._has_sent = False

    async def receive(self) -> Message:
        if self._has_sent:
            await asyncio.Future()  # until the look is over
        self._has_sent = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.fields = message["status"], HeaderFields(message["headers"])
            self.heard.set()


__all__ = ["CacheMiddleware"]
