"""Answers that one process remembers, to confirm them to who has them: with 304, before the application is called.

Nobody is asked for that: not the application, nor a database, nor Redis. The log says whether anything has changed of what an answer was
made of.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import xxhash

from cachesync.coordination.engine import Engine
from cachesync.core.entry import Dependency
from cachesync.core.etag import read_tags
from cachesync.core.header_fields import HeaderFields
from cachesync.core.http import Terms, managed
from cachesync.core.ledger import Mark
from cachesync.core.stamps import Stamp
from cachesync.layers.forks import lock_across_forks

REMEMBERED: Final = 10_000
"""Answers that one process remembers."""


@dataclass(slots=True)
class Remembered:
    """An answer that may be confirmed without the application: ``base`` are the fields of a 304 that do not change with time, ``terms``
    what they were at the time ``told`` (seconds, monotonic clock).

    ``selecting`` is what ``Vary`` names and what the request said there. It stands up to ``stamp``, ``mark`` is that of the ledger it was
    last judged by, and it is fresh before ``until`` (seconds, monotonic clock).
    """

    base: HeaderFields
    terms: Terms
    told: float
    selecting: Mapping[bytes, bytes | None]
    dependencies: tuple[Dependency, ...]
    policies: tuple[str, ...]
    stamp: Stamp
    mark: Mark
    until: float
    _fields: HeaderFields | None = None
    _said: tuple[int, Stamp] | None = None

    def is_selected(self, request: HeaderFields) -> bool:
        """Whether a request would be given it (RFC 9111, 4.1)."""
        return all(request.value(name) == said for name, said in self.selecting.items())

    def fields(self, now: float) -> HeaderFields:
        """The fields of a 304, with the lifetimes that are left. Those of one second are the same."""
        passed, stamp = int(now - self.told) + 1, self.stamp
        if self._fields is None or self._said != (passed, stamp):
            terms = self.terms
            keeps = None if terms.keeps is None else terms.keeps - passed
            terms = replace(terms, remains=terms.remains - passed, keeps=keeps, stamp=stamp, is_hit=True)
            self._fields, self._said = managed(terms, _NO_FIELDS, self.base), (passed, stamp)
        return self._fields


_NO_FIELDS: Final = HeaderFields()


class AnswerMemory:
    """What is remembered, ``most`` answers. Safe to use from any thread."""

    def __init__(self, engine: Engine, most: int) -> None:
        self._engine = engine
        self._most = most
        self._remembered: OrderedDict[tuple[bytes, str, str], Remembered] = OrderedDict()
        self._lock = lock_across_forks()

    def recall(self, target: bytes, request: HeaderFields, known: bytes, identity: str | None) -> Remembered | None:
        """An answer that the client has, by ``If-None-Match``, and that still stands."""
        whose = _whose(request, identity)
        for tag in read_tags(known.decode("latin-1")).listed:
            found = self._remembered.get((target, tag.opaque, whose))
            if found is not None and found.is_selected(request) and self._stands(found):
                return found
        return None

    def remember(self, target: bytes, request: HeaderFields, opaque: str, identity: str | None, answer: Remembered) -> None:
        """Keep an answer in mind, by the opaque part of its ETag. The one that was remembered first goes where there are too many."""
        name = (target, opaque, _whose(request, identity))
        with self._lock:
            self._remembered[name] = answer
            self._remembered.move_to_end(name)
            while len(self._remembered) > self._most:
                self._remembered.popitem(last=False)

    def _stands(self, answer: Remembered) -> bool:
        """Whether all that it was made of is fresh, and nothing that was applied of the log concerns it. Asks nobody."""
        engine, now = self._engine, self._engine.now()
        if now >= answer.until or not engine.is_heard(now):
            return False
        ledger = engine.ledger
        if answer.mark is ledger.mark:
            return True
        with engine.lock:
            position, number = ledger.position, ledger.lineage.number(answer.stamp)
            if position is None or number is None or number < ledger.bans.floors.keys or answer.mark.reloads != ledger.mark.reloads:
                return False
            if not engine.switches.are_usual(answer.policies):
                return False
            if ledger.refuses("", answer.dependencies, number) or ledger.softened("", answer.dependencies, number) is not None:
                return False
            answer.stamp, answer.mark = position, ledger.mark
        return True


def _whose(request: HeaderFields, identity: str | None) -> str:
    """Whose answers a request is confirmed from: an identity's, or of whoever says the same of himself in ``Authorization`` and cookies."""
    if identity is not None:
        return f"i{identity}"
    said = (request.value(b"authorization"), request.value(b"cookie"))
    return f"a{xxhash.xxh3_128_hexdigest(repr(said).encode('ascii'))}" if said != (None, None) else ""
