"""Farewell: what is done when the process is asked to end.

A server that is told to end waits for its answers, and an event stream is an answer without an end. Servers tell nobody before they have
waited, so the signal is heard here first, and handed on to whoever has listened for it until now.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final
from weakref import WeakSet

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Farewell:
    """Something to do once the process is asked to end. It is done in the main thread, between two instructions of whatever runs there."""

    __slots__ = ("__weakref__", "_do")

    def __init__(self, do: Callable[[], object]) -> None:
        self._do = do

    def say(self) -> None:
        """The process was asked to end."""
        self._do()


_farewells: Final[WeakSet[Farewell]] = WeakSet()


class _Handler:
    """A signal handler in front of another one."""

    def __init__(self, before: Callable[[int, FrameType | None], Any]) -> None:
        self._before = before

    def __call__(self, number: int, frame: FrameType | None) -> None:
        for farewell in tuple(_farewells):
            farewell.say()
        self._before(number, frame)


def expect(farewell: Farewell) -> None:
    """Let it be said when a signal comes, as long as somebody holds it. Where nobody listens for the signal, nobody is waited for either.

    A ``KeyboardInterrupt`` is not the end: a notebook goes on after it. Only the main thread can listen. To be called often: a server may
    come later, and another one after it.
    """
    _farewells.add(farewell)
    if threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        handler = signal.getsignal(number)
        if callable(handler) and not isinstance(handler, _Handler) and handler is not signal.default_int_handler:
            signal.signal(number, _Handler(handler))
