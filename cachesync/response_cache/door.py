"""The door: which requests are answered from what is kept, which wait for each other, and which go through."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from cachesync.cache import Cache
from cachesync.coordination.asgi import App, Message, Receive, Scope, Send
from cachesync.coordination.gathering import gathering
from cachesync.coordination.keeper import Obtained
from cachesync.core import http_cache as rule
from cachesync.core.header_fields import HeaderFields
from cachesync.core.http import STAMP, not_modified
from cachesync.core.http_cache import Rules, StoredAnswer, Use, cache_status
from cachesync.core.stamps import Stamp
from cachesync.errors import OverdueError, RestingError
from cachesync.response_cache.attempt import Attempt, FailedAnswerError
from cachesync.response_cache.kept import Kept, KeptAnswers, ended_by
from cachesync.response_cache.request import Request, with_status

LIMIT: Final = 1024 * 1024
"""Bytes of a body that is kept. A longer one is passed on as it comes, and no more than this of it is ever held."""
MOST_PASSED: Final = 10_000
"""Addresses that are remembered because their answers could not be stored: who asks for one waits for nobody."""
LONGEST_PASSED: Final = 2_048
"""Characters of such an address: others are forgotten, so that nobody fills the memory with them."""


class ResponseCache:
    """Answers GET and HEAD from a cache in front of ``app``, for the policy of that name: ``ResponseCache(app, cache, policy="pages")``.

    The policy's ``match`` is a prefix (``"pages:*"``), its ``ttl`` is dynamic, because each answer says how long it is fresh, and its
    ``[http]`` says ``respond_from_cache = true``: without that all goes through untouched. Its ``stale_while_revalidate`` and
    ``stale_if_error`` bound what answers say of theirs. ``rules`` are the choices that RFC 9111 leaves, ``limit`` the bytes of a body that
    is kept, ``now`` the seconds since 1970. Raises ``PolicyError`` for a policy that does not fit.
    """

    def __init__(
        self,
        app: App,
        cache: Cache,
        policy: str,
        *,
        rules: Rules | None = None,
        limit: int = LIMIT,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.app = app
        self.answers = KeptAnswers(cache, policy)
        self.rules = rules or Rules()
        self.limit = limit
        self.now = now
        self._cache = cache
        self._policy = policy
        self._passed: dict[tuple[str, bool, bool], None] = {}
        self.running: set[asyncio.Task[None]] = set()
        """Calls of the application that are under way. An event loop by itself keeps no task alive."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. What is no HTTP, and all of it while the policy does not ask for a response cache, is the application's."""
        found = self._cache.settings.policies.get(self._policy) if scope["type"] == "http" else None
        if found is None or found.http is None or not found.http.respond_from_cache:
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive, send)
        if request.method not in ("GET", "HEAD") or request.has_body:
            await self._change(request)
        elif not await self._is_ready(request):
            await self._pass(request, "bypass")
        elif rule.wants_only_stored(request.fields, self.rules):
            if not await self._serve_stored(request, asks=False):
                await request.send_plain(HTTPStatus.GATEWAY_TIMEOUT, b'cachesync; detail="only-if-cached"')
        elif request.method == "HEAD" or b"range" in request.fields:
            if not await self._serve_stored(request):
                await self._pass(request, "miss")
        elif request.kind in self._passed:
            await self._pass(request, "miss", learns=True)
        else:
            await self._get(request)

    async def _is_ready(self, request: Request) -> bool:
        """Whether a request may be answered from here: it can be read, and what its client has seen of the log is applied. Where that can
        not be found out, the application is asked.
        """
        is_ready = request.is_readable and (request.least is None or await self.answers.reaches(request.least))
        request.position = self.answers.position
        return is_ready

    # --- reading --------------------------------------------------------------------------------------------------------------------

    async def _get(self, request: Request) -> None:
        """A GET that may wait for the computation of another one, and be the computation that others wait for."""
        attempt = Attempt(self, request, "miss")
        try:
            found = await self.answers.obtain(request.url, attempt.compute, accepts=self._accepting(request))
            if (varies := found.value.varies) and not attempt.has_begun:
                attempt.detach()  # first: it may be called behind the caller's back
                attempt = Attempt(self, request, "miss", varies=varies)
                found = await self.answers.obtain(attempt.address, attempt.compute, accepts=self._accepting(request))
        except asyncio.CancelledError:
            attempt.abandon()
            raise
        except Exception as error:
            if await attempt.is_delivered():
                return
            await self._fail(request, attempt, error)
            return
        if not await attempt.is_delivered() and not attempt.is_deserted:
            await self._use(request, attempt, found)

    def _accepting(self, request: Request) -> Callable[[Kept, float], bool]:
        """Whether something stale may be used for a request. Where it may not, the application is asked, once for all who ask."""

        def accepts(kept: Kept, age: float) -> bool:
            answer = kept.answer
            if request.least is not None:
                return False
            if answer is None or not request.is_selected_by(answer):
                return answer is not None
            chosen = rule.choose(answer, request.fields, age, self.rules, is_ended=answer.remains(age) > 0)
            return chosen.use is not Use.VALIDATE

        return accepts

    async def _use(self, request: Request, attempt: Attempt, found: Obtained[Kept]) -> None:
        """Answer with what was found: a stored answer, or what another request's computation has brought."""
        answer = found.value.answer
        if answer is None:
            await self._pass(request, "miss", learns=True)
            return
        if not request.is_selected_by(answer):
            await self._pass(request, "vary-miss")
            return
        if attempt.is_validated:
            await self._serve(request, answer, 0.0, cache_status(fwd="stale", fwd_status=304, is_stored=True))
            return
        age = found.age
        if found.is_spare:
            if request.least is None and rule.may_stand_in(answer, request.fields, age, self.rules):
                await self._serve(request, answer, age, cache_status(ttl=answer.remains(age), detail="stale-if-error"))
            else:
                await self._fail(request, attempt, attempt.failure)
            return
        chosen = rule.choose(answer, request.fields, age, self.rules, is_ended=found.is_stale and answer.remains(age) > 0)
        if chosen.use is Use.PASS:
            await self._pass(request, chosen.fwd)
        elif chosen.use is Use.VALIDATE:
            await self._validate(request, answer, chosen.fwd)
        elif found.is_new:
            await self._serve(request, answer, age, cache_status(fwd="miss", is_collapsed=True, ttl=answer.remains(age)))
        else:
            holds = None if found.is_stale else request.position
            await self._serve(request, answer, age, cache_status(ttl=answer.remains(age)), holds=holds)

    async def _serve_stored(self, request: Request, *, asks: bool = True) -> bool:
        """Answer with what is stored, if anything may be used. Nobody is waited for; with ``asks`` the application is asked whether it is
        current, where it must be.
        """
        entry = await self.answers.find(request.url)
        if entry is not None and entry.value.varies:
            entry = await self.answers.find(request.variant(entry.value.varies))
        answer = None if entry is None else entry.value.answer
        if entry is None or answer is None or not request.is_selected_by(answer):
            return False
        is_ended = entry.is_stale and answer.remains(entry.age) > 0
        if entry.is_stale and request.least is not None:
            return False
        chosen = rule.choose(answer, request.fields, entry.age, self.rules, is_ended=is_ended)
        if asks and chosen.use is Use.VALIDATE and request.method == "GET" and b"range" not in request.fields:
            await self._validate(request, answer, chosen.fwd)
            return True
        if chosen.use is not Use.SERVE and chosen.use is not Use.SERVE_AND_REFRESH:
            return False
        holds = None if entry.is_stale else request.position
        await self._serve(request, answer, entry.age, cache_status(ttl=answer.remains(entry.age)), holds=holds)
        return True

    async def _validate(self, request: Request, answer: StoredAnswer, fwd: str) -> None:
        """Ask the application whether a stored answer is current (RFC 9111, 4.3), for this request alone."""
        found = self.answers.gathering()
        attempt = Attempt(self, request, fwd, old=answer, varies=tuple(name for name, _ in answer.selected_by))
        stands = self.answers.standing()
        context = contextvars.copy_context()
        context.run(gathering.set, found)
        try:
            kept = await asyncio.get_running_loop().create_task(attempt.compute(), context=context)
        except Exception as error:
            if not await attempt.is_delivered():
                await self._fail(request, attempt, error)
            return
        newer = kept.answer
        if attempt.is_validated and newer is not None:
            await self._serve(request, newer, 0.0, cache_status(fwd=fwd, fwd_status=304, is_stored=not newer.must_validate))
        else:
            await attempt.is_delivered()
        if newer is not None and not (attempt.is_validated and newer.must_validate):
            await self.answers.replace(attempt.address, self.answers.ready(attempt.address, kept, stands, found))

    async def _fail(self, request: Request, attempt: Attempt, error: BaseException | None) -> None:
        """There is no answer. The application's own failure is its server's to tell; a caller who joined it tries for himself."""
        attempt.detach()
        if isinstance(error, FailedAnswerError):
            await request.send_plain(HTTPStatus(error.status), cache_status(fwd="stale", fwd_status=error.status))
        elif isinstance(error, OverdueError):
            await request.send_plain(HTTPStatus.GATEWAY_TIMEOUT, cache_status(fwd="miss", detail="hard_timeout"))
        elif isinstance(error, RestingError):
            await request.send_plain(HTTPStatus.SERVICE_UNAVAILABLE, b'cachesync; detail="errors"')
        elif attempt.has_begun and error is not None:
            raise error
        else:
            await self._pass(request, "miss")

    async def _serve(self, request: Request, answer: StoredAnswer, age: float, status: bytes, *, holds: Stamp | None = None) -> None:
        """Send a stored answer: with its age (RFC 9111, 4), a 304 where the request has it already, a part where it wants one. ``holds`` is
        the position at which it was found to be fresh: what it says of its stamp holds there, too.
        """
        fields = answer.fields if holds is None or STAMP not in answer.fields else answer.fields.replaced(STAMP, str(holds).encode("ascii"))
        pairs = [*fields, (b"age", b"%d" % int(answer.initial_age + age)), (b"cache-status", status)]
        body, code = answer.body, answer.status
        if 200 <= code < 300 and rule.is_known(answer, request.method, request.fields, now=self.now()):
            pairs, body, code = list(not_modified(HeaderFields(pairs))), b"", 304
        elif request.method == "GET" and (part := rule.part_of(answer, request.fields)) is not None:
            first, last = part
            about = ((b"content-range", b"bytes %d-%d/%d" % (first, last, len(body))), (b"content-length", b"%d" % (last - first + 1)))
            pairs = list(HeaderFields(pairs).without((b"content-length",)).plus(*about))
            body, code = body[first : last + 1], 206
        await request.send({"type": "http.response.start", "status": code, "headers": pairs})
        await request.send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else body, "more_body": False})

    # --- passing --------------------------------------------------------------------------------------------------------------------

    async def _pass(self, request: Request, fwd: str, *, learns: bool = False) -> None:
        """Forward a request for itself alone. ``learns``: it notices when its kind of answers can be stored after all."""
        is_known = False

        async def send(message: Message) -> None:
            nonlocal is_known
            if message["type"] == "http.response.start":
                answer = HeaderFields(message.get("headers", ()))
                why = rule.why_not_stored(request.method, request.fields, message["status"], answer, self.rules, now=self.now())
                if learns and not why and not is_known:
                    self.note_passed(request, is_passed=False)
                is_known = True
                if request.method == "HEAD" and message["status"] == HTTPStatus.OK:
                    await self._notice_head(request, answer)
                message = {**message, "headers": with_status(answer, cache_status(fwd=fwd, detail=why))}
            await request.send(message)

        await self.app(request.scope, request.receive, send)

    async def _notice_head(self, request: Request, head: HeaderFields) -> None:
        """The answer to a HEAD may show that what is stored is out of date, if that could have been its answer (RFC 9111, 4.3.5)."""
        entry = await self.answers.find(request.url)
        answer = None if entry is None else entry.value.answer
        if answer is None or not request.is_selected_by(answer) or not rule.is_for(answer, request.fields, self.rules):
            return
        if rule.is_contradicted_by(answer, head):
            await self.answers.end(request.url)

    def note_passed(self, request: Request, *, is_passed: bool) -> None:
        """Remember, or forget, that answers to this kind of request can not be stored."""
        self._passed.pop(request.kind, None)
        if is_passed and len(request.url) <= LONGEST_PASSED:
            self._passed[request.kind] = None
            if len(self._passed) > MOST_PASSED:
                del self._passed[next(iter(self._passed))]

    # --- changing -------------------------------------------------------------------------------------------------------------------

    async def _change(self, request: Request) -> None:
        """Forward what is no read, and end what it changes before its client is told (RFC 9111, 4.4; RFC 9875, 3)."""

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = HeaderFields(message.get("headers", ()))
                if ended := ended_by(request, message["status"], answer):
                    await self._cache.ainvalidate(tags=ended)
                message = {**message, "headers": with_status(answer, cache_status(fwd="method"))}
            await request.send(message)

        await self.app(request.scope, request.receive, send)
