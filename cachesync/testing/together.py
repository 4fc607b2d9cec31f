"""Threads that begin at one moment."""

from __future__ import annotations

import threading
from collections.abc import Callable


def run_together(works: list[Callable[[], None]]) -> None:
    """Run each in a thread of its own, all begun at one moment, and wait for the last."""
    start = threading.Barrier(len(works))

    def begin(work: Callable[[], None]) -> None:
        start.wait()
        work()

    threads = [threading.Thread(target=begin, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
