"""What is a Redis URL. No message shows more of a wrong one than its scheme: the rest may hold a password."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

_SCHEMES: Final = ("redis", "rediss", "unix")
_LATER_SCHEMES: Final = tuple(f"{scheme}+{kind}" for kind in ("cluster", "sentinel") for scheme in ("redis", "rediss"))


def read_redis_url(value: object) -> str:
    """The URL, unchanged. Raises ``ValueError`` saying what would be right."""
    hint = 'write one such as "redis://localhost:6379/0"'
    scheme, mark, _ = value.partition("://") if isinstance(value, str) else ("", "", "")
    if not isinstance(value, str) or not mark or not re.fullmatch(r"[a-z][a-z0-9+.-]{0,30}", scheme):
        raise ValueError(f"this is not a Redis URL; {hint}")
    if scheme in _LATER_SCHEMES:
        raise ValueError(f'"{scheme}://..." arrives in a later version; in this one, {hint}')
    if scheme not in _SCHEMES:
        raise ValueError(f'"{scheme}://..." is not a Redis URL; {hint}')
    if not value.isprintable() or " " in value or "#" in value:
        raise ValueError(f'"{scheme}://..." is not a Redis URL: a space or "#" in it must be written "%20" or "%23"')
    if not _is_address(scheme, value):
        raise ValueError(
            f'"{scheme}://..." is not a Redis URL: its host, port or database is wrong, or a "/", "?" or "@" in its password'
            f' is not written "%2F", "%3F" or "%40"; {hint}'
        )
    return value


def _is_address(scheme: str, url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its message may quote the password
        return False
    if parts.netloc.count("@") > 1:
        return False
    if scheme == "unix":
        return len(parts.path) > 1
    return bool(parts.hostname) and port != 0 and bool(re.fullmatch(r"/?[0-9]{0,5}", parts.path))
