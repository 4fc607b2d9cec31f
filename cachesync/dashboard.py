"""The dashboard: one page without a build step, and the headers that bind a browser to it.

The page asks the server that it came from and nobody else, runs the one script that it holds, and can not make markup of a text: its
Content-Security-Policy (W3C, Content Security Policy Level 3; Trusted Types) says so, and the browser sees to it.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Final, NamedTuple

_INLINE: Final = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)


class DashboardPage(NamedTuple):
    """The bytes of the page, and the headers to send with them."""

    body: bytes
    headers: Mapping[str, str]


@functools.cache
def dashboard() -> DashboardPage:
    """The page. Its style and its script are allowed by their hashes, so whoever changes a byte of them in between has nothing run."""
    text = (files("cachesync") / "browser" / "dashboard.html").read_text(encoding="utf-8")
    hashes = {name: base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode() for name, inline in _INLINE.findall(text)}
    policy = (
        "default-src 'none'",
        f"script-src 'sha256-{hashes['script']}'",
        f"style-src 'sha256-{hashes['style']}'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
    return DashboardPage(
        text.encode(),
        {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": "; ".join(policy),
            "Cache-Control": "no-cache",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        },
    )
