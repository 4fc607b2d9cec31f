"""Steps to Redis commands, replies to values: pure functions that both colours share."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, cast

import hiredis

from cachesync.core.bans import Floors
from cachesync.core.names import Names
from cachesync.core.records import EVERYTHING, HARD, KINDS, SOFT, Record, RecordError, Targets, from_fields, to_fields
from cachesync.core.stamps import EPOCH_BYTES, Lineage, Stamp
from cachesync.core.steps import (
    Announce,
    Announced,
    Bans,
    Beat,
    Collect,
    Confirm,
    Discard,
    Discarded,
    Done,
    Extend,
    Fetch,
    Fetched,
    Heads,
    Holder,
    Inquire,
    Joined,
    Lease,
    Leased,
    Log,
    ReadBans,
    ReadLog,
    Release,
    Scan,
    Scanned,
    Seize,
    SharedReply,
    SharedStep,
    Snapshot,
    Store,
    Testify,
    Testimony,
    Throw,
    Together,
)
from cachesync.core.switches import NOTHING_THROWN, Thrown, read_thrown
from cachesync.layers import scripts
from cachesync.layers.scripts import Script

Command = tuple[bytes | int | str, ...]

_pack_command: Final[Callable[[Command], bytes]] = cast("Any", hiredis).pack_command

LOG_PAGE: Final = 1_000
"""Records read in one trip."""
ANSWERS_KEPT: Final = 60_000
"""Milliseconds after which answers to an auditor who is gone are let go."""
HEAD_BYTES: Final = 16_384
"""As much of an entry is read to judge it without its value. A header with more dependencies than fit is not judged."""


@dataclass(slots=True)
class Bounds:
    """What the shared layer keeps for all: records, for how many seconds, bans, and how long any entry may live (seconds).

    ``durable`` is how many milliseconds an announcement waits for a replica to confirm it, 0 for not at all. All connections of a layer
    have the same object, and a reload of the policies changes it.
    """

    log_records: int = 10_000
    log_keep: float = 600.0
    bans: int = 50_000
    longest_life: float = 3600.0
    durable: int = 0


_BLOBS: Final = frozenset({bytes, type(None)})


class WireError(Exception):
    """Redis answered what no command here asked for: another program uses these names, or a proxy is confused."""


def commands_of(step: SharedStep, names: Names, bounds: Bounds) -> list[Command]:
    """The commands of one trip. All but `Fetch` of several keys and the unlinking of `Announce` touch at most two slots."""
    head: Command = (b"HMGET", names.meta, b"e", b"n")
    match step:
        case Fetch(keys, _, strict):
            return [(b"TIME",), head, *([(b"MGET", *map(names.entry, keys))] if keys else []), *([(b"ROLE",)] if strict else [])]
        case Lease(key, token, stamp, milliseconds, dead, over):
            refused = b"" if dead is None else b"1" + dead
            taken = b"" if over is None else _bytes_of(over)
            asked = _call(scripts.LEASE, _pair(names, key), token, str(stamp), milliseconds, refused, taken)
            return [(b"TIME",), head, asked]
        case Seize(key, token, stamp, milliseconds, unlink):
            seized = _call(scripts.SEIZE, _pair(names, key), token, str(stamp), milliseconds, b"1" if unlink else b"0")
            return [(b"TIME",), head, seized]
        case Extend(key, token, milliseconds):
            return [_call(scripts.EXTEND, (names.lease(key),), token, milliseconds)]
        case Release(key, token, _, rest, milliseconds):
            left = b"" if rest is None else _bytes_of(rest)
            return [_call(scripts.RELEASE, (names.lease(key),), token, names.lease(key), left, milliseconds)]
        case Store(key, token, blob, milliseconds):
            return [_call(scripts.STORE, (names.lease(key), names.entry(key)), token, names.lease(key), blob, milliseconds)]
        case Announce():
            return _announce(step, names, bounds)
        case ReadLog(after):
            return [head, (b"XRANGE", names.log, b"%d-0" % (after.number + 1), b"+", b"COUNT", LOG_PAGE)]
        case Confirm():
            return confirm(names)
        case Snapshot():
            return [_call(scripts.SNAPSHOT, (names.meta, names.log, names.bans), _new_epoch())]
        case ReadBans(since, count):
            found: Command = (b"ZRANGEBYSCORE", names.bans, b"%d" % since, b"(+inf", b"WITHSCORES", b"LIMIT", 0, count)
            marker: Command = (b"ZRANGEBYSCORE", names.bans, b"+inf", b"+inf")
            return [found, (b"HMGET", names.meta, b"e", b"f", b"fk", b"ft", b"fs"), marker]
        case Scan(cursor, count):
            return [(b"SCAN", cursor, b"MATCH", literally(names.entry_prefix) + b"*}", b"COUNT", count)]
        case Heads(entries):
            return [(b"TIME",), head, *((b"GETRANGE", name, 0, HEAD_BYTES - 1) for name in entries)]
        case Discard(entries):
            return [_call(scripts.DISCARD, (name,), identity) for name, identity in entries]
        case Inquire(question):
            message = question.to_message().encode("utf-8", "surrogatepass")
            return [_call(scripts.PUBLISH, (names.meta,), names.log, message)]
        case Testify(question, origin, number):
            answers = names.audit(question.id)
            return [(b"RPUSH", answers, f"{origin} {number}"), (b"PEXPIRE", answers, ANSWERS_KEPT)]
        case Collect(question):
            answers = names.audit(question.id)
            return [(b"LRANGE", answers, 0, -1), (b"UNLINK", answers)]
        case Throw(changes, again):
            flat = [text for change in changes for text in change]
            return [_call(scripts.THROW, (names.meta,), names.log, "" if again is None else str(again), *flat)]
        case Together(steps):  # without what a trip has in common: see redis_trip
            return [command for one in steps for command in commands_of(one, names, bounds)]


def confirm(names: Names) -> list[Command]:
    """The question where the log ends: its answers tell `beat_of`."""
    return [(b"HMGET", names.meta, b"e", b"n", b"c", b"r", b"s"), (b"INFO", b"replication")]


def _announce(step: Announce, names: Names, bounds: Bounds) -> list[Command]:
    fields = [
        field.encode("utf-8", "surrogatepass")
        for one, nonce in zip(step.targets, step.nonces, strict=True)
        for field in to_fields(one, nonce=nonce, origin=step.origin)
    ]
    limits = (bounds.log_records, round(bounds.log_keep * 1000), bounds.bans, round(bounds.longest_life * 1000))
    keys = (names.meta, names.log, names.bans, names.again)
    appended = _call(scripts.APPEND, keys, _new_epoch(), *limits, names.log, b"1" if step.again else b"0", *fields)
    waited: list[Command] = [(b"WAIT", 1, bounds.durable)] if bounds.durable else []
    return [*((b"UNLINK", *_pair(names, key)) for key in step.unlink), appended, *waited]


def literally(text: bytes) -> bytes:
    """A text in a pattern of Redis (its own globs), in which it stands for itself."""
    return re.sub(rb"([*?\[\]\\^-])", rb"\\\1", text)


def pack(step: SharedStep, names: Names, bounds: Bounds) -> tuple[bytes, int]:
    """A step's commands in RESP, and how many replies they have. The commonest is written out: one trip of one key."""
    if isinstance(step, Fetch) and len(step.keys) == 1 and not step.strict:
        name = names.entry(step.keys[0])
        return b"%b*2\r\n$4\r\nMGET\r\n$%d\r\n%b\r\n" % (_clock_and_head(names), len(name), name), 3
    commands = commands_of(step, names, bounds)
    return pack_all(commands), len(commands)


