"""HTTP as a part of the cache: validators, early answers, conditions of writes, and whose answer is given to whom.

The application is asked through its ASGI door, without a server. Two caches around one layer in memory stand for two processes, which
read the log when they are told to.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest

from cachesync import Cache, MemoryShared, Policy, Settings, Stamp
from cachesync.asgi import CacheMiddleware
from cachesync.coordination.answers import LONGEST
from cachesync.coordination.asgi import App, Message, Receive, Scope, Send
from cachesync.coordination.consumed import Consumed
from cachesync.core.policy import HttpPolicy
from cachesync.core.settings import CoordinationSettings
from cachesync.core.steps import Called, Reply, SharedStep
from cachesync.protocols import Shared
from cachesync.testing import FakeClock
from support.asgi import Answered, ask
from support.nodes import LONG, read_log

STAMPED = HttpPolicy(etag="stamp", vary=["Accept-Language"])
POLICIES = [
    Policy(name="stores", match="store:*", ttl="5m", tags=["stores"], stale_while_revalidate="1h", http=STAMPED),
    Policy(name="public", match="public:*", ttl="5m", http=HttpPolicy(etag="stamp", visibility="public", max_age="1m")),
    Policy(name="content", match="content:*", ttl="5m", http=HttpPolicy()),
    Policy(name="strict", match="strict:*", ttl="5m", consistency="strict", http=STAMPED),
    Policy(name="inner", match="inner:*", ttl="1m"),
]


class Counting:
    """A shared layer that counts what it is asked."""

    def __init__(self, inner: Shared) -> None:
        self._inner = inner
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def of_loop(self) -> Any:
        layer = self._inner.of_loop()
        counting = self

        class Layer:
            async def perform(self, step: SharedStep, /) -> Reply:
                counting.asked += 1
                return await layer.perform(step)

        return Layer()


def whoever_says(scope: Scope) -> str | None:
    """The identity that the request claims: stands for an authoriser."""
    return dict(scope["headers"]).get(b"x-user", b"").decode() or None


class Site:
    """One process: a cache, and an application whose pages are made of what it caches. ``between`` runs after the data was read."""

    def __init__(self, shared: Shared | None = None, *, identify: Any = whoever_says, **how: Any) -> None:
        self.clock = FakeClock()
        coordination = CoordinationSettings(budget=LONG, max_lag=5.0)
        self.cache = Cache(Settings(coordination=coordination), policies=POLICIES, shared=shared, clock=self.clock, listen=False)
        self.calls = 0
        self.versions: dict[str, int] = {}
        self.between: Callable[[], Any] = lambda: None
        self.more: Mapping[str, str] = {}
        self.app: App = CacheMiddleware(self.answer, self.cache, identify=identify, **how)

    async def read(self, key: str) -> Any:
        async def compute() -> dict[str, Any]:
            return {"key": key, "version": self.versions.get(key, 0)}

        return await self.cache.aget_or_compute(key, compute)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls += 1
        keys = [key for key in scope["path"].split("/") if key]
        if scope["method"] in ("PUT", "DELETE"):
            self.versions[keys[0]] = self.versions.get(keys[0], 0) + 1
            await self.cache.ainvalidate(keys[0], tags=["written"])
            body: bytes = b"{}"
        else:
            body = json.dumps([await self.read(key) for key in keys]).encode()
        self.between()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **self.more}
        pairs = [(name.encode(), text.encode()) for name, text in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": pairs})
        await send({"type": "http.response.body", "body": body})

    async def get(self, target: str, etag: str | None = None, user: str = "ann", **more: Any) -> Answered:
        headers = {"X-User": user} if user else {}
        if etag is not None:
            headers["If-None-Match"] = etag
        return await ask(self.app, target, headers={**headers, **more.pop("headers", {})}, **more)

    def change(self, key: str, **how: Any) -> Stamp:
        """Somebody changes the data and says so."""
        self.versions[key] = self.versions.get(key, 0) + 1
        return self.cache.invalidate(key, **how)


def pair() -> tuple[Site, Site, Counting]:
    """Two processes around one layer, which have joined the log; the first one's questions are counted."""
    shared = MemoryShared()
    counting = Counting(shared)
    sites = Site(cast("Shared", counting)), Site(shared)
    for site in sites:
        site.cache.stamp()
    return *sites, counting


# --- ETags ------------------------------------------------------------------------------------------------------------------------


async def etag_of(site: Site, target: str = "/store:1", **how: Any) -> str:
    first = await site.get(target, **how)
    assert first.status == 200 and first["etag"]
    return first["etag"]


def test_a_304_by_stamp_asks_nobody() -> None:
    """Neither the application nor the shared layer; it carries what the 200 did, and no body."""

    async def story() -> None:
        site, _, counting = pair()
        first = await site.get("/store:1")
        asked, calls = counting.asked, site.calls
        again = await site.get("/store:1", first["etag"])
        assert (again.status, again.body, site.calls, counting.asked) == (304, b"", calls, asked)
        for name in ("etag", "cache-control", "vary", "cache-groups", "cachesync-stamp"):
            assert again[name] == first[name] != ""
        assert again["content-length"] == again["content-type"] == ""

    asyncio.run(story())


