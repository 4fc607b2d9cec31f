"""Forks: a child is handed the cache as it is between two changes, and finds every lock free.

The children are those of scripts, so that the process that runs the tests never forks. A script that hangs is ended by its alarm.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

BEGINNING = """
import os
import signal
import sys
import threading
import time
import traceback
from operator import attrgetter

from cachesync import Cache, Policy
from cachesync.layers.forks import lock_across_forks

signal.alarm(20)
inside, forking = threading.Event(), threading.Event()
os.register_at_fork(before=forking.set)  # the last to be registered is the first to be called


def fork(hold, check) -> None:
    # `hold` runs in another thread, and lets go of its locks some time after the fork began.
    inside.clear()
    forking.clear()
    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(10)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(10)
            check()
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    thread.join()
    check()
"""

ONE_OF_A_CACHE = """
cache = Cache(policies=[Policy(name="all", match="*", ttl="1m")])
lock = attrgetter(sys.argv[1])(cache)

def hold() -> None:
    with lock:
        inside.set()
        forking.wait(10)
        time.sleep(0.05)

def check() -> None:
    heard = []
    cache.on_event(heard.append)
    cache.set("a", 1)
    assert cache.get("a") == 1
    @cache.cached("n:{n}")
    def double(n: int) -> int:
        return 2 * n
    assert double(2) == 4
    cache.invalidate("a")
    assert heard
    assert [one.computed for name, one in cache.stats().functions.items() if name.endswith("double")] == [1]

fork(hold, check)
"""

TWO_AT_ONCE = """
first, second = lock_across_forks(), lock_across_forks()

def in_this_order(one, other):
    def hold() -> None:
        with one:
            inside.set()
            forking.wait(10)
            time.sleep(0.05)
            with other:
                pass
    return hold

def check() -> None:
    with first, second:
        pass

fork(in_this_order(first, second), check)
fork(in_this_order(second, first), check)
"""

FROM_MANY_THREADS = """
locks = [lock_across_forks() for _ in range(3)]
codes = []

def forks() -> None:
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            signal.alarm(10)
            for lock in locks:
                lock.acquire()
            os._exit(0)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

threads = [threading.Thread(target=forks) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert codes == [0] * 60, codes
assert all(lock.acquire(blocking=False) for lock in locks)
"""


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Python 3.12 and later warn of forks beside threads, which is the very thing tested.
    command = [sys.executable, "-W", "error", "-W", "ignore:.*fork:DeprecationWarning", "-c", BEGINNING + script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


@pytest.mark.parametrize("lock", ["_registry._lock", "_events._lock", "_engine.local.lock"])
def test_a_child_can_use_a_cache_that_another_thread_was_changing(lock: str) -> None:
    """That thread does not exist in the child and would never let go."""
    done = run(ONE_OF_A_CACHE, lock)
    assert (done.stderr, done.returncode) == ("", 0)


def test_the_order_in_which_threads_take_locks_does_not_matter_to_a_fork() -> None:
    """A fork waits for a lock only while it holds none, so nobody waits for the fork and is waited for by it."""
    done = run(TWO_AT_ONCE)
    assert (done.stderr, done.returncode) == ("", 0)


def test_threads_may_fork_at_the_same_time() -> None:
    """Each gives back the locks it has taken, and no others."""
    done = run(FROM_MANY_THREADS)
    assert (done.stderr, done.returncode) == ("", 0)
