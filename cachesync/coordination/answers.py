"""Answers: HTTP as one cache sees it, for every door.

A door hands over what it was asked and what the application answered; here it is decided what to say. Nothing here reads or writes a
connection. An `Exchange` is one request: `early` may end it before the application is called, `fields` describes the answer, and
`ends` settles the conditions against it.

An ETag is always that of the content. Where all the policies of an answer's data say ``etag = "stamp"``, what the answer was made of is
remembered beside it, in this process; a later request for the same with that ETag is answered with 304 at once, if the log says that
nothing of it has changed, while all of it is fresh. Nobody is asked: not the application, nor a database, nor Redis.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import xxhash

from cachesync.coordination.operations import Operations
from cachesync.coordination.request_scope import Consumed, RequestScope
from cachesync.core.cache_control import control_of
from cachesync.core.entry import Dependency
from cachesync.core.etag import content_tag, read_tags
from cachesync.core.flows import confirm
from cachesync.core.groups import Audience, concerns_of
from cachesync.core.header_fields import HeaderFields
from cachesync.core.http import (
    AT_LEAST,
    INVALIDATED,
    READS,
    SAFE,
    STAMP,
    Current,
    Terms,
    Verdict,
    is_conditional,
    is_guarded,
    is_shareable,
    judge,
    listed,
    managed,
    not_modified,
    selecting,
    terms_of,
    validators_of,
    varied,
    vary_of,
)
from cachesync.core.ledger import Mark
from cachesync.core.stamps import UNREACHED, Stamp
from cachesync.core.steps import Step
from cachesync.layers.forks import lock_across_forks

LARGEST: Final = 1024 * 1024
"""Bytes of a body that is waited for, to name its content. What is larger, or does not say how large it is, passes at once."""
REMEMBERED: Final = 10_000
"""Answers that one process remembers."""
OK: Final = 200


class Reply(NamedTuple):
    """What is answered instead of the application's answer, or in its place. ``body`` is ``None`` where the application's is sent."""

    status: int
    fields: HeaderFields
    body: bytes | None = b""


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


class Answers:
    """All that HTTP needs of one cache, in one process. Safe to use from any thread.

    ``now`` is the time, seconds since 1970, for the dates in conditions. ``require_match`` are the methods whose requests must have a
    condition (428 where there is none).
    """

    def __init__(
        self,
        operations: Operations,
        *,
        now: Callable[[], float],
        remember: int = REMEMBERED,
        largest: int = LARGEST,
        require_match: frozenset[str] = frozenset(),
    ) -> None:
        self.engine = operations.engine
        self.run = operations.run
        self.arun = operations.arun
        self.now = now
        self.largest = largest
        self.require_match = require_match
        self._most = remember
        self._remembered: OrderedDict[tuple[bytes, str, str], Remembered] = OrderedDict()
        self._lock = lock_across_forks()

    def begin(self, method: str, target: bytes, request: HeaderFields, identity: str | None, *, is_look: bool = False) -> Exchange:
        """One request. ``target`` names the resource (path and query), ``identity`` says whose it is, ``None`` that nobody knows.

        ``is_look``: it is asked to find out what stands there now, before a write. Raises ``TypeError`` for an identity that is no text.
        """
        if identity is not None and not isinstance(identity, str):  # pyright: ignore[reportUnnecessaryIsInstance] - of the user's
            raise TypeError(f"identify: whose request it is, is a text or None, not {type(identity).__name__}")
        return Exchange(self, method, target, request, identity or None, is_look=is_look)

    def recall(self, target: bytes, request: HeaderFields, known: bytes, identity: str | None) -> Remembered | None:
        """An answer that the client has, by ``If-None-Match``, and that still stands."""
        whose = _whose(request, identity)
        for tag in read_tags(known.decode("latin-1")).listed:
            found = self._remembered.get((target, tag.opaque, whose))
            if found is not None and found.is_selected(request) and self._stands(found):
                return found
        return None

    def remember(self, target: bytes, opaque: str, whose: str, answer: Remembered) -> None:
        """Keep an answer in mind. The one that was remembered first goes where there are too many."""
        name = (target, opaque, whose)
        with self._lock:
            self._remembered[name] = answer
            self._remembered.move_to_end(name)
            while len(self._remembered) > self._most:
                self._remembered.popitem(last=False)

    def _stands(self, answer: Remembered) -> bool:
        """Whether all that it was made of is fresh, and nothing that was applied of the log concerns it. Asks nobody."""
        engine, now = self.engine, self.engine.now()
        if now >= answer.until or not engine.is_heard(now):
            return False
        ledger = engine.ledger
        if answer.mark is ledger.mark:
            return True
        with engine.lock:
            position, number = ledger.position, ledger.lineage.number(answer.stamp)
            if position is None or number is None or number < ledger.bans.floors.keys or answer.mark.reloads != ledger.mark.reloads:
                return False
            if not self.is_usual(answer.policies):
                return False
            if ledger.refuses("", answer.dependencies, number) or ledger.softened("", answer.dependencies, number) is not None:
                return False
            answer.stamp, answer.mark = position, ledger.mark
        return True

    def is_usual(self, policies: tuple[str, ...]) -> bool:
        """Whether data of these policies is cached as they say: nothing is switched."""
        engine = self.engine
        return engine.settings.enabled and all(engine.switches.mode_of(name) == "full" for name in policies)


class Exchange:
    """One request and its answer. Used by one thread or task at a time."""

    def __init__(
        self, answers: Answers, method: str, target: bytes, request: HeaderFields, identity: str | None, *, is_look: bool = False
    ) -> None:
        self._answers = answers
        self._method = method
        self._target = target
        self._request = request
        self._identity = identity
        ledger = answers.engine.ledger
        self._mark, self._position = ledger.mark, ledger.position
        self._is_look = is_look
        self._wanted: Stamp | None = None
        self._least: Stamp | None = None
        self._scope: RequestScope | None = None

    # --- before the application is called -------------------------------------------------------------------------------------------

    def early(self) -> Reply | None:
        """The answer that needs no application: 304 from memory, or 400 for what can not be understood."""
        request = self._request
        least = request.value(AT_LEAST)
        if least is not None:
            try:
                self._wanted = self._least = Stamp.parse(least.decode("latin-1"))
            except ValueError as error:
                return refusal(400, "no_stamp", f"Cachesync-At-Least: {error}")
            if self.wants_confirmation:
                return None
        known = request.value(b"if-none-match")
        if known is None or self._method not in READS or b"if-match" in request or b"if-unmodified-since" in request:
            return None
        found = self._answers.recall(self._target, request, known, self._identity)
        return None if found is None else Reply(Verdict.NOT_MODIFIED, found.fields(self._answers.engine.now()))

    @property
    def wants_confirmation(self) -> bool:
        """Whether the client has seen more of the log than is applied here, or a write depends on what is said: `confirming` is to be run
        before the application is called.
        """
        return self._is_look or (self._wanted is not None and not self._answers.engine.has_reached(self._wanted))

    def confirming(self) -> Generator[Step, Any, None]:
        """Apply the log up to where it ends now: nothing older is read, and nothing stale. A stamp that is not reached then is of another
        log, or was made up: it asks for no more. Where nobody can say where the log ends, what the request reads is computed.
        """
        engine = self._answers.engine
        is_confirmed = engine.shared is None or (yield from confirm(engine.now() + engine.budget))
        self._mark, self._position = engine.ledger.mark, engine.ledger.position
        self._least = self._position if is_confirmed else UNREACHED

    @property
    def wants_current(self) -> bool:
        """Whether this is a write with a condition: `settle` is to be given what a GET is answered, before the application is called."""
        return self._method not in SAFE and is_guarded(self._request)

    def settle(self, current: Current | None) -> Reply | None:
        """What the conditions of a write come to, before it has any effect; ``None``: it may go on. Where it could not be found out what
        stands there now (``current`` is ``None``), it may not.
        """
        if current is None:
            return refusal(Verdict.PRECONDITION_FAILED, "precondition_unknown", _UNKNOWN)
        must_match = self._method in self._answers.require_match
        verdict = judge(self._method, self._request, current, now=self._answers.now(), must_match=must_match)
        if verdict == Verdict.GO_ON:
            return None
        return refusal(verdict, *_CONDITIONS[verdict])

    @property
    def must_match(self) -> bool:
        """Whether the request lacks the condition that it must have."""
        return self._method in self._answers.require_match and not is_guarded(self._request)

    def scope(self) -> RequestScope:
        """The block to call the application in."""
        self._scope = RequestScope(self._answers.engine, least=self._least)
        return self._scope

    # --- when it has answered -------------------------------------------------------------------------------------------------------

    def waits(self, status: int, answer: HeaderFields) -> bool:
        """Whether the body is to be waited for, all of it, to name its content. Anything else passes as it comes."""
        if self._method not in READS or status != OK or b"etag" in answer or "no-store" in control_of(answer):
            return False
        length = answer.value(b"content-length")
        is_short = length is not None and length.isdigit() and len(length) < 12 and int(length) <= self._answers.largest
        return is_short and bool(self._consumed.policies)

    def answer(self, status: int, answer: HeaderFields, body: bytes | None = None) -> Reply:
        """What is sent: with the fields that describe it, or a 304 in its place. ``body`` is given where it was waited for."""
        consumed = self._consumed
        reply = self._described(consumed, status, answer, body)
        if self._scope is not None:
            self._scope.let_go()  # what is read from now on is in no answer that could still be described
        return reply._replace(fields=self._tell_writes(consumed, reply.fields)) if consumed.written else reply

    def _described(self, consumed: Consumed, status: int, answer: HeaderFields, body: bytes | None) -> Reply:
        if self._method not in READS or status != OK:
            return Reply(status, answer, None)
        policies = [policy for policy in consumed.policies.values() if policy.http is not None]
        is_managed = bool(policies) and len(policies) == len(consumed.policies)
        if is_managed:
            terms = self._terms(consumed)
            if body is not None and b"etag" not in answer and (self._method == "GET" or body):
                coding = (answer.value(b"content-encoding") or b"").decode("latin-1")
                tag = content_tag(body, target=self._target.decode("latin-1"), coding=coding, schema=terms.schema)
                answer = answer.plus((b"etag", str(tag).encode("ascii")))
                self._remember(tag.opaque, terms, consumed, answer)
            answer = managed(terms, self._request, answer, is_whole=body is not None or b"content-length" in answer)
        current = validators_of(answer, now=self._answers.now()) if is_conditional(self._request) else Current()
        verdict = judge(self._method, self._request, current, now=self._answers.now())
        if verdict == Verdict.NOT_MODIFIED:
            return Reply(verdict, not_modified(answer))
        if verdict == Verdict.PRECONDITION_FAILED:
            return refusal(verdict, *_CONDITIONS[verdict])
        return Reply(status, answer, None)

    @property
    def _consumed(self) -> Consumed:
        found = None if self._scope is None else self._scope.consumed
        return Consumed() if found is None else found

    def _terms(self, consumed: Consumed) -> Terms:
        engine, now = self._answers.engine, self._answers.engine.now()
        terms = terms_of(
            consumed.policies.values(),
            remains=consumed.until - now if math.isfinite(consumed.until) else 0.0,
            age=now - consumed.made if math.isfinite(consumed.made) else 0.0,
            groups=engine.groups.of_answer(engine.settings.policies, consumed.dependencies, self._identity),
            stamp=self._stamp(consumed),
            is_hit=consumed.is_hit,
            is_stale=consumed.is_stale,
        )
        return terms if self._identity is None else replace(terms, is_public=False)

    def _stamp(self, consumed: Consumed) -> Stamp | None:
        """The position before anything was read: what is served as fresh holds there. What is served stale is as old as it is."""
        position, lineage = self._position, self._answers.engine.ledger.lineage
        if position is None or not consumed.is_judged:
            return None
        numbered = [(number, stamp) for stamp in (position, *consumed.oldest) if (number := lineage.number(stamp)) is not None]
        return min(numbered, key=lambda one: one[0])[1] if numbered else None

    def _remember(self, opaque: str, terms: Terms, consumed: Consumed, answer: HeaderFields) -> None:
        """Keep the answer in mind, if a later request for it may be confirmed without the application."""
        position, chosen = self._position, selecting((*vary_of(varied(answer, terms.vary)), b"host"), self._request)
        names = tuple(consumed.policies)
        is_by_stamp = all(policy.http is not None and policy.http.etag == "stamp" for policy in consumed.policies.values())
        is_known = consumed.is_known and not consumed.is_stale and terms.remains > 0 and not consumed.written
        is_strict = any(policy.consistency == "strict" for policy in consumed.policies.values())
        is_public = terms.is_public and is_shareable(self._request, answer)
        if (
            not (is_by_stamp and is_known and (is_public or self._identity is not None))
            or is_strict
            or position is None
            or chosen is None
            or b"set-cookie" in answer
        ):
            return
        if not self._answers.is_usual(names):
            return
        base, terms = not_modified(answer.without((b"date",))), replace(terms, is_public=is_public)
        whose, now = _whose(self._request, self._identity), self._answers.engine.now()
        found = Remembered(base, terms, now, chosen, consumed.dependencies, names, position, self._mark, consumed.until)
        self._answers.remember(self._target, opaque, whose, found)

    def _tell_writes(self, consumed: Consumed, answer: HeaderFields) -> HeaderFields:
        """What the request has invalidated, by groups (RFC 9875, 3), and the position in the log after it."""
        engine = self._answers.engine
        policies = engine.settings.policies
        audience = Audience.of(policies, self._identity, _everything)
        groups = engine.groups.of_invalidation(concerns_of(policies, consumed.written), audience)
        added = [(INVALIDATED, listed(groups))] if groups else []
        if consumed.stamp is not None and not consumed.stamp.pending:
            added.append((STAMP, str(consumed.stamp).encode("ascii")))
        return answer.plus(*(pair for pair in added if pair[0] not in answer))


_CONDITIONS: Final[Mapping[int, tuple[str, str]]] = {
    Verdict.PRECONDITION_FAILED: (
        "precondition_failed",
        "what stands there now is not what the condition asks for: read it again, and repeat the change on what it is",
    ),
    Verdict.PRECONDITION_REQUIRED: (
        "precondition_required",
        "say what you have read, with If-Match and its ETag, so that nobody's change is lost",
    ),
}


def _everything(_identity: str | None, _policy: str) -> bool:
    """Whoever has made a change may hear of it."""
    return True


_UNKNOWN: Final = "it can not be found out what stands there now, so nothing was written: read it again"


def _whose(request: HeaderFields, identity: str | None) -> str:
    """Whose answers a request is confirmed from: an identity's, or of whoever says the same of himself in ``Authorization`` and cookies."""
    if identity is not None:
        return f"i{identity}"
    said = (request.value(b"authorization"), request.value(b"cookie"))
    return f"a{xxhash.xxh3_128_hexdigest(repr(said).encode('ascii'))}" if said != (None, None) else ""


def refusal(status: int, code: str, message: str) -> Reply:
    """An error as JSON: ``{"success": false, "error": {"code": ..., "message": ...}}``."""
    body = json.dumps({"success": False, "error": {"code": code, "message": message}}).encode()
    length = str(len(body)).encode("ascii")
    return Reply(
        status, HeaderFields(((b"content-type", b"application/json"), (b"content-length", length), (b"cache-control", b"no-store"))), body
    )
