"""The response cache: what is answered from it, what ends that, who waits for whom, and that nobody is given another one's answer."""

from __future__ import annotations

import asyncio
import functools
import gc
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, ParamSpec, cast

import pytest

from cachesync import Cache, Policy
from cachesync.asgi import CacheMiddleware
from cachesync.coordination.asgi import Message, Receive, Scope, Send
from cachesync.core.http_cache import Rules, StoredAnswer
from cachesync.core.policy import HttpPolicy
from cachesync.errors import PolicyError
from cachesync.layers.memory import MemoryShared
from cachesync.response_cache import ResponseCache
from cachesync.response_cache.door import LONGEST_PASSED
from cachesync.response_cache.request import LONGEST_ADDRESS, Request
from cachesync.testing import FakeClock
from support.asgi import Answered, ask, scope_of
from support.nodes import read_log

P = ParamSpec("P")
START = 1_784_000_000.0
STATS = Policy(name="stats", match="stats:*", ttl="5m", http=HttpPolicy(visibility="public", max_age="1m"))
Handler = Callable[[Scope], Awaitable[tuple[int, Mapping[str, str], bytes]]]


def in_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """The test, run in an event loop of its own."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


async def until(is_so: Callable[[], bool]) -> None:
    """Let others go on until something is so."""
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 - what is waited for is a few steps of the loop away, and has no event
            await asyncio.sleep(0)


def pages(**others: Any) -> Policy:
    given: dict[str, Any] = {"min_ttl": "1s", "max_ttl": "1h", "http": HttpPolicy(respond_from_cache=True), **others}
    return Policy(name="pages", match="pages:*", ttl="dynamic", **given)


class Site:
    """A response cache before an application, which answers what ``says`` says and counts how often it is asked."""

    def __init__(self, cache: Cache | None = None, *, clock: FakeClock | None = None, limit: int = 1000, **policy: Any) -> None:
        self.clock = clock or FakeClock()
        self.cache = cache or Cache(policies=[STATS, pages(**policy)], clock=self.clock)
        self.says: dict[str, str] = {"Cache-Control": "max-age=60"}
        self.status = 200
        self.body: bytes | None = None
        self.asked: list[dict[str, str]] = []
        self.does: Callable[[], Awaitable[object]] | None = None
        self.door = ResponseCache(self.app, self.cache, "pages", limit=limit, now=lambda: START + self.clock.monotonic())

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append({name.decode(): value.decode() for name, value in scope["headers"]})
        body = self.body if self.body is not None else b"%d" % len(self.asked)
        status, says = self.status, dict(self.says)
        if self.does is not None:
            await self.does()
        headers = [(name.encode(), value.encode()) for name, value in says.items()]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if status == 304 else body, "more_body": False})

    async def get(self, target: str = "/", method: str = "GET", **headers: str) -> Answered:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await ask(self.door, target, method=method, headers={"host": "shop", **named})

    async def bodies(self, *requests: Mapping[str, str]) -> list[bytes]:
        return [(await self.get(**request)).body for request in requests]


# --- storing and answering ---------------------------------------------------------------------------------------------------------


@in_loop
async def test_an_answer_is_given_again_until_it_is_stale_and_tells_its_age() -> None:
    """RFC 9111, 4 and 4.2; RFC 9211, 2."""
    site = Site()
    first = await site.get()
    site.clock.advance(59)
    again = await site.get()
    assert (first.body, first["cache-status"], first["age"]) == (b"1", "cachesync; fwd=miss", "")
    assert (again.body, again["cache-status"], again["age"]) == (b"1", "cachesync; hit; ttl=1", "59")
    site.clock.advance(2)
    assert (await site.get()).body == b"2"


@in_loop
async def test_without_the_setting_all_goes_through_untouched() -> None:
    """A response cache is off unless the policy says ``respond_from_cache``."""
    site = Site(http=HttpPolicy())
    assert await site.bodies({}, {}) == [b"1", b"2"]
    assert (await site.get())["cache-status"] == ""


@in_loop
async def test_addresses_are_told_apart_by_host_path_and_query() -> None:
    """The key is the target URI (RFC 9111, 2)."""
    site = Site()
    targets = [{"target": "/a"}, {"target": "/a?b"}, {"target": "/a?c"}, {"target": "/a", "host": "other"}]
    assert await site.bodies(*targets) == [b"1", b"2", b"3", b"4"]
    assert await site.bodies(*targets) == [b"1", b"2", b"3", b"4"]


@in_loop
async def test_a_path_that_was_rewritten_outside_is_another_address() -> None:
    """As by a middleware that tells tenants apart, and leaves the raw path as it came: nobody is given another tenant's page."""
    site = Site()

    async def tenants(scope: Scope, receive: Receive, send: Send) -> None:
        await site.door({**scope, "path": f"/{dict(scope['headers'])[b'x-tenant'].decode()}"}, receive, send)

    asked = [(await ask(tenants, "/", headers={"host": "shop", "x-tenant": tenant})).body for tenant in ("a", "b", "a")]
    assert asked == [b"1", b"2", b"1"]
    for planted in ("/ /a", "/%20/a", "/?x /a"):
        await site.get(planted)
    assert (await ask(tenants, "/", headers={"host": "shop", "x-tenant": "a"})).body == b"1"
    for planted in ("/ /c", "/%20/c"):
        await site.get(planted)
    number = len(site.asked)
    assert (await ask(tenants, "/", headers={"host": "shop", "x-tenant": "c"})).body == b"%d" % (number + 1)


@in_loop
async def test_a_request_is_answered_with_304_a_part_or_no_body_as_it_asks() -> None:
    """RFC 9111, 4.3.2; RFC 9110, 9.3.2 and 14."""
    site = Site()
    site.says |= {"ETag": '"a"'}
    site.body = b"0123456789"
    await site.get()
    known, part, head = await site.get(if_none_match='"a"'), await site.get(range="bytes=2-4"), await site.get(method="HEAD")
    assert (known.status, known.body, known["etag"]) == (304, b"", '"a"')
    assert (part.status, part.body, part["content-range"], part["content-length"]) == (206, b"234", "bytes 2-4/10", "3")
    assert (head.status, head.body, head["content-length"]) == (200, b"", "10")
    assert len(site.asked) == 1