def test_an_etag_is_the_same_in_every_process_and_after_a_restart() -> None:
    """It names the content: whoever makes it, and whether it was computed or hit."""

    async def story() -> None:
        one, other, _ = pair()
        assert await etag_of(one) == await etag_of(other) == await etag_of(Site())
        assert (await other.get("/store:1", await etag_of(one))).status == 304

    asyncio.run(story())


def test_an_etag_is_bound_to_its_resource() -> None:
    """The same bytes elsewhere, or under another query, are another representation."""

    async def story() -> None:
        site = Site()
        found = {await etag_of(site, target) for target in ("/store:1", "/store:1?a", "/store:1/")}
        assert len(found) == 3

    asyncio.run(story())


@pytest.mark.parametrize("how", [{}, {"soft": True}])
@pytest.mark.parametrize("of_other", [True, False])
def test_an_invalidation_ends_an_early_answer(of_other: bool, how: dict[str, Any]) -> None:
    """Of this process at once, of another one when the log was applied; a soft one as well as a hard one."""

    async def story() -> None:
        site, other, _ = pair()
        etag, calls = await etag_of(site), site.calls
        (other if of_other else site).change("store:1", **how)
        site.versions["store:1"] = 1
        if of_other:
            read_log(site.cache)
        again = await site.get("/store:1", etag)
        assert site.calls == calls + 1
        if not how:
            assert (again.status, again.body) == (200, b'[{"key": "store:1", "version": 1}]')

    asyncio.run(story())


def test_an_invalidation_of_something_else_ends_nothing() -> None:
    """The answer is judged anew, and still confirmed without the application."""

    async def story() -> None:
        site = Site()
        etag, calls = await etag_of(site), site.calls
        stamp = site.change("store:2")
        again = await site.get("/store:1", etag)
        assert (again.status, site.calls, again["cachesync-stamp"]) == (304, calls, str(stamp))

    asyncio.run(story())


@pytest.mark.parametrize("named", ["store:1", "inner:1", "tag"])
def test_what_the_answer_depends_on_ends_it(named: str) -> None:
    """Any of the keys that were read, what those depend on, and their tags."""

    async def story() -> None:
        site = Site()

        async def compute() -> str:
            await site.read("inner:1")
            return "outer"

        await site.cache.aget_or_compute("store:1", compute)
        etag, calls = await etag_of(site, "/store:1/store:2"), site.calls
        site.cache.invalidate(*([] if named == "tag" else [named]), tags=["stores"] if named == "tag" else [])
        await site.get("/store:1/store:2", etag)
        assert site.calls == calls + 1

    asyncio.run(story())


def test_an_invalidation_between_reading_and_answering_is_not_lost() -> None:
    """The answer is what was read before it, and is confirmed by nobody after it."""

    async def story() -> None:
        site, other, _ = pair()

        def change() -> None:
            site.versions["store:1"] = 1
            other.change("store:1")
            read_log(site.cache)

        site.between = change
        etag = await etag_of(site)
        site.between = lambda: None
        again = await site.get("/store:1", etag)
        assert (again.status, site.calls) == (200, 2)
        assert b'"version": 1' in again.body

    asyncio.run(story())


def test_an_early_answer_ends_with_the_freshness_of_what_it_was_made_of() -> None:
    """The least of all that was read; the lifetimes that it tells become shorter until then."""

    async def story() -> None:
        site = Site()
        etag = await etag_of(site, "/public:1")
        for passed, left in ((20.0, 40), (20.0, 20)):
            site.clock.advance(passed)
            again = await site.get("/public:1", etag)
            assert (again.status, site.calls) == (304, 1)
            seconds = int(again["cache-control"].rpartition("=")[2])
            assert left - 2 <= seconds <= left
        site.clock.advance(280.0)
        assert (await site.get("/public:1", etag)).status == 304
        assert site.calls == 2

    asyncio.run(story())


def test_a_process_that_does_not_hear_the_log_confirms_nothing_early() -> None:
    """Within ``max_lag`` it does, and beyond it the application is called."""

    async def story() -> None:
        site, _, _ = pair()
        etag = await etag_of(site)
        site.clock.advance(4.0)
        assert (await site.get("/store:1", etag)).status == 304
        assert site.calls == 1
        site.clock.advance(2.0)
        await site.get("/store:1", etag)
        assert site.calls == 2

    asyncio.run(story())


def test_a_strict_policy_confirms_nothing_early() -> None:
    """Each of its reads asks where the log ends."""

    async def story() -> None:
        site, _, _ = pair()
        etag = await etag_of(site, "/strict:1")
        assert (await site.get("/strict:1", etag)).status == 304
        assert site.calls == 2

    asyncio.run(story())


@pytest.mark.parametrize("mode", ["headers", "off", "ttl"])
def test_a_switch_ends_early_answers(mode: str) -> None:
    """What is not cached as the policies say is asked of the application; ETags of the content are still compared."""

    async def story() -> None:
        site = Site()
        etag = await etag_of(site)
        site.cache.switch("stores", mode)
        again = await site.get("/store:1", etag)
        assert (again.status, site.calls) == (304, 2)
        assert (await site.get("/store:1", etag)).status == 304
        assert site.calls == 3
        site.cache.switch("stores", "full")
        await site.get("/store:1")
        calls = site.calls
        assert (await site.get("/store:1", etag)).status == 304
        assert site.calls == calls

    asyncio.run(story())


