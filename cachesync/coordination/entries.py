"""Entries: what a program stores itself under a prefix, each with a lifetime of its own, looked at and changed in one piece.

Other frameworks' caches are made of these (`cachesync.django`). What they hold is bytes: values are the door's.
"""

from __future__ import annotations

import math
import re
import struct
import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import nullcontext
from itertools import islice
from typing import Any, Final, Literal, NamedTuple, TypeVar, cast

from cachesync.coordination.operations import PAGE, Operations
from cachesync.coordination.registry import Registry
from cachesync.core.arguments import percent
from cachesync.core.change import LEAVE, REMOVE, AwayError, Put, change, look_settled
from cachesync.core.flows import Ask
from cachesync.core.keys import MAX_KEY_LENGTH
from cachesync.core.records import KEY, Targets, targets_of
from cachesync.core.steps import Called, Failed, Refused, Step
from cachesync.core.together import together
from cachesync.errors import CodecError, KeyArgumentError

T = TypeVar("T")

_RESERVED: Final = re.compile("[%*\x00-\x1f\x7f\ud800-\udfff]")
_SECONDS: Final = struct.Struct(">d")
_FOREVER: Final = 1e12
"""Seconds: more than any ``max_ttl``."""


class Timed(NamedTuple):
    """A payload, and for how many seconds it is fresh: ``None`` is as long as the policy allows."""

    seconds: float | None
    payload: bytes


class _TimedCodec:
    """Eight bytes of the lifetime, infinite for none, and the payload."""

    name = "timed"

    def encode(self, value: object, /) -> bytes:
        if not isinstance(value, Timed):
            raise CodecError("timed: what lies under this prefix is stored through its door only")
        return _SECONDS.pack(math.inf if value.seconds is None else value.seconds) + value.payload

    def decode(self, payload: bytes | memoryview, /) -> Timed:
        if len(payload) < _SECONDS.size:
            raise CodecError("timed: the bytes are too few")
        (seconds,) = _SECONDS.unpack_from(payload)
        return Timed(None if seconds == math.inf else seconds, bytes(payload[_SECONDS.size :]))


def _lifetime(timed: Any) -> float:
    return _FOREVER if timed.seconds is None else float(timed.seconds)


class Found(NamedTuple):
    """What stands under a key: its payload, and for how many seconds from now it is fresh (``None``: nobody has set an end)."""

    payload: bytes
    left: float | None


class UnknownError(Exception):
    """The shared layer has not answered, so nothing is known and nothing was changed. Told to the door only."""


Wanted = Timed | Literal["leave", "remove"]
"""What is to stand under a key: something, what stands there (`LEAVE`), or nothing (`REMOVE`)."""
Decide = Callable[[Found | None], Wanted]
"""Says what is wanted, from what stands there."""


