"""Answers: HTTP as one cache sees it, for every door.

A door hands over what it was asked and what the application answered; here it is decided what to say. Nothing here reads or writes a
connection. An `Exchange` is one request: `early` may end it before the application is called, `settle` judges the conditions of a write
before it has any effect, and `answer` describes what the application has answered, or puts a 304 in its place.

An ETag is always that of the content. Where all the policies of an answer's data say ``etag = "stamp"``, what the answer was made of is
`remembered` beside it, in this process; a later request for the same with that ETag is answered with 304 at once, if the log says that
nothing of it has changed, while all of it is fresh.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

from cachesync.coordination.consumed import Consumed
from cachesync.coordination.operations import Operations
from cachesync.coordination.remembered import AnswerMemory, Remembered
from cachesync.coordination.request_scope import RequestScope
from cachesync.core.cache_control import control_of
from cachesync.core.entry import ELSEWHERE
from cachesync.core.etag import content_tag
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
    failure,
    is_conditional,
    is_guarded,
    is_shareable,
    judge,
    lacks_guard,
    listed,
    managed,
    not_modified,
    selecting,
    terms_of,
    validators_of,
    varied,
    vary_of,
)
from cachesync.core.policy import Policy
from cachesync.core.records import KEY, TAG
from cachesync.core.stamps import UNREACHED, Stamp
from cachesync.core.steps import Step

LARGEST: Final = 1024 * 1024
"""Bytes of a body that is waited for, to name its content. What is larger, or does not say how large it is, passes at once."""
LONGEST: Final = 2_048
"""Bytes of an address, and of what the request says where ``Vary`` looks, of an answer that is remembered."""
OF_A_WRITE: Final = frozenset((
    b"if-match", b"if-none-match", b"if-unmodified-since", b"if-modified-since", b"if-range", b"range",
    b"content-length", b"content-type", b"transfer-encoding", b"expect",
))  # fmt: skip
"""Fields that a look leaves out of the write that it is made of: conditions, ranges, and what describes a body."""
LONGEST_LENGTH: Final = 15
"""Digits of a Content-Length that is looked at."""
OK: Final = 200


class Reply(NamedTuple):
    """What is answered instead of the application's answer, or in its place. ``body`` is ``None`` where the application's is sent."""

    status: int
    fields: HeaderFields
    body: bytes | None = b""


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
        remember: int,
        largest: int,
        require_match: frozenset[str],
    ) -> None:
        self.engine = operations.engine
        self.run = operations.run
        self.arun = operations.arun
        self.now = now
        self.largest = largest
        self.require_match = require_match
        self.memory = AnswerMemory(self.engine, remember)

    def begin(self, method: str, target: bytes, request: HeaderFields, identity: str | None, *, is_look: bool = False) -> Exchange:
        """One request. ``target`` names the resource (path and query), ``identity`` says whose it is, ``None`` that nobody knows.

        ``is_look``: it is asked to find out what stands there now, before a write. Raises ``TypeError`` for an identity that is no text.
        """
        if identity is not None and not isinstance(identity, str):  # pyright: ignore[reportUnnecessaryIsInstance] - of the user's
            raise TypeError(f"identify: whose request it is, is a text or None, not {type(identity).__name__}")
        return Exchange(self, method, target, request, identity or None, is_look=is_look)


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
        """The answer that needs no application: 304 from memory, 400 for what can not be understood, or 428 for a write that lacks the
        condition that it must have.
        """
        request = self._request
        least = request.value(AT_LEAST)
        if least is not None:
            try:
                self._wanted = self._least = Stamp.parse(least.decode("latin-1"))
            except ValueError as error:
                return refusal(400, "no_stamp", f"Cachesync-At-Least: {error}")
        if self._method in self._answers.require_match and lacks_guard(self._method, request):
            return refusal(Verdict.PRECONDITION_REQUIRED, *_CONDITIONS[Verdict.PRECONDITION_REQUIRED])
        if self.wants_confirmation:
            return None
        known = request.value(b"if-none-match")
        if known is None or self._method not in READS or b"if-match" in request or b"if-unmodified-since" in request:
            return None
        found = self._answers.memory.recall(self._target, request, known, self._identity)
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
        verdict = judge(self._method, self._request, current, now=self._answers.now())
        if verdict == Verdict.GO_ON:
            return None
        return refusal(verdict, *_CONDITIONS[verdict])

    def scope(self) -> RequestScope:
        """The block to call the application in."""
        self._scope = RequestScope(self._answers.engine, least=self._least)
        return self._scope

    # --- when it has answered -------------------------------------------------------------------------------------------------------

    def awaits(self, status: int, answer: HeaderFields) -> int | None:
        """The length of the body, if all of it is to be waited for: to name its content, and because only then it is known what it is made
        of. Anything else passes as it comes: ``None``.
        """
        if self._method not in READS or status != OK or "no-store" in control_of(answer) or not self._consumed.policies:
            return None
        length = answer.value(b"content-length")
        if length is None or not length.isdigit() or len(length) > LONGEST_LENGTH:
            return None
        return int(length) if int(length) <= self._answers.largest else None

    def answer(self, status: int, answer: HeaderFields, body: bytes | None = None) -> Reply:
        """What is sent: with the fields that describe it, or a 304 in its place. ``body`` is given where it was waited for."""
        consumed = self._consumed
        reply = self._described(consumed, status, answer, body)
        if self._scope is not None:
            self._scope.let_go()  # what is read from now on is in no answer that could still be described
        return reply._replace(fields=self._tell_writes(consumed, reply.fields)) if consumed.written else reply

    def _described(self, consumed: Consumed, status: int, answer: HeaderFields, body: bytes | None) -> Reply:
        if self._method not in READS:
            return Reply(status, answer, None)
        policies = [policy for policy in consumed.policies.values() if policy.http is not None]
        is_managed = bool(policies) and len(policies) == len(consumed.policies)
        if status != OK:
            may_be_guessed = is_managed and status != Verdict.NOT_MODIFIED  # RFC 9110, 15.1: also 206, 301, 404
            return Reply(status, managed(self._terms(consumed), self._request, answer, is_whole=False) if may_be_guessed else answer, None)
        if is_managed:
            terms = self._terms(consumed)
            if body is not None and b"etag" not in answer and (self._method == "GET" or body):
                coding = (answer.value(b"content-encoding") or b"").decode("latin-1")
                tag = content_tag(body, target=self._target.decode("latin-1"), coding=coding, schema=terms.schema)
                answer = answer.plus((b"etag", str(tag).encode("ascii")))
                self._remember(tag.opaque, terms, consumed, answer)
            answer = managed(terms, self._request, answer, is_whole=body is not None)
        elif b"content-length" not in answer and b"cache-control" not in answer:  # a stream: what it will be made of is not known yet
            answer = answer.plus((b"cache-control", b"private, no-cache"))
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
        policies = self._policies(consumed)
        terms = terms_of(
            consumed.policies.values() if policies is None else policies,
            remains=consumed.until - now if math.isfinite(consumed.until) else 0.0,
            age=now - consumed.made if math.isfinite(consumed.made) else 0.0,
            groups=engine.groups.of_answer(engine.settings.policies, consumed.dependencies, self._identity),
            stamp=self._stamp(consumed),
            is_hit=consumed.is_hit,
            is_stale=consumed.is_stale,
        )
        if not consumed.is_alone:  # what another cache has given may be out of date at any time
            terms = replace(terms, remains=0.0)
        if policies is None or not consumed.is_alone:  # and anybody's
            return replace(terms, keeps=None, is_public=False)
        return terms if self._identity is None else replace(terms, is_public=False)

    def _policies(self, consumed: Consumed) -> Collection[Policy] | None:
        """Those of all that the answer is made of, at first hand or at second; ``None`` where that is more than is told apart, or is under
        the policies of another cache.
        """
        known, found = self._answers.engine.settings.policies, dict(consumed.policies)
        for one in consumed.dependencies:
            policy = known.match(one.text) if one.kind == KEY and one != ELSEWHERE else None
            if policy is not None:
                found[policy.name] = policy
            elif one.kind != TAG:
                return None
        return found.values()

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
            or len(self._target) + sum(len(said or b"") for said in chosen.values()) > LONGEST
            or b"set-cookie" in answer
        ):
            return
        engine = self._answers.engine
        if not engine.switches.are_usual(names):
            return
        base, terms = not_modified(answer.without((b"date",))), replace(terms, is_public=is_public)
        found = Remembered(base, terms, engine.now(), chosen, consumed.dependencies, names, position, self._mark, consumed.until)
        self._answers.memory.remember(self._target, self._request, opaque, self._identity, found)

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


def refusal(status: int, code: str, message: str) -> Reply:
    """A request that is refused."""
    body = json.dumps(failure(code, message)).encode()
    length = b"%d" % len(body)
    fields = ((b"content-type", b"application/json"), (b"content-length", length), (b"cache-control", b"no-store"))
    return Reply(status, HeaderFields(fields), body)