def test_a_reload_ends_early_answers() -> None:
    """They were made under other policies."""

    async def story() -> None:
        site = Site()
        etag = await etag_of(site)
        site.cache.reload(policies=[Policy(name="all", match="*", ttl="1m")])
        await site.get("/store:1", etag)
        assert site.calls == 2

    asyncio.run(story())


def test_what_is_served_stale_is_not_remembered_and_says_so() -> None:
    """Its status has a ``ttl`` below zero, and its lifetime is none."""

    async def story() -> None:
        site = Site()
        await site.get("/store:1")
        site.change("store:1", soft=True)
        stale = await site.get("/store:1")
        assert b'"version": 0' in stale.body
        assert stale["cachesync-cache-control"] == "max-age=0"
        assert stale["cache-status"].startswith("cachesync; hit; ttl=-")
        calls = site.calls
        await site.get("/store:1", stale["etag"])
        assert site.calls == calls + 1

    asyncio.run(story())


def test_remembered_answers_are_bounded() -> None:
    """The one that was remembered first goes; then the application is asked."""

    async def story() -> None:
        site = Site(remember=2)
        etags = [await etag_of(site, f"/store:{number}") for number in range(3)]
        calls = site.calls
        assert [(await site.get(f"/store:{number}", etags[number])).status for number in range(3)] == [304] * 3
        assert site.calls == calls + 3  # the first was forgotten, then the second for it, then the third

    asyncio.run(story())


# --- whose answer -------------------------------------------------------------------------------------------------------------------


def test_one_users_answer_confirms_nothing_to_another() -> None:
    """Also where a browser sends the ETag of who was logged in before: the application decides for itself."""

    async def story() -> None:
        site = Site()
        etag = await etag_of(site, user="ann")
        assert (await site.get("/store:1", etag, user="ann")).status == 304
        assert site.calls == 1
        for user in ("bob", ""):
            await site.get("/store:1", etag, user=user)
        assert site.calls == 3
        assert (await site.get("/store:1", etag, user="ann")).status == 304
        assert site.calls == 3

    asyncio.run(story())


def test_without_an_authoriser_private_data_is_confirmed_by_the_application() -> None:
    """It may refuse. What is for everybody needs none."""

    async def story() -> None:
        site = Site(identify=None)
        for target, calls in (("/store:1", 2), ("/public:1", 3)):
            etag = await etag_of(site, target)
            assert (await site.get(target, etag)).status == 304
            assert site.calls == calls

    asyncio.run(story())


def test_an_authoriser_may_be_a_coroutine_function() -> None:
    """It is awaited before anything is answered."""

    async def whoever(scope: Scope) -> str | None:
        await asyncio.sleep(0)
        return whoever_says(scope)

    async def story() -> None:
        site = Site(identify=whoever)
        etag = await etag_of(site)
        assert (await site.get("/store:1", etag)).status == 304
        assert site.calls == 1

    asyncio.run(story())


@pytest.mark.parametrize("how", ["authorization", "set-cookie"])
def test_public_data_asked_for_with_credentials_or_with_a_cookie_set_is_one_users(how: str) -> None:
    """The answer says ``private``, and it is remembered for nobody else; one that sets a cookie for nobody at all."""

    async def story() -> None:
        site = Site()
        site.more = {"set-cookie": "a=b"} if how == "set-cookie" else {}
        headers = {"Authorization": "Basic x"} if how == "authorization" else {}
        first = await site.get("/public:1", user="", headers=headers)
        assert first["cache-control"].startswith("private, max-age=")
        for user in ("", "bob"):
            await site.get("/public:1", first["etag"], user=user, headers=headers)
        assert site.calls == 3

    asyncio.run(story())


def test_an_early_answer_is_for_requests_that_vary_does_not_tell_apart() -> None:
    """Another language may be another answer: the application says."""

    async def story() -> None:
        site = Site()
        etag = await etag_of(site, headers={"Accept-Language": "de"})
        assert (await site.get("/store:1", etag, headers={"Accept-Language": "de"})).status == 304
        assert site.calls == 1
        await site.get("/store:1", etag, headers={"Accept-Language": "fr"})
        assert site.calls == 2
        site.more = {"vary": "*"}
        etag = await etag_of(site, "/store:2")
        await site.get("/store:2", etag)
        assert site.calls == 4

    asyncio.run(story())


def test_groups_of_private_data_are_each_users_own() -> None:
    """Two users' groups can not be compared; those of public data are everybody's."""

    async def story() -> None:
        site = Site()

        async def groups(target: str, user: str) -> set[str]:
            return set((await site.get(target, user=user))["cache-groups"].split(", "))

        assert len(await groups("/store:1", "ann") & await groups("/store:1", "bob")) == 1  # that of everything
        assert await groups("/public:1", "ann") == await groups("/public:1", "bob")

    asyncio.run(story())


# --- writes -------------------------------------------------------------------------------------------------------------------------


async def put(site: Site, target: str = "/store:1", **headers: str) -> Answered:
    return await ask(site.app, target, method="PUT", headers={name.replace("_", "-"): text for name, text in headers.items()})


def test_a_write_with_another_etag_is_refused_before_it_has_any_effect() -> None:
    """412, and the data is what it was; with the current one it goes on (RFC 9110, 13.1.1)."""

    async def story() -> None:
        site = Site()
        etag = await etag_of(site)
        refused = await put(site, If_Match='"other"')
        assert (refused.status, json.loads(refused.body)["error"]["code"], site.versions) == (412, "precondition_failed", {})
        assert (await put(site, If_Match=etag)).status == 200
        assert site.versions == {"store:1": 1}
        assert (await put(site, If_Match=etag)).status == 412
        assert (await put(site, If_None_Match="*")).status == 412
        assert site.versions == {"store:1": 1}

    asyncio.run(story())


