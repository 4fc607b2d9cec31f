"""Threads that a cache starts for itself, where the system may have none left to give: its limits say how many there may be."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

from cachesync.coordination.events import Events
from cachesync.layers.forks import lock_across_forks

READER: Final = "cachesync-log"
"""The name of the thread that reads the log."""
IDLE: Final = 5.0
"""Seconds for which a thread waits for something to do. Until then it keeps what belongs to it, such as a database connection."""


class Starting:
    """A block that starts a thread, or what it needs. Where the system refuses, the block ends there, an event tells, and what comes
    after it does without. No lock of ours is held around it.
    """

    __slots__ = ("_events", "_name")

    def __init__(self, events: Events, name: str) -> None:
        self._events = events
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> bool:
        if error is None:
            self._events.forget("no_thread", self._name)
            return False
        if not isinstance(error, (RuntimeError, OSError)):
            return False
        self._events.send("no_thread", self._name, thread=self._name, error=str(error))
        return True


class Workers:
    """A few threads that work behind callers' backs. One that has had nothing to do for a while ends.

    They are daemons, so that a computation which hangs keeps no process from its end.
    """

    def __init__(self, events: Events, name: str, most: int) -> None:
        self._events = events
        self._name = name
        self._most = most
        self._threads = 0
        self._left = 0  # what waits or is being done
        self._waiting: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = lock_across_forks()

    def take(self, work: Callable[[], None]) -> bool:
        """Have something done, which raises nothing, as soon as a thread is free. False where there is none, and the system gives none."""
        with Starting(self._events, self._name), self._lock:
            if self._left >= self._threads and self._threads < self._most:
                threading.Thread(target=self._work, name=self._name, daemon=True).start()
                self._threads += 1
        with self._lock:
            if not self._threads:
                return False
            self._left += 1
            self._waiting.put(work)
            return True

    def _work(self) -> None:
        while True:
            try:
                work = self._waiting.get(timeout=IDLE)
            except Empty:
                with self._lock:
                    if self._waiting.empty():
                        self._threads -= 1
                        return
                continue
            work()
            del work  # while it waits, this thread holds nothing of the cache
            with self._lock:
                self._left -= 1
