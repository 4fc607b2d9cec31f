"""A response cache for ASGI: whole answers kept as values of a cachesync cache, under the rules of a shared HTTP cache (RFC 9111).

An answer is the result of a computation like any other: what its handler reads from cached functions becomes something it depends on, an
invalidation ends it in every process, and single flight, leases and spares are those of the cache. The rules themselves are in
``core.http_cache``; here is only when they are asked, and how a body flows to its client while it is kept.

Under the address of a page stands its answer or, where its answers carry ``Vary``, the names of the request fields that select one
(RFC 9111, 4.1); each answer then has a key of its own, made of the address and a hash of what its request said in these fields.
"""

from __future__ import annotations

import asyncio
import contextvars
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum
from hashlib import blake2b
from http import HTTPStatus
from typing import Any, Final, cast

from cachesync.cache import Cache
from cachesync.coordination.asgi import App, Message, Receive, Scope, Send, target_of
from cachesync.coordination.gathering import Gathering, gathering
from cachesync.coordination.keeper import Obtained
from cachesync.core import http_cache as rule
from cachesync.core.entry import Dependency
from cachesync.core.header_fields import HeaderFields
from cachesync.core.http import AT_LEAST, Verdict, judge, not_modified, validators_of
from cachesync.core.http_cache import Rules, StoredAnswer, Use, cache_status
from cachesync.core.keys import written
from cachesync.core.records import TAG
from cachesync.core.stamps import Stamp
from cachesync.core.units import as_written
from cachesync.errors import OverdueError, PolicyError, RestingError

Standing = Callable[[str, Iterable[Dependency]], bool]

