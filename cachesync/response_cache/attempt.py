"""One call of the application: its answer flows to its client, and is collected for others where it may be kept."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from enum import Enum
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast

from cachesync.coordination.asgi import Message, Receive, Scope
from cachesync.coordination.gathering import Gathering, gathering
from cachesync.core import http_cache as rule
from cachesync.core.entry import Dependency
from cachesync.core.header_fields import HeaderFields
from cachesync.core.http import Verdict, judge, not_modified, validators_of
from cachesync.core.http_cache import StoredAnswer, cache_status
from cachesync.response_cache.kept import FOR_ONE, Kept, keeping
from cachesync.response_cache.request import Request, with_status

if TYPE_CHECKING:
    from cachesync.response_cache.door import ResponseCache

_CONDITIONS: Final = (b"if-none-match", b"if-modified-since", b"if-match", b"if-unmodified-since")


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
        self._departure: Message | None = None
        self._drops_body = False
        self._decided: asyncio.Future[StoredAnswer | None] | None = None
        self._outbox: asyncio.Queue[Message | None] | None = None
        self._writing: asyncio.Task[None] | None = None
        self._running: asyncio.Task[None] | None = None
        self._lost: BaseException | None = None

    @property
    def address(self) -> str:
        """The address under which its answer is kept."""
        return self._request.variant(self.varies) if self.varies else self._request.url

    # --- for the cache --------------------------------------------------------------------------------------------------------------

    async def compute(self) -> Kept:
        """Call the application. `FOR_ONE` where its answer is for this caller alone."""
        if self.has_begun:  # the cache asks again
            return await self._behind()
        self.has_begun = True
        outer = gathering.get()
        assert outer is not None
        answers, stands = self._door.answers, self._door.answers.standing()
        found = answers.gathering()
        found.has_request = True
        if self._old is None:
            self._look_for_spare()
        answer = await self._answer(found)
        if self.is_deserted:  # others may wait for what its client did not
            return await self._behind()
        if answer is None:
            outer.keep_nothing()
            return FOR_ONE
        if self.is_validated and self._old is not None:
            found.add(Dependency(*one) for one in self._old.dependencies)
        answer = replace(answer, dependencies=tuple((one.kind, one.text) for one in found.dependencies))
        kept = keeping(self._request, answer)
        names = {name for name, _ in answer.selected_by}
        if names <= set(self.varies):
            outer.absorb(found)
            return kept
        # The names are kept under the address, and depend on nothing that the answer is made of. They only grow, and that seldom.
        varies = tuple(sorted(names.union(self.varies)))
        named = replace(kept, answer=None, varies=varies)
        address = self._request.variant(varies)
        token = gathering.set(answers.gathering())
        try:
            await answers.obtain(address, answers.ready(address, kept, stands, found))
            if self.varies:
                await answers.replace(self._request.url, answers.ready(self._request.url, named, stands, answers.gathering()))
        finally:
            gathering.reset(token)
        if not self.varies:
            return named
        outer.keep_nothing()
        return kept

    async def _behind(self) -> Kept:
        """Another attempt, behind the client's back."""
        behind = Attempt(self._door, self._request, self._fwd, old=self._old, varies=self.varies)
        behind.detach()
        return await behind.compute()

    @property
    def is_deserted(self) -> bool:
        """Whether its client has left, and the application has ended without an answer."""
        return self._departure is not None and self._flow is _Flow.WAITING

    def _look_for_spare(self) -> None:
        """An old answer of this process, to ask about (RFC 9111, 4.3.1), and to answer with where the application fails."""
        request = self._request
        found = self._door.answers.spare(self.address)
        answer = None if found is None else found.value.answer
        if found is not None and answer is not None and request.is_selected_by(answer):
            self._old, self._old_age = answer, found.age
            self._fwd = "stale"

    async def _answer(self, found: Gathering) -> StoredAnswer | None:
        """Run the application, which finds out what its answer depends on. ``None`` where that may not be stored."""
        loop = asyncio.get_running_loop()
        self._decided = loop.create_future()
        self._decided.add_done_callback(lambda decided: decided.cancelled() or decided.exception())
        token = gathering.set(found)
        running = self._running = loop.create_task(self._run())
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
            await door.app(self._asking(), self._receive if self._is_attached else self._without_content(), self._send)
            if self._flow is _Flow.AGAIN:
                self._old, self._flow = None, _Flow.WAITING
                self._asked = door.now()
                await door.app(self._asking(), self._without_content(), self._send)
            if self._flow is _Flow.WAITING and self._departure is None:
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
        try:
            await asyncio.shield(self._writing)
        except asyncio.CancelledError:
            self.abandon()
            raise
        if self._lost is not None:
            raise self._lost
        return True

    def detach(self) -> None:
        """The client is answered otherwise."""
        self._is_attached = self._is_attached and self._writing is not None

    def abandon(self) -> None:
        """The client's request was cancelled: nothing is sent any more. The application goes on if others may be given its answer."""
        self._is_attached = False
        if self._writing is not None:
            self._lost = self._lost or ConnectionAbortedError("the request was cancelled")
            self._writing.cancel()
        if self._running is not None and self._flow is _Flow.SENT and self._chunks is None:
            self._running.cancel()

    async def _write(self, outbox: asyncio.Queue[Message | None]) -> None:
        """Send to the client what is put into the box. When he has gone, what is in it is dropped, and nothing more is put there."""
        try:
            while (message := await outbox.get()) is not None:
                try:
                    await self._request.send(message)
                finally:
                    outbox.task_done()
        except BaseException as error:
            self._lost, self._outbox = self._lost or error, None
            while not outbox.empty():
                outbox.get_nowait()
                outbox.task_done()
            if not isinstance(error, Exception):
                raise

    async def _deliver(self, message: Message) -> None:
        outbox = self._outbox
        if outbox is not None:
            outbox.put_nowait(message)
        if self._chunks is None:  # nobody collects it: go on no faster than the client
            if outbox is not None:
                await outbox.join()
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
        """What the client sends. That he leaves is told later where his answer is on its way to others, too: an application that breaks it
        off may look as if it had come to its end.
        """
        message = self._departure or await self._request.receive()
        if message["type"] == "http.disconnect":
            self._departure = message  # a server may say it once
            if self._chunks is not None and self._decided is not None:
                await asyncio.wait({self._decided})
        elif message.get("body"):
            self._has_content = True
            self._keep_nothing()
        return message

    def _without_content(self) -> Receive:
        """What an application is sent that is asked behind the client's back, or a second time: nothing, and then whether he leaves."""
        is_sent = False

        async def receive() -> Message:
            nonlocal is_sent
            if not is_sent:
                is_sent = True
                return {"type": "http.request", "body": b"", "more_body": False}
            if not self._is_attached:
                await asyncio.get_running_loop().create_future()  # for ever
            while (message := await self._receive())["type"] != "http.disconnect":
                pass
            return message

        return receive

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
        length = answer.value(b"content-length") or b""
        has_left = self._departure is not None and not length  # whether it is whole, nobody will know
        own = "content of the request" if self._has_content else "the client has left" if has_left else ""
        why = own or ("trailers" if message.get("trailers") else "")
        why = why or rule.why_not_stored(request.method, request.fields, status, answer, door.rules, now=door.now())
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
        if why and not self._is_attached:
            self._lost = ConnectionAbortedError("nobody is given this answer")
        if why:
            if not own and status not in rule.ERRORS:  # who asks when it is over shall wait for one answer, not ask at once with all
                door.note_passed(request, is_passed=True)
            self._decide(None)
        await self._deliver({**message, "status": shown, "headers": with_status(told, about)})

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