@in_loop
async def test_a_condition_of_the_clients_is_answered_from_the_whole_answer() -> None:
    """The application is asked without it, so that all who wait get their answer."""
    site = Site()
    site.says |= {"ETag": '"a"'}
    first = await site.get(if_none_match='"a"')
    assert (first.status, first.body) == (304, b"")
    assert "if-none-match" not in site.asked[0]
    assert (await site.get()).body == b"1"


@in_loop
async def test_what_is_not_stored_may_not_wait_in_the_cache_for_only_if_cached() -> None:
    """RFC 9111, 5.2.1.7."""
    site = Site()
    assert (await site.get(cache_control="only-if-cached")).status == 504
    await site.get()
    assert (await site.get(cache_control="only-if-cached")).body == b"1"
    site.says |= {"Cache-Control": "max-age=60, no-cache", "ETag": '"a"'}
    await site.get("/b")
    assert (await site.get("/b", cache_control="only-if-cached")).status == 504
    assert len(site.asked) == 2


@in_loop
async def test_a_long_body_is_passed_on_and_not_kept() -> None:
    """No more than the limit of a body is held; nor is one kept that ends before its length."""
    site = Site(limit=5)
    site.body = b"123456"
    assert await site.bodies({}, {}) == [b"123456"] * 2
    site.says |= {"Content-Length": "4"}
    site.body = b"123"
    await site.bodies({"target": "/cut"}, {"target": "/cut"})
    assert len(site.asked) == 4