LIMIT: Final = 1024 * 1024
"""Bytes of a body that is kept. A longer one is passed on as it comes, and no more than this of it is ever held."""
MOST_PASSED: Final = 10_000
"""Addresses that are remembered because their answers could not be stored: who asks for one waits for nobody."""
LONGEST_PASSED: Final = 2_048
"""Characters of such an address: others are forgotten, so that nobody fills the memory with them."""
_HOST: Final = re.compile(r"[a-z0-9._~:%\[\]-]*")
"""What may stand in ``Host`` (RFC 3986, 3.2.2, without what nobody uses). Anything else could be taken for a part of a path."""
_CONDITIONS: Final = (b"if-none-match", b"if-modified-since", b"if-match", b"if-unmodified-since")


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept under a key: an answer, or the names of the request fields that select one. Neither: the answer is for one caller alone.

    ``tags`` are what ends it besides what it depends on: its address and its groups.
    """

    answer: StoredAnswer | None = None
    varies: tuple[bytes, ...] = ()
    tags: tuple[str, ...] = ()


FOR_ONE: Final = Kept()


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
        self.cache = cache
        self.keeper = cache.keeper()
        self.rules = rules or Rules()
        self.limit = limit
        self.now = now
        self._policy = policy
        self._kept = _decorated(cache, policy)
        self._passed: dict[tuple[str, bool, bool], None] = {}
        self.running: set[asyncio.Task[None]] = set()
        """Calls of the application that are under way. An event loop by itself keeps no task alive."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. What is no HTTP, and all of it while the policy does not ask for a response cache, is the application's."""
        found = self.cache.settings.policies.get(self._policy) if scope["type"] == "http" else None
        if found is None or found.http is None or not found.http.respond_from_cache:
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive, send)
        if not await self._is_ready(request):
            await self._pass(request, "bypass")
        elif request.method not in ("GET", "HEAD") or request.has_body:
            await self._change(request)
        elif rule.wants_only_stored(request.fields, self.rules):
            if not await self._serve_stored(request, asks=False):
                await _send_plain(request, HTTPStatus.GATEWAY_TIMEOUT, b'cachesync; detail="only-if-cached"')
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
        return request.is_readable and (request.least is None or await self.keeper.areaches(request.least))

    # --- reading --------------------------------------------------------------------------------------------------------------------

    async def _get(self, request: Request) -> None:
        """A GET that may wait for the computation of another one, and be the computation that others wait for."""
        attempt = Attempt(self, request, "miss")
        try:
            found = await self.keeper.aobtain(self.key(request.url), attempt.compute, accepts=self._accepting(request))
            if (varies := found.value.varies) and not attempt.has_begun:
                attempt.detach()  # first: it may be called behind the caller's back
                attempt = Attempt(self, request, "miss", varies=varies)
                key = self.key(self.variant(request, varies))
                found = await self.keeper.aobtain(key, attempt.compute, accepts=self._accepting(request))
        except Exception as error:
            if await attempt.is_delivered():
                return
            await self._fail(request, attempt, error)
            return
        if not await attempt.is_delivered():
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
            await self._serve(request, answer, age, cache_status(ttl=answer.remains(age)))

    async def _serve_stored(self, request: Request, *, asks: bool = True) -> bool:
        """Answer with what is stored, if anything may be used. Nobody is waited for; with ``asks`` the application is asked whether it is
        current, where it must be.
        """
        entry = await self.cache.apeek(self.key(request.url))
        if entry is not None and entry.value.varies:
            entry = await self.cache.apeek(self.key(self.variant(request, entry.value.varies)))
        answer = None if entry is None else cast("Kept", entry.value).answer
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
        await self._serve(request, answer, entry.age, cache_status(ttl=answer.remains(entry.age)))
        return True

    async def _validate(self, request: Request, answer: StoredAnswer, fwd: str) -> None:
        """Ask the application whether a stored answer is current (RFC 9111, 4.3), for this request alone."""
        found = self.keeper.gathering()
        attempt = Attempt(self, request, fwd, old=answer, varies=tuple(name for name, _ in answer.selected_by))
        stands = self.keeper.standing()
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
            url = self.variant(request, attempt.varies) if attempt.varies else request.url
            await self._kept.refresh(url, self.ready(url, kept, stands, found))

    async def _fail(self, request: Request, attempt: Attempt, error: BaseException | None) -> None:
        """There is no answer. The application's own failure is its server's to tell; a caller who joined it tries for himself."""
        attempt.detach()
        if isinstance(error, FailedAnswerError):
            await _send_plain(request, HTTPStatus(error.status), cache_status(fwd="stale", fwd_status=error.status))
        elif isinstance(error, OverdueError):
            await _send_plain(request, HTTPStatus.GATEWAY_TIMEOUT, cache_status(fwd="miss", detail="hard_timeout"))
        elif isinstance(error, RestingError):
            await _send_plain(request, HTTPStatus.SERVICE_UNAVAILABLE, b'cachesync; detail="errors"')
        elif attempt.has_begun and error is not None:
            raise error
        else:
            await self._pass(request, "miss")

    async def _serve(self, request: Request, answer: StoredAnswer, age: float, status: bytes) -> None:
        """Send a stored answer: with its age (RFC 9111, 4), a 304 where the request has it already, a part where it wants one."""
        pairs = [*answer.pairs, (b"age", b"%d" % int(answer.initial_age + age)), (b"cache-status", status)]
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
                message = {**message, "headers": _with_status(answer, cache_status(fwd=fwd, detail=why))}
            await request.send(message)

        await self.app(request.scope, request.receive, send)

    async def _notice_head(self, request: Request, head: HeaderFields) -> None:
        """The answer to a HEAD may show that what is stored is out of date, if that could have been its answer (RFC 9111, 4.3.5)."""
        entry = await self.cache.apeek(self.key(request.url))
        answer = None if entry is None else cast("Kept", entry.value).answer
        if answer is None or not request.is_selected_by(answer) or not rule.is_for(answer, request.fields, self.rules):
            return
        if rule.is_contradicted_by(answer, head):
            await self.cache.ainvalidate(self.key(request.url))

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
                ended: list[str] = []
                if rule.ends(request.method, message["status"]):
                    ended += map(_url_tag, rule.ended_urls(request.url, answer))
                ended += (_group_tag(request.origin, group) for group in rule.ended_groups(request.method, answer))
                if ended:
                    await self.cache.ainvalidate(tags=ended)
                message = {**message, "headers": _with_status(answer, cache_status(fwd="method"))}
            await request.send(message)

        await self.app(request.scope, request.receive, send)

    # --- keeping --------------------------------------------------------------------------------------------------------------------

    def key(self, address: str) -> str:
        """The key, as text, of what is kept under an address, or under one of its variants."""
        return cast("str", self._kept.key(address, _nothing))

    def variant(self, request: Request, names: Iterable[bytes]) -> str:
        """The address of the answer for requests that say the same in these fields. No other address has a space."""
        said = (name + b"\1" + (b"" if value is None else b"=" + value) for name, value in rule.selected(tuple(names), request.fields))
        digest = blake2b(b"\0".join(said), digest_size=16).hexdigest()
        return f"{request.url} {digest}"

    def keeping(self, request: Request, answer: StoredAnswer) -> Kept:
        """An answer, with the tags that end it."""
        groups = (_group_tag(request.origin, group) for group in rule.groups_of(answer.fields))
        return Kept(answer, tags=(_url_tag(request.url), *groups))

    def ready(self, address: str, kept: Kept, stands: Standing, found: Gathering) -> Callable[[], Awaitable[Kept]]:
        """A computation that brings what was computed already. It is taken for as new as the moment at which it is brought, so it is kept
        only if nothing that concerns it was invalidated since it was begun.
        """

        async def bring() -> Kept:
            inside = gathering.get()
            assert inside is not None
            inside.absorb(found)
            tags = (Dependency(TAG, written(tag)) for tag in kept.tags)
            if not stands(self.key(address), (*found.dependencies, *tags)):
                inside.keep_nothing()
            return kept

        return bring


