"""A reverse proxy made of `ResponseCache`, for `conformance`: ``python -m benchmarks.conformance_proxy PORT ORIGIN_PORT``."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final

import h11
import uvicorn

from cachesync import Cache, Policy
from cachesync.core.http_cache import Rules
from cachesync.core.policy import HttpPolicy
from cachesync.response_cache import ResponseCache

DROPPED: Final = frozenset((b"connection", b"keep-alive", b"transfer-encoding", b"te", b"upgrade", b"proxy-connection"))
CHUNK: Final = 65536


class Forward:
    """Forwards each request to the origin, over a connection of its own, and hands its answer on as it comes."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        body = b""
        while scope["method"] not in ("GET", "HEAD"):
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            link = h11.Connection(h11.CLIENT)
            headers = [(name, value) for name, value in scope["headers"] if name not in DROPPED and name != b"content-length"]
            headers += [(b"connection", b"close"), (b"content-length", str(len(body)).encode())]
            target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
            events = (h11.Request(method=scope["method"], target=target, headers=headers), h11.Data(data=body), h11.EndOfMessage())
            writer.write(b"".join(link.send(event) or b"" for event in events))
            await writer.drain()
            while True:
                event = link.next_event()
                if event is h11.NEED_DATA:
                    link.receive_data(await reader.read(CHUNK))
                elif isinstance(event, h11.Response):
                    told = [(name.lower(), value) for name, value in event.headers.raw_items()]
                    await send({"type": "http.response.start", "status": event.status_code, "headers": _end_to_end(told)})
                elif isinstance(event, h11.Data):
                    await send({"type": "http.response.body", "body": bytes(event.data), "more_body": True})
                elif isinstance(event, h11.EndOfMessage):
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                    break
        finally:
            writer.close()


def _end_to_end(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    named = {part.strip().lower() for name, value in headers if name == b"connection" for part in value.split(b",")}
    return [(name, value) for name, value in headers if name not in DROPPED and name not in named]


def main() -> None:
    """Serve until the end."""
    port, origin = map(int, sys.argv[1:])
    pages = Policy(
        name="pages",
        match="pages:*",
        ttl="dynamic",
        min_ttl=1,
        max_ttl="1d",
        stale_if_error="1h",
        stale_while_revalidate="10m",
        http=HttpPolicy(respond_from_cache=True),
    )
    app = ResponseCache(Forward(origin), Cache(policies=[pages]), "pages", rules=Rules(heuristic=0.1))
    # Clients keep idle connections for longer than the usual five seconds, and take it for an error when one is closed just then.
    config = uvicorn.Config(app, port=port, http="h11", log_level="critical", lifespan="off", timeout_keep_alive=600)
    config.server_header = config.date_header = False
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main()