def pack_all(commands: Sequence[Command]) -> bytes:
    """Several commands in RESP.

    Integers are written here: hiredis turns them into texts itself, and crashes where a signal handler raises in between.
    """
    return b"".join(_pack_command(tuple([b"%d" % part if isinstance(part, int) else part for part in command])) for command in commands)


@lru_cache(maxsize=64)
def _clock_and_head(names: Names) -> bytes:
    return pack_all([(b"TIME",), (b"HMGET", names.meta, b"e", b"n")])


def reply_of(step: SharedStep, replies: Sequence[Any], names: Names) -> SharedReply:
    """What the replies mean. Raises `WireError` for replies of another shape."""
    try:
        return _reply_of(step, replies, names)
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        raise WireError(f"the reply to {step.__class__.__name__} can not be read: {error!r}") from error


def _reply_of(step: SharedStep, replies: Sequence[Any], names: Names) -> SharedReply:
    if isinstance(step, Fetch):  # the commonest first
        blobs: list[Any] = replies[2] if step.keys else []
        if step.strict and replies[-1][0] != b"master":
            raise WireError("this server follows another one; a strict read has to be answered by the master")
        if len(blobs) != len(step.keys) or not _BLOBS.issuperset(map(type, blobs)):
            raise ValueError("not one bulk string for each key")
        return Fetched(tuple(blobs), _head(replies[1]), _milliseconds(replies[0]))
    match step:
        case Lease():
            granted, blob, held = replies[2]
            if blob is not None and blob.__class__ is not bytes:
                raise TypeError("an entry is a bulk string")
            return Leased(granted == 1, blob, _head(replies[1]), _milliseconds(replies[0]), _holder(held))
        case Seize():
            return Leased(granted=True, blob=None, head=_head(replies[1]), now=_milliseconds(replies[0]))
        case Extend() | Release() | Store() | Inquire() | Testify():
            return Done(replies[0] >= 1)
        case Collect():
            answers = (answer.decode("ascii").split(" ") for answer in replies[0])
            return Testimony(tuple((origin, int(number)) for origin, number in answers))
        case Announce(_, _, _, unlink):
            epoch, number, unsaid = replies[len(unlink)]
            waited = replies[len(unlink) + 1 :]
            return Announced(_stamp(epoch, number), waited[0] if waited else None, int(unsaid))
        case ReadLog(after):
            return _log(after, replies[1], replies[0])
        case Confirm():
            return beat_of(replies)
        case Snapshot():
            return _joined(replies[0])
        case ReadBans(_, count):
            return _bans(replies[0], replies[1], replies[2], count)
        case Scan():
            cursor, found = replies[0]
            return Scanned(tuple((name, names.key_of(name)) for name in found), int(cursor))
        case Heads():
            if not _BLOBS.issuperset(map(type, replies[2:])):
                raise TypeError("the beginning of an entry is a bulk string")
            return Fetched(tuple(blob or None for blob in replies[2:]), _head(replies[1]), _milliseconds(replies[0]))
        case Discard():
            return Discarded(sum(replies))
        case Throw():
            return read_thrown(replies[0].decode("utf-8", "surrogatepass"))
        case Together():
            raise WireError("the replies to several steps are taken apart by their trip")


