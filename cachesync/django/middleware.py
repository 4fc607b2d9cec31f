"""Middleware: validators, headers and early answers for Django, in ``def`` and ``async def`` code.

``"cachesync.django.middleware.CacheMiddleware"`` in MIDDLEWARE, behind what compresses and what finds out who asks. Settings::

    CACHESYNC = {
        "CACHE": "myapp.caches:cache",           # or a policy file; left out: the LOCATION of CACHES["default"]
        "IDENTIFY": "myapp.caches.who",          # request -> text or None
        "REQUIRE_MATCH": ["PUT", "DELETE"],      # these need If-Match: 428 without it
    }
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final, NamedTuple, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django import conf
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.module_loading import import_string

from cachesync.coordination.answers import LARGEST, Exchange, Reply
from cachesync.coordination.remembered import REMEMBERED
from cachesync.coordination.request_scope import RequestScope
from cachesync.core.header_fields import HeaderFields
from cachesync.core.http import Current, current_of
from cachesync.django.places import cache_at
from cachesync.wsgi import fields_of, looking


class _View(NamedTuple):
    """A request to be answered by the view, inside of a scope."""

    request: HttpRequest
    scope: RequestScope


GetResponse = Callable[[HttpRequest], "HttpResponseBase | Awaitable[HttpResponseBase]"]
_SETTINGS: Final = {"CACHE": None, "IDENTIFY": None, "REQUIRE_MATCH": (), "LARGEST": LARGEST, "REMEMBER": REMEMBERED}


class CacheMiddleware:
    """As `cachesync.asgi.CacheMiddleware`: what is answered from cached data gets its headers from the policies of that data.

    ``IDENTIFY`` is given the request and returns whose it is: without it only answers for everybody are confirmed before the view is
    called. Raises ``ImproperlyConfigured`` and ``PolicyError`` for settings that make no sense.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        given: dict[str, Any] = getattr(conf.settings, "CACHESYNC", {})
        if unknown := sorted(given.keys() - _SETTINGS.keys()):
            raise ImproperlyConfigured(f"CACHESYNC: {unknown[0]} has no meaning; known are {', '.join(_SETTINGS)}")
        chosen: dict[str, Any] = {**_SETTINGS, **given}
        if isinstance(chosen["REQUIRE_MATCH"], str):
            raise ImproperlyConfigured(f"CACHESYNC: REQUIRE_MATCH is a list of methods; write [{chosen['REQUIRE_MATCH']!r}]")
        self._identify = _function(chosen["IDENTIFY"])
        location = chosen["CACHE"] or conf.settings.CACHES["default"].get("LOCATION", "")
        if not location:
            raise ImproperlyConfigured('CACHESYNC: CACHE is missing, and CACHES["default"] has no LOCATION; write "myapp.caches:cache"')
        self._answers = cache_at(location).answers(
            require_match=chosen["REQUIRE_MATCH"], largest=chosen["LARGEST"], remember=chosen["REMEMBER"]
        )
        self._get_response: Any = get_response
        self._is_async = iscoroutinefunction(get_response)  # pyright: ignore[reportDeprecated] - that of Python 3.11 does not see marked callables
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """One request; to be awaited where the view is."""
        return self._aanswer(request) if self._is_async else self._answer(request)

    def _answer(self, request: HttpRequest) -> HttpResponseBase:
        flow = self._answering(request, self._identify(request) if self._identify is not None else None)
        reply: Any = None
        while True:
            try:
                step = flow.send(reply)
            except StopIteration as stop:
                return cast("HttpResponseBase", stop.value)
            if isinstance(step, _View):
                with step.scope:
                    reply = self._get_response(step.request)
            else:
                reply = self._answers.run(step.confirming())

    async def _aanswer(self, request: HttpRequest) -> HttpResponseBase:
        identity: Any = self._identify(request) if self._identify is not None else None
        flow = self._answering(request, (await identity) if inspect.isawaitable(identity) else identity)
        reply: Any = None
        while True:
            try:
                step = flow.send(reply)
            except StopIteration as stop:
                return cast("HttpResponseBase", stop.value)
            if isinstance(step, _View):
                with step.scope:
                    reply = await self._get_response(step.request)
            else:
                reply = await self._answers.arun(step.confirming())

    def _answering(self, request: HttpRequest, identity: str | None) -> Generator[_View | Exchange, Any, HttpResponseBase]:
        """The order of things, for both colours: yields views to call, and the exchange where the log has to be confirmed first."""
        exchange = self._begin(request, identity)
        reply = exchange.early()
        if reply is None and exchange.wants_confirmation:
            yield exchange
        if reply is None and exchange.wants_current:
            asked = _asked(request)
            inner = self._begin(asked, None, is_look=True)
            yield inner
            reply = exchange.settle(_current(_described(inner, (yield _View(asked, inner.scope())), asked)))
        if reply is not None:
            return _said(reply, request)
        return _described(exchange, (yield _View(request, exchange.scope())), request)

    def _begin(self, request: HttpRequest, identity: str | None, *, is_look: bool = False) -> Exchange:
        target = request.get_full_path().encode("ascii", "replace")
        return self._answers.begin(request.method or "GET", target, fields_of(request.META), identity, is_look=is_look)


