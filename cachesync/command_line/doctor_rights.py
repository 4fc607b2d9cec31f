"""What a user of Redis may do: each command that cachesync needs is tried, on names that nobody else uses and that are gone afterwards.

The least rights stand in the reference, docs/reference/redis.md; a test compares.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from redis.exceptions import ResponseError

from cachesync.command_line.findings import Finding, fine, warning, wrong
from cachesync.core.names import Names
from cachesync.core.settings import Settings
from cachesync.errors import LayerError
from cachesync.layers import scripts
from cachesync.layers.redis_places import Place
from cachesync.layers.redis_wire import Command

ADVICE: Final = "let the user do what the reference lists (What lies in Redis, Rights): +{}"
KEPT: Final = 10_000
"""Milliseconds after which what was written for a try is gone, should nobody remove it."""


class Probe(NamedTuple):
    """One command to be tried, and what it is for: empty for everything."""

    command: Command
    purpose: str = ""

    @property
    def right(self) -> str:
        """As the server's ``ACL`` names it."""
        name, *rest = self.command
        parts = [name, *rest[:1]] if name in (b"SCRIPT", b"CLUSTER") else [name]
        return "|".join(str(part, "ascii").lower() for part in parts if isinstance(part, bytes))


def examine_rights(place: Place, settings: Settings, names: Names, *, is_first: bool, has_shards: bool) -> Iterator[Finding]:
    """Try what is needed on one server. ``is_first``: it has the log. ``has_shards``: channels of shards, from Redis 7 on."""
    try:
        needed, optional = _refusals(place, settings, names, is_first=is_first, has_shards=has_shards)
    except LayerError as error:
        yield wrong("rights", str(error), "let the user do what the reference lists: What lies in Redis, Rights")
        return
    if needed:
        yield wrong("rights", _told(place, needed), ADVICE.format(" +".join(sorted({one.probe.right for one in needed}))))
    for purpose in dict.fromkeys(one.probe.purpose for one in optional):
        refused = [one for one in optional if one.probe.purpose == purpose]
        rights = " +".join(sorted({one.probe.right for one in refused}))
        yield warning("rights", f"{_told(place, refused)}; without it {purpose} does not work", ADVICE.format(rights))
    if not needed and not optional:
        yield fine("rights", f"{_at(place)}every command that is needed is allowed")


class Refusal(NamedTuple):
    """A probe, and what it was refused with."""

    probe: Probe
    says: str


def _refusals(place: Place, settings: Settings, names: Names, *, is_first: bool, has_shards: bool) -> tuple[list[Refusal], list[Refusal]]:
    """What is refused of that which this policy file needs, and what else is."""
    mark = _mark(place, names)
    written = _written(mark, names, is_first=is_first)
    cleaned = [Probe((b"UNLINK", name)) for name in written]
    refused = _tried(place, cleaned)
    if not refused:  # what can not be removed is not written
        refused += _tried(place, list(_probes(mark, names, settings, is_first=is_first, has_shards=has_shards)))
        _tried(place, cleaned)
    return [one for one in refused if not one.probe.purpose], [one for one in refused if one.probe.purpose]


def _mark(place: Place, names: Names) -> str:
    """A key that no function has, because no key holds a star, and whose slot this server serves."""
    while True:
        mark = f"*doctor:{secrets.token_hex(8)}"
        if place.serves(names.entry(mark)):
            return mark


def _written(mark: str, names: Names, *, is_first: bool) -> tuple[bytes, ...]:
    return (names.entry(mark), names.lease(mark), *((_beside_the_log(mark, names, kind) for kind in "hzxsl") if is_first else ()))


def _beside_the_log(mark: str, names: Names, kind: str) -> bytes:
    return names.meta.removesuffix(b"meta") + f"{mark[1:]}:{kind}".encode("ascii")


def _tried(place: Place, probes: Sequence[Probe]) -> list[Refusal]:
    replies = place.try_all([probe.command for probe in probes])
    return [Refusal(probe, str(reply)) for probe, reply in zip(probes, replies, strict=True) if isinstance(reply, ResponseError)]


