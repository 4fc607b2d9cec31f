"""Steps to Redis commands, replies to values: pure functions that both colours share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final, cast

import hiredis

from cachesync.core.names import Names
from cachesync.core.records import EVERYTHING, KINDS, Kind, Record, RecordError, Targets, from_fields, to_fields
from cachesync.core.stamps import EPOCH_BYTES, Stamp
from cachesync.core.steps import (
    Announce,
    Announced,
    Done,
    Extend,
    Fetch,
    Fetched,
    Joined,
    Lease,
    Leased,
    Log,
    ReadLog,
    Release,
    Seize,
    SharedReply,
    SharedStep,
    Snapshot,
    Store,
)
from cachesync.layers import scripts
from cachesync.layers.scripts import Script

Command = tuple[bytes | int | str, ...]

_pack_command: Final[Callable[[Command], bytes]] = cast("Any", hiredis).pack_command

LOG_LENGTH: Final = 10_000
"""About how many records the log remembers; a reader that was away for longer rejoins."""
MAX_BANS_STORED: Final = 50_000
"""Bans, of all kinds together, that the shared layer remembers for processes that start."""
LOG_PAGE: Final = 1_000
"""Records read in one trip."""


_BLOBS: Final = frozenset({bytes, type(None)})


class WireError(Exception):
    """Redis answered what no command here asked for: another program uses these names, or a proxy is confused."""


def commands_of(step: SharedStep, names: Names) -> list[Command]:
    """The commands of one trip. All but `Fetch` of several keys and the unlinking of `Announce` touch at most two slots."""
    head: Command = (b"HMGET", names.meta, b"e", b"n")
    match step:
        case Fetch(keys):
            return [(b"TIME",), head, *([(b"MGET", *map(names.entry, keys))] if keys else [])]
        case Lease(key, token, milliseconds, dead):
            refused = b"" if dead is None else b"1" + dead
            return [(b"TIME",), head, _call(scripts.LEASE, _pair(names, key), token, milliseconds, refused)]
        case Seize(key, token, milliseconds, unlink):
            return [(b"TIME",), head, _call(scripts.SEIZE, _pair(names, key), token, milliseconds, b"1" if unlink else b"0")]
        case Extend(key, token, milliseconds):
            return [_call(scripts.EXTEND, (names.lease(key),), token, milliseconds)]
        case Release(key, token):
            return [_call(scripts.RELEASE, (names.lease(key),), token)]
        case Store(key, token, blob, milliseconds):
            return [_call(scripts.STORE, _pair(names, key), token, blob, milliseconds)]
        case Announce(targets, nonces, origin, unlink):
            fields = [
                field.encode("utf-8", "surrogatepass")
                for one, nonce in zip(targets, nonces, strict=True)
                for field in to_fields(one, nonce=nonce, origin=origin)
            ]
            log = (names.meta, names.log, names.bans)
            return [
                *((b"UNLINK", *_pair(names, key)) for key in unlink),
                _call(scripts.APPEND, log, _new_epoch(), LOG_LENGTH, MAX_BANS_STORED, *fields),
            ]
        case ReadLog(after, block):
            if block > 0:
                milliseconds = max(1, round(block * 1000))
                return [(b"XREAD", b"COUNT", LOG_PAGE, b"BLOCK", milliseconds, b"STREAMS", names.log, b"%d-0" % after.number), head]
            return [head, (b"XRANGE", names.log, b"%d-0" % (after.number + 1), b"+", b"COUNT", LOG_PAGE)]
        case Snapshot():
            return [_call(scripts.SNAPSHOT, (names.meta, names.log, names.bans), _new_epoch())]


def pack(step: SharedStep, names: Names) -> tuple[bytes, int]:
    """A step's commands in RESP, and how many replies they have. The commonest is written out: one trip of one key."""
    if isinstance(step, Fetch) and len(step.keys) == 1:
        name = names.entry(step.keys[0])
        return b"%b*2\r\n$4\r\nMGET\r\n$%d\r\n%b\r\n" % (_clock_and_head(names), len(name), name), 3
    commands = commands_of(step, names)
    return pack_all(commands), len(commands)


def pack_all(commands: Sequence[Command]) -> bytes:
    """Several commands in RESP.

    Integers are written here: hiredis turns them into texts itself, and crashes where a signal handler raises in between.
    """
    return b"".join(_pack_command(tuple([b"%d" % part if isinstance(part, int) else part for part in command])) for command in commands)


