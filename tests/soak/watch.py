"""What may not happen in a worker, and who notices: hung callers, exceptions that nobody expected, warnings, mistakes that were logged.

A process that was frozen did not hang: a thread looks at the clock twice a second, and a look that comes late says for how long
nothing ran.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cachesync import Event
from soak.diary import Diary
from soak.history import Slow
from soak.origin import OriginError

LOOK: Final = 0.5
LATE: Final = 0.3
"""A look that is later than this was late because nothing ran."""
MISTAKES: Final = frozenset({"reader_failed", "invalidation_lost", "unreadable", "violation"})
"""Events that tell of a mistake: no fault of the soak's excuses them."""


class ExcusedError(Exception):
    """A call ended with an exception that it may end with."""


def _is_the_origin_s(error: Exception, what: str) -> bool:
    del what
    return isinstance(error, OriginError)


class Watch:
    """Watches over one process. ``limit`` is how long a call may take, in seconds that the process was not frozen."""

    def __init__(self, diary: Diary, stacks: Path, *, limit: float) -> None:
        self._diary = diary
        self._stacks = stacks
        self._limit = limit
        self._under_way: dict[object, tuple[float, float, str]] = {}
        self._told: set[object] = set()
        self._seen = time.monotonic()
        self._frozen = 0.0
        self._events: Counter[str] = Counter()
        self._mistakes = MISTAKES
        self._excuses: Callable[[Exception, str], bool] = _is_the_origin_s
        self.failed = 0
        self.slowest = Slow()

    def expect(self, excuses: Callable[[Exception, str], bool], *, events: frozenset[str]) -> None:
        """More may happen here than usual: exceptions that are excused where they came out of a call, and events."""
        self._excuses, self._mistakes = excuses, MISTAKES - events

    def start(self) -> None:
        """From now on, what goes wrong anywhere in this process is written down."""
        sys.unraisablehook = lambda caught: self._caught("unraisable", caught.exc_value, str(caught.object))
        threading.excepthook = lambda caught: self._caught("a thread ended", caught.exc_value, str(caught.thread))
        warnings.simplefilter("always")
        warnings.showwarning = self.warned
        logging.getLogger().addHandler(_Told(self._diary))
        logging.getLogger("cachesync").setLevel(logging.CRITICAL)  # its events are listened to
        threading.Thread(target=self._look_often, name="soak-watch", daemon=True).start()

    def start_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """The same for an event loop."""
        loop.set_exception_handler(lambda _, context: self._caught(context["message"], context.get("exception"), str(context)))

    def event(self, event: Event) -> None:
        """Count an event of the cache."""
        self._events[event.name] += 1
        if event.name in self._mistakes:
            self._diary.trouble(f"event {event.name}", str(event))

    @contextmanager
    def over(self) -> Generator[None]:
        """Something is being done. An exception goes no further: it is written down, unless it is one that is excused."""
        try:
            yield
        except ExcusedError:
            self.failed += 1
        except Exception as error:
            self._caught("exception", error, "")

    @contextmanager
    def call(self, what: str) -> Generator[None]:
        """One call is under way."""
        token = object()
        began, frozen = time.monotonic(), self._frozen
        self._under_way[token] = (began, frozen, what)
        try:
            yield
        except Exception as error:
            error.add_note(f"It came out of: {what}")
            if self._excuses(error, what):
                raise ExcusedError(what) from error
            raise
        finally:
            del self._under_way[token]
            lasted = time.monotonic() - began - (self._frozen - frozen)
            self.slowest = max(self.slowest, Slow(lasted, began, what))

    def counts(self) -> dict[str, int]:
        """Events by name."""
        return {f"event {name}": count for name, count in self._events.items()}

    def end(self) -> None:
        """What was left lying about is collected, so that it can complain."""
        gc.collect()

    def _look_often(self) -> None:
        while True:
            time.sleep(LOOK)
            self.look(time.monotonic())

    def look(self, now: float) -> None:
        """Look for calls that have lasted too long."""
        if now - self._seen > LOOK + LATE:
            self._frozen += now - self._seen - LOOK
        self._seen = now
        for token, (began, frozen, what) in list(self._under_way.items()):
            lasts = now - began - (self._frozen - frozen)
            if lasts > self._limit and token not in self._told:
                self._told.add(token)
                with self._stacks.open("a") as file:
                    faulthandler.dump_traceback(file, all_threads=True)
                self._diary.trouble("hung caller", f"{what}: {lasts:.1f} s; stacks in {self._stacks}")

    def _caught(self, what: str, error: BaseException | None, detail: str) -> None:
        text = detail if error is None else f"{detail}{''.join(traceback.format_exception(error))}"
        self._diary.trouble(what if error is None else f"{what}: {type(error).__name__}", text)

    def warned(
        self, message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: str | None = None
    ) -> None:
        """As ``warnings.showwarning``."""
        del file, line
        self._diary.trouble(f"warning: {category.__name__}", f"{filename}:{lineno}: {message}")


class _Told(logging.Handler):
    """What asyncio or the package logs as an error."""

    def __init__(self, diary: Diary) -> None:
        super().__init__(logging.ERROR)
        self._diary = diary

    def emit(self, record: logging.LogRecord) -> None:
        self._diary.trouble(f"logged by {record.name}", self.format(record))
