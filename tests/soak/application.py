"""The application that a worker is: cached functions over the origin, each in both colours.

A computation reads the version first and then takes its time, so that cuts land while it runs; now and then it fails.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from cachesync import Cache, Event, Policy, Settings
from cachesync.core.settings import CoordinationSettings, LocalSettings
from soak.chaos import Chaos, policies_in_chaos
from soak.diary import Diary
from soak.history import Shown
from soak.origin import Origin, OriginError
from soak.world import BY_TEXT, GROUPS, LONG_TTL, SHORT_TTL, STALE_WINDOW, THINGS, WHOLES, Family, Thing, key_of, parts_of
from support.nodes import Colour

NAMESPACE: Final = "soak"
LEASE: Final = 2.0
BUDGET: Final = 0.25
FAILS: Final = 0.005
"""The share of computations that raise `OriginError`."""
LONGEST_PAUSE: Final = 0.05
AUDITED: Final = 0.05
"""The share of cuts after which every process is asked what it would serve."""

POLICIES: Final = (
    Policy(name="items", match="items:*", ttl=LONG_TTL, tags=["items"], stale_while_revalidate=STALE_WINDOW),
    Policy(name="exact", match="exact:*", ttl=LONG_TTL, tags=["exact"], consistency="strict"),
    Policy(name="short", match="short:*", ttl=SHORT_TTL, tags=["short"], stale_while_revalidate=STALE_WINDOW, on_disconnect="serve"),
    Policy(name="pages", match="pages:*", ttl=LONG_TTL, tags=["pages"]),
    Policy(name="books", match="books:*", ttl=LONG_TTL, tags=["books"]),
    Policy(name="reports", match="reports:*", ttl=LONG_TTL, tags=["reports"], local_ttl=2.0),
)


def make_cache(
    url: str, *, max_lag: float, max_entries: int, on_event: Callable[[Event], None] | None = None, chaos: Chaos | None = None
) -> Cache:
    coordination = CoordinationSettings(max_lag=max_lag, budget=BUDGET, lease=LEASE, audit=AUDITED)
    settings = Settings(namespace=NAMESPACE, coordination=coordination, local=LocalSettings(max_entries=max_entries))
    if chaos is None:
        return Cache(settings, policies=POLICIES, redis=url, on_event=on_event)
    return Cache(settings, policies=policies_in_chaos(POLICIES), shared=chaos.shared, local=chaos.local, on_event=on_event)


class Application:
    """One cache and its functions. ``functions[colour][family]`` is the cached function."""

    def __init__(self, cache: Cache, origin: Origin, diary: Diary, *, seed: str, chaos: Chaos | None = None) -> None:
        self.cache = cache
        self.origin = origin
        self.diary = diary
        self.computed = 0
        self.swept = 0
        self._draw = random.Random(seed)
        self._chaos = chaos
        self._codec = None if chaos is None else chaos.codec
        threads = self._threads()
        self.functions: dict[Colour, dict[Family, Any]] = {"def": threads, "async def": self._loops(threads)}
        for thing in WHOLES:
            for functions in self.functions.values():
                assert functions[thing.family].key(*thing.args) == thing.text

    # --- the origin ---------------------------------------------------------------------------------------------------------------

    def look(self, thing: Thing) -> Shown:
        """What the origin says now."""
        began = time.monotonic()
        return Shown(thing.number, self.origin.version(thing.cell), began, self.diary.next_maker())

    def give(self, thing: Thing) -> list[Shown]:
        """A value to be handed to the cache."""
        return [replace(self.look(thing), given=True)]

    def begin(self, thing: Thing) -> list[Shown]:
        """The first thing that every computation does."""
        self.computed += 1
        return [self.look(thing), *map(self.look, parts_of(thing))]

    def pause(self) -> float:
        """Seconds that a computation takes after it has read; or it fails."""
        if self._draw.random() < FAILS:
            raise OriginError
        longer = 0.0 if self._chaos is None else self._chaos.pause()
        return longer + self._draw.choice((0.0, 0.0, 0.1, 1.0)) * self._draw.random() * LONGEST_PAUSE

    def read(self, thing: Thing) -> list[Shown]:
        """A computation of ``def``."""
        shown = self.begin(thing)
        time.sleep(self.pause())
        return shown

    async def aread(self, thing: Thing) -> list[Shown]:
        """A computation of ``async def``."""
        shown = self.begin(thing)
        await asyncio.sleep(self.pause())
        return shown

    def _declare(self, thing: Thing) -> None:
        """A report says what it depends on: the first by keys, the second by tags, the third leaves it to `_tags_in`."""
        items = [THINGS[part.cell] for part in parts_of(thing)]
        if thing.args[0] == 0:
            self.cache.depends_on(*(item.text for item in items))
        elif thing.args[0] == 1:
            self.cache.depends_on(tags=sorted({tag for item in items for tag in item.tags}))

    # --- the functions ------------------------------------------------------------------------------------------------------------

    def _threads(self) -> dict[Family, Any]:
        cache, codec = self.cache, self._codec

        @cache.cached("items:{group}:{number}", tags=["group:{group}", "number:{number}"], codec=codec)
        def items(group: str, number: int) -> list[Shown]:
            return self.read(thing_of("items", group, number))

        @cache.cached("exact:{number}", tags=["number:{number}"], codec=codec)
        def exact(number: int) -> list[Shown]:
            return self.read(thing_of("exact", number))

        @cache.cached("short:{number}", codec=codec)
        def short(number: int) -> list[Shown]:
            return self.read(thing_of("short", number))

        @cache.cached("pages:{number}", codec=codec)
        def pages(number: int) -> list[Shown]:
            shown = self.begin(thing_of("pages", number))
            for group in GROUPS:
                shown += items(group, number)
            time.sleep(self.pause())
            return shown

        @cache.cached("books:{number}", codec=codec)
        def books(number: int) -> list[Shown]:
            return [*self.begin(thing_of("books", number)), *pages(number), *pages(number + 1)]

        @cache.cached("reports:{number}", tags_from=_tags_in, codec=codec)
        def reports(number: int) -> list[Shown]:
            thing = thing_of("reports", number)
            self._declare(thing)
            return self.read(thing)

        return {"items": items, "exact": exact, "short": short, "pages": pages, "books": books, "reports": reports}

    def _loops(self, twins: dict[Family, Any]) -> dict[Family, Any]:
        cache, codec = self.cache, self._codec

        @cache.cached("items:{group}:{number}", tags=["group:{group}", "number:{number}"], same_as=twins["items"], codec=codec)
        async def items(group: str, number: int) -> list[Shown]:
            return await self.aread(thing_of("items", group, number))

        @cache.cached("exact:{number}", tags=["number:{number}"], same_as=twins["exact"], codec=codec)
        async def exact(number: int) -> list[Shown]:
            return await self.aread(thing_of("exact", number))

        @cache.cached("short:{number}", same_as=twins["short"], codec=codec)
        async def short(number: int) -> list[Shown]:
            return await self.aread(thing_of("short", number))

        @cache.cached("pages:{number}", same_as=twins["pages"], codec=codec)
        async def pages(number: int) -> list[Shown]:
            shown = self.begin(thing_of("pages", number))
            for inside in await asyncio.gather(*(items(group, number) for group in GROUPS)):
                shown += inside
            await asyncio.sleep(self.pause())
            return shown

        @cache.cached("books:{number}", same_as=twins["books"], codec=codec)
        async def books(number: int) -> list[Shown]:
            return [*self.begin(thing_of("books", number)), *await pages(number), *await pages(number + 1)]

        @cache.cached("reports:{number}", tags_from=_tags_in, same_as=twins["reports"], codec=codec)
        async def reports(number: int) -> list[Shown]:
            thing = thing_of("reports", number)
            self._declare(thing)
            return await self.aread(thing)

        return {"items": items, "exact": exact, "short": short, "pages": pages, "books": books, "reports": reports}


def thing_of(family: Family, *args: str | int) -> Thing:
    """What a function was called for."""
    return BY_TEXT[key_of(family, args)]


def _tags_in(result: list[Shown]) -> list[str]:
    """Tags taken from the result: the third report depends on what it shows."""
    shown = [THINGS[one.thing] for one in result]
    if shown[0].args[0] != 2:
        return []
    return sorted({tag for part in shown[1:] for tag in THINGS[part.cell].tags})
