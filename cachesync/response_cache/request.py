"""One request, as the response cache sees it, and what it sends by itself."""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import blake2b
from http import HTTPStatus
from typing import Final

from cachesync.coordination.asgi import Receive, Scope, Send, target_of
from cachesync.core import http_cache as rule
from cachesync.core.header_fields import HeaderFields
from cachesync.core.http import AT_LEAST
from cachesync.core.http_cache import StoredAnswer
from cachesync.core.stamps import Stamp

_HOST: Final = re.compile(r"[a-z0-9._~:%\[\]-]*")
"""What may stand in ``Host`` (RFC 3986, 3.2.2, without what nobody uses). Anything else could be taken for a part of a path."""


LONGEST_ADDRESS: Final = 8_192
"""Characters of an address under which something is kept. RFC 9110, 4.1 wants 8,000 to be supported."""


class Request:
    """One request, and what is read of it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.method: str = scope["method"]
        self.fields = HeaderFields(scope["headers"])
        host = (self.fields.value(b"host") or b"").decode("latin-1").lower()
        self.origin = f"{scope.get('scheme', 'http')}://{host}"
        self.url = self.origin + target_of(scope).decode("latin-1")
        self.is_readable = _HOST.fullmatch(host) is not None and len(self.url) <= LONGEST_ADDRESS
        """Whether it has an address that something can be kept under, and says nothing that can not be understood."""
        self.least: Stamp | None = None
        """The stamp that its answer may not be older than (``Cachesync-At-Least``)."""
        self.position: Stamp | None = None
        """The position in the log that was applied before anything was looked up."""
        if (least := self.fields.value(AT_LEAST)) is not None:
            try:
                self.least = Stamp.parse(least.decode("latin-1"))
            except ValueError:
                self.is_readable = False

    @property
    def has_body(self) -> bool:
        """Whether it brings content, which the key of an answer would not tell."""
        return self.fields.value(b"content-length") not in (None, b"0") or b"transfer-encoding" in self.fields

    @property
    def kind(self) -> tuple[str, bool, bool]:
        """What decides whether its answer is likely to be storable: the address, and whether somebody known asks."""
        return self.url, b"authorization" in self.fields, b"cookie" in self.fields

    def variant(self, names: Iterable[bytes]) -> str:
        """The address of the answer for requests that say the same in these fields. No other address has a space."""
        said = (name + b"\1" + (b"" if value is None else b"=" + value) for name, value in rule.selected(tuple(names), self.fields))
        digest = blake2b(b"\0".join(said), digest_size=16).hexdigest()
        return f"{self.url} {digest}"

    def is_selected_by(self, answer: StoredAnswer) -> bool:
        """Whether ``Vary`` lets this request have that answer (RFC 9111, 4.1). A key is a hash: here it is looked at itself."""
        return rule.selected(tuple(name for name, _ in answer.selected_by), self.fields) == answer.selected_by

    async def send_plain(self, status: HTTPStatus, about: bytes) -> None:
        """Answer with a status alone. ``about`` is what ``Cache-Status`` says."""
        body = b"" if self.method == "HEAD" else f"{status.value} {status.phrase}\n".encode()
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
        headers.append((b"cache-status", about))
        await self.send({"type": "http.response.start", "status": status.value, "headers": headers})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})


def with_status(answer: HeaderFields, status: bytes) -> list[tuple[bytes, bytes]]:
    """The member of this cache comes behind those of the caches before it (RFC 9211, 2)."""
    return [*answer, (b"cache-status", status)]
