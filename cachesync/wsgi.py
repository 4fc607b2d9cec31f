"""WSGI: validators, headers and early answers for Flask, Bottle, Pyramid and whatever else speaks it (PEP 3333).

``app.wsgi_app = CacheMiddleware(app.wsgi_app, cache)``: no framework is imported.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextvars import copy_context
from http import HTTPStatus
from itertools import chain
from typing import Any, Final, cast
from urllib.parse import quote

from cachesync.cache import Cache
from cachesync.coordination.answers import LARGEST, OF_A_WRITE, Exchange, Reply
from cachesync.coordination.remembered import REMEMBERED
from cachesync.core.header_fields import HeaderFields
from cachesync.core.http import Current, current_of

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]
App = Callable[[Environ, StartResponse], Iterable[bytes]]
Identify = Callable[[Environ], str | None]

_BARE: Final = ("CONTENT_TYPE", "CONTENT_LENGTH")
"""Fields whose variables have no ``HTTP_`` in front (RFC 3875, 4.1.2 and 4.1.3)."""


class CacheMiddleware:
    """As `cachesync.asgi.CacheMiddleware`, for WSGI, with the same settings. ``identify`` is given the environ.

    Each request runs in a context of its own (`contextvars`), so that what it leaves open ends with it. A body is only waited for where its
    length is told and at most ``largest`` bytes; streams, and what is passed by ``wsgi.file_wrapper``, pass as they come.
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

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """One request."""
        identity = self._identify(environ) if self._identify is not None else None
        method, request = environ["REQUEST_METHOD"], fields_of(environ)
        exchange = self._answers.begin(method, target_of(environ), request, identity)
        reply = exchange.early()
        if reply is None and exchange.wants_confirmation:
            self._answers.run(exchange.confirming())
        if reply is None and exchange.wants_current:
            reply = exchange.settle(self._current(environ))
        if reply is not None:
            return _say(start_response, reply, method)
        return _Call(self.app, environ, exchange).answer(start_response)

    def _current(self, environ: Environ) -> Current | None:
        """The validators of what stands at the target of a write now: what a GET of it by the same client is answered."""
        asked = {**looking(environ), "wsgi.input": io.BytesIO()}
        exchange = self._answers.begin("GET", target_of(asked), fields_of(asked), None, is_look=True)
        self._answers.run(exchange.confirming())
        heard = _Heard()
        answer: Any = _Call(self.app, asked, exchange).answer(heard)
        if hasattr(answer, "close"):
            answer.close()
        return current_of(heard.status, heard.fields)


