"""Names in a shared layer.

``{ns}:log``, ``{ns}:meta`` and ``{ns}:bans`` share one slot of a Redis Cluster; ``ns:e:{key}``, the entry, and ``ns:l:{key}``, its
lease, share another, so that every script touches one slot. The braces are part of the names: they mark what decides the slot
(Redis Cluster specification, hash tags). Inside a key ``%``, ``{`` and ``}`` are percent-encoded, because a brace in it would move
the slot; an empty key would have no hash tag at all and is written ``%``. A key of more than 512 bytes is replaced by its BLAKE2b
hash, which nobody can collide on purpose.
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
    entry_prefix: bytes
    lease_prefix: bytes

    @classmethod
    def of(cls, namespace: str) -> Names:
        ns = escape(namespace)
        slot = b"{" + ns + b"}"
        return cls(slot + b":log", slot + b":meta", slot + b":bans", ns + b":e:{", ns + b":l:{")

    def entry(self, key: str) -> bytes:
        return self.entry_prefix + escape(key) + b"}"

    def lease(self, key: str) -> bytes:
        return self.lease_prefix + escape(key) + b"}"


def escape(key: str) -> bytes:
    """A key's text inside a name: injective, free of braces, at most 512 bytes and never empty."""
    if "%" in key or "{" in key or "}" in key:
        key = key.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
    encoded = key.encode() if key.isascii() else key.encode("utf-8", "surrogatepass")
    if len(encoded) > MAX_KEY_BYTES:
        return HASHED + hashlib.blake2b(encoded, digest_size=20).hexdigest().encode("ascii")
    return encoded or EMPTY