def _probes(mark: str, names: Names, settings: Settings, *, is_first: bool, has_shards: bool) -> Iterator[Probe]:
    entry, lease = names.entry(mark), names.lease(mark)
    script = scripts.EXTEND.plain or scripts.EXTEND
    commands: list[Command] = [
        (b"TIME",),
        (b"INFO", b"replication"),
        (b"SET", entry, b"x", b"PX", KEPT),
        (b"GET", entry),
        (b"MGET", entry),
        (b"GETRANGE", entry, 0, 1),
        (b"PEXPIRE", entry, KEPT),
        (b"SET", lease, b"x", b"PX", KEPT),
        (b"SCRIPT", b"LOAD", script.text),
        (b"EVALSHA", script.digest, 1, lease, b"nobody", KEPT),
        (b"SPUBLISH" if has_shards else b"PUBLISH", lease, b""),
        (b"SUNSUBSCRIBE" if has_shards else b"UNSUBSCRIBE", lease),
    ]
    if is_first:
        commands += _commands_of_the_log(mark, names)
    yield from map(Probe, commands)
    yield Probe((b"SCAN", 0, b"MATCH", entry, b"COUNT", 1), "`cachesync sweep` and `cachesync stats`")
    yield Probe((b"STRLEN", entry), "`cachesync stats`")
    if is_first:
        yield from _probes_of_some(mark, names, settings)


def _commands_of_the_log(mark: str, names: Names) -> Iterator[Command]:
    """What the scripts do to the log and what stands beside it, each on a key of its own kind."""
    hashed, ranked, stream, collected = (_beside_the_log(mark, names, kind) for kind in "hzxs")
    yield b"HSET", hashed, b"f", b"1"
    yield b"HGET", hashed, b"f"
    yield b"HMGET", names.meta, b"e"
    yield b"ZADD", ranked, 1, b"m"
    yield b"ZSCORE", ranked, b"m"
    yield b"ZCARD", ranked
    yield b"ZRANGE", ranked, 0, 0
    yield b"ZRANGEBYSCORE", ranked, 0, 1
    yield b"ZREM", ranked, b"n"
    yield b"ZREMRANGEBYRANK", ranked, 5, 5
    yield b"ZREMRANGEBYSCORE", ranked, 5, 5
    yield b"XADD", stream, b"1-0", b"f", b"1"
    yield b"XRANGE", names.log, b"+", b"+", b"COUNT", 1
    yield b"XTRIM", stream, b"MAXLEN", 1
    yield b"SADD", collected, b"m"
    for name in (hashed, ranked, stream, collected):
        yield b"PEXPIRE", name, KEPT


def _probes_of_some(mark: str, names: Names, settings: Settings) -> Iterator[Probe]:
    """What only some policy files need."""
    listed, coordination = _beside_the_log(mark, names, "l"), settings.coordination
    is_strict = any(policy.consistency == "strict" for policy in settings.policies)
    audits = "" if coordination.audit else "`audit`"
    yield Probe((b"ROLE",), "" if is_strict else "a read with `at_least=`")
    yield Probe((b"WAIT", 0, 1), "" if coordination.durable else "`durable = true`")
    yield Probe((b"RPUSH", listed, b"1"), audits)
    yield Probe((b"LRANGE", listed, 0, 0), audits)
    yield Probe((b"PEXPIRE", listed, KEPT), audits)
    yield Probe((b"XLEN", names.log), "`cachesync stats`")


def _told(place: Place, refused: Sequence[Refusal]) -> str:
    return (
        _at(place)
        + "; ".join(dict.fromkeys(f"{one.probe.right}: {one.says.removeprefix('NOPERM ')}" for one in refused[:4]))
        + (f"; and {len(refused) - 4} more" if len(refused) > 4 else "")
    )


def _at(place: Place) -> str:
    return f"{place.name}: " if place.name else ""