@in_loop
async def test_a_stream_flows_as_it_comes_and_no_more_than_the_limit_is_held() -> None:
    """The first part is with the client before the second is made, and the application goes no faster than the client."""
    seen: list[int] = []
    made: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"max-age=60")]})
        for _ in range(50):
            made.append(len(seen))
            await send({"type": "http.response.body", "body": b"x" * 100, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    door = ResponseCache(app, Cache(policies=[pages()]), "pages", limit=1000)
    await ask(door, on_message=lambda message: seen.append(len(message.get("body", b""))))
    assert sum(seen) == 5000
    assert [number - count for number, count in enumerate(made)][11:] == [-1] * 39, "each part was sent before the next was made"


@in_loop
async def test_what_a_handler_reads_ends_its_answer() -> None:
    """A cached function inside of a handler is something its answer depends on, as of any computation."""
    site = Site()

    @site.cache.cached("stats:{code}")
    async def stats(code: str) -> int:
        return len(site.asked)

    site.does = lambda: stats("JKT")
    assert await site.bodies({}, {}) == [b"1", b"1"]
    await site.cache.ainvalidate("stats:SUB")
    assert (await site.get()).body == b"1"
    await site.cache.ainvalidate("stats:JKT")
    assert (await site.get()).body == b"2"


@in_loop
async def test_an_answer_is_not_fresh_for_longer_than_what_it_was_made_of() -> None:
    """``max-age=3600`` on a page made of data that is fresh for five minutes."""
    site = Site()
    site.says = {"Cache-Control": "max-age=3600"}

    @site.cache.cached("stats:{code}")
    async def stats(code: str) -> int:
        return 1

    site.does = lambda: stats("JKT")
    await site.get()
    site.clock.advance(301)
    assert (await site.get()).body == b"2"


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("vary", ["", "foo"])
@in_loop
async def test_an_invalidation_while_the_application_answers_leaves_nothing_stored(vary: str, soft: bool) -> None:
    """Also for the variant of a page whose Vary nobody knew before."""
    site = Site()
    site.says |= {"Vary": vary}

    async def change() -> None:
        site.cache.depends_on(tags=["stores"])
        if len(site.asked) == 1:
            await site.cache.ainvalidate(tags=["stores"], soft=soft)

    site.does = change
    assert await site.bodies({}, {}, {}) == [b"1", b"2", b"2"]


@in_loop
async def test_an_invalidation_ends_answers_in_every_process() -> None:
    """Two caches on one shared layer: what one has stored, the other answers with, until a third says that it is over."""
    clock = FakeClock()
    shared = MemoryShared(clock.monotonic)
    one, two = (Site(Cache(policies=[STATS, pages()], clock=clock, shared=shared, listen=False), clock=clock) for _ in range(2))
    one.does = two.does = None
    assert (await one.get()).body == b"1"
    two.asked.append({})
    assert (await two.get()).body == b"1"
    await two.cache.ainvalidate("pages:*")
    assert (await two.get()).body == b"2"


@in_loop
async def test_the_headers_of_managed_answers_decide_where_the_middleware_stands_inside() -> None:
    """`CacheMiddleware` gives an answer its lifetime from the policies of its data; the response cache keeps it for that long."""
    site = Site()

    @site.cache.cached("stats:{code}")
    async def stats(code: str) -> int:
        return len(site.asked)

    site.does = lambda: stats("JKT")
    site.says = {"Content-Length": "1"}
    site.door.app = CacheMiddleware(site.app, site.cache)
    first = await site.get()
    assert "public" in first["cache-control"] and first["etag"]
    assert await site.bodies({}, {}) == [b"1", b"1"]
    await site.cache.ainvalidate("stats:JKT")
    assert (await site.get()).body == b"2"


# --- whose answer ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("says", "credentials"),
    [
        ({"Cache-Control": "max-age=60"}, {"authorization": "{}"}),
        ({"Cache-Control": "max-age=60, must-revalidate"}, {"authorization": "{}"}),
        ({"Cache-Control": "max-age=60"}, {"cookie": "session={}"}),
        ({"Cache-Control": "max-age=60", "Vary": "Cookie"}, {"cookie": "session={}"}),
        ({"Cache-Control": "private, max-age=60"}, {"cookie": "session={}"}),
        ({"Cache-Control": "private, max-age=60"}, {"x-user": "{}"}),
        ({"Cache-Control": "private, no-cache", "Cachesync-Cache-Control": "max-age=60", "ETag": '"{}"'}, {"x-user": "{}"}),
        ({"Cache-Control": "public, max-age=60", "Vary": "X-User"}, {"x-user": "{}"}),
        ({"Cache-Control": "max-age=60", "Set-Cookie": "session={}"}, {"x-user": "{}"}),
        ({"Cache-Control": "no-store"}, {"x-user": "{}"}),
    ],
)
@in_loop
async def test_one_users_answer_never_reaches_another(says: dict[str, str], credentials: dict[str, str]) -> None:
    """Two users and nobody, one after the other, again after logout and login, and all at once."""
    served: list[tuple[str, str]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        given = {name.decode(): value.decode() for name, value in scope["headers"]}
        who = next((given[name].removeprefix("session=") for name in credentials if name in given), "nobody")
        await asyncio.sleep(0)
        headers = [(name.encode(), value.format(who).encode()) for name, value in says.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": who.encode(), "more_body": False})

    door = ResponseCache(app, Cache(policies=[pages(stale_if_error="1h", stale_while_revalidate="1h")]), "pages")

    async def come(who: str) -> None:
        named = {} if who == "nobody" else {name: value.format(who) for name, value in credentials.items()}
        answered = await ask(door, headers={"host": "shop", **named})
        served.append((who, answered.body.decode()))
        if answered["set-cookie"]:
            served.append((who, answered["set-cookie"].removeprefix("session=")))

    for who in ("ann", "bob", "nobody", "ann", "nobody", "bob"):
        await come(who)
    await asyncio.gather(*(come(who) for who in ("ann", "bob", "ann", "bob")))
    assert all(who == answer for who, answer in served if who != "nobody" or answer in ("ann", "bob")), served


@in_loop
async def test_what_was_made_for_nobody_is_not_shown_to_who_is_known_by_name() -> None:
    """A login page that was stored is no answer to a request with credentials, unless it says that it is for all."""
    site = Site()
    await site.get()
    assert await site.bodies({"authorization": "x"}, {"cookie": "a=b"}, {}) == [b"2", b"3", b"1"]
    site.says = {"Cache-Control": "public, max-age=60"}
    await site.get("/public")
    assert await site.bodies({"target": "/public", "authorization": "x"}, {"target": "/public", "cookie": "a=b"}) == [b"4", b"4"]


@in_loop
async def test_cookies_that_say_nothing_of_who_asks_can_be_left_to_vary() -> None:
    """``cookies_identify=False``: as RFC 9111 has it."""
    site = Site()
    site.door.rules = Rules(cookies_identify=False)
    assert await site.bodies({"cookie": "a=b"}, {"cookie": "a=c"}, {}) == [b"1", b"1", b"1"]


@in_loop
async def test_what_requests_say_in_varying_fields_is_no_part_of_a_readable_key() -> None:
    """A session's cookie selects an answer by its hash."""
    site = Site()
    site.says |= {"Vary": "Cookie"}
    seen: list[str] = []
    site.cache.on_event(lambda event: seen.append(str(event.fields)))
    await site.bodies({"cookie": "session=secret"}, {"cookie": "session=secret"}, {"cookie": "session=other"})
    assert len(site.asked) == 2
    keys = list(site.cache.stats().functions)
    assert "secret" not in str(keys) and not any("secret" in text for text in seen)


# --- Vary --------------------------------------------------------------------------------------------------------------------------


@in_loop
async def test_answers_are_selected_by_the_fields_that_vary_names() -> None:
    """RFC 9111, 4.1: the first answer is kept at once, although nobody knew before that it varies."""
    site = Site()
    site.says |= {"Vary": "Accept-Language"}
    english, german = {"accept_language": "en"}, {"accept_language": "de"}
    assert await site.bodies(english, english, german, german, {}, english) == [b"1", b"1", b"2", b"2", b"3", b"1"]


@in_loop
async def test_a_vary_that_grows_is_learned_anew() -> None:
    """An answer is never given to requests that differ in a field it names, also where others of its address did not name it."""
    site = Site()
    site.says |= {"Vary": "A"}
    await site.get(a="1")
    site.says |= {"Vary": "A, B"}
    await site.get(a="2", b="1")
    assert (await site.get(a="2", b="2")).body == b"3"
    assert await site.bodies({"a": "2", "b": "2"}, {"a": "2", "b": "1"}, {"a": "2", "b": "2"}) == [b"3", b"2", b"3"]


@in_loop
async def test_a_key_that_two_variants_share_by_accident_gives_nobody_the_others_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key is a hash. What selects an answer is compared itself before it is used."""
    site = Site()
    site.says |= {"Vary": "A"}

    def same(request: Request, _names: Iterable[bytes]) -> str:
        return f"{request.url}#same"

    monkeypatch.setattr(Request, "variant", same)
    assert await site.bodies({"a": "1"}, {"a": "2"}, {"a": "1"}) == [b"1", b"2", b"1"]


# --- waiting ---------------------------------------------------------------------------------------------------------------------------


@in_loop
async def test_one_request_asks_for_all_who_want_the_same() -> None:
    """RFC 9111, 4: requests are collapsed where the answer may be used for all of them."""
    site = Site()
    gate = asyncio.Event()
    site.does = gate.wait
    asking = [asyncio.create_task(site.get()) for _ in range(5)]
    await until(lambda: bool(site.asked))
    gate.set()
    assert [(await task).body for task in asking] == [b"1"] * 5


@in_loop
async def test_who_waits_for_an_answer_that_is_not_for_all_goes_forward_alone() -> None:
    """They are let go as soon as its header fields are known, and side by side: the first one's body may never end."""
    gate, begun = asyncio.Event(), 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal begun
        begun += 1
        mine = begun
        await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"private, max-age=60")]})
        await send({"type": "http.response.body", "body": b"%d" % mine, "more_body": True})
        await gate.wait()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    door = ResponseCache(app, Cache(policies=[pages()]), "pages")
    asking = [asyncio.create_task(ask(door)) for _ in range(3)]
    await until(lambda: begun == 3)
    gate.set()
    assert sorted([(await task).body for task in asking]) == [b"1", b"2", b"3"]
    later = [asyncio.create_task(ask(door)) for _ in range(2)]
    assert sorted([(await task).body for task in later]) == [b"4", b"5"]


