"""Records of the log: what an invalidation is called on its way to every process.

One record announces one kind of target, with as many texts as one call named. It is kept in a Redis stream, whose id of a record is
``<number>-0``, and is published on a channel of the stream's name. Its fields in the stream, all UTF-8:

====== =====================================================================================
field  value
====== =====================================================================================
e      the epoch the number belongs to
n      the number, one more than the record before it
c      continuity: a random nonce of this record
p      the nonce of the record before it, empty for the first
t      when it was appended: milliseconds since 1970, the server's clock
m      the mode: ``h`` hard, ``s`` soft, ``v`` an explicit value was set
k      the kind: ``k`` key, ``t`` tag, ``p`` prefix, ``g`` glob, ``*`` everything
x      the texts, a JSON array of strings (prefixes without their star)
o      the origin: the id of the process that announced it
====== =====================================================================================

The message on the channel is one JSON object with the same names, in which ``n`` and ``t`` are numbers and ``x`` is an array. Epochs,
nonces and origins are hexadecimal digits.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, cast

from cachesync.core.patterns import Pattern

Kind = Literal["k", "t", "p", "g", "*"]
Mode = Literal["h", "s", "v"]

KEY: Final[Kind] = "k"
TAG: Final[Kind] = "t"
PREFIX: Final[Kind] = "p"
GLOB: Final[Kind] = "g"
EVERYTHING: Final[Kind] = "*"
KINDS: Final[tuple[Kind, ...]] = (KEY, TAG, PREFIX, GLOB, EVERYTHING)
MODES: Final[tuple[Mode, ...]] = ("h", "s", "v")

_KIND_OF_PATTERN: Final[Mapping[str, Kind]] = {"key": KEY, "prefix": PREFIX, "glob": GLOB, "everything": EVERYTHING}


TEXTS_OF_A_PART: Final = 500
"""Texts that are announced at once, and so the most that one record of ours has."""
HARD: Final[Mode] = "h"
SOFT: Final[Mode] = "s"
VALUE: Final[Mode] = "v"


@dataclass(frozen=True, slots=True)
class Targets:
    """What one record names: texts of one kind.

    A hard invalidation leaves nothing that may be served, a soft one what may be served stale, and a value replaces what was there.
    """

    kind: Kind
    texts: tuple[str, ...]
    mode: Mode = "h"

    @property
    def is_soft(self) -> bool:
        return self.mode == SOFT


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the log, as every process reads it."""

    epoch: str
    number: int
    nonce: str
    previous: str
    targets: Targets
    origin: str
    at: int = 0
    """When it was appended: milliseconds since 1970, the server's clock."""


class RecordError(ValueError):
    """The fields of a record can not be read: its reader knows no more what it missed, and has to rejoin."""


def targets_of(patterns: Iterable[str], tags: Iterable[str], mode: Mode = HARD) -> tuple[Targets, ...]:
    """Sort what a caller named into records, one for each kind. Raises ``ValueError`` for a text that is no pattern."""
    texts: dict[Kind, dict[str, None]] = {}
    for text in patterns:
        pattern = Pattern.parse(text)
        kind = _KIND_OF_PATTERN[pattern.kind]
        texts.setdefault(kind, {})[pattern.prefix if kind == PREFIX else pattern.text] = None
    for tag in tags:
        if not tag:
            raise ValueError("a tag can not be empty")
        texts.setdefault(TAG, {})[tag] = None
    return tuple(Targets(kind, tuple(texts[kind]), mode) for kind in KINDS if kind in texts)


def parts_of(targets: Iterable[Targets], most: int = TEXTS_OF_A_PART) -> Iterator[tuple[Targets, ...]]:
    """The same in parts of at most ``most`` texts: what is announced at once keeps Redis from everybody else."""
    part: list[Targets] = []
    room = most
    for one in targets:
        at = 0
        while at < len(one.texts):
            part.append(replace(one, texts=one.texts[at : at + room]))
            at += room
            room = max(0, at - len(one.texts))
            if not room:
                yield tuple(part)
                part, room = [], most
    if part:
        yield tuple(part)


def written(targets: Sequence[Targets]) -> dict[str, list[str]]:
    """Targets as a caller writes them: ``patterns`` and ``tags``."""
    patterns = [text + "*" if one.kind == PREFIX else text for one in targets if one.kind != TAG for text in one.texts]
    return {"patterns": patterns, "tags": [text for one in targets if one.kind == TAG for text in one.texts]}


def to_fields(targets: Targets, *, nonce: str, origin: str) -> tuple[str, ...]:
    """The fields that the announcing process knows, in the order the appending script takes them: c m k x o."""
    return nonce, targets.mode, targets.kind, json.dumps(targets.texts, ensure_ascii=False, separators=(",", ":")), origin


def from_fields(fields: Mapping[str, str]) -> Record:
    """Read a record of the stream. Raises `RecordError`."""
    try:
        return _record(fields, json.loads(fields["x"]))
    except (ValueError, RecursionError, KeyError, OverflowError) as error:
        raise RecordError(_why(error)) from error


def from_message(message: str) -> Record:
    """Read a record as it is published. Raises `RecordError`."""
    try:
        fields: object = json.loads(message)
        if not isinstance(fields, dict):
            raise RecordError("a record is a JSON object")
        named = cast("dict[str, Any]", fields)
        return _record(named, named["x"])
    except (ValueError, RecursionError, KeyError, TypeError, OverflowError) as error:
        raise RecordError(_why(error)) from error


def _why(error: Exception) -> str:
    return f"a record without the field {error}" if isinstance(error, KeyError) else str(error)


def _record(fields: Mapping[str, Any], texts: object) -> Record:
    kind, mode = fields["k"], fields["m"]
    if kind not in KINDS or mode not in MODES or not isinstance(texts, list):
        raise RecordError(f"a record of kind {kind!r} and mode {mode!r} is not known here")
    listed = tuple(cast("list[object]", texts))
    if not all(isinstance(text, str) for text in listed):
        raise RecordError("the texts of a record are strings")
    targets = Targets(kind, cast("tuple[str, ...]", listed), mode)
    named = (fields["e"], fields["c"], fields["p"], fields["o"])
    if not all(isinstance(text, str) for text in named):
        raise RecordError("epoch, nonces and origin of a record are strings")
    epoch, nonce, previous, origin = named
    return Record(epoch, int(fields["n"]), nonce, previous, targets, origin, int(fields.get("t", 0)))
