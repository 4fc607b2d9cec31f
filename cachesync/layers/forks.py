"""Locks that a forked child finds free, modules that it finds whole, and what it leaves as it is.

A thread that holds a lock while another one forks does not exist in the child: there the lock would never be released, and what it
guards could be half changed. So the thread that forks takes these locks first and both sides release them after; what they guard
is whole on both sides.

In which order other threads take them does not matter here: whoever forks waits for one of them only while it holds none.

What waits in an event loop of the parent goes on there. The child does not touch it, and does not let go of it either.

Python locks a module, too, while it imports it, and that lock is not ours to take: a child that is forked then waits for the module for
ever. So nothing is imported once there are threads.
"""

from __future__ import annotations

import os
import threading
from importlib import import_module
from typing import Final
from weakref import WeakSet

for _late in (
    "email.parser",  # redis-py: for the first connection
    "encodings.idna",  # socket.getaddrinfo: for the first name
):
    import_module(_late)

_forking: Final = threading.RLock()
"""Held from before a fork until after it: forks go one by one, and no lock comes to be in between."""
_locks: Final[WeakSet[threading.RLock]] = WeakSet()
_taken: Final[list[threading.RLock]] = []


_left_behind: Final[list[object]] = []


def leave_behind(*things: object) -> None:
    """In a forked child: hold for good what belongs to event loops of the parent. Letting go of a task of theirs would run its ``finally``
    blocks here.
    """
    _left_behind.extend(things)


def lock_across_forks() -> threading.RLock:
    """A new re-entrant lock."""
    lock = threading.RLock()
    with _forking:
        _locks.add(lock)
    return lock


def _take() -> None:
    """Take all locks. Who waits for a busy one holds nothing else: another thread may hold it and be making a lock of its own."""
    busy: threading.RLock | None = None
    while True:
        if busy is not None:
            busy.acquire()
        _forking.acquire()
        busy = _take_all(busy)
        if busy is None:
            return
        _release_taken()
        _forking.release()


def _take_all(held: threading.RLock | None) -> threading.RLock | None:
    """Take all that are free, besides the one that is held already. Returns one that is not."""
    if held is not None:
        _taken.append(held)
    for lock in list(_locks):
        if lock is not held:
            if not lock.acquire(blocking=False):
                return lock
            _taken.append(lock)
    return None


def _release() -> None:
    _release_taken()
    _forking.release()


def _release_taken() -> None:
    while _taken:
        _taken.pop().release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_take, after_in_parent=_release, after_in_child=_release)