@in_loop
async def test_who_waits_does_not_wait_for_the_first_ones_client() -> None:
    """A client that reads nothing holds up nobody but itself."""
    site = Site()
    stuck, reading = asyncio.Event(), asyncio.Event()

    async def send(message: Message) -> None:
        reading.set()
        await stuck.wait()

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    slow = asyncio.create_task(site.door(scope_of("GET", "/", {"host": "shop"}), receive, send))
    await reading.wait()
    async with asyncio.timeout(10):
        assert (await site.get()).body == b"1"
    stuck.set()
    await slow


async def leaving(door: ResponseCache, leaves: asyncio.Event, told: list[Message], content: bytes = b"") -> None:
    """A client that goes away when ``leaves`` says so, having sent ``content``."""
    sent = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive() -> Message:
        if sent:
            return sent.pop()
        await leaves.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        told.append(message)

    await door(scope_of("GET", "/", {"host": "shop"}), receive, send)


@in_loop
@pytest.mark.parametrize("control", ["max-age=60", "no-store"])
async def test_an_answer_that_others_may_be_given_is_not_broken_off_for_the_first_client(control: str) -> None:
    """An application that stops when its client leaves may look as if its answer had come to its end: half a page would be everybody's.
    It hears that its client has left as soon as the answer is nobody else's.
    """
    heard, leaves, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        has_left = False

        async def listen() -> None:
            nonlocal has_left
            while (await receive())["type"] != "http.disconnect":
                pass
            has_left = True
            heard.set()

        listening = asyncio.create_task(listen())
        await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", control.encode())]})
        await send({"type": "http.response.body", "body": b"half ", "more_body": True})
        await go_on.wait()
        rest = b"" if has_left else b"a page"
        await send({"type": "http.response.body", "body": rest, "more_body": False})
        listening.cancel()

    door = ResponseCache(app, Cache(policies=[pages()]), "pages")
    told: list[Message] = []
    first = asyncio.create_task(leaving(door, leaves, told))
    await until(lambda: len(told) == 2)
    leaves.set()
    if control == "no-store":
        await heard.wait()
    else:
        for _ in range(20):
            await asyncio.sleep(0)
    go_on.set()
    await first
    again = await ask(door, headers={"host": "shop"})
    assert again.body == b"half a page" and ("hit" in again["cache-status"]) is (control == "max-age=60")


@in_loop
async def test_an_answer_that_was_made_of_a_requests_content_is_its_own() -> None:
    """Over HTTP/2 nothing but the content itself tells that there is any."""
    never = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive()).get("body", b"")
        await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"max-age=60")]})
        await send({"type": "http.response.body", "body": b"for " + body, "more_body": False})

    door = ResponseCache(app, Cache(policies=[pages()]), "pages")
    told: list[Message] = []
    await leaving(door, never, told, b"evil")
    assert told[1]["body"] == b"for evil"
    assert (await ask(door, headers={"host": "shop"})).body == b"for "


@in_loop
@pytest.mark.parametrize("host", ["shop/a", "shop?b", "shop#c", "ann@shop", "shop, other", "sh op"])
async def test_what_is_no_host_is_no_part_of_an_address(host: str) -> None:
    """``Host: shop/a`` and ``/b`` would be the address of ``/a/b``, which is another page."""
    site = Site()
    assert await site.bodies({"target": "/b", "host": host}, {"target": "/b", "host": host}) == [b"1", b"2"]
    assert (await site.get("/b", host=host))["cache-status"] == "cachesync; fwd=bypass"


@in_loop
async def test_no_address_is_that_of_a_variant() -> None:
    """Whoever knows what others say in the fields of ``Vary`` could ask for their variant by name, and store another page there."""
    site = Site()
    site.says |= {"Vary": "Accept-Language"}
    request = Request(scope_of("GET", "/page", {"host": "shop", "accept-language": "de"}), cast("Any", None), cast("Any", None))
    suffix = request.variant((b"accept-language",)).removeprefix(request.url)
    site.says = {"Cache-Control": "max-age=60"}
    for written in (suffix, suffix.replace(" ", "#"), suffix.replace(" ", "%20")):
        await site.get("/page" + written)
    site.says |= {"Vary": "Accept-Language"}
    first = await site.get("/page", accept_language="de")
    assert first.body == b"%d" % len(site.asked) == (await site.get("/page", accept_language="de")).body


@in_loop
async def test_who_asks_for_a_stamp_is_given_nothing_older_and_nothing_stale() -> None:
    """``Cachesync-At-Least``: also by a process that has not heard of it yet, and where a stale page might stand in."""
    shared = MemoryShared()
    here, there = (
        Cache(policies=[STATS, pages(stale_while_revalidate="1h", stale_if_error="1h")], shared=shared, listen=False) for _ in "12"
    )
    site = Site(here)
    site.says = {"Cache-Control": "max-age=60, stale-while-revalidate=600", "Cache-Groups": '"shop"'}
    assert await site.bodies({}, {}) == [b"1", b"1"]
    stamp = str(await there.ainvalidate("pages:*"))
    assert (await site.get(cachesync_at_least=stamp)).body == b"2"
    stamp = str(await there.ainvalidate("pages:*", soft=True))
    assert (await site.get(cachesync_at_least=stamp)).body == b"3"
    stamp = str(await there.ainvalidate("pages:*", soft=True))
    site.status = 503
    assert (await site.get(cachesync_at_least=stamp)).status == 503
    assert (await site.get(cachesync_at_least="soon"))["cache-status"] == "cachesync; fwd=bypass"