class _Call:
    """One call of an application, and the iterable that it returns: what a server is given where the body passes as it comes."""

    def __init__(self, app: App, environ: Environ, exchange: Exchange) -> None:
        self._app = app
        self._environ = environ
        self._exchange = exchange
        self._context = copy_context()
        self._scope = exchange.scope()
        self._is_over = False
        self._said: tuple[str, HeaderFields] | None = None
        self._start: StartResponse | None = None
        """The server's, once it was called: what the application says after that is for the server."""
        self._server: StartResponse | None = None
        self._instead: Iterable[bytes] | None = None
        """What is said in the place of all that an application writes by itself."""
        self._body: Any = ()
        self._rest: Iterator[bytes] = iter(())

    def answer(self, start_response: StartResponse) -> Iterable[bytes]:
        """Call the application, and tell the server how its answer begins."""
        self._server = start_response
        self._context.run(self._scope.__enter__)
        try:
            self._body = self._context.run(self._app, self._environ, self._hear)
            if self._start is not None:  # it writes by itself
                self._rest = iter(self._body if self._instead is None else self._instead)
                return self
            first = self._first()
            assert self._said is not None, "an application says how its answer begins before it ends (PEP 3333)"
            return self._told(*self._said, first)
        except BaseException:
            self.close()
            raise

    def _told(self, status: str, fields: HeaderFields, first: list[bytes]) -> Iterable[bytes]:
        code, body = int(status[:3]), None
        if (awaited := self._exchange.awaits(code, fields)) is not None:
            body = b"".join((*first, *self))
            reply = self._exchange.answer(code, fields, body if len(body) <= awaited else None)  # more than it said: the server complains
        else:
            reply = self._exchange.answer(code, fields)
        assert self._server is not None
        if reply.body is not None:
            self.close()
            return _say(self._server, reply, self._environ["REQUEST_METHOD"])
        self._start = self._server
        self._start(status, _pairs(reply.fields))
        if body is not None:
            self.close()
            return [body]
        if self._is_file:
            self._end()
            return cast("Iterable[bytes]", self._body)
        self._rest = chain(first, self._rest)
        return self

    def _hear(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        """The application's ``start_response``. With ``exc_info`` it says something else than before, as long as nothing was sent."""
        if self._start is not None:
            return self._start(status, headers, exc_info)
        if self._said is not None and exc_info is None:
            raise AssertionError("start_response was called twice (PEP 3333)")
        self._said = status, HeaderFields((name.encode("latin-1"), value.encode("latin-1")) for name, value in headers)
        return self._write

    def _write(self, data: bytes) -> object:
        """What an application writes by itself is sent at once, and its fields before it."""
        if self._start is None:
            assert self._said is not None and self._server is not None
            status, fields = self._said
            self._start = self._server
            reply = self._exchange.answer(int(status[:3]), fields)
            if reply.body is None:
                self._send = self._start(status, _pairs(reply.fields))
            else:
                self._instead = _say(self._start, reply, self._environ["REQUEST_METHOD"])
        return None if self._instead is not None else self._send(data)

    def _first(self) -> list[bytes]:
        """What comes until the application has said how its answer begins: one that is a generator says so when it is asked. Where the
        length of a body is told, until there is some of it, too, as servers wait for it (PEP 3333): what that is made of is known then.
        A file is left to the server.
        """
        self._rest = iter(self._body)
        first: list[bytes] = []
        while self._said is None or (b"content-length" in self._said[1] and not self._is_file and not any(first)):
            part = self._context.run(next, self._rest, None)
            if part is None:
                break
            first.append(part)
        return first

    @property
    def _is_file(self) -> bool:
        wrapper = self._environ.get("wsgi.file_wrapper")
        return isinstance(wrapper, type) and isinstance(self._body, wrapper)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self._context.run(next, self._rest)

    def close(self) -> None:
        """The answer is over, or nobody wants the rest of it."""
        try:
            if hasattr(self._body, "close"):
                self._context.run(self._body.close)
        finally:
            self._end()

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._context.run(self._scope.__exit__)


class _Heard:
    """Hears how an answer begins, as a server does."""

    def __init__(self) -> None:
        self.status = 0
        self.fields = HeaderFields()

    def __call__(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        self.status = int(status[:3])
        self.fields = HeaderFields((name.encode("latin-1"), value.encode("latin-1")) for name, value in headers)
        return lambda _: None


def _say(start_response: StartResponse, reply: Reply, method: str) -> Iterable[bytes]:
    status = HTTPStatus(reply.status)
    start_response(f"{int(status)} {status.phrase}", _pairs(reply.fields))
    return [] if method == "HEAD" or not reply.body else [reply.body]


def _pairs(fields: HeaderFields) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]


def fields_of(environ: Mapping[str, Any]) -> HeaderFields:
    """The header fields of a request, from what CGI made of them (RFC 3875, 4.1.18). Names with an underscore are lost there."""
    pairs = [(name[5:], value) for name, value in environ.items() if name.startswith("HTTP_") and isinstance(value, str)]
    pairs += [(name, environ[name]) for name in _BARE if environ.get(name)]
    return HeaderFields((name.replace("_", "-").encode("latin-1"), value.encode("latin-1", "replace")) for name, value in pairs)


def looking(environ: Mapping[str, Any]) -> Environ:
    """The variables of a GET of the target of a write, by the same client."""
    return {name: value for name, value in environ.items() if name not in _OF_A_WRITE} | {"REQUEST_METHOD": "GET"}


def _variable(field: bytes) -> str:
    """The name that CGI gives to a header field (RFC 3875, 4.1.18)."""
    name = field.decode("ascii").upper().replace("-", "_")
    return name if name in _BARE else f"HTTP_{name}"


_OF_A_WRITE: Final = frozenset(map(_variable, OF_A_WRITE))


def target_of(environ: Mapping[str, Any]) -> bytes:
    """The path and the query of a request. PEP 3333 has bytes in the guise of Latin-1, without their percent-encoding."""
    path = (environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")).encode("latin-1", "replace")
    query = environ.get("QUERY_STRING", "").encode("latin-1", "replace")
    quoted = quote(path).encode("ascii") or b"/"
    return quoted + b"?" + query if query else quoted


__all__ = ["CacheMiddleware"]