def test_a_condition_of_writes_may_be_required() -> None:
    """428 where there is none (RFC 6585, 3), and reading needs none."""

    async def story() -> None:
        site = Site(require_match=["PUT"])
        refused = await put(site)
        assert (refused.status, json.loads(refused.body)["error"]["code"], site.calls) == (428, "precondition_required", 0)
        assert (await put(site, If_Match=await etag_of(site))).status == 200

    asyncio.run(story())


def test_methods_that_need_a_condition_are_a_list_in_any_case() -> None:
    """The letters of one text would be taken for methods, and protect nothing; methods in small letters are meant as they are known."""
    with pytest.raises(TypeError, match=r"require_match is a list of methods; write \['PUT'\]"):
        Site(require_match="PUT")
    assert asyncio.run(put(Site(require_match=["put"]))).status == 428


def test_an_answer_says_what_its_request_has_invalidated() -> None:
    """By the groups that answers have, and with the stamp of the invalidation (RFC 9875, 3)."""

    async def story() -> None:
        site = Site()
        groups = (await site.get("/store:1"))["cache-groups"].split(", ")
        written = await ask(site.app, "/store:1", method="PUT", headers={"X-User": "ann"})
        assert set(groups) & set(written["cache-group-invalidation"].split(", "))
        assert written["cachesync-stamp"] == str(site.cache.stamp())
        assert (await site.get("/store:2"))["cache-group-invalidation"] == ""

    asyncio.run(story())


# --- reading what one has written ---------------------------------------------------------------------------------------------------


def test_a_client_that_has_seen_more_of_the_log_is_answered_from_there() -> None:
    """``Cachesync-At-Least``: another process catches up before it answers, and its stamp is not less."""

    async def story() -> None:
        site, other, _ = pair()
        await site.get("/store:1")
        site.versions["store:1"] = 1
        stamp = other.change("store:1")
        assert b'"version": 0' in (await site.get("/store:1")).body
        again = await site.get("/store:1", headers={"Cachesync-At-Least": str(stamp)})
        assert b'"version": 1' in again.body
        assert again["cachesync-stamp"] == str(stamp)

    asyncio.run(story())


def test_a_stamp_that_nobody_has_given_asks_for_no_more_than_the_end_of_the_log() -> None:
    """A client that makes one up can not keep the origin busy."""

    async def story() -> None:
        site, _, _ = pair()
        await site.get("/store:1")
        for stamp in ("feed:99", f"{site.cache.stamp().epoch}:99", "feed:1~"):
            site.versions["store:1"] = 7  # and nobody says so
            assert b'"version": 0' in (await site.get("/store:1", headers={"Cachesync-At-Least": stamp})).body

    asyncio.run(story())


def test_what_is_no_stamp_is_refused() -> None:
    """400 with a clear error."""

    async def story() -> None:
        site = Site()
        refused = await site.get("/store:1", headers={"Cachesync-At-Least": "now"})
        assert (refused.status, json.loads(refused.body)["error"]["code"], site.calls) == (400, "no_stamp", 0)

    asyncio.run(story())


# --- what passes as it is -----------------------------------------------------------------------------------------------------------


def test_what_is_not_made_of_managed_data_passes_as_it_is() -> None:
    """Nothing is added where a policy without an ``http`` table had a part in it, or nothing was read."""

    async def story() -> None:
        site = Site()
        for target in ("/", "/inner:1", "/store:1/inner:1"):
            found = await site.get(target)
            assert {name for name, _ in found.fields} == {b"content-type", b"content-length"}

    asyncio.run(story())


def test_a_handlers_own_validators_are_compared() -> None:
    """Its ETag stays, and a matching condition makes a 304 of any 200, cached data or not."""

    async def story() -> None:
        site = Site()
        site.more = {"etag": '"mine"'}
        for target in ("/", "/store:1"):
            assert (await site.get(target))["etag"] == '"mine"'
            confirmed = await site.get(target, 'W/"mine"')
            assert (confirmed.status, confirmed["etag"], confirmed.body) == (304, '"mine"', b"")

    asyncio.run(story())


def test_a_head_is_answered_as_a_get_without_its_body() -> None:
    """With the same ETag, and 304 for the same condition."""

    async def story() -> None:
        site = Site()
        etag = await etag_of(site)
        assert (await site.get("/store:1", method="HEAD"))["etag"] == etag
        assert (await site.get("/store:1", etag, method="HEAD")).status == 304

    asyncio.run(story())


