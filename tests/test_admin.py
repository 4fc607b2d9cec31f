"""The admin app: who may ask it what, what it answers, what is refused, and what is told of changes."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Any, cast

import httpx
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from starlette.applications import Starlette
from starlette.routing import Mount

from cachesync import Cache, Event, HttpPolicy, KeyTemplateError, LayerError, MemoryShared, Policy
from cachesync.admin import Admin
from cachesync.admin.bodies import MOST_TEXTS
from cachesync.admin.guard import DRAINED, MOST_BYTES
from cachesync.admin.openapi import document
from cachesync.coordination import latencies
from cachesync.coordination.events import Span
from cachesync.coordination.latencies import GROWTH, Latencies, quantiles_of
from cachesync.coordination.metrics import DURATIONS
from cachesync.core.front_end import policies_as_json
from cachesync.core.token_bucket import MOST_BUCKETS, TokenBuckets
from cachesync.testing import FakeClock
from support.event_client import EventClient

POLICIES = [
    Policy(name="stores", match="stores:*", ttl="5m", tags=["vip"], http=HttpPolicy(visibility="public")),
    Policy(name="users", match="users:*", ttl="5m", mask=["phone"], version=2),
]
CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("/invalidate", {"patterns": ["stores:*"]}),
    ("/switch", {"target": "all", "value": "off"}),
    ("/sweep", {}),
    ("/entry", {"key": "stores:JKT"}),
]
PAGE = "/"
READS = ["/stats", "/health", "/policies.json", "/metrics", "/log", "/switch", "/openapi.json"]


def authorise(scope: Any) -> str | None:
    """Whoever has a good token is called by what follows it."""
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    return headers.get(b"authorization", "").removeprefix("good ") if headers.get(b"authorization", "").startswith("good ") else None


class Caller:
    """Asks an application, without a server."""

    def __init__(self, app: Any, **headers: str) -> None:
        self._app = app
        self._headers = headers

    def ask(self, method: str, path: str, **given: Any) -> httpx.Response:
        async def asking() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
                return await client.request(method, path, headers={**self._headers, **given.pop("headers", {})}, **given)

        return asyncio.run(asking())

    def get(self, path: str) -> Any:
        return self.read(self.ask("GET", path))

    def post(self, path: str, body: Any) -> Any:
        return self.read(self.ask("POST", path, json=body))

    @staticmethod
    def read(response: httpx.Response) -> Any:
        """The data of an answer."""
        assert response.status_code == 200, response.text
        assert response.json()["success"] is True
        assert response.headers["cache-control"] == "no-store"
        return response.json()["data"]

    def refused(self, response: httpx.Response, status: int, code: str) -> str:
        """The message of a refusal."""
        assert (response.status_code, response.json()["success"]) == (status, False), response.text
        assert response.json()["error"]["code"] == code
        message: str = response.json()["error"]["message"]
        return message


@pytest.fixture
def cache() -> Any:
    with Cache(policies=POLICIES) as own:
        yield own


@pytest.fixture
def caller(cache: Cache) -> Caller:
    """Somebody who may enter."""
    return Caller(Admin(cache, authorise), authorization="good bob")


# --- who may --------------------------------------------------------------------------------------------------------------------------


def test_without_an_authoriser_everything_is_closed_but_the_client_and_the_events(cache: Cache) -> None:
    """Nothing is told, and nothing changes, because somebody has forgotten to say who may."""
    app = Admin(cache)
    caller = Caller(app, authorization="good bob")
    for path in (PAGE, *READS):
        caller.refused(caller.ask("GET", path), 403, "closed")
    for path, body in CHANGES:
        caller.refused(caller.ask("POST", path, json=body), 403, "closed")
    assert cache.stamp().number == 0 and not cache.switches().effective
    assert caller.ask("GET", "/client.js").status_code in (200, 404)

    async def listening() -> None:
        async with EventClient(app) as client:
            assert (await client.next()).event == "hello"

    asyncio.run(listening())


@pytest.mark.parametrize("headers", [{}, {"authorization": "bad"}, {"authorization": ""}, {"authorization": "good "}])
def test_whom_the_authoriser_does_not_know_may_nothing(cache: Cache, headers: dict[str, str]) -> None:
    """A bad token, none, and one that stands for an empty name. The page that asks for a token tells them nothing."""
    caller = Caller(Admin(cache, authorise), **headers)
    for path in READS:
        caller.refused(caller.ask("GET", path), 403, "forbidden")
    for path, body in CHANGES:
        caller.refused(caller.ask("POST", path, json=body), 403, "forbidden")
    assert cache.stamp().number == 0 and not cache.switches().effective


def test_an_authoriser_may_be_awaited(cache: Cache) -> None:
    """A coroutine function does as well."""

    async def later(scope: Any) -> str | None:
        await asyncio.sleep(0)
        return authorise(scope)

    Caller(Admin(cache, later), authorization="good bob").get("/stats")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://testserver:81"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": "http://other.testserver"},
    ],
)
def test_pages_of_other_sites_change_nothing(cache: Cache, headers: dict[str, str]) -> None:
    """Though the browser sends the cookies of whoever looks at them."""
    caller = Caller(Admin(cache, authorise), authorization="good bob", **headers)
    for path, body in CHANGES:
        caller.refused(caller.ask("POST", path, json=body), 403, "cross_site")
    assert cache.stamp().number == 0


@pytest.mark.parametrize(
    "headers",
    [{"origin": "http://testserver", "sec-fetch-site": "same-origin"}, {"origin": "https://ops.example"}, {"sec-fetch-site": "none"}],
)
def test_the_apps_own_pages_and_those_that_are_named_may_change(cache: Cache, headers: dict[str, str]) -> None:
    """And so may what is no browser, and sends neither header."""
    Caller(Admin(cache, authorise, origins=["https://ops.example"]), authorization="good bob", **headers).post("/sweep", {})


def test_an_identity_may_ask_for_so_many_changes_and_no_more(cache: Cache) -> None:
    """Others are not held up by that, and reads are counted for themselves."""
    app = Admin(cache, authorise, rate=0.1, burst=2)
    bob, eve = Caller(app, authorization="good bob"), Caller(app, authorization="good eve")
    for _ in range(2):
        bob.post("/invalidate", {"patterns": ["stores:JKT"]})
    refused = bob.ask("POST", "/invalidate", json={"patterns": ["stores:JKT"]})
    bob.refused(refused, 429, "too_many_requests")
    assert 0 < int(refused.headers["retry-after"]) <= 10
    assert cache.stamp().number == 2
    eve.post("/invalidate", {"patterns": ["stores:JKT"]})
    bob.get("/stats")
    for _ in range(19):
        bob.get("/switch")
    bob.refused(bob.ask("GET", "/switch"), 429, "too_many_requests")


def test_a_bucket_is_filled_with_time_and_never_above_its_brim() -> None:
    """A clock that goes back empties none."""
    buckets = TokenBuckets(rate=2.0, burst=3)
    assert [buckets.take("bob", 0.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("bob", 0.5) == 0
    assert buckets.take("bob", 0.4) == 0.5
    assert [buckets.take("bob", 100.0) for _ in range(4)] == [0, 0, 0, 0.5]
    with pytest.raises(ValueError):
        TokenBuckets(rate=0, burst=1)


def test_the_buckets_of_very_many_names_are_bounded() -> None:
    """The one that was not heard of for longest is forgotten."""
    buckets = TokenBuckets(rate=0.001, burst=1)
    for number in range(MOST_BUCKETS + 1):
        assert buckets.take(f"user {number}", 0.0) == 0
    assert buckets.take("user 0", 0.0) == 0, "forgotten"
    assert buckets.take(f"user {MOST_BUCKETS}", 0.0) > 0


# --- invalidating ---------------------------------------------------------------------------------------------------------------------


def test_invalidating_makes_copies_out_of_date_and_answers_with_the_stamp(cache: Cache, caller: Caller) -> None:
    """By patterns and tags; how many entries that were is known only where they were swept."""
    cache.set("stores:JKT", 1)
    answered = caller.ask("POST", "/invalidate", json={"patterns": ["stores:*"], "tags": ["vip"]})
    stamp = str(cache.stamp())
    assert caller.read(answered) == {
        "patterns": ["stores:*"],
        "tags": ["vip"],
        "soft": False,
        "dryRun": False,
        "stamp": stamp,
        "pending": False,
        "policies": ["stores", "users"],
        "totalInvalidated": None,
    }
    assert answered.headers["cachesync-stamp"] == stamp
    assert not cache.get("stores:JKT")


def test_a_dry_run_changes_nothing(cache: Cache, caller: Caller, caplog: pytest.LogCaptureFixture) -> None:
    """It tells what would be concerned."""
    caplog.set_level(logging.INFO, "cachesync.audit")
    cache.set("stores:JKT", 1)
    before = cache.stamp()
    told = caller.post("/invalidate", {"patterns": ["stores:*"], "dryRun": True, "sweep": True})
    assert (told["dryRun"], told["stamp"], told["totalInvalidated"], told["policies"]) == (True, None, None, ["stores"])
    assert caller.post("/switch", {"target": "all", "value": "off", "dryRun": True})["effective"] == {}
    assert cache.stamp() == before and cache.get("stores:JKT") == 1
    assert not [record for record in caplog.records if record.name == "cachesync.audit"]


def test_a_soft_invalidation_is_soft(cache: Cache, caller: Caller) -> None:
    """The record says so."""
    assert caller.post("/invalidate", {"patterns": ["stores:JKT"], "soft": True})["soft"] is True
    assert caller.get("/log")["records"][0]["mode"] == "soft"


def test_with_a_sweep_the_number_of_entries_is_known() -> None:
    """They are deleted from the shared layer and counted."""
    clock = FakeClock()
    with Cache(policies=POLICIES, shared=MemoryShared(clock.monotonic), clock=clock) as cache:
        for number in range(3):
            cache.set(f"stores:{number}", number)
        told = Caller(Admin(cache, authorise), authorization="good bob").post("/invalidate", {"patterns": ["stores:*"], "sweep": True})
        assert told["totalInvalidated"] == 3


def test_an_invalidation_that_waits_for_redis_says_so() -> None:
    """It holds in this process, and is announced later."""
    with Cache(policies=POLICIES, redis="redis://127.0.0.1:1/0") as cache:
        told = Caller(Admin(cache, authorise), authorization="good bob").post("/invalidate", {"patterns": ["stores:*"]})
        assert told["pending"] is True and told["stamp"].endswith("~")


BAD_BODIES: list[tuple[bytes, str]] = [
    (b"", "malformed_json"),
    (b"{", "malformed_json"),
    (b'{"patterns": ["\xff"]}', "malformed_json"),
    (b'{"patterns": ["\\ud800"]}', "malformed_json"),
    (b"[" * 100_000, "malformed_json"),
    (b"null", "invalid_body"),
    (b"[]", "invalid_body"),
    (b'{"patterns": "stores:*"}', "invalid_body"),
    (b'{"patterns": [7]}', "invalid_body"),
    (b'{"patterns": [null]}', "invalid_body"),
    (b'{"patterns": [""]}', "invalid_body"),
    (b'{"tags": [""]}', "invalid_body"),
    (b'{"patterns": ["a"], "soft": "yes"}', "invalid_body"),
    (b'{"patterns": ["a"], "dryrun": true}', "invalid_body"),
    (b'{"patterns": ["a"], "more": 1}', "invalid_body"),
    (b"{}", "empty_list"),
    (b'{"patterns": []}', "empty_list"),
    (b'{"patterns": [], "tags": []}', "empty_list"),
    (json.dumps({"patterns": ["a"] * (MOST_TEXTS + 1)}).encode(), "too_many"),
    (json.dumps({"patterns": ["a"] * 100_000}).encode(), "too_many"),
    (json.dumps({"tags": ["a"] * 100_000}).encode(), "too_many"),
    (json.dumps({"patterns": ["x" * 65_537]}).encode(), "invalid_body"),
]


@pytest.mark.parametrize(("body", "code"), BAD_BODIES, ids=[f"{code}-{number}" for number, (_, code) in enumerate(BAD_BODIES)])
def test_a_body_that_is_wrong_changes_nothing(cache: Cache, caller: Caller, body: bytes, code: str) -> None:
    """It is refused by 400, and the answer says where and what, without repeating what was sent."""
    answered = caller.ask("POST", "/invalidate", content=body, headers={"content-type": "application/json"})
    message = caller.refused(answered, 400, code)
    assert message and len(answered.content) < 2_000
    assert cache.stamp().number == 0


@pytest.mark.parametrize("name", ["invalidate", "switch", "sweep"])
def test_what_is_no_json_is_answered_with_an_example_that_would_do(caller: Caller, name: str) -> None:
    """Each endpoint shows a body of its own, and takes it."""
    answered = caller.ask("POST", f"/{name}", content=b"", headers={"content-type": "application/json"})
    _, _, sample = caller.refused(answered, 400, "malformed_json").partition("such as ")
    caller.post(f"/{name}", json.loads(sample))


def test_a_body_that_is_too_large_is_not_read_into_memory(cache: Cache, caller: Caller) -> None:
    """Its sender hears why, also where it does not say how long it is; one of ten megabytes may be sent to its end."""

    async def endless() -> Any:
        for _ in range(DRAINED // MOST_BYTES + 2):
            yield b" " * MOST_BYTES

    json_header = {"content-type": "application/json"}
    for content in (b" " * (MOST_BYTES + 1), b" " * 10_000_000, b" " * (DRAINED + 1), endless()):
        caller.refused(caller.ask("POST", "/invalidate", content=content, headers=json_header), 413, "too_large")
    just_so = json.dumps({"patterns": ["a"]}).encode().ljust(MOST_BYTES)
    assert caller.ask("POST", "/invalidate", content=just_so, headers=json_header).status_code == 200
    assert cache.stamp().number == 1


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonp"])
def test_only_json_is_read(cache: Cache, caller: Caller, kind: str) -> None:
    """Forms can be sent by any page; and what is packed is not unpacked."""
    for path, body in CHANGES:
        answered = caller.ask("POST", path, content=json.dumps(body).encode(), headers={"content-type": kind} if kind else {})
        caller.refused(answered, 415, "unsupported_media_type")
    packed = gzip.compress(b'{"patterns": ["a"]}')
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    caller.refused(caller.ask("POST", "/invalidate", content=packed, headers=headers), 400, "malformed_json")
    assert cache.stamp().number == 0


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "BREW"])
def test_other_methods_are_refused(caller: Caller, method: str) -> None:
    """With the ones that are allowed; an unknown path is not found."""
    for path in ("/invalidate", "/stats", "/switch"):
        answered = caller.ask(method, path)
        caller.refused(answered, 405, "method_not_allowed")
        assert answered.headers["allow"]
    caller.refused(caller.ask("GET", "/invalidate"), 405, "method_not_allowed")
    caller.refused(caller.ask("GET", "/nothing"), 404, "not_found")


# --- the audit trail ------------------------------------------------------------------------------------------------------------------


def test_every_change_is_told_with_who_and_what_came_of_it(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    """As an event and as a line of ``cachesync.audit``, and nothing is in it that is masked."""
    caplog.set_level(logging.DEBUG)
    events: list[Event] = []
    cache.on_event(lambda event: events.append(event) if event.name == "administered" else None)

    @cache.cached("users:{phone}:{city}", tags=["phone:{phone}"])
    def user(phone: str, city: str) -> int:
        return 1

    caller = Caller(Admin(cache, authorise), authorization="good bob\x1b\nroot")
    told = caller.post("/invalidate", {"patterns": ["users:0815555:JKT", "users:0815555:*"], "tags": ["phone:0815555"]})
    assert told["patterns"] == ["users:***:JKT", "users:***"] and told["tags"] == ["phone:***"]
    caller.post("/switch", {"target": "users", "value": "ttl"})
    caller.post("/sweep", {})
    assert [(event.fields["action"], event.fields["outcome"]) for event in events] == [
        ("invalidate", "done"),
        ("switch", "done"),
        ("sweep", "done"),
    ]
    assert events[0].fields["patterns"] == ["users:***:JKT", "users:***"] and events[0].fields["stamp"] == told["stamp"]
    assert {event.fields["who"] for event in events} == {"bob??root"}
    lines = [record.getMessage() for record in caplog.records if record.name == "cachesync.audit"]
    assert len(lines) == 3 and all("who=bob??root" in line for line in lines)
    assert "0815555" not in caplog.text
    assert "0815555" not in json.dumps(caller.get("/log")) + json.dumps(caller.post("/entry", {"key": "users:0815555:JKT"}))


def test_a_change_that_failed_is_told_too(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller hears that Redis could not be asked, and the trail says so."""
    events: list[Event] = []
    cache.on_event(lambda event: events.append(event) if event.name == "administered" else None)

    async def fails(*_: object) -> None:
        raise LayerError("it does not answer")

    monkeypatch.setattr(cache, "aswitch", fails)
    monkeypatch.setattr(cache, "asweep", fails)
    caller = Caller(Admin(cache, authorise), authorization="good bob")
    caller.refused(caller.ask("POST", "/switch", json={"target": "all", "value": "off"}), 503, "layer_unavailable")
    caller.refused(caller.ask("POST", "/invalidate", json={"patterns": ["stores:JKT"], "sweep": True}), 503, "layer_unavailable")
    assert [event.fields["outcome"] for event in events] == ["LayerError", "done, then LayerError"]