class Request:
    """One request, and what is read of it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.method: str = scope["method"]
        self.fields = HeaderFields(scope["headers"])
        host = (self.fields.value(b"host") or b"").decode("latin-1").lower()
        self.origin = f"{scope.get('scheme', 'http')}://{host}"
        self.url = self.origin + target_of(scope).decode("latin-1").replace(" ", "%20")
        self.is_readable = _HOST.fullmatch(host) is not None
        self.least: Stamp | None = None
        """The stamp that its answer may not be older than (``Cachesync-At-Least``)."""
        if (least := self.fields.value(AT_LEAST)) is not None:
            try:
                self.least = Stamp.parse(least.decode("latin-1"))
            except ValueError:
                self.is_readable = False

    @property
    def has_body(self) -> bool:
        """Whether it brings content, which the key of an answer would not tell."""
        return self.fields.value(b"content-length") not in (None, b"0") or b"transfer-encoding" in self.fields

    @property
    def kind(self) -> tuple[str, bool, bool]:
        """What decides whether its answer is likely to be storable: the address, and whether somebody known asks."""
        return self.url, b"authorization" in self.fields, b"cookie" in self.fields

    def is_selected_by(self, answer: StoredAnswer) -> bool:
        """Whether ``Vary`` lets this request have that answer (RFC 9111, 4.1). A key is a hash: here it is looked at itself."""
        return rule.selected(tuple(name for name, _ in answer.selected_by), self.fields) == answer.selected_by


class _Flow(Enum):
    """What becomes of the messages of an application."""

    WAITING = "it has not begun"
    SENT = "they go to the client"
    DROPPED = "they were a 304 to a question of ours, or an error that a stale answer stands in for"
    AGAIN = "they were a 304 about something else: the question is asked again, without conditions"


class Attempt:
    """One request forwarded to the application: its answer goes to the client as it comes, and is collected for others where it may be.

    `compute` is what the cache calls. It returns as soon as it is known whether the answer can be stored: nobody who waits for it waits for
    a stream. The client is written to by a task of its own, so that nobody waits for a slow client either.
    """

    def __init__(
        self, door: ResponseCache, request: Request, fwd: str, *, old: StoredAnswer | None = None, varies: tuple[bytes, ...] = ()
    ) -> None:
        self.has_begun = False
        self.is_validated = False
        self.failure: BaseException | None = None
        self.varies = varies
        self._door = door
        self._request = request
        self._fwd = fwd
        self._old = old
        self._old_age = 0.0
        self._is_attached = True
        self._flow = _Flow.WAITING
        self._chunks: list[bytes] | None = None
        self._size = 0
        self._start = (0, HeaderFields())
        self._asked = 0.0
        self._has_content = False
        self._drops_body = False
        self._decided: asyncio.Future[StoredAnswer | None] | None = None
        self._outbox: asyncio.Queue[Message | None] | None = None
        self._writing: asyncio.Task[None] | None = None
        self._lost: BaseException | None = None

    # --- for the cache --------------------------------------------------------------------------------------------------------------

    async def compute(self) -> Kept:
        """Call the application. `FOR_ONE` where its answer is for this caller alone."""
        if self.has_begun:  # the cache asks again, behind the caller's back: that is another attempt, which nobody waits for
            behind = Attempt(self._door, self._request, self._fwd, old=self._old, varies=self.varies)
            behind.detach()
            return await behind.compute()
        self.has_begun = True
        outer = gathering.get()
        assert outer is not None
        door, stands = self._door, self._door.keeper.standing()
        found = door.keeper.gathering()
        found.has_request = True
        if self._old is None:
            self._look_for_spare()
        answer = await self._answer(found)
        if answer is None:
            outer.keep_nothing()
            return FOR_ONE
        if self.is_validated and self._old is not None:
            found.add(Dependency(*one) for one in self._old.dependencies)
        answer = replace(answer, dependencies=tuple((one.kind, one.text) for one in found.dependencies))
        kept = door.keeping(self._request, answer)
        names = tuple(name for name, _ in answer.selected_by)
        if set(names) <= set(self.varies):
            outer.absorb(found)
            return kept
        if self.varies:  # its Vary has grown: what is known of the address is wrong
            outer.keep_nothing()
            await door.cache.ainvalidate(door.key(self._request.url))
            return kept
        # The names are kept under the address, and depend on nothing that the answer is made of.
        address = door.variant(self._request, names)
        token = gathering.set(door.keeper.gathering())
        try:
            await door.keeper.aobtain(door.key(address), door.ready(address, kept, stands, found))
        finally:
            gathering.reset(token)
        return replace(kept, answer=None, varies=names)

    def _look_for_spare(self) -> None:
        """An old answer of this process, to ask about (RFC 9111, 4.3.1), and to answer with where the application fails."""
        door, request = self._door, self._request
        found = door.keeper.spare(door.key(door.variant(request, self.varies) if self.varies else request.url))
        answer = None if found is None else cast("Kept", found.value).answer
        if found is not None and answer is not None and request.is_selected_by(answer):
            self._old, self._old_age = answer, found.age
            self._fwd = "stale"

    async def _answer(self, found: Gathering) -> StoredAnswer | None:
        """Run the application, which finds out what its answer depends on. ``None`` where that may not be stored."""
        loop = asyncio.get_running_loop()
        self._decided = loop.create_future()
        self._decided.add_done_callback(lambda decided: decided.cancelled() or decided.exception())
        token = gathering.set(found)
        running = loop.create_task(self._run())
        gathering.reset(token)
        self._door.running.add(running)
        running.add_done_callback(self._door.running.discard)
        try:
            return await asyncio.shield(self._decided)
        except asyncio.CancelledError:
            running.cancel()
            raise

    async def _run(self) -> None:
        door = self._door
        try:
            self._asked = door.now()
            await door.app(self._asking(), self._receive, self._send)
            if self._flow is _Flow.AGAIN:
                self._old, self._flow = None, _Flow.WAITING
                self._asked = door.now()
                await door.app(self._asking(), self._receive, self._send)
            if self._flow is _Flow.WAITING:
                raise RuntimeError("the application has sent no answer")
            self._decide(None)
        except BaseException as error:
            decided = self._decided
            if decided is not None and not decided.done():
                self.failure = error
                if isinstance(error, asyncio.CancelledError):
                    decided.cancel()
                else:
                    decided.set_exception(error)
            if self._flow is _Flow.SENT:
                self._lost = self._lost or error
        finally:
            if self._outbox is not None:
                self._outbox.put_nowait(None)

    def _keep_nothing(self) -> None:
        """What has begun, if anything has, is for this client alone."""
        if self._flow is _Flow.SENT:
            self._chunks = None
            self._decide(None)

    def _decide(self, answer: StoredAnswer | None) -> None:
        if self._decided is not None and not self._decided.done():
            self._decided.set_result(answer)

    # --- for the client -------------------------------------------------------------------------------------------------------------

    async def is_delivered(self) -> bool:
        """Whether the application's answer went to the client; then it has got all of it. Raises what the application has raised after
        it had begun to answer. From now on nothing is sent any more.
        """
        if self._writing is None:
            self.detach()
            return False
        await self._writing
        if self._lost is not None:
            raise self._lost
        return True

    def detach(self) -> None:
        """The client is answered otherwise."""
        self._is_attached = self._is_attached and self._writing is not None

    async def _write(self, outbox: asyncio.Queue[Message | None]) -> None:
        """Send to the client what is put into the box. When he has gone, what comes is dropped."""
        is_gone = False
        while (message := await outbox.get()) is not None:
            if not is_gone:
                try:
                    await self._request.send(message)
                except Exception as error:
                    self._lost, is_gone = error, True
            outbox.task_done()

    async def _deliver(self, message: Message) -> None:
        if self._outbox is None:
            return
        self._outbox.put_nowait(message)
        if self._chunks is None:  # nobody collects it: go on no faster than the client
            await self._outbox.join()
            if self._lost is not None:
                raise self._lost

    # --- for the application --------------------------------------------------------------------------------------------------------

    def _asking(self) -> Scope:
        """The request as it is forwarded: without conditions of the client's, and with those about what is stored."""
        fields = self._request.fields.without(_CONDITIONS)
        if self._old is not None:
            fields = fields.plus(*rule.conditions(self._old))
        return {**self._request.scope, "headers": list(fields)}

    async def _receive(self) -> Message:
        if self._is_attached:
            message = await self._request.receive()
            if message["type"] == "http.disconnect" and self._decided is not None:
                await asyncio.wait({self._decided})  # others may wait for an answer that can be kept: it is not broken off for this client
            elif message.get("body"):
                self._has_content = True
                self._keep_nothing()
            return message
        await asyncio.get_running_loop().create_future()  # behind the caller's back nobody leaves
        raise AssertionError("nobody ends this wait")

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            await self._on_start(message)
        elif self._flow is not _Flow.SENT:
            return
        elif kind == "http.response.body":
            await self._on_body(message)
        else:  # trailers, files, pushes: an answer that this cache does not know how to keep
            self._keep_nothing()
            await self._deliver({"type": "http.response.body", "body": b""} if self._drops_body else message)

    async def _on_start(self, message: Message) -> None:
        door, request, old = self._door, self._request, self._old
        status, answer = cast("int", message["status"]), HeaderFields(message.get("headers", ()))
        if old is not None and status == 304:
            self._on_not_modified(old, answer)
            return
        if old is not None and status in rule.ERRORS and rule.may_stand_in(old, request.fields, self._old_age, door.rules):
            self._flow, self.failure = _Flow.DROPPED, FailedAnswerError(status)
            if self._decided is not None and not self._decided.done():
                self._decided.set_exception(self.failure)
            return
        why = "trailers" if message.get("trailers") else "content of the request" if self._has_content else ""
        why = why or rule.why_not_stored(request.method, request.fields, status, answer, door.rules, now=door.now())
        length = answer.value(b"content-length") or b""
        if not why and length.isdigit() and len(length) < 16 and int(length) > door.limit:
            why = "too large"
        self._flow, self._start, self._chunks = _Flow.SENT, (status, answer), None if why else []
        if self._is_attached:
            self._outbox = asyncio.Queue()
            self._writing = asyncio.get_running_loop().create_task(self._write(self._outbox))
        shown, told = status, answer
        if 200 <= status < 300 and judge(request.method, request.fields, validators_of(answer)) is Verdict.NOT_MODIFIED:
            self._drops_body, shown, told = True, 304, not_modified(answer)
        about = cache_status(
            fwd=self._fwd,
            fwd_status=status if self._fwd == "stale" or shown != status else None,
            is_stored=not why and bool(length),
            detail=why,
        )
        if why:
            if status not in rule.ERRORS:  # who asks when it is over shall wait for one answer, not ask at once with all others
                door.note_passed(request, is_passed=True)
            self._decide(None)
        await self._deliver({**message, "status": shown, "headers": _with_status(told, about)})

    def _on_not_modified(self, old: StoredAnswer, answer: HeaderFields) -> None:
        door, request = self._door, self._request
        if not rule.is_freshened_by(old, answer):
            self._flow = _Flow.AGAIN
            return
        self._flow, self.is_validated = _Flow.DROPPED, True
        now = door.now()
        newer = rule.freshened(old, request.fields, answer, door.rules, asked=self._asked, now=now)
        why = rule.why_not_stored("GET", request.fields, newer.status, newer.fields, door.rules, now=now)
        if why:  # it may be used for this request, and for no other
            self._flow, self.is_validated, self._old = _Flow.AGAIN, False, None
            return
        self._decide(newer)

    async def _on_body(self, message: Message) -> None:
        body, is_last = cast("bytes", message.get("body", b"")), not message.get("more_body", False)
        if self._chunks is not None:
            self._size += len(body)
            if self._size > self._door.limit:
                self._keep_nothing()
            else:
                self._chunks.append(bytes(body))
                if is_last:
                    self._decide(self._collected(b"".join(self._chunks)))
        if self._drops_body:
            if is_last:
                await self._deliver({**message, "body": b""})
        else:
            await self._deliver(message)

    def _collected(self, body: bytes) -> StoredAnswer | None:
        status, answer = self._start
        length = answer.value(b"content-length")
        if length is not None and length != b"%d" % len(body):  # RFC 9111, 3.3: it is incomplete
            return None
        door = self._door
        if length is None and status != HTTPStatus.NO_CONTENT:
            answer = answer.plus((b"content-length", b"%d" % len(body)))
        return rule.stored(self._request.fields, status, answer, body, door.rules, asked=self._asked, now=door.now())