def streaming(site: Site, parts: list[bytes], length: int | None, log: list[str]) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await site.read("store:1")
        headers = [] if length is None else [(b"content-length", str(length).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number, part in enumerate(parts):
            log.append(f"made {number}")
            await send({"type": "http.response.body", "body": part, "more_body": number < len(parts) - 1})

    return CacheMiddleware(app, site.cache, identify=whoever_says, largest=100)


@pytest.mark.parametrize("length", [None, 101, 200_000_000_000])
def test_a_stream_is_never_held_back(length: int | None) -> None:
    """Each part is sent before the next is made, and the start before all, or with the first part where a length is told. No ETag, then."""

    async def story() -> None:
        log: list[str] = []

        def sent(message: Message) -> None:
            log.append(f"sent {message.get('body', b'start').decode()}")

        site = Site()
        answered = await ask(streaming(site, [b"a", b"b", b"c"], length, log), on_message=sent)
        begins = ["sent start", "made 0"] if length is None else ["made 0", "sent start"]
        assert log == [*begins, "sent a", "made 1", "sent b", "made 2", "sent c"]
        assert answered["etag"] == "" and answered["cache-control"] == "private, no-cache"

    asyncio.run(story())


def test_a_short_body_in_parts_is_put_together() -> None:
    """It is named by all of it."""

    async def story() -> None:
        site = Site()
        answered = await ask(streaming(site, [b"a", b"b", b""], 2, []), "/x")
        whole = await ask(streaming(site, [b"ab"], 2, []), "/x")
        assert (answered.body, answered["etag"]) == (b"ab", whole["etag"])
        assert [message.get("more_body", False) for message in answered.events] == [False, True, False]  # all of it is there with "b"

    asyncio.run(story())


def test_a_body_that_is_longer_than_it_said_is_held_back_no_longer() -> None:
    """The server complains of it; nothing is named by a part."""

    async def story() -> None:
        site = Site()
        answered = await ask(streaming(site, [b"abc", b"d", b"e"], 2, []))
        assert (answered.body, answered["etag"]) == (b"abcde", "")

    asyncio.run(story())


def test_a_failure_of_the_application_arrives_as_it_left() -> None:
    """Before and after the start of an answer."""

    async def story(begun: bool) -> None:
        site = Site()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if begun:
                await site.read("store:1")
                await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
            raise LookupError("mine")

        with pytest.raises(LookupError, match="mine"):
            await ask(CacheMiddleware(app, site.cache))

    asyncio.run(story(begun=False))
    asyncio.run(story(begun=True))


def test_what_is_not_http_passes() -> None:
    """Lifespans and WebSockets are none of it."""
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def nothing(*_: Any) -> Any: ...

    async def story() -> None:
        for kind in ("lifespan", "websocket"):
            await CacheMiddleware(app, Site().cache)({"type": kind}, nothing, nothing)

    asyncio.run(story())
    assert seen == ["lifespan", "websocket"]


# --- what nobody here would hear of -------------------------------------------------------------------------------------------------


def reading(site: Site, read: Callable[[], Any]) -> App:
    """An application whose answer is made of a managed value and of what ``read`` returns or raises."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        site.calls += 1
        try:
            more = await read()
        except LookupError as error:
            more = repr(error)
        body = json.dumps([await site.read("store:1"), more]).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
        await send({"type": "http.response.body", "body": body})

    return CacheMiddleware(app, site.cache, identify=whoever_says)


@pytest.mark.parametrize("how", ["get", "get_many", "peek", "raises", "another cache"])
def test_what_may_change_without_an_invalidation_is_asked_of_the_application(how: str) -> None:
    """A value that was not there, a function that has failed, a value of another cache: nobody says here when that becomes another."""

    async def story() -> None:
        site, other = Site(), Site()
        values = [LookupError("away")]

        async def compute() -> Any:
            if values:
                raise values.pop()
            return "well"

        async def read() -> Any:
            if how == "get":
                return await site.cache.aget("store:2", "nothing")
            if how == "get_many":
                return list(await site.cache.aget_many(["store:2"]))
            if how == "peek":
                entry = await site.cache.apeek("store:2")
                return None if entry is None else entry.value
            if how == "raises":
                return await site.cache.aget_or_compute("store:2", compute)
            return await other.read("store:2")

        app = reading(site, read)
        first = await ask(app, headers={"X-User": "ann"})
        await ask(app, headers={"X-User": "ann", "If-None-Match": first["etag"]})
        assert site.calls == 2

    asyncio.run(story())


def test_a_value_that_is_there_is_no_doubt() -> None:
    """The same reads confirm early where they have found something."""

    async def story() -> None:
        site = Site()
        await site.read("store:2")
        app = reading(site, lambda: site.cache.aget("store:2"))
        first = await ask(app, headers={"X-User": "ann"})
        await ask(app, headers={"X-User": "ann", "If-None-Match": first["etag"]})
        assert site.calls == 1

    asyncio.run(story())


def test_what_was_told_to_nobody_in_particular_confirms_nothing_to_somebody() -> None:
    """Public data may be only a part of what an application tells those whom it knows; nor are two visitors with other cookies one."""

    async def story() -> None:
        site = Site()
        etag = await etag_of(site, "/public:1", user="")
        for user, headers in (("ann", {}), ("", {"Authorization": "Basic x"}), ("", {"Cookie": "a=b"})):
            await site.get("/public:1", etag, user=user, headers=headers)
        assert site.calls == 4
        assert (await site.get("/public:1", etag, user="")).status == 304
        assert site.calls == 4

    asyncio.run(story())


def test_what_an_identified_user_is_told_is_no_shared_caches() -> None:
    """Whatever its policies say: the application knew who asks."""

    async def story() -> None:
        site = Site()
        assert (await site.get("/public:1", user="ann"))["cache-control"].startswith("private, ")
        assert (await site.get("/public:1", user=""))["cache-control"].startswith("public, ")

    asyncio.run(story())


@pytest.mark.parametrize("identity", [42, b"ann"])
def test_an_identity_is_a_text(identity: Any) -> None:
    """An empty one is nobody in particular; anything else is a mistake of the program."""

    def wrong(_scope: Scope) -> Any:
        return identity

    def nobody(_scope: Scope) -> str:
        return ""

    async def story() -> None:
        with pytest.raises(TypeError, match="is a text or None"):
            await Site(identify=wrong).get("/store:1")
        site = Site(identify=nobody)
        etag = await etag_of(site)
        await site.get("/store:1", etag)
        assert site.calls == 2

    asyncio.run(story())


def test_a_path_that_was_rewritten_outside_is_another_resource() -> None:
    """As by a middleware that tells tenants apart, and leaves the raw path as it came."""

    async def story() -> None:
        site = Site()

        async def tenants(scope: Scope, receive: Receive, send: Send) -> None:
            tenant = dict(scope["headers"])[b"x-tenant"].decode()
            await site.app({**scope, "path": f"/store:{tenant}"}, receive, send)

        answers = {tenant: await ask(tenants, "/", headers={"X-User": "ann", "X-Tenant": tenant}) for tenant in ("1", "2")}
        assert answers["1"]["etag"] != answers["2"]["etag"]
        site.change("store:1")
        calls = site.calls
        assert (await ask(tenants, "/", headers={"X-User": "ann", "X-Tenant": "2", "If-None-Match": answers["2"]["etag"]})).status == 304
        assert site.calls == calls

    asyncio.run(story())


# --- a look before a write ----------------------------------------------------------------------------------------------------------


def test_a_look_ends_when_the_answer_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that streams without an end, or listens for its client, keeps no write waiting, and nothing runs behind it."""

    monkeypatch.setattr("cachesync.asgi.LOOK_TAKES", 1e6)

    async def story() -> None:
        site, behind = Site(), list[str]()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["method"] == "GET":
                await receive()
                gone = asyncio.ensure_future(receive())
                await send({"type": "http.response.start", "status": 200, "headers": [(b"etag", b'"mine"')]})
                await send({"type": "http.response.body", "body": b"part", "more_body": True})
                await gone
                behind.append("the look has gone")
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})

        wrapped = CacheMiddleware(app, site.cache)
        async with asyncio.timeout(LONG):
            assert (await ask(wrapped, method="PUT", headers={"If-Match": '"mine"'})).status == 204
            assert (await ask(wrapped, method="PUT", headers={"If-Match": '"other"'})).status == 412
        assert behind == []

    asyncio.run(story())


