"""A clock that is moved by hand."""

from __future__ import annotations

import threading


class FakeClock:
    """A clock that stands still until it is told to advance. Threads may share it."""

    def __init__(self, start: float = 1_000.0) -> None:
        self._lock = threading.Lock()
        self._now = start

    def monotonic(self) -> float:
        """Seconds, ``start`` at first."""
        return self._now

    def advance(self, seconds: float) -> float:
        """Move on and return the new time. Raises ``ValueError`` for a negative number: this clock never goes back."""
        if seconds < 0:
            raise ValueError(f"a monotonic clock can not advance by {seconds} seconds")
        with self._lock:
            self._now += seconds
            return self._now