class FailedAnswerError(Exception):
    """The application has answered with an error where a stale answer may stand in (RFC 5861, 4)."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the application has answered with {status}")
        self.status = status


def _decorated(cache: Cache, name: str) -> Any:
    """The function whose results are kept answers, under the keys of that policy."""
    policy = cache.settings.policies.get(name)
    if policy is None:
        known = ", ".join(one.name for one in cache.settings.policies)
        raise PolicyError(f"policy.{name}: no such policy for a response cache; there are: {known}")
    prefix = policy.match.removesuffix("*")
    if prefix == policy.match or "*" in prefix or not prefix.endswith(":") or "{" in prefix:
        problem = f'{as_written(policy.match)} is no match for a response cache; write a prefix that ends with a colon, such as "pages:*"'
        raise PolicyError(f"policy.{name}.match: {problem}")
    if not policy.is_dynamic:
        raise PolicyError(f'policy.{name}.ttl: each answer says how long it is fresh; write ttl = "dynamic", with min_ttl and max_ttl')

    async def kept(address: str, compute: Callable[[], Awaitable[Kept]]) -> Kept:
        return await compute()

    kept.__qualname__ = f"answers of policy {name}"
    return cache.cached(f"{prefix}{{address}}", ignore=("compute",), ttl=_lifetime, tags_from=_tags)(kept)


def _lifetime(kept: Kept) -> float:
    """For how long the cache takes what is kept for fresh. What is never used without asking, and what names the fields that select an
    answer, is kept as long as its policy allows.
    """
    answer = kept.answer
    if answer is None or answer.must_validate or answer.remains(0.0) <= 0:
        return 2.0**31
    return answer.remains(0.0)


def _tags(kept: Kept) -> tuple[str, ...]:
    return kept.tags


async def _nothing() -> Kept:
    return FOR_ONE


def _url_tag(url: str) -> str:
    return f"url:{url}"


def _group_tag(origin: str, group: str) -> str:
    return f"group:{origin} {group}"


def _with_status(answer: HeaderFields, status: bytes) -> list[tuple[bytes, bytes]]:
    """The member of this cache comes behind those of the caches before it (RFC 9211, 2)."""
    return [*answer, (b"cache-status", status)]


async def _send_plain(request: Request, status: HTTPStatus, about: bytes) -> None:
    body = b"" if request.method == "HEAD" else f"{status.value} {status.phrase}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    headers.append((b"cache-status", about))
    await request.send({"type": "http.response.start", "status": status.value, "headers": headers})
    await request.send({"type": "http.response.body", "body": body, "more_body": False})