def test_a_write_does_not_go_by_what_is_stale() -> None:
    """After a soft invalidation the old tag matches nothing any more, though readers may still be given the old value."""

    async def story() -> None:
        site = Site()
        etag = await etag_of(site)
        site.change("store:1", soft=True)
        assert (await put(site, If_Match=etag)).status == 412
        assert site.versions == {"store:1": 1}

    asyncio.run(story())


@pytest.mark.parametrize(("status", "written"), [(404, 204), (410, 204), (401, 412), (503, 412), (302, 412)])
def test_only_what_is_known_not_to_be_there_is_absent(status: int, written: int) -> None:
    """``If-None-Match: *`` creates; what is forbidden or fails may well be there."""

    async def story() -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": status if scope["method"] == "GET" else 204, "headers": []})
            await send({"type": "http.response.body"})

        found = await ask(CacheMiddleware(app, Site().cache), method="PUT", headers={"If-None-Match": "*"})
        assert found.status == written

    asyncio.run(story())


def test_a_door_inside_of_another_one_describes_its_answers_too() -> None:
    """Also inside of a request that somebody else has begun."""

    async def story() -> None:
        site = Site()
        nested = CacheMiddleware(site.app, site.cache, identify=whoever_says)

        async def around(scope: Scope, receive: Receive, send: Send) -> None:
            async with site.cache.request():
                await site.app(scope, receive, send)

        for app in (nested, around):
            first = await ask(app, "/store:1", headers={"X-User": "ann"})
            assert first["etag"] and first["cache-groups"]
            assert (await ask(app, "/store:1", method="PUT", headers={"If-Match": first["etag"]})).status == 200

    asyncio.run(story())


# --- a request ends with its answer -------------------------------------------------------------------------------------------------


def test_what_goes_on_after_the_answer_has_begun_reads_what_is_there() -> None:
    """A stream without an end would repeat its first reading for ever; so would what runs behind an answer."""

    async def story() -> None:
        site, other, _ = pair()
        seen = list[int]()

        async def look(changes: int = 1) -> None:
            site.versions["store:1"] = site.versions.get("store:1", 0) + changes
            other.cache.invalidate("store:1")
            read_log(site.cache)
            seen.append((await site.read("store:1"))["version"])

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await look(0)
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2000000")]})
            await look()
            for _ in range(2):
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
                await look()
            await send({"type": "http.response.body"})
            await look()

        await ask(CacheMiddleware(app, site.cache))
        assert seen == [0, 0, 2, 3, 4], "the first part is made of what was read first"

    asyncio.run(story())


def test_nobody_is_told_what_a_stream_is_made_of_before_it_is() -> None:
    """No groups, lifetime or stamp, where the length is not told; only that it is one user's, and to be asked for each time."""

    async def story() -> None:
        site = Site()
        answered = await ask(streaming(site, [b"a", b"b"], None, []))
        assert {name for name, _ in answered.fields} == {b"cache-control", b"vary", b"cache-status"}

    asyncio.run(story())


