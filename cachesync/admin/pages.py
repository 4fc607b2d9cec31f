"""What browsers are given from the wheel: the dashboard, which is one page, and the client's module."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

from starlette.responses import Response

from cachesync.admin.guard import HEADERS, RefusedError


def dashboard() -> Response:
    """The page alone, which knows nothing: what it asks for then is authorised."""
    page = _shipped("dashboard.html")
    assert page is not None
    return Response(page, headers={**HEADERS, "content-security-policy": _policy_of(page)}, media_type="text/html; charset=utf-8")


def client(known: str) -> Response:
    """The client's module, or that a browser has it: ``known`` is what its ``If-None-Match`` says."""
    text = _shipped("client.js")
    if text is None:
        return RefusedError(404, "not_found", "this version has no browser client").response()
    etag = f'"{hashlib.blake2b(text, digest_size=12).hexdigest()}"'
    headers = {**HEADERS, "cache-control": "no-cache", "etag": etag, "cross-origin-resource-policy": "cross-origin"}
    if etag in known:
        return Response(status_code=304, headers=headers)
    return Response(text, headers=headers, media_type="text/javascript; charset=utf-8")


def _shipped(name: str) -> bytes | None:
    """A file for browsers that comes with the package."""
    found = files("cachesync").joinpath("browser", name)
    return found.read_bytes() if found.is_file() else None


def _policy_of(page: bytes) -> str:
    """The content security policy of a page: its own scripts and styles, no request to anywhere else (CSP 3, 6.7), and no markup made
    of a text, whatever the text is (Trusted Types).
    """

    def hashes(tag: bytes) -> str:
        found = re.findall(rb"<%s[^>]*>(.*?)</%s>" % (tag, tag), page, re.DOTALL)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'" for text in found) or "'none'"

    return (
        f"default-src 'none'; script-src {hashes(b'script')}; style-src {hashes(b'style')}; img-src data:; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