@in_loop
async def test_what_a_request_says_of_itself_is_stored_by_its_hash_alone() -> None:
    """A session in a cookie, or the key of an API, is no use to who reads Redis."""
    shared = MemoryShared()
    site = Site(Cache(policies=[pages()], shared=shared))
    site.says |= {"Vary": "Cookie, X-Api-Key"}
    await site.get(cookie="session=TOPSECRET", x_api_key="KEYSECRET")
    assert (await site.get(cookie="session=TOPSECRET", x_api_key="KEYSECRET")).body == b"1"
    answers = [one for one in gc.get_objects() if type(one) is StoredAnswer]
    assert answers and "SECRET" not in repr(answers)


class Reading(Site):
    """An application that reads what it is sent before it answers, whether there is any or not: Django's handler always does. Its server
    hands the request over once, and says that the client has left when he has been answered.
    """

    def __init__(self, **policy: Any) -> None:
        super().__init__(**policy)
        self.read: list[Message] = []
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.door.app = self.reading

    async def reading(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.may_read.wait()
        self.read.append(await receive())
        await self.app(scope, receive, send)

    async def serve(self) -> bytes:
        answered = Answered()
        requests: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]
        over = asyncio.Event()

        async def receive() -> Message:
            if requests and not over.is_set():
                return requests.pop()
            await over.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            answered.events.append(message)

        async with asyncio.timeout(10):
            await self.door(scope_of("GET", "/", {"host": "shop"}), receive, send)
        over.set()
        return answered.body


@in_loop
async def test_an_application_that_reads_its_request_answers_behind_the_callers_back_too() -> None:
    """It is told that there is no content, and waits for nobody."""
    site = Reading(stale_while_revalidate="1h")
    site.says = {"Cache-Control": "max-age=1, stale-while-revalidate=600"}
    await site.serve()
    site.clock.advance(1.5)
    site.may_read.clear()
    assert await site.serve() == b"1"
    site.may_read.set()
    await until(lambda: len(site.read) == 2 and not site.door.running)
    assert [message["type"] for message in site.read] == ["http.request"] * 2


@in_loop
async def test_an_application_that_reads_its_request_is_asked_again() -> None:
    """What the client has sent was read the first time."""
    site = Reading(stale_if_error="1h")
    site.says = {"Cache-Control": "max-age=1", "ETag": '"a"'}
    await site.serve()
    site.clock.advance(1.5)
    site.says, site.status = {"ETag": '"b"'}, 304

    async def once() -> None:
        site.says, site.status, site.does = {"Cache-Control": "max-age=1"}, 200, None

    site.does = once
    assert await site.serve() == b"3"
    assert [message["type"] for message in site.read] == ["http.request"] * 3


@in_loop
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_what_is_too_long_for_a_key_goes_through(method: str) -> None:
    """An address that grows when it is percent-encoded, too."""
    site = Site()
    for _ in range(2):
        answered = await site.get("/?" + "*" * LONGEST_ADDRESS, method=method)
        assert answered.status == 200 and answered["cache-status"].startswith("cachesync; fwd=bypass")


def shop_of(site: Site) -> Callable[[str], str]:
    @site.cache.cached("stats:{store}")
    def shop(store: str) -> str:
        return "data"

    return shop


@in_loop
async def test_what_a_streams_generator_reads_ends_the_kept_page() -> None:
    """Also where the middleware that describes answers stands inside, whose request is over when the answer begins."""
    site = Site()
    shop = shop_of(site)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        site.asked.append({})
        await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"public, max-age=60")]})
        await send({"type": "http.response.body", "body": b"%d " % len(site.asked), "more_body": True})
        shop("JKT")
        await send({"type": "http.response.body", "body": b"end", "more_body": False})

    site.door.app = CacheMiddleware(app, site.cache)
    assert await site.bodies({}, {}) == [b"1 end", b"1 end"]
    await site.cache.ainvalidate("stats:JKT")
    assert (await site.get()).body == b"2 end"


@in_loop
async def test_a_hit_has_the_stamp_at_which_it_was_found_fresh() -> None:
    """Or a client would ask for newer for ever, where something that merely shares a group was invalidated after the page was kept."""
    site = Site()
    shop = shop_of(site)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        shop("JKT")
        await site.app(scope, receive, send)

    site.says = {"Content-Length": "1"}
    site.door.app = CacheMiddleware(app, site.cache)
    assert (await site.get())["cachesync-stamp"] == str(await site.cache.astamp())
    stamp = str(await site.cache.ainvalidate("stats:BDG"))
    for wanted in ({}, {"cachesync_at_least": stamp}):
        again = await site.get(**wanted)
        assert (again.body, again["cachesync-stamp"]) == (b"1", stamp) and "hit" in again["cache-status"]


@in_loop
async def test_what_goes_by_lifetimes_alone_holds_at_no_stamp() -> None:
    """While a switch says ``ttl``, a page has the stamp of when it was kept; who asks for a newer one is answered by the application."""
    shared = MemoryShared()
    here, there = (Cache(policies=[STATS, pages()], shared=shared, listen=False) for _ in "12")
    site = Site(here)
    shop = shop_of(site)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        shop("JKT")
        await site.app(scope, receive, send)

    site.says = {"Content-Length": "1"}
    site.door.app = CacheMiddleware(app, here)
    kept = (await site.get())["cachesync-stamp"]
    here.switch_here("pages", "ttl")
    stamp = str(await there.ainvalidate("stats:JKT"))
    read_log(here)
    again = await site.get()
    assert (again.body, again["cachesync-stamp"]) == (b"1", kept)
    assert (await site.get(cachesync_at_least=stamp)).body == b"2"