@pytest.mark.parametrize("when", ["before its first part", "after it"])
def test_a_stream_that_reads_when_it_has_begun_is_its_callers_alone(when: str) -> None:
    """Where nothing was read yet, nothing is known of what will be: nobody is to guess that he may keep it."""

    async def story() -> None:
        site = Site()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            if when == "before its first part":
                await site.read("store:1")
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await site.read("store:1")
            await send({"type": "http.response.body", "body": b"y"})

        answered = await ask(CacheMiddleware(app, site.cache))
        assert answered["cache-control"] == "private, no-cache"

    asyncio.run(story())


@pytest.mark.parametrize("status", [206, 301, 404, 304, 500])
def test_what_is_no_success_is_its_callers_alone_where_it_was_made_of_managed_data(status: int) -> None:
    """Of many statuses caches guess that they may be kept (RFC 9110, 15.1). A handler's own 304 tells nothing new."""

    async def story() -> None:
        site = Site()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await site.read("public:1")
            await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"1")]})
            await send({"type": "http.response.body", "body": b"x"})

        answered = await ask(CacheMiddleware(app, site.cache))
        assert answered["cache-control"] == ("" if status == 304 else "private, no-cache") and answered["etag"] == ""

    asyncio.run(story())


@pytest.mark.parametrize("more", [{"content-length": "2000"}, {"content-length": "2", "etag": '"mine"'}])
def test_what_is_read_while_a_body_is_made_counts(more: dict[str, str]) -> None:
    """A told length is no word of what comes. What is short is waited for, also with an ETag of its own; what is long is a stream."""

    async def story() -> None:
        site = Site()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await site.read("public:1")
            await send({"type": "http.response.start", "status": 200, "headers": [(k.encode(), v.encode()) for k, v in more.items()]})
            await send({"type": "http.response.body", "body": b"a", "more_body": True})
            await site.read("store:1")
            await send({"type": "http.response.body", "body": b"b"})

        answered = await ask(CacheMiddleware(app, site.cache, largest=100))
        assert answered["cache-control"] == "private, no-cache" and answered["cdn-cache-control"] == ""
        groups = set(site.cache.headers("", "stores", "store:1")["Cache-Groups"].split(", "))
        assert groups <= set(answered["cache-groups"].split(", ")) or ("etag" not in more and answered["cache-groups"] == "")

    asyncio.run(story())


def test_what_another_cache_has_given_is_for_its_caller_alone() -> None:
    """Nobody here knows whose it is, nor when it changes: also where two doors stand one inside of the other, whichever is outside."""

    async def story() -> None:
        one, other = Site(), Site()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await one.read("public:1")
            await other.read("store:1")
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
            await send({"type": "http.response.body", "body": b"x"})

        alone = CacheMiddleware(app, one.cache)
        for door in (alone, CacheMiddleware(alone, other.cache), CacheMiddleware(CacheMiddleware(app, other.cache), one.cache)):
            answered = await ask(door)
            assert answered["cache-control"] == "private, no-cache" and answered["cdn-cache-control"] == ""
            assert answered["etag"] and answered["cachesync-cache-control"] == "max-age=0"

    asyncio.run(story())


def test_what_a_public_value_is_made_of_counts_too() -> None:
    """At second hand as at first: private data does not become public because a public function has read it."""

    async def story() -> None:
        site = Site(identify=None)

        async def outer() -> Any:
            return [await site.read("store:1"), await site.read("inner:1")]

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await site.cache.aget_or_compute("public:1", outer)
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
            await send({"type": "http.response.body", "body": b"x"})

        for _ in range(2):
            answered = await ask(CacheMiddleware(app, site.cache))
            assert answered["cache-control"] == "private, no-cache" and answered["vary"] == "Accept-Language"

    asyncio.run(story())


@pytest.mark.parametrize("is_beside", [True, False], ids=["on the same log", "on another log"])
def test_what_a_public_value_is_made_of_in_another_cache_counts_too(is_beside: bool) -> None:
    """Nobody here knows its policies: it may be anybody's."""

    async def story() -> None:
        shared = MemoryShared()
        site, other = Site(shared, identify=None), Cache(policies=[Policy(name="users", match="*", ttl="5m")], **beside(shared, is_beside))
        await site.cache.astamp()
        await other.astamp()

        async def secret() -> str:
            return "of user 1"

        async def outer() -> Any:
            return await other.aget_or_compute("user:1", secret)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await site.cache.aget_or_compute("public:1", outer)
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
            await send({"type": "http.response.body", "body": b"x"})

        for _ in range(2):
            assert (await ask(CacheMiddleware(app, site.cache)))["cache-control"] == "private, no-cache"
        await other.aclose()

    asyncio.run(story())


def beside(shared: MemoryShared, is_beside: bool) -> dict[str, Any]:
    return {"shared": shared, "listen": False} if is_beside else {}


@pytest.mark.parametrize("how", ["peek", "refresh of another cache"])
def test_what_was_looked_at_or_refreshed_counts_too(how: str) -> None:
    """Private data does not become public by the way it was read."""

    async def story() -> None:
        site, other = Site(identify=None), Site(identify=None)
        await site.read("store:1")

        @other.cache.cached("store:{number}")
        async def fresh(number: int) -> int:
            return number

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await site.read("public:1")
            if how == "peek":
                assert await site.cache.apeek("store:1") is not None
            else:
                assert await fresh.refresh(1) == 1
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
            await send({"type": "http.response.body", "body": b"x"})

        assert (await ask(CacheMiddleware(app, site.cache)))["cache-control"] == "private, no-cache"

    asyncio.run(story())


