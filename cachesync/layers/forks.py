"""Locks that a forked child finds free.

A thread that holds a lock while another one forks does not exist in the child: there the lock would never be released. So the
process that forks takes these locks first and both sides release them after; what they guard is whole on both sides.
"""

from __future__ import annotations

import os
import threading
from typing import Final
from weakref import WeakSet

_locks: Final[WeakSet[threading.RLock]] = WeakSet()
_taken: Final[list[threading.RLock]] = []


def lock_across_forks() -> threading.RLock:
    """A new re-entrant lock. Nobody may wait for another such lock while holding it."""
    lock = threading.RLock()
    _locks.add(lock)
    return lock


def _take() -> None:
    for lock in tuple(_locks):
        lock.acquire()
        _taken.append(lock)


def _release() -> None:
    while _taken:
        _taken.pop().release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_take, after_in_parent=_release, after_in_child=_release)