@in_loop
async def test_a_vary_that_comes_and_goes_is_learned_once() -> None:
    """The names under an address only grow, so nobody can have the same page made anew, and the log written, each other time."""
    site = Site()
    asking = [{"a": str(number), **({"b": "x"} if number % 2 else {})} for number in range(6)]

    async def ask_all(requests: list[dict[str, str]]) -> list[bytes]:
        found: list[bytes] = []
        for request in requests:
            site.says |= {"Vary": "A, B" if "b" in request else "A"}
            found.append((await site.get(**request)).body)
        return found

    await ask_all(asking[:2])
    stamp = await site.cache.astamp()
    assert await ask_all(asking[2:]) == await ask_all(asking[2:]) == [b"3", b"4", b"5", b"6"]
    assert await site.cache.astamp() == stamp


@in_loop
@pytest.mark.parametrize("control", ["no-store", "max-age=60"])
@pytest.mark.parametrize("is_slow", [False, True])
async def test_a_request_that_is_cancelled_leaves_nothing_running_that_is_its_own(control: str, is_slow: bool) -> None:
    """Its application is cancelled with it, whether the client reads or not; one whose answer others may be given goes on."""
    go_on, ended, sent = asyncio.Event(), list[str](), list[Message]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", control.encode())]})
            await send({"type": "http.response.body", "body": b"a", "more_body": True})
            await go_on.wait()
            await send({"type": "http.response.body", "body": b"b", "more_body": False})
            ended.append("well")
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)
        if is_slow:
            await asyncio.Event().wait()

    door = ResponseCache(app, Cache(policies=[pages()]), "pages")
    asking = asyncio.create_task(door(scope_of("GET", "/", {"host": "shop"}), receive, send))
    await until(lambda: len(sent) == (1 if is_slow else 2))
    waiting = asyncio.create_task(ask(door, headers={"host": "shop"})) if control == "max-age=60" else None
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    if waiting is None:
        await until(lambda: ended == ["cancelled"] and not door.running)
        return
    go_on.set()
    assert (await waiting).body == b"ab"
    await until(lambda: not door.running)
    assert ended == ["well"] and len(sent) <= 2


@in_loop
async def test_a_write_ends_what_it_names_whatever_its_own_request_is_like() -> None:
    """Also where nothing could be kept under its address, and where it can not be found out what its client has seen."""
    site = Site()
    site.says |= {"Cache-Groups": '"g"'}
    for target, more in (("/form?" + "x" * LONGEST_ADDRESS, {}), ("/form", {"host": "sh/op"}), ("/form", {"cachesync_at_least": "soon"})):
        kept = await site.get()
        assert (await site.get()).body == kept.body
        says, site.says = site.says, {"Cache-Group-Invalidation": '"g"', "Location": "http://shop/"}
        await site.get(target, method="POST", **more)
        site.says = says
        if "host" not in more:
            assert (await site.get()).body != kept.body


@in_loop
async def test_a_client_that_leaves_before_his_answer_begins_ends_who_waits_for_that() -> None:
    """As handlers do that wait for news. What comes then is not kept, unless it tells its length: it may have been broken off."""
    leaves, told = asyncio.Event(), list[Message]()
    length: list[tuple[bytes, bytes]] = []
    asked = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal asked
        asked += 1
        while asked < 3 and (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"max-age=60"), *length]})
        await send({"type": "http.response.body", "body": b"%d" % asked, "more_body": False})

    door = ResponseCache(app, Cache(policies=[pages()]), "pages")
    leaves.set()
    await leaving(door, leaves, told)
    length.append((b"content-length", b"1"))
    await leaving(door, leaves, told)
    assert [message.get("body") for message in told] == [None, b"1", None, b"2"]
    assert (await ask(door, headers={"host": "shop"})).body == b"2"


@in_loop
async def test_an_application_that_ends_with_its_client_has_not_failed() -> None:
    """As Django's handler does. Those who wait are answered by one more call; nothing is raised, and nobody is left alone."""
    leaves, told, events = asyncio.Event(), list[Message](), list[str]()
    asked = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"max-age=60")]})
        await send({"type": "http.response.body", "body": b"%d" % asked, "more_body": False})

    cache = Cache(policies=[pages(errors="10s")])
    cache.on_event(lambda event: events.append(event.name))
    door = ResponseCache(app, cache, "pages")
    first = asyncio.create_task(leaving(door, leaves, told))
    await until(lambda: asked == 1)
    waiting = [asyncio.create_task(ask(door, headers={"host": "shop"})) for _ in range(5)]
    for _ in range(10):
        await asyncio.sleep(0)
    leaves.set()
    await first
    assert [(await one).body for one in waiting] == [b"2"] * 5
    assert (told, asked) == ([], 2) and "left_alone" not in events


@in_loop
async def test_a_stream_that_nobody_is_given_is_ended() -> None:
    """It was overdue, and its client has gone on without it; then it turns out that nobody else may be given it."""
    gate, ended = asyncio.Event(), list[str]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await gate.wait()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"no-store")]})
            await asyncio.Event().wait()
        finally:
            ended.append("ended")

    door = ResponseCache(app, Cache(policies=[pages(hard_timeout="10ms")]), "pages")
    assert (await ask(door, headers={"host": "shop"})).status == 504
    gate.set()
    await until(lambda: ended == ["ended"])


@in_loop
async def test_an_event_stream_is_nobody_elses() -> None:
    """It has no end, so who waits for it would wait for ever."""
    site = Site()
    site.says = {"Cache-Control": "no-cache", "Content-Type": "text/event-stream; charset=utf-8", "ETag": '"a"'}
    assert await site.bodies({}, {}) == [b"1", b"2"]
    assert (await site.get())["cache-status"] == 'cachesync; fwd=miss; detail="stream"'


@in_loop
async def test_long_addresses_are_not_remembered() -> None:
    """Nobody fills the memory with addresses whose answers can not be stored."""
    site = Site()
    site.says = {"Cache-Control": "no-store"}
    for number in range(3):
        await site.get(f"/?{number}{'x' * LONGEST_PASSED}")
    await site.get("/?short")
    assert len(site.door._passed) == 1  # pyright: ignore[reportPrivateUsage] - what it takes of memory


