"""Threads that a cache starts for itself, where the system may have none left to give: its limits say how many there may be."""

from __future__ import annotations

from typing import Final

from cachesync.coordination.events import Events

READER: Final = "cachesync-log"
"""The name of the thread that reads the log."""


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