def _function(identify: Any) -> Any:
    """What IDENTIFY names. Raises ``ImproperlyConfigured`` where that is nothing."""
    try:
        return import_string(identify) if isinstance(identify, str) else identify
    except ImportError as error:
        raise ImproperlyConfigured(f"CACHESYNC: IDENTIFY: {identify!r} can not be imported: {error}") from error


def _asked(request: HttpRequest) -> HttpRequest:
    """A GET of the target of a write, by the same client."""
    asked = copy.copy(request)
    asked.__dict__.pop("headers", None)  # made from META, once
    asked.META = looking(request.META)
    asked.method = "GET"
    asked._body = b""  # as Django keeps what was read
    return asked


def _current(response: HttpResponseBase) -> Current | None:
    response.close()
    return current_of(response.status_code, _fields(response))


def _described(exchange: Exchange, response: HttpResponseBase, request: HttpRequest) -> HttpResponseBase:
    """The answer of a view with the fields that describe it, or what is said in its place. What streams passes as it comes."""
    fields, body = _fields(response), None
    if not response.streaming:
        body = cast("HttpResponse", response).content
        if b"content-length" not in fields:
            fields = fields.plus((b"content-length", str(len(body)).encode("ascii")))
        if exchange.awaits(response.status_code, fields) is None:
            body = None
    reply = exchange.answer(response.status_code, fields, body)
    if reply.body is not None:
        said = _said(reply, request)
        said.cookies = response.cookies
        response.close()
        return said
    for name, _ in reply.fields:
        value = reply.fields.value(name)
        if name != b"set-cookie" and value is not None and value != fields.value(name):
            response.headers[name.decode("latin-1")] = value.decode("latin-1")
    return response


def _fields(response: HttpResponseBase) -> HeaderFields:
    """The header fields of an answer. Django keeps cookies apart."""
    pairs = [(name.encode("latin-1"), str(value).encode("latin-1")) for name, value in response.items()]
    cookies = [(b"set-cookie", one.OutputString().encode("latin-1", "replace")) for one in response.cookies.values()]
    return HeaderFields((*pairs, *cookies))


def _said(reply: Reply, request: HttpRequest) -> HttpResponse:
    response = HttpResponse(b"" if request.method == "HEAD" else reply.body or b"", status=int(reply.status))
    del response.headers["Content-Type"]
    for name, value in reply.fields:
        if name != b"set-cookie":
            response.headers[name.decode("latin-1")] = value.decode("latin-1")
    return response


__all__ = ["CacheMiddleware"]
