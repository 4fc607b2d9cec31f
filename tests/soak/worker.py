"""A process with one cache, in threads, in loops, or in both. It takes orders from its standard input.

========  =================================================================================================
order     what it does, and answers
========  =================================================================================================
quiet     ends the traffic, and waits until every cut that was queued is in the log: ``quiet``
final     reads everything that it can, in each of its colours: ``final``
end       closes its cache and writes down its counts: ``ended``
========  =================================================================================================

It says ``ready`` when its traffic has begun.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from soak.application import NAMESPACE, Application, make_cache
from soak.chaos import Chaos, excuses
from soak.diary import Diary
from soak.origin import Origin
from soak.traffic import Act, Actor, Place, proceed
from soak.watch import Watch
from soak.world import WHOLES
from support.nodes import Colour, LoopThread, until

SHAPES: Final = {"threads": (3, 0, 0), "loop": (0, 1, 5), "both": (2, 2, 2), "cold": (0, 0, 0)}
"""How many threads, loops, and tasks in each loop."""
LONG: Final = 30.0
IN_CHAOS: Final = frozenset({"unreadable"})
"""Events that are no mistake where a codec is told to fail."""


def drive(act: Act, watch: Watch) -> None:
    """Do it in ``def``."""
    with watch.over():
        wanted = next(act, None)
        while wanted is not None:
            with watch.call(wanted.what):
                result = wanted.function(*wanted.args, **wanted.keywords)
            wanted = proceed(act, result)


async def adrive(act: Act, watch: Watch) -> None:
    """Do it in ``async def``."""
    with watch.over():
        wanted = next(act, None)
        while wanted is not None:
            with watch.call(wanted.what):
                result = await wanted.function(*wanted.args, **wanted.keywords)
            wanted = proceed(act, result)


class Worker:
    """The process: its cache, its actors, and what they run in."""

    def __init__(self, options: argparse.Namespace) -> None:
        folder: Path = options.folder
        self._place = Place(options.slot, options.life, options.slots)
        self._diary = Diary(folder, slot=options.slot, life=options.life)
        self._watch = Watch(self._diary, folder / f"{options.slot}.{options.life}.stacks", limit=options.limit)
        self._watch.start()
        self._shape: str = options.shape
        self._seed = f"{options.seed}.{options.slot}.{options.life}"
        self._stop = threading.Event()
        self._stack = ExitStack()
        self._threads: list[threading.Thread] = []
        self._tasks: list[Future[None]] = []
        self._loops: list[LoopThread] = []
        self._diary.life(began=time.monotonic(), shape=self._shape)
        # A small local memory in every third process, so that some copies are evicted while they are judged.
        max_entries = 12 if options.slot % 3 == 2 else 10_000
        self._chaos = Chaos(options.url, namespace=NAMESPACE, seed=self._seed, max_entries=max_entries) if options.chaos else None
        if self._chaos is not None:
            self._watch.expect(excuses, events=IN_CHAOS)
        self._cache = make_cache(
            options.url, max_lag=options.max_lag, max_entries=max_entries, on_event=self._watch.event, chaos=self._chaos
        )
        self._application = Application(self._cache, Origin(folder), self._diary, seed=self._seed, chaos=self._chaos)

    def begin(self) -> None:
        threads, loops, tasks = SHAPES[self._shape]
        for number in range(threads):
            actor = self._actor("def", number)
            self._threads.append(threading.Thread(target=self._run, args=(actor,), name=f"soak-actor-{number}", daemon=True))
            self._threads[-1].start()
        for number in range(loops):
            loop = self._stack.enter_context(LoopThread())
            self._watch.start_loop(loop.loop)
            self._loops.append(loop)
            self._tasks += [loop.submit(self._arun(self._actor("async def", 100 * number + task))) for task in range(tasks)]

    def _actor(self, colour: Colour, number: int) -> Actor:
        draw = random.Random(f"{self._seed}.{colour}.{number}")
        return Actor(self._application, self._place, colour=colour, draw=draw)

    def _run(self, actor: Actor) -> None:
        while not self._stop.is_set():
            drive(actor.act(), self._watch)
            time.sleep(actor.pause())

    async def _arun(self, actor: Actor) -> None:
        while not self._stop.is_set():
            await adrive(actor.act(), self._watch)
            await asyncio.sleep(actor.pause())

    def quiet(self) -> None:
        if self._chaos is not None:
            self._chaos.end()
        self._stop.set()
        for thread in self._threads:
            thread.join(LONG)
        for task in self._tasks:
            task.result(LONG)
        until(lambda: not self._cache.stats().log.pending, "announcing what was queued")

    def final(self) -> None:
        if self._threads or not self._loops:
            actor = self._actor("def", 99)
            for thing in WHOLES:
                looks = (actor.get,) if self._shape == "cold" else (actor.peek, actor.call, actor.get)
                for look in looks:
                    drive(look(thing, is_final=True), self._watch)
        for loop in self._loops:
            loop.run(self._afinal(self._actor("async def", 99)))

    async def _afinal(self, actor: Actor) -> None:
        for thing in WHOLES:
            for look in (actor.peek, actor.call, actor.get):
                await adrive(look(thing, is_final=True), self._watch)

    def end(self) -> None:
        for loop in self._loops:
            loop.run(self._cache.aclose())
        self._cache.close()
        self._stack.close()
        self._watch.end()
        self._diary.flush()
        total = self._cache.stats().total
        counts = {"computed": self._application.computed, "failed": self._watch.failed, "swept": self._application.swept}
        counts |= {"local hits": total.local_hits, "shared hits": total.shared_hits, "joined": total.joined}
        self._diary.counts(counts | self._watch.counts() | ({} if self._chaos is None else self._chaos.told()))
        self._diary.slowest(self._watch.slowest)


def serve(options: argparse.Namespace) -> None:
    """Take orders until the input ends."""
    worker = Worker(options)
    worker.begin()
    answers: dict[str, Any] = {"quiet": worker.quiet, "final": worker.final, "end": worker.end}
    print("ready", flush=True)
    for line in sys.stdin:
        answers[line.strip()]()
        print(line.strip(), flush=True)


def read_options(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="soak.worker")
    parser.add_argument("folder", type=Path)
    parser.add_argument("url")
    parser.add_argument("seed")
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--slot", type=int, required=True)
    parser.add_argument("--life", type=int, required=True)
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--max-lag", type=float, required=True)
    parser.add_argument("--limit", type=float, required=True)
    parser.add_argument("--chaos", action="store_true")
    return parser.parse_args(given)


if __name__ == "__main__":
    serve(read_options())