@in_loop
async def test_a_file_that_the_server_sends_is_not_sent_behind_a_304() -> None:
    """By ``http.response.pathsend``, which has no body that could be left out."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"max-age=60"), (b"etag", b'"a"')]})
        await send({"type": "http.response.pathsend", "path": "/some/file"})

    door = ResponseCache(app, Cache(policies=[pages()]), "pages")
    answered = await ask(door, headers={"host": "shop", "if-none-match": '"a"'})
    assert [message["type"] for message in answered.events] == ["http.response.start", "http.response.body"]
    assert (answered.status, answered.body) == (304, b"")


@in_loop
async def test_an_answer_that_can_be_stored_after_all_is_stored_again() -> None:
    """That an address is passed is forgotten with the first answer that may be kept."""
    site = Site()
    site.says = {"Cache-Control": "no-store"}
    await site.bodies({}, {})
    site.says = {"Cache-Control": "max-age=60"}
    assert await site.bodies({}, {}, {}) == [b"3", b"4", b"4"]


# --- validation and staleness -------------------------------------------------------------------------------------------------------------


@in_loop
async def test_a_stale_answer_is_asked_about_and_freshened() -> None:
    """RFC 9111, 4.3: with its validators; a 304 brings new fields and a new lifetime, and all it depends on stays."""
    site = Site(stale_if_error="1h")
    site.says |= {"ETag": '"a"', "X": "1"}

    async def depend() -> None:
        site.cache.depends_on(tags=["stores"])

    site.does = depend
    await site.get()
    site.does = None
    site.clock.advance(61)
    site.status, site.says = 304, {"ETag": '"a"', "Cache-Control": "max-age=600", "X": "2"}
    fresh = await site.get()
    assert site.asked[1]["if-none-match"] == '"a"'
    assert (fresh.status, fresh.body, fresh["x"]) == (200, b"1", "2")
    assert fresh["cache-status"] == "cachesync; fwd=stale; fwd-status=304; stored"
    site.clock.advance(500)
    assert (await site.get()).body == b"1"
    site.status = 200
    await site.cache.ainvalidate(tags=["stores"])
    assert (await site.get()).body == b"3"


@in_loop
async def test_a_304_about_another_representation_is_asked_again_without_conditions() -> None:
    """RFC 9111, 4.3.4: it freshens nothing."""
    site = Site(stale_if_error="1h")
    site.says |= {"ETag": '"a"'}
    await site.get()
    site.clock.advance(61)

    async def turn() -> None:
        site.status, site.says = (200, {"Cache-Control": "max-age=60", "ETag": '"b"'}) if len(site.asked) == 2 else (200, site.says)

    site.status, site.says, site.does = 304, {"ETag": '"b"'}, turn
    found = await site.get()
    assert (found.status, found.body, found["etag"]) == (200, b"3", '"b"')
    assert "if-none-match" not in site.asked[2]


@in_loop
async def test_an_answer_that_says_no_cache_is_asked_about_each_time() -> None:
    """RFC 9111, 5.2.2.4: nothing is announced for it, whose answer has not changed."""
    site = Site()
    site.says = {"Cache-Control": "no-cache, max-age=60", "ETag": '"a"'}
    await site.get()
    site.status = 304
    position = await site.cache.astamp()
    assert await site.bodies({}, {}) == [b"1", b"1"]
    assert [asked.get("if-none-match") for asked in site.asked] == [None, '"a"', '"a"']
    assert await site.cache.astamp() == position
    site.status, site.says = 200, {"Cache-Control": "no-cache, max-age=60", "ETag": '"b"'}
    assert (await site.get()).body == b"4"
    site.status = 304
    assert (await site.get()).body == b"4"


@in_loop
async def test_a_request_with_no_cache_brings_a_new_answer_for_all() -> None:
    """RFC 9111, 5.2.1.4; unless what clients ask for is not obeyed."""
    site = Site()
    await site.get()
    assert (await site.get(cache_control="no-cache")).body == b"2"
    assert (await site.get()).body == b"2"
    site.door.rules = Rules(obeys_requests=False)
    assert (await site.get(cache_control="no-cache")).body == b"2"


@in_loop
async def test_stale_while_revalidate_serves_the_old_answer_and_asks_behind_the_callers_back() -> None:
    """RFC 5861, 3: nothing of the new answer goes to the caller's connection."""
    site = Site(stale_while_revalidate="1h")
    site.says = {"Cache-Control": "max-age=60, stale-while-revalidate=30"}
    await site.get()
    site.clock.advance(70)
    old = await site.get()
    assert (old.body, old["cache-status"]) == (b"1", "cachesync; hit; ttl=-10")
    assert len(old.events) == 2
    await until(lambda: len(site.asked) == 2 and not site.cache.stats().refreshes.under_way)
    assert (await site.get()).body == b"2"
    site.clock.advance(91)
    assert (await site.get()).body == b"3", "past the time that the answer allows, it is waited for"
    await until(lambda: not site.cache.stats().refreshes.under_way)
    assert len(site.asked) == 3


@in_loop
async def test_a_page_that_varies_is_refreshed_behind_the_callers_back_too() -> None:
    """The names of what selects it are looked up first, and that look-up writes to nobody's connection either."""
    site = Site(stale_while_revalidate="1h", early_refresh=0.5)
    site.says = {"Cache-Control": "max-age=60, stale-while-revalidate=30", "Vary": "A"}
    await site.get(a="1")
    for seconds in (40, 40, 1900):
        site.clock.advance(seconds)
        answered = await site.get(a="1")
        await until(lambda: not site.cache.stats().refreshes.under_way)
        await until(lambda: not site.door.running)
        await asyncio.sleep(0)
        assert [message["type"] for message in answered.events] == ["http.response.start", "http.response.body"]