def test_what_a_handler_says_itself_is_not_overruled_by_a_lifetime() -> None:
    """Neither in ``Cache-Control`` nor in the field of the managed client, which comes before it."""

    async def story() -> None:
        site = Site()
        site.more = {"Cache-Control": "max-age=1"}
        answered = await site.get("/public:1")
        assert answered["cache-control"] == "max-age=1" and answered["cachesync-cache-control"] == ""

    asyncio.run(story())


def test_what_takes_much_memory_is_not_remembered() -> None:
    """Nobody fills it with long addresses, or with what they say where ``Vary`` looks."""

    async def story() -> None:
        for more in ("/store:1?" + "x" * LONGEST, "/store:1"):
            site = Site()
            headers = {"Accept-Language": "x" * LONGEST} if "?" not in more else {}
            etag = (await site.get(more, headers=headers))["etag"]
            assert (await site.get(more, etag, headers=headers)).status == 304 and site.calls == 2

    asyncio.run(story())


def test_what_a_thread_goes_on_to_read_changes_nothing_that_is_looked_at() -> None:
    """A handler may leave one behind, which reads while its answer is described."""
    consumed = Consumed()
    called = Called("value", 1.0, None, until=2.0)
    for policy in POLICIES[:2]:
        consumed.read(f"{policy.name}:1", policy, called)
    seen: list[str] = []
    for policy in consumed.policies.values():
        seen.append(policy.name)
        consumed.read("strict:1", POLICIES[3], called)
    assert seen == ["stores", "public"] and set(consumed.policies) == {"stores", "public", "strict"}


def test_what_a_request_has_consumed_is_bounded() -> None:
    """A request that reads or changes very much depends on anything, or has changed everything."""

    async def story() -> None:
        site = Site()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            for number in range(400):
                await site.read(f"store:{number}")
                await site.cache.ainvalidate(f"other:{number}")
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})

        answered = await ask(CacheMiddleware(app, site.cache), headers={"X-User": "ann"})
        assert len(answered["cache-groups"].split(", ")) <= 32
        assert len(answered["cache-group-invalidation"].split(", ")) <= 2

    asyncio.run(story())


# --- stamps -------------------------------------------------------------------------------------------------------------------------


def test_who_asks_for_a_stamp_is_given_nothing_stale() -> None:
    """A soft invalidation lets others be served the old value; whoever has seen it waits for the new one."""

    async def story() -> None:
        site = Site()
        first = await site.get("/store:1")
        stamp = site.change("store:1", soft=True)
        again = await site.get("/store:1", first["etag"], headers={"Cachesync-At-Least": str(stamp)})
        assert b'"version": 1' in again.body
        assert again["cachesync-stamp"] == str(stamp)

    asyncio.run(story())


def test_an_answer_that_was_read_before_its_own_write_has_the_stamp_from_before() -> None:
    """What others have changed between the two is not in it."""

    async def story() -> None:
        site = Site()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            body = json.dumps(await site.read("store:1")).encode()
            await site.cache.ainvalidate("other:1")
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
            await send({"type": "http.response.body", "body": body})

        before = site.cache.stamp()
        answered = await ask(CacheMiddleware(app, site.cache))
        assert answered["cachesync-stamp"] == str(before)

    asyncio.run(story())


def test_the_stamp_of_several_writes_is_the_last_ones() -> None:
    """In whichever order they end."""
    consumed = Consumed()
    for number in (1, 3, 2):
        consumed.wrote(Stamp("e", number))
    assert consumed.stamp == Stamp("e", 3)
    consumed.wrote(Stamp("e", 1, pending=True))
    consumed.wrote(Stamp("e", 9))
    assert consumed.stamp == Stamp("e", 1, pending=True)


# --- what goes past -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("etag", [None, '"file"'])
def test_a_body_that_the_server_sends_itself_goes_past(etag: str | None) -> None:
    """``http.response.pathsend``: after the start, and not after a 304."""

    async def story() -> None:
        site = Site()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await site.read("store:1")
            headers = [(b"content-length", b"5"), *([(b"etag", etag.encode())] if etag else [])]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.pathsend", "path": "/tmp/file"})

        answered = await ask(CacheMiddleware(app, site.cache), headers={"If-None-Match": '"file"'})
        kinds = [message["type"] for message in answered.events]
        if etag is None:
            assert kinds == ["http.response.start", "http.response.pathsend"]
        else:
            assert (answered.status, kinds) == (304, ["http.response.start", "http.response.body"])

    asyncio.run(story())


def test_a_body_that_is_all_there_is_not_held_back() -> None:
    """Though its application says that more may come."""

    async def story() -> None:
        site, sent = Site(), list[bytes]()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await site.read("store:1")
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"ab", "more_body": True})
            sent.append(b"before the end")
            await send({"type": "http.response.body"})

        def hear(message: Message) -> None:
            if message.get("body"):
                sent.append(message["body"])

        await ask(CacheMiddleware(app, site.cache), on_message=hear)
        assert sent == [b"ab", b"before the end"]

    asyncio.run(story())
