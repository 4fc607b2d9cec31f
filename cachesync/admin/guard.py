"""The guard: who may ask the admin app what, how often, and how much may be sent."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final, TypeVar, cast

from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from cachesync.admin.bodies import Body
from cachesync.coordination.asgi import Identify, identity_of, is_cross_site
from cachesync.core.http import failure
from cachesync.core.token_bucket import TokenBuckets

B = TypeVar("B", bound=Body)

MOST_BYTES: Final = 1024 * 1024
"""Bytes of a request's body."""
DRAINED: Final = 16 * MOST_BYTES
"""What comes above `MOST_BYTES` is read up to here, so that a client hears why it was refused instead of a broken connection."""
LONGEST_NUMBER: Final = 15
"""Digits of a Content-Length that is looked at."""
MOST_SAID: Final = 5
"""Mistakes in a body that are told at once."""

HEADERS: Final = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
"""Of every answer."""


class RefusedError(Exception):
    """A request is refused: ``status`` and ``code`` say how, ``message`` why and what to do. Nothing has changed."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}

    def response(self) -> Response:
        """The answer that says so."""
        return answer(failure(self.code, self.message), self.status, self.headers)


def answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer of JSON. Where a number has no end, ``null`` stands."""
    text = json.dumps(_finite(content), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    body = text.encode("utf-8", "replace")
    return Response(body, status, {**HEADERS, **(headers or {})}, media_type="application/json")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in cast("dict[str, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in cast("list[Any]", value)]
    return value


def closed() -> RefusedError:
    """What everybody is told where nobody was named who says who may enter."""
    return RefusedError(403, "closed", "this app is closed: give Admin(cache, authorise=...) a function that says who may enter")


class Guard:
    """Lets a request through, or raises `RefusedError`.

    ``rate`` and ``burst`` are how many changes a second an identity may ask for; it may read ten times as often.
    """

    def __init__(self, authorise: Identify | None, origins: Collection[str], *, rate: float, burst: int) -> None:
        self._authorise = authorise
        self._origins = origins
        self._changes = TokenBuckets(rate, burst)
        self._reads = TokenBuckets(10 * rate, 10 * burst)

    @property
    def is_closed(self) -> bool:
        """Whether nobody may enter, because nobody was named who says who may."""
        return self._authorise is None

    async def admit(self, request: Request, *, changes: bool) -> str:
        """The identity of whoever has sent a request that may be answered."""
        if changes and is_cross_site(request.scope, self._origins):
            raise RefusedError(403, "cross_site", "a page of another site has sent this; name its origin in origins=[...] if it may")
        if self._authorise is None:
            raise closed()
        who = await identity_of(self._authorise, request.scope)
        if who is None:
            raise RefusedError(403, "forbidden", "you may not: the application's authoriser does not know you as somebody who may")
        wait = (self._changes if changes else self._reads).take(who, time.monotonic())
        if wait:
            seconds = str(math.ceil(wait))
            raise RefusedError(429, "too_many_requests", f"too many requests: come again in {seconds} s", {"retry-after": seconds})
        return who

    async def read(self, request: Request, model: type[B]) -> B:
        """The body of a request, as its model has it."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().casefold()
        if kind != "application/json":
            raise RefusedError(415, "unsupported_media_type", "send JSON, with the header Content-Type: application/json")
        body = await _body_of(request)
        try:
            return model.model_validate_json(body)
        except ValidationError as error:
            raise _refusal(error, model.sample) from error


async def _body_of(request: Request) -> bytes:
    too_large = RefusedError(413, "too_large", f"a body has at most {MOST_BYTES:,} bytes; send several requests")
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or len(declared) > LONGEST_NUMBER or int(declared) > DRAINED:
        raise too_large
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > DRAINED:
                raise too_large
            if size <= MOST_BYTES:
                parts.append(part)
    except ClientDisconnect as error:
        raise RefusedError(400, "incomplete", "the body has ended early") from error
    if size > MOST_BYTES:
        raise too_large
    return b"".join(parts)


def _refusal(error: ValidationError, sample: str) -> RefusedError:
    """What is wrong with a body, without quoting it: it may hold what is masked. A ``sample`` is shown of what would do."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    if problems[0]["type"] == "json_invalid":
        return RefusedError(400, "malformed_json", f"the body is no JSON, or not UTF-8; send an object such as {sample}")
    said = [f"{_place(problem['loc'])}: {problem['msg']}" for problem in problems[:MOST_SAID]]
    more = f" (and {len(problems) - MOST_SAID:,} more)" if len(problems) > MOST_SAID else ""
    code = "too_many" if any(problem["type"] == "too_long" for problem in problems) else "invalid_body"
    return RefusedError(400, code, "; ".join(said) + more)


def _place(location: tuple[int | str, ...]) -> str:
    """Where a mistake is. The name of a field that nobody knows is the caller's own, and is not repeated."""
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part[:40]}" for part in location)
    return place.lstrip(".") or "the body"


Handler = Callable[[Request, str], Awaitable[Response]]
"""Answers a request of somebody who may ask."""
