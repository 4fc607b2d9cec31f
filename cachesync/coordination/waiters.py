"""Waiters: callers of this process who wait for the lease of a key to end in another one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeVar

from cachesync.protocols import Ear


class Waiter(Protocol):
    """Something that can be set from any thread, once or several times."""

    def set(self) -> None:
        """Let whoever waits look again."""
        ...


W = TypeVar("W", bound=Waiter)


class LoopWaiter:
    """An event of one event loop that any thread may set."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        with suppress(RuntimeError):  # the loop was closed: nobody waits there any more
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, seconds: float | None) -> None:
        """Wait until it is set, or for so long, and begin anew. ``None`` is as long as it takes."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()
        self._event.clear()


class Waiters:
    """Who waits for which key. ``ear`` hears when leases end; without one nobody is woken, and all look again by themselves."""

    def __init__(self) -> None:
        self.ear: Ear | None = None
        self._lock = threading.Lock()
        self._waiting: dict[str, dict[str, Waiter]] = {}  # by key, then by token
        self._began: dict[str, float] = {}  # by token: seconds, time.monotonic

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, key: str, token: str, make: Callable[[], W]) -> W:
        """What is set when the lease of ``key`` ends, and once when that can be heard from then on: it may have ended before.

        It stays from the first wait of a token to its leaving, so that nothing is missed between two waits.
        """
        with self._lock:
            of_key = self._waiting.setdefault(key, {})
            known = of_key.get(token)
            if known is not None:
                return known  # type: ignore[return-value]  # a token waits in one world
            is_first = not of_key
            of_key[token] = waiter = make()
            self._began[token] = time.monotonic()
        if is_first and self.ear is not None:
            self.ear.watch(key)
        return waiter

    def seconds(self, token: str) -> float:
        """For how long a token has waited by now."""
        began = self._began.get(token)
        return 0.0 if began is None else time.monotonic() - began

    def leave(self, key: str, token: str) -> None:
        """Wait no more."""
        if not self._waiting:
            return
        with self._lock:
            self._began.pop(token, None)
            of_key = self._waiting.get(key)
            if of_key is None or of_key.pop(token, None) is None or of_key:
                return
            del self._waiting[key]
        if self.ear is not None:
            self.ear.unwatch(key)

    def wake(self, key: str | None = None) -> None:
        """Those who wait for ``key`` may look again; all of them where none is given."""
        if not self._waiting:
            return
        with self._lock:
            chosen = tuple(self._waiting.values()) if key is None else (self._waiting.get(key, {}),)
            waiters = [waiter for of_key in chosen for waiter in of_key.values()]
        for waiter in waiters:
            waiter.set()