@pytest.mark.parametrize("fails", ["status", "exception"])
@in_loop
async def test_a_stale_answer_stands_in_for_an_error(fails: str) -> None:
    """RFC 5861, 4 and RFC 9111, 4.2.4: unless it forbids that."""
    site = Site(stale_if_error="1h")

    async def fail() -> None:
        raise ConnectionError("the database is away")

    await site.get()
    site.says = {"Cache-Control": "max-age=60, must-revalidate"}
    await site.get("/strict")
    site.clock.advance(61)
    if fails == "status":
        site.status = 503
    else:
        site.does = fail
    old = await site.get()
    assert (old.status, old.body) == (200, b"1")
    assert old["cache-status"] == 'cachesync; hit; ttl=-1; detail="stale-if-error"'
    if fails == "status":
        assert (await site.get("/strict")).status == 503
    else:
        with pytest.raises(ConnectionError):
            await site.get("/strict")


@in_loop
async def test_after_an_invalidation_no_old_answer_stands_in() -> None:
    """Hard means never, not on error."""
    site = Site(stale_if_error="1h")
    await site.get()
    await site.cache.ainvalidate("pages:*")
    site.status = 503
    assert (await site.get()).status == 503


@in_loop
async def test_what_an_application_raises_is_its_servers_to_tell() -> None:
    """Before it has answered, and in the middle of its body: then the client sees that the answer is cut."""
    site = Site()

    async def fail() -> None:
        raise ConnectionError("the database is away")

    site.does = fail
    with pytest.raises(ConnectionError):
        await site.get()

    async def cut(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"max-age=60")]})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ConnectionError("the disk is away")

    site.door.app = cut
    heard: list[Message] = []
    with pytest.raises(ConnectionError):
        await ask(site.door, "/cut", headers={"host": "shop"}, on_message=heard.append)
    assert len(heard) == 2 and heard[1]["more_body"] is True


# --- what ends it ----------------------------------------------------------------------------------------------------


@in_loop
async def test_a_write_ends_what_is_stored_for_its_address_before_its_client_is_told() -> None:
    """RFC 9111, 4.4: in all variants, and not where it fails."""
    site = Site()
    site.says |= {"Vary": "A"}
    await site.bodies({"a": "1"}, {"a": "2"})
    site.status = 500
    await site.get(method="POST")
    assert await site.bodies({"a": "1"}, {"a": "2"}) == [b"1", b"2"]
    site.status = 200
    await site.get(method="DELETE")
    assert await site.bodies({"a": "1"}, {"a": "2"}) == [b"5", b"6"]


@in_loop
async def test_a_write_ends_the_addresses_that_its_answer_names() -> None:
    """RFC 9111, 4.4: Location and Content-Location of the same origin."""
    site = Site()
    await site.bodies({"target": "/a"}, {"target": "/b?c"}, {"target": "/d"})
    site.says |= {"Location": "/a", "Content-Location": "http://shop/b?c"}
    await site.get("/e", method="POST")
    assert await site.bodies({"target": "/a"}, {"target": "/b?c"}, {"target": "/d"}) == [b"5", b"6", b"3"]


@in_loop
async def test_a_write_ends_the_groups_that_its_answer_names() -> None:
    """RFC 9875: of the same origin."""
    site = Site()
    site.says |= {"Cache-Groups": '"stores", "jkt"'}
    await site.bodies({}, {"host": "other"})
    site.says = {"Cache-Group-Invalidation": '"jkt"', "Cache-Control": "max-age=60"}
    await site.get("/sync", method="POST")
    assert await site.bodies({}, {"host": "other"}) == [b"4", b"2"]


@in_loop
async def test_a_head_that_tells_of_another_answer_ends_the_stored_one() -> None:
    """RFC 9111, 4.3.5."""
    site = Site()
    site.says = {"Cache-Control": "max-age=60, no-cache", "ETag": '"a"'}
    await site.get()
    stamp = await site.cache.astamp()
    assert (await site.get(method="HEAD"))["etag"] == '"a"' and await site.cache.astamp() == stamp
    site.says |= {"ETag": '"b"'}
    assert (await site.get(method="HEAD"))["etag"] == '"b"' and await site.cache.astamp() != stamp


@in_loop
@pytest.mark.parametrize("how", ["cookie", "status", "vary"])
async def test_a_head_that_could_not_have_been_answered_so_ends_nothing(how: str) -> None:
    """Of somebody known, of another variant, or of a failure: or anybody could keep a page out of the cache (RFC 9111, 4.3.5)."""
    site = Site()
    site.says = {"Cache-Control": "max-age=60, no-cache", "ETag": '"a"'} | ({"Vary": "Accept-Language"} if how == "vary" else {})
    await site.get()
    stamp = await site.cache.astamp()
    site.says |= {"ETag": '"b"'}
    site.status = 404 if how == "status" else 200
    headers = {"cookie": {"cookie": "session=1"}, "status": {}, "vary": {"accept_language": "de"}}[how]
    await site.get(method="HEAD", **headers)
    assert await site.cache.astamp() == stamp


# --- setting up ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "name", "problem"),
    [
        (pages(), "sites", "no such policy"),
        (Policy(name="pages", match="pages", ttl="dynamic", min_ttl=1, max_ttl=2), "pages", "no match for a response cache"),
        (Policy(name="pages", match="*:pages:*", ttl="dynamic", min_ttl=1, max_ttl=2), "pages", "no match for a response cache"),
        (Policy(name="pages", match="pages:*", ttl=1), "pages", 'ttl = "dynamic"'),
    ],
)
def test_a_policy_that_does_not_fit_is_told_at_the_start(policy: Policy, name: str, problem: str) -> None:
    """What is wrong, and what to write."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None: ...

    with pytest.raises(PolicyError, match=problem):
        ResponseCache(app, Cache(policies=[policy]), name)


def test_a_policy_for_answers_has_a_dynamic_ttl() -> None:
    """Each answer says how long it is fresh."""
    with pytest.raises(PolicyError, match=r"policy.pages.http.respond_from_cache.*dynamic"):
        Policy(name="pages", match="pages:*", ttl="5m", http=HttpPolicy(respond_from_cache=True))
