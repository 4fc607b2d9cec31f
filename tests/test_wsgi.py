"""The doors of HTTP for WSGI and Django: what they hand over, and how bodies pass.

What is decided is in `test_answers.py` and `test_http.py`; each fact here holds at both doors.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import pytest
from asgiref import sync
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpResponse, StreamingHttpResponse
from django.test import RequestFactory
from django.test.utils import override_settings

from cachesync import Cache, MemoryShared, Policy, Settings
from cachesync.core.policy import HttpPolicy
from cachesync.core.settings import CoordinationSettings
from cachesync.django import middleware as of_django
from cachesync.testing import FakeClock
from cachesync.wsgi import CacheMiddleware, Environ, StartResponse
from support.nodes import LONG

if not settings.configured:
    settings.configure(SECRET_KEY="of-tests")

POLICIES: Final = [
    Policy(name="stores", match="store:*", ttl="5m", http=HttpPolicy(etag="stamp", vary=["Accept-Language"])),
    Policy(name="public", match="public:*", ttl="5m", http=HttpPolicy(visibility="public", max_age="1m")),
]
DOORS: Final = ("WSGI", "Django", "Django, async")


@dataclass
class Answered:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    def __getitem__(self, name: str) -> str:
        return self.headers.get(name.lower(), "")


class Site:
    """A cache, and a page behind one of the doors: ``GET /store:1`` shows what is cached, ``PUT`` changes it."""

    def __init__(self, door: str = "WSGI", *, identify: Any = None, **how: Any) -> None:
        coordination = CoordinationSettings(budget=LONG, max_lag=5.0)
        self.clock = FakeClock()
        shared = MemoryShared()
        self.cache = Cache(Settings(coordination=coordination), policies=POLICIES, shared=shared, clock=self.clock, listen=False)
        self.cache.stamp()
        self.door, self.calls, self.version = door, 0, 1
        self.how: dict[str, Any] = {"IDENTIFY": identify, **{name.upper(): value for name, value in how.items()}, "CACHE": self.cache}
        self.app = validator(CacheMiddleware(validator(self.answer), self.cache, identify=identify, **how))
        self.more: list[tuple[str, str]] = []

    def page(self, method: str, key: str) -> tuple[str, bytes]:
        self.calls += 1
        if method == "PUT":
            self.version += 1
            self.cache.invalidate(key)
            return "200 OK", b"changed"
        if key == "nothing":
            return "404 Not Found", b"nothing"
        return "200 OK", json.dumps(self.cache.get_or_compute(key, lambda: self.version)).encode()

    def answer(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        status, body = self.page(environ["REQUEST_METHOD"], environ["PATH_INFO"].strip("/"))
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *self.more]
        start_response(status, headers)
        return [body]

    def view(self, request: Any) -> HttpResponse:
        status, body = self.page(request.method, request.path.strip("/"))
        response = HttpResponse(body, status=int(status[:3]), content_type="application/json")
        for name, value in self.more:
            response[name] = value
        return response

    async def aview(self, request: Any) -> HttpResponse:
        return self.view(request)

    def ask(self, target: str = "/store:1", method: str = "GET", **headers: str) -> Answered:
        named = {"HTTP_" + name.upper(): value for name, value in headers.items()}
        if self.door == "WSGI":
            return ask(self.app, target, method, named)
        request = RequestFactory().generic(method, target, **named)  # type: ignore[arg-type]
        with override_settings(CACHESYNC=self.how):
            if self.door == "Django":
                response: Any = self.middleware(self.view)(request)
            else:
                response = asyncio.run(self.middleware(self.aview)(request))
        fields = {name.lower(): value for name, value in response.items()}
        return Answered(response.status_code, fields, response.getvalue() if not response.streaming else b"".join(response))

    def middleware(self, view: Any) -> Any:
        """One for the life of the site, as in a server."""
        if not hasattr(self, "_middleware"):
            self._middleware: Any = of_django.CacheMiddleware(view)
        return self._middleware


def ask(app: Any, target: str = "/", method: str = "GET", headers: dict[str, str] | None = None) -> Answered:
    """Ask as a server does, to the end, and close what came back."""
    path, _, query = target.partition("?")
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": query, **(headers or {})}
    setup_testing_defaults(environ)
    said: list[Any] = []

    def start_response(status: str, fields: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        said[:] = [int(status[:3]), {name.lower(): value for name, value in fields}]
        return written.append

    written: list[bytes] = []
    body = app(environ, start_response)
    try:
        parts = list(body)
    finally:
        if hasattr(body, "close"):
            body.close()
    return Answered(said[0], said[1], b"".join([*written, *parts]))


# --- both doors -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", DOORS)
def test_an_answer_made_of_cached_data_is_described(door: str) -> None:
    """By the policies of that data; what is not made of any stays as it was."""
    site = Site(door)
    page = site.ask()
    assert page.status == 200 and page.body == b"1"
    assert page["ETag"].startswith('"')
    assert page["Cache-Control"] == "private, no-cache"
    assert page["Vary"] == "Accept-Language"
    assert page["Cachesync-Stamp"] and page["Cache-Groups"]
    assert page["Cache-Status"].startswith("cachesync; fwd=miss")
    assert site.ask()["Cache-Status"].startswith("cachesync; hit")
    missing = site.ask("/nothing")
    assert missing.status == 404 and not missing["ETag"] and not missing["Cache-Control"]


@pytest.mark.parametrize("door", DOORS)
def test_what_the_client_has_is_confirmed(door: str) -> None:
    """With 304: without a body, and with the fields that a 200 would have. ETags differ between URLs."""
    site = Site(door)
    page = site.ask()
    again = site.ask(if_none_match=page["ETag"])
    assert (again.status, again.body, site.calls) == (304, b"", 2)
    assert {name: again[name] for name in ("ETag", "Cache-Control", "Vary")} == {
        name: page[name] for name in ("ETag", "Cache-Control", "Vary")
    }
    assert not again["Content-Length"] and not again["Content-Type"]
    assert site.ask("/store:1?a=b")["ETag"] != page["ETag"]
    site.cache.invalidate("store:*")
    site.version = 2
    changed = site.ask(if_none_match=page["ETag"])
    assert (changed.status, changed.body) == (200, b"2")


@pytest.mark.parametrize("door", DOORS)
def test_with_an_authoriser_it_is_confirmed_before_the_application_is_called(door: str) -> None:
    """To the one whose it is, and to nobody else."""

    def who(request: Any) -> str | None:
        environ: dict[str, Any] = getattr(request, "META", request)
        return environ.get("HTTP_X_USER")

    site = Site(door, identify=who)
    etag = site.ask(x_user="ann")["ETag"]
    assert (site.ask(x_user="ann", if_none_match=etag).status, site.calls) == (304, 1)
    site.ask(x_user="bob", if_none_match=etag)
    assert site.calls == 2
    site.cache.invalidate("store:1")
    site.version = 2
    assert site.ask(x_user="ann", if_none_match=etag).status == 200


@pytest.mark.parametrize("door", DOORS)
def test_a_write_with_a_condition_that_fails_has_no_effect(door: str) -> None:
    """412 for one who has read something older, 428 for one who says nothing where that is asked for."""
    site = Site(door, require_match=["PUT"])
    etag = site.ask()["ETag"]
    assert site.ask(method="PUT").status == 428
    assert site.ask(method="PUT", if_match='"another"').status == 412
    assert site.ask("/nothing", "PUT", if_match="*").status == 412
    assert site.ask(method="PUT", if_none_match=etag).status == 412
    assert site.version == 1
    written = site.ask(method="PUT", if_match=etag)
    assert (written.status, site.version) == (200, 2)
    assert written["Cache-Group-Invalidation"] and written["Cachesync-Stamp"]
    assert json.loads(site.ask(method="PUT", if_match=etag).body)["error"]["code"] == "precondition_failed"


@pytest.mark.parametrize("door", DOORS)
def test_a_stamp_that_is_asked_for_is_read_first(door: str) -> None:
    """What can not be understood is told."""
    site = Site(door)
    assert site.ask(cachesync_at_least="nonsense").status == 400
    stamp = site.cache.invalidate("store:2")
    assert site.ask(cachesync_at_least=str(stamp)).status == 200


@pytest.mark.parametrize("door", DOORS)
def test_what_sets_a_cookie_is_private(door: str) -> None:
    """Whatever the policy of its data says; and the cookie goes along."""
    site = Site(door)
    assert site.ask("/public:1")["Cache-Control"].startswith("public, max-age=")
    site.more = [("Set-Cookie", "a=b")]
    assert site.ask("/public:1")["Cache-Control"].startswith("private, max-age=")
    assert site.ask("/public:1", authorization="Basic x")["Cache-Control"].startswith("private, max-age=")


@pytest.mark.parametrize("door", DOORS)
def test_an_answer_to_head_has_no_body(door: str) -> None:
    """Also where it is made here."""
    site = Site(door, require_match=["PUT"])
    etag = site.ask()["ETag"]
    for said in (site.ask(method="HEAD", if_none_match=etag), site.ask(method="HEAD", if_match='"x"')):
        assert said.body == b""


# --- WSGI alone -------------------------------------------------------------------------------------------------------------------


def says_nothing(*_: Any) -> None:
    """The ``start_response`` of a server that is not listening."""


def wrapped(app: Any, **how: Any) -> tuple[Any, Cache]:
    cache = Cache(policies=POLICIES)
    return CacheMiddleware(app, cache, **how), cache


def test_a_stream_passes_part_by_part() -> None:
    """Nothing is read ahead: each part is asked of the application when the server wants it. It is closed at the end."""
    told: list[str] = []

    class Stream:
        def __init__(self) -> None:
            self.left = 3

        def __iter__(self) -> Iterator[bytes]:
            return self

        def __next__(self) -> bytes:
            if not self.left:
                raise StopIteration
            self.left -= 1
            told.append("made")
            return b"x"

        def close(self) -> None:
            told.append("closed")

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        cache.get_or_compute("store:1", lambda: 1)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return Stream()

    middleware, cache = wrapped(app)
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)

    def begins(*_: Any) -> None:
        told.append("begun")

    body = middleware(environ, begins)
    assert told == ["begun"]
    for part in body:
        assert part == b"x"
        told.append("sent")
    body.close()
    assert told == ["begun", *["made", "sent"] * 3, "closed"]


def test_a_large_body_passes() -> None:
    """It is not waited for, so it has no ETag; nor has one whose length is not told."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        cache.get_or_compute("store:1", lambda: 1)
        start_response("200 OK", [("Content-Length", "8")] if environ["QUERY_STRING"] == "told" else [])
        return [b"1234", b"5678"]

    middleware, cache = wrapped(app, largest=7)
    for target in ("/?told", "/"):
        page = ask(middleware, target)
        assert page.body == b"12345678"
        assert not page["ETag"]
        assert page["Cache-Control"] == "private, no-cache"


