"""Event streams: a door that tells browsers what is out of date, over server-sent events or a WebSocket. Pure ASGI."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs

from cachesync.cache import Cache
from cachesync.coordination.asgi import REFUSED_CLOSE, Identify, Receive, Refusal, Scope, Send, header_of, identity_of, is_cross_site, raw
from cachesync.coordination.farewell import Farewell, expect
from cachesync.coordination.streams import Stream
from cachesync.core.event_stream import Message
from cachesync.core.groups import Audience, by_identity
from cachesync.core.stamps import Stamp
from cachesync.core.units import read_duration

Entitled = Callable[[str | None, str], bool]
"""Whether an identity may hear of the data of a policy, by its name."""

MOST_STREAMS: Final = 2_000
"""Streams that are open in a process at once."""
AGAIN: Final = 30
"""Seconds after which a client that was refused may come again, at the least."""
OUTDATED_CLOSE: Final = 1012
"""The server restarts (RFC 6455, 7.4.1 and the registry of IANA)."""
BUSY_CLOSE: Final = 1013
"""Try again later (the same registry)."""


class EventStreams:
    """An ASGI application: every connection is a stream of what is out of date, as far as the caller may hear of it.

    ``identify`` tells who the caller is; left out, everybody is nobody in particular. ``entitled`` tells whether an identity may hear of
    a policy's data; left out, everybody hears of policies whose ``http.visibility`` is ``"public"``, and whoever has an identity of the
    others too. At most ``most`` streams are open in a process: the next is refused by 503. ``heartbeat`` is the time between two signs of
    life, and ``life`` that until a stream ends and its client comes back, to be identified anew. Pages of other sites may open
    none, but for those of ``origins``.
    """

    def __init__(
        self,
        cache: Cache,
        *,
        identify: Identify | None = None,
        entitled: Entitled | None = None,
        most: int = MOST_STREAMS,
        heartbeat: float | str = "15s",
        life: float | str = "1h",
        origins: Collection[str] = (),
    ) -> None:
        if isinstance(origins, str):
            raise TypeError(f"origins is a list of origins; write [{origins!r}]")
        self._cache = cache
        lives = read_duration(heartbeat), read_duration(life)
        self._desk = _Desk(cache, identify, entitled, most, *lives, frozenset(origins), Farewell(cache.hub.leave))

    def leave(self) -> None:
        """Let all streams of this process say goodbye, and open no more: for servers that end without a signal."""
        self._cache.hub.leave()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        if scope["type"] == "websocket":
            await _WebSocket(self._desk, scope, receive, send).run()
        elif scope["type"] == "http":
            await _ServerSent(self._desk, scope, receive, send).run()
        else:
            raise RuntimeError(f"an event stream is opened by http or websocket, not {scope['type']!r}")


@dataclass(frozen=True, slots=True)
class _Desk:
    """What both kinds of connection ask."""

    cache: Cache
    identify: Identify | None
    entitled: Entitled | None
    most: int
    heartbeat: float
    life: float
    origins: frozenset[str]
    farewell: Farewell

    def why_not(self, scope: Scope) -> Refusal | None:
        """Why a connection is refused before anybody looks at who it is."""
        if is_cross_site(scope, self.origins):
            return Refusal(403, "cross_site", "a page of another site may not open this stream; name its origin in origins=[...]")
        hub = self.cache.hub
        if hub.is_leaving or hub.count >= self.most:
            again = AGAIN + random.randrange(AGAIN)
            text = "this server is about to end" if hub.is_leaving else "too many streams are open here"
            return Refusal(503, "too_many_streams", f"{text}: go by lifetimes, and come again later", {"retry-after": str(again)})
        return None

    async def open(self, scope: Scope, since: Stamp | None) -> Stream | Refusal:
        """Open a stream for whoever stands behind a connection. Others may have come while it was found out who that is."""
        cache = self.cache
        identity = await identity_of(self.identify, scope)
        await cache.astamp()  # begins to read the log, and joins it
        policies = cache.settings.policies
        audience = Audience.of(policies, identity, self.entitled or by_identity(policies))
        expect(self.farewell)
        return self.why_not(scope) or cache.hub.open(audience, since, heartbeat=self.heartbeat, life=self.life)

    def close(self, stream: Stream) -> None:
        """End a stream."""
        self.cache.hub.close(stream)


def since_of(scope: Scope) -> Stamp | None:
    """Where an earlier stream has ended: ``Last-Event-ID``, which a browser sends when it comes back by itself, else ``?since=``.

    Raises ``ValueError`` for a text that is no stamp.
    """
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
    text = header_of(scope, b"last-event-id") or query.get("since", [""])[0]
    return Stamp.parse(text) if text else None


class _Door:
    """What both kinds of connection have in common."""

    def __init__(self, desk: _Desk, scope: Scope, receive: Receive, send: Send) -> None:
        self._desk = desk
        self._scope = scope
        self._receive = receive
        self._send = send

    async def run(self) -> None:
        """From the first message to the last."""
        refusal = self._refusal() or self._desk.why_not(self._scope)
        since = None
        try:
            since = since_of(self._scope)
        except ValueError as error:
            refusal = refusal or Refusal(400, "bad_stamp", f"since: {error}")
        if refusal is not None:
            await self._refuse(refusal)
            return
        stream = await self._desk.open(self._scope, since)
        if isinstance(stream, Refusal):
            await self._refuse(stream)
            return
        gone = asyncio.ensure_future(self._wait_for_end())
        gone.add_done_callback(lambda _: stream.end())
        try:
            await self._begin()
            await self._say(stream.hello())
            while (message := await stream.next()) is not None:
                await self._say(message)
                if message.event == "bye":
                    await self._end()
                    break
        except OSError:
            pass  # it has gone: that is how servers say so (ASGI, Disconnected Client)
        finally:
            self._desk.close(stream)
            gone.cancel()
            with suppress(asyncio.CancelledError):
                await gone

    def _refusal(self) -> Refusal | None:
        return None

    async def _refuse(self, refusal: Refusal) -> None:
        raise NotImplementedError

    async def _wait_for_end(self) -> None:
        """Until the client has gone."""
        raise NotImplementedError

    async def _begin(self) -> None:
        raise NotImplementedError

    async def _say(self, message: Message) -> None:
        raise NotImplementedError

    async def _end(self) -> None:
        raise NotImplementedError


class _ServerSent(_Door):
    """Server-sent events."""

    def _refusal(self) -> Refusal | None:
        if self._scope["method"] == "GET":
            return None
        return Refusal(405, "method_not_allowed", "a stream is opened by GET", {"allow": "GET"})

    async def _refuse(self, refusal: Refusal) -> None:
        await refusal.send(self._send)

    async def _wait_for_end(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _begin(self) -> None:
        headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-store",
            "x-accel-buffering": "no",
            "x-content-type-options": "nosniff",
        }
        await self._send({"type": "http.response.start", "status": 200, "headers": raw(headers)})

    async def _say(self, message: Message) -> None:
        await self._send({"type": "http.response.body", "body": message.as_sse(), "more_body": True})

    async def _end(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})


class _WebSocket(_Door):
    """The same in frames of text. What the client says is not listened to."""

    async def _refuse(self, refusal: Refusal) -> None:
        await self._receive()  # websocket.connect
        if "websocket.http.response" in (self._scope.get("extensions") or {}):
            await refusal.send(self._send, "websocket.http.response")
        else:
            await self._send({"type": "websocket.close", "code": BUSY_CLOSE if refusal.status == 503 else REFUSED_CLOSE})

    async def _wait_for_end(self) -> None:
        while (await self._receive())["type"] != "websocket.disconnect":
            pass

    async def _begin(self) -> None:
        await self._send({"type": "websocket.accept"})

    async def _say(self, message: Message) -> None:
        await self._send({"type": "websocket.send", "text": message.as_json()})

    async def _end(self) -> None:
        await self._send({"type": "websocket.close", "code": OUTDATED_CLOSE})


__all__ = ["Entitled", "EventStreams", "Identify"]