def beat_of(replies: Sequence[Any]) -> Beat:
    """What the answers to `confirm` say."""
    (epoch, number, nonce, server, switched), info = replies
    told = dict(line.split(b":", 1) for line in info.split(b"\r\n") if b":" in line)
    is_same = server is not None and told.get(b"master_replid", b"") == server
    is_master = told.get(b"role") == b"master"
    return Beat(_head((epoch, number)), (nonce or b"").decode("ascii"), is_master, is_same, thrown=_thrown(switched))


def _thrown(switched: Any) -> Thrown:
    """What is switched for all. What can not be read says nothing: those who know better say it again."""
    try:
        return NOTHING_THROWN if switched is None else read_thrown(switched.decode("utf-8", "surrogatepass"))
    except ValueError:
        return NOTHING_THROWN


def _holder(held: Any) -> Holder | None:
    if held is None:
        return None
    token, stamp, *rest = held.decode("utf-8", "surrogatepass").split(" ", 3)
    if not rest:
        return Holder(token, Stamp.parse(stamp))
    since, why = rest
    return Holder(token, Stamp.parse(stamp), why, int(since))


def _bytes_of(holder: Holder) -> bytes:
    return str(holder).encode("utf-8", "surrogatepass")


def _log(after: Stamp, found: Any, meta: Any) -> Log:
    head = _head(meta)
    try:
        records = tuple(map(_record, found))
    except RecordError:
        return Log((), head, gap=True)
    if head is None or head.epoch != after.epoch or any(record.epoch != after.epoch for record in records):
        return Log((), head, gap=True)
    expected = range(after.number + 1, after.number + 1 + len(records))
    torn = any(record.number != number for record, number in zip(records, expected, strict=True))
    missing = head.number < after.number or (not records and head.number > after.number)
    return Log((), head, gap=True) if torn or missing else Log(records, head, gap=False)


def _record(found: Any) -> Record:
    flat: list[bytes] = found[1]
    texts = [field.decode("utf-8", "surrogatepass") for field in flat]
    return from_fields(dict(zip(texts[::2], texts[1::2], strict=True)))


def _joined(reply: Any) -> Joined:
    epoch, number, nonce, cuts, switched = reply
    head = _stamp(epoch, number)
    lineage = Lineage(head.epoch, {str(epoch): int(cut) for epoch, cut in json.loads(cuts)})
    return Joined(head, nonce.decode("ascii"), lineage, thrown=_thrown(switched))


def _bans(found: Any, meta: Any, marker: Any, count: int) -> Bans:
    bans: list[tuple[Targets, int]] = []
    for member, score in zip(found[::2], found[1::2], strict=True):
        text = member.decode("utf-8", "surrogatepass")
        kind = text[:1].lower()
        if kind in KINDS and kind != EVERYTHING:
            bans.append((Targets(kind, (text[1:],), HARD if text[0] == kind else SOFT), int(float(score))))
    epoch, *floors = meta
    everything, keys, tags, soft = (int(floor or 0) for floor in floors)
    is_whole = epoch is not None and b"e" + epoch in marker  # without its epoch among them, bans were lost
    named = epoch.decode("ascii") if epoch is not None and is_whole else None
    return Bans(tuple(bans), len(found) == 2 * count, named, Floors(everything, keys, tags), soft)


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