def test_what_a_request_reads_while_it_streams_belongs_to_it_and_to_nobody_else() -> None:
    """Its scope ends with it, also where a server forgets to close it: the next request in this thread has its own."""
    scopes: list[Any] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        yield b"a"
        scopes.append(cache.get_or_compute("store:1", lambda: len(scopes)))
        yield b"b"
        cache.invalidate("store:1")

    middleware, cache = wrapped(app)
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    forgotten = middleware(environ, says_nothing)
    assert next(iter(forgotten)) == b"a"
    with cache.request() as mine:
        cache.get_or_compute("store:2", lambda: 2)
        assert next(forgotten) == b"b"
        assert mine.consumed is not None
        assert [one.text for one in mine.consumed.dependencies] == ["store:2"]


def test_an_application_may_say_how_it_begins_when_it_is_asked_for_its_body() -> None:
    """As generators do; and it may change its mind while nothing was sent."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "5")])
        try:
            raise ValueError
        except ValueError as error:
            start_response("500 Sorry", [("Content-Length", "5")], (ValueError, error, None))
        yield b"sorry"

    page = ask(wrapped(app)[0])
    assert (page.status, page.body) == (500, b"sorry")


@pytest.mark.parametrize("door", DOORS)
def test_an_empty_identity_is_nobody(door: str) -> None:
    """Private data is confirmed to nobody in particular by the view alone."""

    def identify(_request: Any) -> str:
        return ""

    site = Site(door, identify=identify)
    page = site.ask()
    assert site.ask(if_none_match=page["ETag"]).status == 304 and site.calls == 2


def test_an_application_may_write_by_itself() -> None:
    """What PEP 3333 has for old applications: their fields are sent before it."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        cache.get_or_compute("store:1", lambda: 1)
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        write(b"a")
        return [b"b"]

    middleware, cache = wrapped(app)
    page = ask(middleware)
    assert (page.status, page.body) == (200, b"ab")
    assert page["Cache-Control"] == "private, no-cache"