class Entries:
    """The entries under one prefix. Methods make flows; ``run`` and ``arun`` take them."""

    def __init__(self, operations: Operations, registry: Registry, prefix: str) -> None:
        self._site = registry.claim(prefix, _TimedCodec(), _lifetime)
        self._operations = operations
        self._engine = operations.engine
        self._prefix = f"{prefix}:"
        self._alone = threading.RLock()
        """Without a shared layer: whoever changes something is alone."""

    def run(self, flow: Generator[Step, Any, T]) -> T:
        """Run a flow in ``def`` code."""
        with self._alone if self._engine.shared is None else nullcontext():
            return cast("T", self._operations.run(flow))

    async def arun(self, flow: Generator[Step, Any, T]) -> T:
        """Run a flow in ``async def`` code. Without a shared layer there is nothing to wait for."""
        return self.run(flow) if self._engine.shared is None else cast("T", await self._operations.arun(flow))

    # --- looking ------------------------------------------------------------------------------------------------------------------

    def looking(self, key: str) -> Generator[Step, Any, Found | None]:
        """What stands under a key and is fresh."""
        return self._found((yield from self._looking(self._ask(key))))

    def looking_many(self, keys: Iterable[str]) -> Generator[Step, Any, dict[str, Found]]:
        """The same for several keys, in as few trips as there are pages: those that were found."""
        found: dict[str, Found] = {}
        rest = iter(keys)
        while page := list(islice(rest, PAGE)):
            looked = yield from together([self._looking(self._ask(key)) for key in page])
            found.update((key, there) for key, one in zip(page, looked, strict=True) if (there := self._found(one)) is not None)
        return found

    def _looking(self, ask: Ask) -> Generator[Step, Any, Called | None]:
        apart = ask.policy.http is None  # it is no part of an answer then, as a session is none
        found: Called | Refused | None = yield from self._operations.looking(ask, apart=apart)
        if isinstance(found, Refused) and found.dead is not None:
            token = self._engine.token()
            try:
                found = yield from look_settled(ask.later(found.seconds), token, found.dead)
                found = None if found is None else self._operations.found_later(ask, found, apart=apart)
            finally:
                self._leave(ask, token)
        return found if isinstance(found, Called) and not found.is_stale else None

    def _found(self, called: Called | None, now: float | None = None) -> Found | None:
        if called is None:
            return None
        timed: Timed = called.value
        now = self._engine.now() if now is None else now
        return Found(timed.payload, None if timed.seconds is None else called.made + timed.seconds - now)

    # --- changing -----------------------------------------------------------------------------------------------------------------

    def changing(self, key: str, decide: Decide, *, looks: bool = True, ends: bool = False) -> Generator[Step, Any, Found | None]:
        """Put, remove or leave what stands under a key, as ``decide`` says. Returns what stood there, unless nobody ``looks``.

        Nobody who changes it in this way comes between, in any process. Raises what ``decide`` raises, ``CodecError`` for what can not be
        stored, and `UnknownError` where the shared layer can not be asked. With ``ends`` what stands there is out of date then, too.
        """
        ask, engine = self._ask(key), self._engine

        def decided(standing: Called | None, now: float) -> Any:
            wanted = decide(self._found(standing, now))
            return Put(wanted) if isinstance(wanted, Timed) else wanted

        if engine.shared is None:
            return (yield from self._changing_here(ask, decided))
        result: Called | Failed | None = Failed(AwayError("the cache is switched off"))
        if engine.switches.redis and not ask.bypasses:
            token = engine.token()
            try:
                flow = change(ask, token, decided, looks=looks)
                result = yield from self._operations.admitted(ask.deadline, flow)
            finally:
                self._leave(ask, token)
        if isinstance(result, Failed):
            if not isinstance(result.error, AwayError):
                raise result.error
            if ends:
                yield from self._operations.invalidating((Targets(KEY, (ask.key,)),))
            raise UnknownError(str(result.error))
        return self._found(result)

    def changing_many(self, wanted: Mapping[str, Wanted]) -> Generator[Step, Any, list[str]]:
        """Put or remove under several keys, whatever stands there, in as few trips as can be. Returns those where it could not be done."""
        failed: list[str] = []
        rest = iter(wanted.items())
        while page := list(islice(rest, PAGE)):
            done = yield from together([self._changed(key, one) for key, one in page])
            failed += [key for (key, _), is_done in zip(page, done, strict=True) if not is_done]
        return failed

    def _changed(self, key: str, wanted: Wanted) -> Generator[Step, Any, bool]:
        try:
            yield from self.changing(key, lambda _: wanted, looks=False, ends=True)
        except UnknownError:
            return False
        return True

    def clearing(self) -> Generator[Step, Any, None]:
        """Remove all of them, in one record."""
        yield from self._operations.invalidating(targets_of((f"{self._prefix}*",), (), "h"))

    def _changing_here(self, ask: Ask, decided: Callable[[Called | None, float], Any]) -> Generator[Step, Any, Found | None]:
        """The same where there is no shared layer: whoever runs it is alone."""
        engine = self._engine
        standing = None if ask.bypasses else engine.at_hand(ask, only_fresh=True)
        found = self._found(standing)
        decision = decided(standing, engine.now())
        if decision == REMOVE:
            yield from self._operations.invalidating((Targets(KEY, (ask.key,)),))
        elif decision != LEAVE:
            result, _ = yield from self._operations.putting(ask, (decision.value,))
            if isinstance(result, Failed):
                raise result.error
        return found

    # --- keys ---------------------------------------------------------------------------------------------------------------------

    def _ask(self, key: str) -> Ask:
        """The question for a key: a pattern's star and what never stands in a key are percent-encoded (RFC 3986, 2.1)."""
        text = self._prefix + _RESERVED.sub(percent, key)
        if len(text) > MAX_KEY_LENGTH:
            raise KeyArgumentError(f"a key of {len(text):,} characters; at most {MAX_KEY_LENGTH:,} are allowed")
        address = self._site.address_of_key(text)
        assert address is not None
        return self._engine.ask(self._site, address, ())

    def _leave(self, ask: Ask, token: str) -> None:
        self._engine.waiters.leave(ask.key, token)
        self._engine.forsake(token)
