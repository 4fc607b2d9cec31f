"""The watcher of a policy file: a small thread that looks twice a second whether the file says something else, and has it reloaded.

It compares what the file says, and neither its time nor its number: so it follows a file that is written anew in place, one that another is
renamed over, and a link that is turned to another folder, as Kubernetes does. What it finds is taken when two looks in a row find the same:
a file that is being written may be whole by chance. What is refused is tried again when it changes.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Final

from cachesync.coordination.events import Events, logger
from cachesync.coordination.policy_file import read_text
from cachesync.coordination.threads import Starting
from cachesync.errors import PolicyError
from cachesync.layers.forks import lock_across_forks

INTERVAL: Final = 0.5
"""Seconds between two looks."""
NAME: Final = "cachesync-policies"


class PolicyWatcher:
    """Watches one file in a daemon thread while its cache lives. ``reload`` takes the file over; it tells of what it refuses."""

    def __init__(self, path: str, reload: Callable[[], object], events: Events) -> None:
        self._path = path
        self._reload = reload
        self._events = events
        self._seen: tuple[str, str] | None = None  # what the last look found
        self._taken: tuple[str, str] | None = None  # what was last taken over, or refused
        self._lock = lock_across_forks()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.is_running = False

    def start(self) -> None:
        """Begin to watch, unless it has begun. What the file says by then is taken over first: it may have changed since it was read."""
        with Starting(self._events, NAME), self._lock:
            if self._thread is None and not self._stop.is_set():
                thread = threading.Thread(target=_watch, args=(weakref.ref(self), self._stop), name=NAME, daemon=True)
                thread.start()
                self._thread, self.is_running = thread, True

    def stop(self, timeout: float = 2.0) -> None:
        """End, and wait for the thread at most ``timeout`` seconds."""
        self._stop.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def after_fork(self) -> None:
        """The thread did not come along into the child, which watches for itself."""
        self._thread = None
        if not self._stop.is_set():
            self._stop = threading.Event()
            if self.is_running:
                self.is_running = False
                self.start()

    def look(self) -> None:
        """Look at the file once."""
        found = read_text(self._path)
        if found != self._seen:
            self._seen = found
        elif found != self._taken:
            self._taken = found
            try:
                self._reload()
            except PolicyError:
                pass  # an event has told of it
            except Exception:  # a mistake of ours: the next change is tried again
                logger.exception("%s could not be taken over", self._path)


def _watch(reference: weakref.ref[PolicyWatcher], stop: threading.Event) -> None:
    while not stop.wait(INTERVAL):
        watcher = reference()
        if watcher is None:
            return
        watcher.look()
        del watcher
