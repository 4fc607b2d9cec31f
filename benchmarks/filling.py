"""A full cache in seconds: one entry is stored as any other, and the server itself copies its bytes under many names.

What the copies hold was written by the package: envelope, stamp, tags, lifetime. Only the way into Redis is shorter, because a million
computations would take minutes and are not what is measured.
"""

from __future__ import annotations

from typing import Any, Final

import redis

from cachesync.core.names import Names

PIECE: Final = 20_000
"""Copies made by one call of the script, so that it ends before a client loses patience."""

_COPY: Final = """
local blob, left = redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])
for at = tonumber(ARGV[3]), tonumber(ARGV[4]) - 1 do
  redis.call('SET', ARGV[1] .. at .. ARGV[2], blob, 'PX', left)
end
return #blob
"""


def fill(client: redis.Redis, namespace: str, key: str, copies: int) -> int:
    """Store the entry of ``key``, which ends in ``:0``, under ``...:1`` and so on too, until there are so many ``copies``.

    Returns how many bytes an entry has. Raises ``LookupError`` where there is no such entry.
    """
    name = Names.of(namespace).entry(key)
    before, zero, after = name.rpartition(b":0")
    if not zero or not client.exists(name):
        raise LookupError(f"no entry {name!r} to copy")
    copying: Any = client.register_script(_COPY)
    size = int(client.strlen(name))
    for begin in range(1, copies, PIECE):
        size = int(copying(keys=[name], args=[before + b":", after, begin, min(begin + PIECE, copies)]))
    return size
