"""How all of this is timed: contestants take turns, so that a machine that slows down slows down all of them.

A contestant is a function that makes a number of calls and returns the seconds they took. Ratios within one run are what counts;
seconds of different runs are not to be compared.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import statistics
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

T = TypeVar("T")
Contestant: TypeAlias = Callable[[int], float]
"""Makes so many calls and returns the seconds they took."""

Figures: TypeAlias = dict[str, dict[str, dict[str, float]]]
"""``{row: {contestant: {"best", "median"}}}``."""

OURS: Final = "cachesync"

computed: Counter[str] = Counter()
"""How often the cached functions ran. A cache that quietly computes would look fast, or slow, for the wrong reason."""


@dataclass(frozen=True, slots=True)
class Store:
    """What is cached: a value of six fields, as a row of a database would be."""

    code: str
    name: str
    city: str
    latitude: float
    visits: int
    open: bool


JAKARTA: Final = Store("JKT", "Jakarta Kota", "Jakarta", -6.1375, 41_233, True)


@dataclass(frozen=True, slots=True)
class Pace:
    """``rounds`` turns for each contestant, each of about ``seconds``."""

    rounds: int
    seconds: float


def _calls_for(contestant: Contestant, seconds: float) -> int:
    """How many calls fill a turn. Finding out warms the contestant up, too."""
    calls = 20
    while True:
        spent = contestant(calls)
        if spent > seconds / 4:
            return max(1, round(calls * seconds / spent))
        calls *= 4


def only_hits(contestant: Contestant, warm_up: int) -> Contestant:
    """The contestant as it is, where it computes nothing after ``warm_up`` calls. Raises ``RuntimeError`` where it does."""
    cold = [warm_up]

    def spend(calls: int) -> float:
        while cold:
            contestant(cold.pop())
        before = computed["calls"]
        spent = contestant(calls)
        if computed["calls"] > before:
            raise RuntimeError(f"{computed['calls'] - before:,} of {calls:,} calls computed what is cached")
        return spent

    return spend


@contextmanager
def _without_collector() -> Generator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Bench:
    """What the makers of contestants need: an event loop, and somebody who closes what they open."""

    def __init__(self, stack: ExitStack) -> None:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # those of peers about what they depend on
        self._stack = stack
        self.runner = stack.enter_context(asyncio.Runner())

    def close(self, close: Callable[[], object]) -> None:
        """Call it at the end, before what was opened earlier is closed."""
        self._stack.callback(close)

    def aclose(self, close: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Await it in the event loop at the end. What it raises is its own affair: it may have been led into another loop."""

        def close_it() -> None:
            with suppress(Exception):
                self.runner.run(close())

        self._stack.callback(close_it)


class Field:
    """The contestants of a benchmark, as far as they are installed and can do what is asked."""

    def __init__(self) -> None:
        self.missing: list[str] = []

    def enter(self, makers: Mapping[str, Callable[[], T]]) -> dict[str, T]:
        """What each maker made. One that can not be made is a line in ``missing``, and the others go on."""
        made: dict[str, T] = {}
        for name, make in makers.items():
            try:
                made[name] = make()
            except Exception as error:  # a peer that is not there or does not work is no reason to measure nothing
                self._leave_out(name, "", error)
        return made

    def take_turns(self, rows: Mapping[str, Mapping[str, Contestant]], pace: Pace) -> Figures:
        """Seconds per call. A B C, A B C, ... through all rows, and not A A, B B, C C."""
        running: dict[tuple[str, str], tuple[Contestant, int, list[float]]] = {}
        for row, contestants in rows.items():
            for name, contestant in contestants.items():
                try:
                    running[row, name] = contestant, _calls_for(contestant, pace.seconds), []
                except Exception as error:
                    self._leave_out(name, row, error)
        for _ in range(pace.rounds):
            with _without_collector():
                for (row, name), (contestant, calls, spent) in list(running.items()):
                    try:
                        spent.append(contestant(calls) / calls)
                    except Exception as error:
                        del running[row, name]
                        self._leave_out(name, row, error)
        figures: Figures = {row: {} for row in rows}
        for (row, name), (_, _, spent) in running.items():
            figures[row][name] = {"best": min(spent), "median": statistics.median(spent)}
        return figures

    def _leave_out(self, name: str, row: str, error: Exception) -> None:
        if isinstance(error, ImportError):
            line = f"{name}: {error.name or error} is not installed"
        else:
            line = f"{name}: left out{' of ' * bool(row)}{row}, {type(error).__name__}: {textwrap.shorten(str(error), 100)}"
        if line not in self.missing:
            self.missing.append(line)


def scaled(figures: Figures, scale: Callable[[float], float]) -> Figures:
    """The same in another unit."""
    return {
        row: {name: {kind: scale(seconds) for kind, seconds in each.items()} for name, each in ones.items()}
        for row, ones in figures.items()
    }


def peer(name: str) -> Any:
    """A module of a peer. Not every one has types, or has to be installed."""
    return importlib.import_module(name)
