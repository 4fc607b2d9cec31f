"""Behind a shared cache, one user's answer never reaches another: ours in a process of its own, and stock Varnish and nginx where they are.

``python -m benchmarks.conformance --fetch`` unpacks those two from the distribution's packages. Where there are none, ours alone is tried
here, and the rules are in `test_response_cache` and `test_answers`.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn

from benchmarks.conformance import CACHES, fetched
from cachesync import Cache, HttpPolicy, Policy
from cachesync.asgi import CacheMiddleware
from cachesync.coordination.asgi import Receive, Scope, Send

POLICIES = [
    Policy(name="profiles", match="profiles:*", ttl="5m", http=HttpPolicy(max_age="1m")),
    Policy(name="figures", match="figures:*", ttl="5m", http=HttpPolicy(visibility="public", max_age="1m")),
]
cache = Cache(policies=POLICIES)


@cache.cached("profiles:{who}")
async def profile(who: str) -> str:
    """What one user may see."""
    return who


@cache.cached("figures:{kind}")
async def figures(kind: str) -> int:
    """What everybody may see."""
    return len(kind)


def user_of(scope: Scope) -> str:
    given = {name.decode(): value.decode() for name, value in scope["headers"]}
    return given.get("authorization", "").removeprefix("Bearer ") or given.get("cookie", "").removeprefix("session=") or "nobody"


class Origin:
    """An application with pages that are careful and pages that are not. It counts how often each is asked for."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, who = scope["path"], user_of(scope)
        self.asked[path] += 1
        said: dict[str, str] = {}
        body = who
        if path == "/profile":  # managed, and private
            body = await profile(who)
        elif path == "/greeting":  # managed and public, although it greets: with Authorization that is not believed
            body = f"{who} {await figures('visits')}"
        elif path == "/varies":  # for each cookie another one
            said = {"Cache-Control": "public, max-age=60", "Vary": "Cookie"}
        elif path == "/session":  # begins a session, and does not say that it is anybody's
            said = {"Cache-Control": "max-age=60", "Set-Cookie": f"session={who}"}
        elif path == "/open":
            said, body = {"Cache-Control": "public, max-age=60"}, "open"
        headers = [(name.encode(), value.encode()) for name, value in {**said, "Content-Length": str(len(body))}.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body.encode(), "more_body": False})


@contextmanager
def serving(app: Any) -> Generator[int]:
    """The application under uvicorn, in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module", params=fetched())
def front(request: pytest.FixtureRequest) -> Iterator[tuple[httpx.Client, Origin]]:
    """A client of a cache, which stands before the application."""
    origin = Origin()
    app = CacheMiddleware(origin, cache, identify=user_of)
    with serving(app) as port, CACHES[request.param](port) as proxy, httpx.Client(base_url=f"http://127.0.0.1:{proxy}") as client:
        yield client, origin


def get(client: httpx.Client, path: str, headers: Mapping[str, str]) -> httpx.Response:
    client.cookies.clear()
    return client.get(path, headers=headers)


@pytest.mark.parametrize(
    ("path", "header", "form"),
    [
        ("/profile", "authorization", "Bearer {}"),
        ("/profile", "cookie", "session={}"),
        ("/greeting", "authorization", "Bearer {}"),
        ("/varies", "cookie", "session={}"),
        ("/session", "authorization", "Bearer {}"),
        ("/session", "cookie", "session={}"),
    ],
)
def test_one_users_answer_never_reaches_another(front: tuple[httpx.Client, Origin], path: str, header: str, form: str) -> None:
    """Two users and nobody, who log out and in again, also with the ETag of what another one was answered."""
    client, _ = front
    tags: dict[str, str] = {}
    for who in ("ann", "bob", "nobody", "ann", "nobody", "bob", "bob", "ann"):
        named = {} if who == "nobody" else {header: form.format(who)}
        answered = get(client, path, named)
        assert answered.text.split()[0] in (who, "nobody"), "a page for nobody in particular is no secret"
        assert answered.headers.get("set-cookie", f"session={who}") == f"session={who}", "nor is anybody given another one's session"
        for other, tag in tags.items():
            again = get(client, path, {**named, "if-none-match": tag})
            assert again.status_code == 200 or other in (who, "nobody"), "a 304 says that what another user has is his, too"
            assert again.status_code == 304 or again.text.split()[0] in (who, "nobody")
        if "etag" in answered.headers:
            tags[answered.text.split()[0]] = answered.headers["etag"]


def test_what_is_for_everybody_is_kept(front: tuple[httpx.Client, Origin]) -> None:
    """The caches of these tests do cache: a page that says so is asked for once."""
    client, origin = front
    assert [get(client, "/open", {}).text for _ in range(3)] == ["open"] * 3
    assert origin.asked["/open"] == 1
