"""A round of warming: the jobs that are left, and the sums so far."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from cachesync.coordination.events import Events
from cachesync.coordination.warmable import Source, Warmable
from cachesync.core.flows import Result
from cachesync.core.masking import told
from cachesync.core.policy import Policy
from cachesync.core.steps import Called, Failed
from cachesync.core.warming import ERRORS_KEPT, Warmed, was_computed
from cachesync.errors import KeyArgumentError, LayerError, WarmingError

if TYPE_CHECKING:
    from cachesync.coordination.operations import Wanted

_NOT_IN_A_LOOP: Final = (
    "an async def is warmed where it can be awaited: by cache.awarm(), or by cache.warm_behind() called in its event loop"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How to go about it: who is told the sums, how many at once, a pause after each computation (seconds), and whether only to look."""

    progress: Callable[[Warmed], object] | None = None
    concurrency: int
    pause: float = 0.0
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.progress is not None and not callable(self.progress):
            raise TypeError(f"progress is a function that is given the sums, not {type(self.progress).__name__}")
        if type(self.concurrency) is not int or not 1 <= self.concurrency <= 1_000:
            raise TypeError(f"concurrency is a whole number from 1 to 1000, not {self.concurrency!r}")


@dataclass(frozen=True, slots=True)
class Job:
    """Keys of one function that are computed in one call."""

    warmable: Warmable
    wanted: tuple[Wanted, ...]


class Round:
    """One round. Safe to use from any thread; ``progress`` is called by one at a time."""

    def __init__(self, manner: Manner, events: Events, *, in_loop: bool) -> None:
        self.manner = manner
        self.in_loop = in_loop
        self.stopped = threading.Event()
        self.error: BaseException | None = None
        """What ``progress`` has raised."""
        self.is_away = False
        """Whether the shared layer failed."""
        self.is_untold = False
        """Whether a list could not be told."""
        self.stopped_at = float("inf")
        self._events = events
        self._began = time.monotonic()
        self._ended: float | None = None
        self._lock = threading.Lock()  # a forked child begins rounds of its own
        self._jobs: deque[Job] = deque()
        self._known: set[str] = set()
        self._sums = Warmed()

    @property
    def sums(self) -> Warmed:
        """The sums so far."""
        now = time.monotonic() if self._ended is None else self._ended
        return replace(self._sums, seconds=round(now - self._began, 3))

    @property
    def width(self) -> int:
        """How many may work at once."""
        return min(self.manner.concurrency, len(self._jobs))

    def add(self, warmable: Warmable, wanted: Iterable[Wanted]) -> None:
        """Add keys of a function. Those that are known already are left out."""
        different: dict[str, Wanted] = {one.address.key: one for one in wanted if one.address.key not in self._known}
        self._known.update(different)
        left = list(different.values())
        self._sums = replace(self._sums, total=self._sums.total + len(left))
        if warmable.is_async and not self.in_loop and not self.manner.dry_run:
            errors = [f"{warmable.site.name}: {_NOT_IN_A_LOOP}"] if left else []
            self._note(warmable.site.policy, failed=len(left), errors=errors)
            return
        self._jobs.extend(Job(warmable, tuple(left[at : at + warmable.page])) for at in range(0, len(left), warmable.page))

    def take(self) -> Job | None:
        """The next job, ``None`` where nothing is left to be done."""
        if self.stopped.is_set():
            return None
        try:
            return self._jobs.popleft()
        except IndexError:
            return None

    def note(self, job: Job, results: Sequence[Result | None] | BaseException) -> bool:
        """A job is done: what it has brought or found (``None``: left out), or what it failed with. True if anything was computed."""
        computed, fresh, failed, skipped = 0, 0, 0, 0
        errors: list[str] = []
        policy = job.warmable.site.policy
        if isinstance(results, BaseException):
            results = (Failed(results),) * len(job.wanted)
        for one, result in zip(job.wanted, results, strict=True):
            if result is None:
                skipped += 1
                continue
            how = was_computed(result) if isinstance(result, Called) else None
            computed += how is True
            fresh += how is False
            if how is None:
                problem = told(result.error, policy) if isinstance(result, Failed) else "it was computed, and can not be stored"
                self.is_away = self.is_away or (isinstance(result, Failed) and isinstance(result.error, LayerError))
                errors.append(f"{job.warmable.site.shown(one.address.key)}: {problem}")
                failed += 1
        self._note(policy, computed=computed, fresh=fresh, failed=failed, skipped=skipped, errors=errors)
        return computed + failed > 0

    @contextmanager
    def telling(self, source: Source) -> Generator[None, None, None]:
        """While a list is asked for, and taken in. What fails ends no round."""
        try:
            yield
        except Exception as error:  # whatever who tells it raises
            self.fail(source, error)
            self.is_untold = True

    def fail(self, source: Source, error: BaseException) -> None:
        """A list, or one of its items, can not be warmed."""
        ours = isinstance(error, (WarmingError, KeyArgumentError)) and not source.policy.mask
        self._sums = replace(self._sums, total=self._sums.total + 1)
        self._note(source.policy, failed=1, errors=[f"{source.name}: {error if ours else told(error, source.policy)}"])

    def stop(self, error: BaseException | None = None) -> None:
        """Begin no job any more."""
        if not self.stopped.is_set():
            self.stopped_at = time.monotonic()
            self.error = error
            self.stopped.set()

    def end(self) -> Warmed:
        """It is over: what was not done is skipped, and an event tells the sums."""
        self._ended = time.monotonic()
        left, self._jobs = sum(len(job.wanted) for job in self._jobs), deque()
        self._sums = replace(self._sums, skipped=self._sums.skipped + left)
        sums = self.sums
        if self.manner.dry_run or not sums.total:
            return sums
        computed, fresh, failed, skipped, seconds = sums.computed, sums.fresh, sums.failed, sums.skipped, sums.seconds
        self._events.forget("warmed")  # each round is news
        self._events.forget("warming_stopped")
        if self.stopped.is_set():
            self._events.send("warming_stopped", computed=computed, fresh=fresh, failed=failed, skipped=skipped, seconds=seconds)
        else:
            self._events.send("warmed", computed=computed, fresh=fresh, failed=failed, skipped=skipped, seconds=seconds)
        return sums

    def _note(
        self, policy: Policy, *, computed: int = 0, fresh: int = 0, failed: int = 0, skipped: int = 0, errors: Sequence[str] = ()
    ) -> None:
        for error in errors:
            self._events.send("warming_failed", policy.name, policy=policy.name, error=error)
        with self._lock:
            old = self._sums
            self._sums = replace(
                old,
                computed=old.computed + computed,
                fresh=old.fresh + fresh,
                failed=old.failed + failed,
                skipped=old.skipped + skipped,
                errors=(*old.errors, *errors)[:ERRORS_KEPT],
            )
            if self.manner.progress is not None and not self.stopped.is_set():
                try:
                    self.manner.progress(self.sums)
                except BaseException as error:  # of the user's function: whoever began the round is told
                    self.stop(error)
