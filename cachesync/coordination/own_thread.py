"""A thread of its own, for what a task waits for that is not async.

The loop's executor has few threads, which may all be taken by what the application does.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def in_thread(call: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Run something in a thread of this name, in the context of the task that waits for it. Who is cancelled does not wait for its end."""
    future: Future[T] = Future()

    def one() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=contextvars.copy_context().run, args=(one,), name=name, daemon=True).start()
    return asyncio.wrap_future(future)
