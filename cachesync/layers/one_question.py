"""A question to the outside that is asked by one thread, whoever waits for the answer: threads, tasks of any event loop, or nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class OneQuestion(Generic[T]):
    """``ask`` answers it, in a daemon thread called ``name``. One that is under way serves everybody who asks meanwhile."""

    def __init__(self, name: str, ask: Callable[[], T]) -> None:
        self._name = name
        self._ask = ask
        self._asking: Future[T] | None = None
        self._began = 0.0
        self._lock = threading.Lock()

    def asked(self) -> Future[T]:
        """The answer, now or later. It can not be cancelled, because others may wait for it.

        Where no thread can be started it fails with ``OSError``, and whoever asks the next time tries again.
        """
        with self._lock:
            asking = self._asking
            if asking is None:
                asking = self._asking = Future()
                asking.set_running_or_notify_cancel()
                self._began = time.monotonic()
                try:
                    threading.Thread(target=self._answer, args=(asking,), name=self._name, daemon=True).start()
                except RuntimeError as error:  # the system has no room for another one
                    self._asking = None
                    asking.set_exception(OSError(str(error)))
            return asking

    @property
    def age(self) -> float:
        """Seconds since it was last asked."""
        return time.monotonic() - self._began

    def _answer(self, asking: Future[T]) -> None:
        try:
            answer = self._ask()
        except BaseException as error:  # handed to whoever waits
            self._asking = None
            asking.set_exception(error)
        else:
            self._asking = None
            asking.set_result(answer)

    def after_fork(self) -> None:
        """In a forked child, where the thread that was asking is not."""
        self._lock = threading.Lock()
        self._asking = None