@pytest.mark.parametrize(("condition", "status"), [("IF_NONE_MATCH", 304), ("IF_MATCH", 412)])
def test_what_an_application_writes_by_itself_is_not_sent_behind_a_refusal(condition: str, status: int) -> None:
    """What it says is answered in its place, whole, and the rest of it is dropped."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        cache.get_or_compute("store:1", lambda: 1)
        write = start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2"), ("ETag", '"mine"')])
        write(b"a")
        return [b"b"]

    middleware, cache = wrapped(app)
    page = ask(middleware, headers={f"HTTP_{condition}": '"mine"' if status == 304 else '"another"'})
    assert page.status == status and page.body not in (b"ab", b"a", b"b")
    assert page["Content-Length"] == (str(len(page.body)) if status == 412 else "")


def test_a_file_is_left_to_the_server() -> None:
    """Which may send it without reading it."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return FileWrapper(io.BytesIO(b"content"))

    environ: dict[str, Any] = {"wsgi.file_wrapper": FileWrapper}
    setup_testing_defaults(environ)
    assert isinstance(wrapped(app)[0](environ, says_nothing), FileWrapper)


def test_what_an_application_raises_arrives_and_what_it_has_begun_is_closed() -> None:
    """The request is over then."""
    closed: list[bool] = []

    class Broken:
        def __iter__(self) -> Iterator[bytes]:
            raise ZeroDivisionError

        def close(self) -> None:
            closed.append(True)

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "1")])
        return Broken()

    with pytest.raises(ZeroDivisionError):
        ask(wrapped(app)[0])
    assert closed == [True]


