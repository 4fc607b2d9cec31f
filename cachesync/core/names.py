"""Names in a shared layer.

``{ns}:log``, ``{ns}:meta``, ``{ns}:bans`` and ``{ns}:again`` share one slot of a Redis Cluster; ``ns:e:{key}``, the entry, and
``ns:l:{key}``, its lease and the channel of those who wait for it, share another, so that every script touches one slot. The braces
are part of the names: they mark what decides the slot (Redis Cluster specification, hash tags). Inside a key ``%``, ``{`` and ``}`` are
percent-encoded, because a brace in it would move the slot; an empty key would have no hash tag at all and is written ``%``. A key of
more than 512 bytes is replaced by its BLAKE2b hash, which nobody can collide on purpose.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

MAX_KEY_BYTES: Final = 512
EMPTY: Final = b"%"
HASHED: Final = b"%#"
"""Begins the name of a hashed key. A percent sign is always followed by two digits otherwise, so no key looks like it."""


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one namespace, as bytes."""

    log: bytes
    meta: bytes
    bans: bytes
    again: bytes
    entry_prefix: bytes
    lease_prefix: bytes

    @classmethod
    def of(cls, namespace: str) -> Names:
        ns = escape(namespace)
        slot = b"{" + ns + b"}"
        return cls(slot + b":log", slot + b":meta", slot + b":bans", slot + b":again", ns + b":e:{", ns + b":l:{")

    def entry(self, key: str) -> bytes:
        return self.entry_prefix + escape(key) + b"}"

    def audit(self, question: str) -> bytes:
        """Where answers to a question of the auditor are collected."""
        return self.meta.removesuffix(b"meta") + b"audit:" + question.encode("ascii")

    def lease(self, key: str) -> bytes:
        return self.lease_prefix + escape(key) + b"}"

    def key_of(self, name: bytes) -> str | None:
        """The key of an entry or a lease by its name; ``None`` for a name that is none, or that holds the hash of a long key."""
        for prefix in (self.entry_prefix, self.lease_prefix):
            if name.startswith(prefix) and name.endswith(b"}"):
                return unescape(name[len(prefix) : -1])
        return None


def escape(key: str) -> bytes:
    """A key's text inside a name: injective, free of braces, at most 512 bytes and never empty."""
    if "%" in key or "{" in key or "}" in key:
        key = key.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
    encoded = key.encode() if key.isascii() else key.encode("utf-8", "surrogatepass")
    if len(encoded) > MAX_KEY_BYTES:
        return HASHED + hashlib.blake2b(encoded, digest_size=20).hexdigest().encode("ascii")
    return encoded or EMPTY


def unescape(text: bytes) -> str | None:
    """The key that is written so, ``None`` for a hashed one."""
    if text.startswith(HASHED):
        return None
    if text == EMPTY:
        return ""
    plain = text.replace(b"%7B", b"{").replace(b"%7D", b"}").replace(b"%25", b"%")
    try:
        return plain.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return None