@lru_cache(maxsize=64)
def _clock_and_head(names: Names) -> bytes:
    return pack_all([(b"TIME",), (b"HMGET", names.meta, b"e", b"n")])


def reply_of(step: SharedStep, replies: Sequence[Any]) -> SharedReply:
    """What the replies mean. Raises `WireError` for replies of another shape."""
    try:
        return _reply_of(step, replies)
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        raise WireError(f"the reply to {step.__class__.__name__} can not be read: {error!r}") from error


def _reply_of(step: SharedStep, replies: Sequence[Any]) -> SharedReply:
    if isinstance(step, Fetch):  # the commonest first
        blobs: list[Any] = replies[2] if step.keys else []
        if len(blobs) != len(step.keys) or not _BLOBS.issuperset(map(type, blobs)):
            raise ValueError("not one bulk string for each key")
        return Fetched(tuple(blobs), _head(replies[1]), _milliseconds(replies[0]))
    match step:
        case Lease():
            granted, blob = replies[2]
            if blob is not None and blob.__class__ is not bytes:
                raise TypeError("an entry is a bulk string")
            return Leased(granted == 1, blob, _head(replies[1]), _milliseconds(replies[0]))
        case Seize():
            return Leased(granted=True, blob=None, head=_head(replies[1]), now=_milliseconds(replies[0]))
        case Extend() | Release() | Store():
            return Done(replies[0] == 1)
        case Announce():
            epoch, number = replies[-1]
            return Announced(_stamp(epoch, number))
        case ReadLog(after, block):
            return _log(after, *((replies[0], replies[1]) if block > 0 else (replies[1], replies[0])), blocked=block > 0)
        case Snapshot():
            return _joined(replies[0])


def _log(after: Stamp, found: Any, meta: Any, *, blocked: bool) -> Log:
    head = _head(meta)
    if blocked:
        found = found[0][1] if found else []
    try:
        records = tuple(map(_record, found))
    except RecordError:
        return Log((), head, gap=True)
    if head is None or head.epoch != after.epoch or any(record.epoch != after.epoch for record in records):
        return Log((), head, gap=True)
    expected = range(after.number + 1, after.number + 1 + len(records))
    torn = any(record.number != number for record, number in zip(records, expected, strict=True))
    missing = not blocked and not records and head.number > after.number
    return Log((), head, gap=True) if torn or missing else Log(records, head, gap=False)


def _record(found: Any) -> Record:
    flat: list[bytes] = found[1]
    texts = [field.decode("utf-8", "surrogatepass") for field in flat]
    return from_fields(dict(zip(texts[::2], texts[1::2], strict=True)))


def _joined(reply: Any) -> Joined:
    epoch, number, floor, found = reply
    bans: list[tuple[Targets, int]] = []
    for member, score in zip(found[::2], found[1::2], strict=True):
        text = member.decode("utf-8", "surrogatepass")
        if text[:1] in KINDS and text[:1] != EVERYTHING:
            bans.append((Targets(cast("Kind", text[0]), (text[1:],)), int(float(score))))
    return Joined(_stamp(epoch, number), int(floor), tuple(bans))


def _head(meta: Any) -> Stamp | None:
    epoch, number = meta
    return None if epoch is None or number is None else _stamp(epoch, number)


@lru_cache(maxsize=16)
def _stamp(epoch: bytes, number: bytes | int) -> Stamp:
    """A position. The head is the same in most replies."""
    if len(bytes.fromhex(epoch.decode("ascii"))) != EPOCH_BYTES or int(number) < 0:
        raise ValueError("an epoch has another length, or a number is negative")
    return Stamp(epoch.decode("ascii"), int(number))


def _milliseconds(clock: Any) -> int:
    return int(clock[0]) * 1000 + int(clock[1]) // 1000


def _pair(names: Names, key: str) -> tuple[bytes, bytes]:
    return names.entry(key), names.lease(key)


def _call(script: Script, keys: tuple[bytes, ...], *arguments: bytes | int | str) -> Command:
    return (b"EVALSHA", script.digest, len(keys), *keys, *arguments)


def _new_epoch() -> str:
    return os.urandom(EPOCH_BYTES).hex()