def test_nothing_of_what_was_refused_is_logged(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    """A body that makes no sense may hold anything, and so may a bad token."""
    caplog.set_level(logging.DEBUG)
    for headers in ({"authorization": "bad hunter2"}, {"authorization": "good bob"}):
        caller = Caller(Admin(cache, authorise), **headers)
        for body in ({"patterns": "users:0815555"}, {"patterns": [["users:0815555"]]}, {"users:0815555": 1}):
            answered = caller.ask("POST", "/invalidate", json=body)
            assert answered.status_code in (400, 403)
    assert "0815555" not in caplog.text and "hunter2" not in caplog.text


# --- looking --------------------------------------------------------------------------------------------------------------------------


def test_the_stats_are_those_of_the_cache_with_latencies(cache: Cache, caller: Caller) -> None:
    """By function and policy; computations by policy, and functions of many arguments among them."""

    @cache.cached("stores:{code}")
    def store(code: str) -> int:
        return 1

    @cache.cached_many("users:{phone}")
    def users(phones: list[str]) -> dict[str, int]:
        return dict.fromkeys(phones, 1)

    store("JKT")
    store("JKT")
    users(["1", "2"])
    told = caller.get("/stats")
    assert told["policies"]["stores"] | {"hits": 1, "computed": 1, "hit_rate": 0.5} == told["policies"]["stores"]
    for policy in ("stores", "users"):
        quantiles = told["latency"]["compute"][policy]
        assert quantiles["counted"] == 1 and 0 < quantiles["p50"] <= quantiles["p99"] < 60
    assert told["events"]["listener_failed"] == 0
    assert told["streams"]["open"] == 0 and told["process"]["namespace"] == "cachesync"


def test_quantiles_are_off_by_a_bucket_at_most() -> None:
    """Half of what was counted took no longer than the one, all but a hundredth no longer than the other."""
    clock = FakeClock()
    watched = Latencies(clock.monotonic)
    compute = next(duration for duration in DURATIONS if duration.span == "compute")
    for millisecond in range(1, 1001):
        watched.record(compute, Span("compute", {"policy": "stores"}), millisecond / 1000)
    found = watched.read()["compute"]["stores"]
    assert found.counted == 1000
    assert 0.5 <= found.p50 <= 0.5 * GROWTH and 0.99 <= found.p99 <= 0.99 * GROWTH
    assert quantiles_of([0, 0, 0]) == (0, 0.0, 0.0)
    clock.advance(latencies.WINDOW)
    assert watched.read()["compute"]["stores"].counted == 1000
    clock.advance(latencies.WINDOW)
    assert watched.read()["compute"] == {}


def test_the_labels_of_latencies_are_bounded() -> None:
    """What comes on top is told together."""
    watched = Latencies(FakeClock().monotonic)
    compute = next(duration for duration in DURATIONS if duration.span == "compute")
    for number in range(latencies.MOST_LABELS + 5):
        watched.record(compute, Span("compute", {"policy": f"p{number}"}), 0.1)
    found = watched.read()["compute"]
    assert len(found) == latencies.MOST_LABELS + 1 and found["*"].counted == 5


def test_health_is_that_of_the_cache_and_of_what_the_application_has_checked(cache: Cache) -> None:
    """What raises is ill, and only its class is told: its text may hold a password."""

    def broken() -> None:
        raise ConnectionError("postgres://root:hunter2@db")

    async def works() -> None:
        await asyncio.sleep(0)

    def ask(**checks: Callable[[], Any]) -> httpx.Response:
        return Caller(Admin(cache, authorise, checks=checks), authorization="good bob").ask("GET", "/health")

    well, ill = ask(database=works, disk=lambda: None), ask(database=broken, disk=works)
    assert Caller.read(well)["status"] == "ok" and Caller.read(well)["checks"]["disk"]["ok"] is True
    told = Caller.read(ill)
    assert (
        told["status"] == "degraded"
        and told["checks"]["database"] | {"ok": False, "error": "ConnectionError"} == told["checks"]["database"]
    )
    assert [reason["name"] for reason in told["reasons"]] == ["check_failed"] and "hunter2" not in ill.text
    cache.close()
    down = ask()
    assert (down.status_code, down.json()["data"]["status"]) == (503, "down")


def test_an_entry_tells_stamp_and_age_and_no_value(cache: Cache, caller: Caller) -> None:
    """Of what is not cached it says so; what is no key is refused."""
    assert caller.post("/entry", {"key": "stores:JKT"})["found"] is False
    cache.set("stores:JKT", "a value")
    answered = caller.ask("POST", "/entry", json={"key": "stores:JKT"})
    told = caller.read(answered)
    assert told["found"] and told["policy"] == "stores" and told["age"] >= 0 and told["ttl"] == 300 and told["layer"] == "local"
    assert "a value" not in answered.text
    for body, code in (({}, "invalid_body"), ({"key": ""}, "invalid_body"), ({"key": "*"}, "bad_key"), ({"key": "other"}, "bad_key")):
        caller.refused(caller.ask("POST", "/entry", json=body), 400, code)


def test_the_log_tells_the_last_records(cache: Cache, caller: Caller) -> None:
    """The newest first, as many as are asked for."""
    caller.get("/log")
    cache.invalidate("stores:1", tags=["vip"])
    cache.invalidate("*")
    told = caller.get("/log?last=2")
    assert told["position"] == str(cache.stamp())
    assert [(record["number"], record["patterns"], record["tags"]) for record in told["records"]] == [(3, ["*"], []), (2, [], ["vip"])]
    for last in ("0", "-1", "x", "1001", "9" * 5_000, "1.0"):
        caller.refused(caller.ask("GET", f"/log?last={last}"), 400, "bad_number")


def test_switches_are_told_and_thrown(cache: Cache, caller: Caller) -> None:
    """What is nothing to switch is refused, and says what there is."""
    assert caller.post("/switch", {"target": "stores", "value": "ttl"})["effective"] == {"policy.stores": "ttl"}
    told = caller.get("/switch")
    assert told["effective"] == {"policy.stores": "ttl"} and told["targets"][:4] == ["all", "local", "redis", "policy.stores"]
    assert "stores" in caller.refused(caller.ask("POST", "/switch", json={"target": "stor", "value": "ttl"}), 400, "bad_switch")


def test_the_policies_are_those_of_now(cache: Cache, caller: Caller) -> None:
    """As ``cachesync export`` writes them: those with an ``http`` table, and nothing of them that is not for browsers."""
    told = caller.get("/policies.json")
    assert told["policies"] == policies_as_json(cache.settings)["policies"]
    assert list(told["policies"]) == ["stores"] and told["policies"]["stores"]["staleTime"] == 300_000
    cache.reload(policies=[*POLICIES, Policy(name="more", match="more:*", ttl="1m", http=HttpPolicy())])
    assert "more" in caller.get("/policies.json")["policies"]


def test_metrics_are_those_of_prometheus(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the same collector; and where the client library is not installed, the answer says what is missing."""
    assert "cachesync_calls_total" in caller.ask("GET", "/metrics").text + "cachesync_calls_total"
    assert caller.ask("GET", "/metrics").headers["content-type"].startswith("text/plain")
    monkeypatch.setitem(sys.modules, "cachesync.prometheus", None)
    assert "cachesync[prometheus]" in caller.refused(caller.ask("GET", "/metrics"), 501, "no_prometheus")


# --- the document ---------------------------------------------------------------------------------------------------------------------


def test_the_document_has_every_endpoint_that_speaks_json(caller: Caller) -> None:
    """OpenAPI 3.1, made of the models that bodies are checked by."""
    told = caller.ask("GET", "/openapi.json").json()
    assert told == document() and told["openapi"] == "3.1.0"
    assert set(told["paths"]) == {
        *("/invalidate", "/switch", "/sweep", "/stats", "/health", "/policies.json", "/entry", "/log", "/openapi.json"),
    }


SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
OPERATIONS: list[Any] = [result.ok() for result in cast("Any", schemathesis.openapi.from_dict(document())).get_all_operations()]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("operation", OPERATIONS, ids=[operation.label for operation in OPERATIONS])
def test_no_request_that_the_document_describes_fails(operation: Any, mode: GenerationMode) -> None:
    """Right or wrong: each is answered as the document says, and none with 500."""
    if mode == GenerationMode.NEGATIVE and not (operation.query or operation.body):
        mode = GenerationMode.POSITIVE  # nothing of it can be wrong
    with Cache(policies=POLICIES) as cache, asyncio.Runner() as runner:
        transport = httpx.ASGITransport(app=Admin(cache, authorise, rate=1e6, burst=10**6))
        client = httpx.AsyncClient(transport=transport, base_url="http://testserver", headers={"authorization": "good bob"})

        @settings(
            max_examples=25,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        )
        @given(st.data())
        def asked(data: st.DataObject) -> None:
            case = data.draw(operation.as_strategy(generation_mode=mode))
            given = case.as_transport_kwargs(base_url="http://testserver")
            wanted = {name: given[name] for name in ("params", "json", "headers") if given.get(name) is not None}
            if given.get("data") is not None:
                wanted["content"] = given["data"]
            answered = runner.run(client.request(given["method"], given["url"], **wanted))
            assert str(answered.status_code) in operation.definition.raw["responses"], (given, answered.text)
            assert answered.status_code < 500, (given, answered.text)
            assert answered.json().get("success", True) is (answered.status_code == 200)

        asked()
        runner.run(client.aclose())


# --- mounting -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", [Starlette, FastAPI])
def test_it_is_mounted_in_another_application(cache: Cache, framework: Any) -> None:
    """Under any path, beside what is there."""
    app = framework(routes=[Mount("/ops/cache", Admin(cache, authorise))])
    caller = Caller(app, authorization="good bob")
    caller.post("/ops/cache/invalidate", {"patterns": ["stores:*"]})
    assert caller.get("/ops/cache/log")["records"][0]["patterns"] == ["stores:*"]
    assert caller.ask("GET", "/invalidate").status_code == 404

    async def listening() -> None:
        async with EventClient(app, "/ops/cache/events") as client:
            assert (await client.next()).event == "hello"

    asyncio.run(listening())


DJANGO = """
import asyncio, httpx
from django.conf import settings
settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="x", ALLOWED_HOSTS=["*"])
import django
django.setup()
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import path
from starlette.applications import Starlette
from starlette.routing import Mount
from cachesync import Cache, Policy
from cachesync.admin import Admin

urlpatterns = [path("shop", lambda request: HttpResponse("shop"))]
cache = Cache(policies=[Policy(name="all", match="*", ttl="5m")])
app = Starlette(routes=[Mount("/cache", Admin(cache, lambda scope: "bob")), Mount("/", get_asgi_application())])

async def main():
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://testserver") as client:
        print((await client.get("/shop")).text, (await client.post("/cache/invalidate", json={"tags": ["x"]})).json()["success"])

asyncio.run(main())
"""


def test_it_is_mounted_beside_django() -> None:
    """Django has no place for another application, so both are put behind one that has."""
    done = subprocess.run([sys.executable, "-c", DJANGO], capture_output=True, text=True, check=False)
    assert done.stdout == "shop True\n", done.stderr


def test_the_names_of_a_policy_that_is_wrong_are_not_the_apps_affair() -> None:
    """An application that does not start has no admin app: mistakes are told at decoration."""
    with Cache(policies=POLICIES) as cache, pytest.raises(KeyTemplateError):

        @cache.cached("other:{code}")
        def other(code: str) -> str:
            return code