# --- Django alone -----------------------------------------------------------------------------------------------------------------


def test_djangos_middleware_is_of_the_colour_of_its_view() -> None:
    """So that a stack of one colour changes to no other because of it."""
    site = Site("Django")
    with override_settings(CACHESYNC=site.how):
        is_async: Any = sync.iscoroutinefunction  # that of Python 3.11 sees no marked callables
        assert not is_async(of_django.CacheMiddleware(site.view))
        assert is_async(of_django.CacheMiddleware(site.aview))


def test_a_stream_of_django_passes() -> None:
    """It is not read here."""
    read: list[bytes] = []

    def parts() -> Iterator[bytes]:
        read.append(b"x")
        yield b"x"

    def view(request: Any) -> StreamingHttpResponse:
        site.cache.get_or_compute("store:1", lambda: 1)
        return StreamingHttpResponse(parts())

    site = Site("Django")
    with override_settings(CACHESYNC=site.how):
        response = of_django.CacheMiddleware(view)(RequestFactory().get("/"))
    assert response.streaming  # type: ignore[union-attr]
    assert read == []
    assert response["Cache-Control"] == "private, no-cache"  # type: ignore[index]


def test_cookies_of_django_go_along() -> None:
    """Also with a 304, and they make an answer one user's."""

    def view(request: Any) -> HttpResponse:
        response = HttpResponse(str(site.cache.get_or_compute("public:1", lambda: 1)))
        response.set_cookie("a", "b")
        return response

    site = Site("Django")
    with override_settings(CACHESYNC=site.how):
        middleware: Any = of_django.CacheMiddleware(view)
        first = middleware(RequestFactory().get("/"))
        again = middleware(RequestFactory().get("/", headers={"If-None-Match": first["ETag"]}))
    assert first["Cache-Control"].startswith("private")
    assert (again.status_code, again.cookies["a"].value) == (304, "b")


def test_settings_that_make_no_sense_are_told_at_the_start() -> None:
    """With what is known."""
    with override_settings(CACHESYNC={"LOCATION": "x"}), pytest.raises(ImproperlyConfigured, match="known are CACHE, IDENTIFY"):
        of_django.CacheMiddleware(lambda _: HttpResponse())


def test_the_cache_is_that_of_the_default_alias_unless_another_is_named() -> None:
    """One place says where it is."""
    site = Site("Django")
    with override_settings(CACHES={"default": {"BACKEND": "cachesync.django.CachesyncCache", "LOCATION": site.cache}}):
        middleware: Any = of_django.CacheMiddleware(site.view)
        assert middleware(RequestFactory().get("/store:1"))["ETag"]
