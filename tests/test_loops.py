"""Loops and threads: one cache object serves several event loops and plain threads at once, and leaves nothing open behind them."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from cachesync import Cache, Policy, RedisShared, Settings
from cachesync.coordination import log_reader, worlds
from cachesync.coordination.events import Event
from cachesync.core.settings import CoordinationSettings
from cachesync.core.steps import Extend, Release, Store
from cachesync.protocols import Shared
from support.nodes import COLOURS, LONG, Colour, Gate, HoldingShared, LoopThread, engine_of, operations_of, until
from support.proxy import Proxy
from support.scripts import Script
from support.servers import Server

READER = "cachesync-log"
SOON = 0.02
"""Seconds that a test waits for a computation that it holds."""


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no outage."""
    monkeypatch.setattr(log_reader, "PATIENCE", LONG)


def open_cache(url: str | None, namespace: str) -> Cache:
    patient = Settings(coordination=CoordinationSettings(budget=LONG, lease=LONG, max_lag=LONG))
    return Cache(patient, policies=[Policy(name="items", match="item:*", ttl="1h")], redis=url, namespace=namespace)


@pytest.fixture(params=["in memory", "with Redis"])
def cache(request: pytest.FixtureRequest, server: Server, namespace: str) -> Iterator[Cache]:
    with open_cache(server.url if request.param == "with Redis" else None, namespace) as cache:
        yield cache


class Shop:
    """One function in both colours on the same keys. A computation gives the version at its beginning, and can be held at a gate."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.version = 1
        self.computed: list[int] = []
        self._gates: dict[int, Gate] = {}

        @cache.cached("item:{number}", tags=["owner:{number}"])
        def item(number: int) -> int:
            value, gate = self._begin(number)
            if gate is not None:
                gate.stand()
            return value

        @cache.cached("item:{number}", tags=["owner:{number}"], same_as=item)
        async def aitem(number: int) -> int:
            value, gate = self._begin(number)
            if gate is not None:
                await gate.astand()
            return value

        self.item = item
        self.aitem = aitem

    def hold(self, number: int) -> Gate:
        """The next computation of an item waits at this gate."""
        self._gates[number] = Gate()
        return self._gates[number]

    def _begin(self, number: int) -> tuple[int, Gate | None]:
        self.computed.append(number)
        return self.version, self._gates.pop(number, None)


@pytest.fixture
def loops() -> Iterator[tuple[LoopThread, LoopThread]]:
    """Two event loops in threads of their own, in debug mode. What they complain of fails the test."""
    complaints: list[dict[str, Any]] = []
    with LoopThread() as first, LoopThread() as second:
        for one in (first, second):
            one.loop.set_debug(True)
            one.loop.slow_callback_duration = LONG
            one.loop.set_exception_handler(lambda _loop, context: complaints.append(context))
        yield first, second
        gc.collect()
    assert complaints == []


def test_two_loops_threads_and_calls_inside_a_loop_use_one_cache_at_once(cache: Cache, loops: tuple[LoopThread, LoopThread]) -> None:
    """Whoever asks, in whichever colour: each item is computed once, and nobody meets what belongs to another loop."""
    shop, numbers = Shop(cache), range(60)

    async def ask(first: int) -> list[int]:
        async def one(number: int) -> int:
            if number % 5 == first:  # a plain call, which holds the loop up
                return shop.item(number)
            return await shop.aitem(number)

        answers = await asyncio.gather(*(one(number) for number in numbers))
        return answers + await shop.aitem.many([(number,) for number in numbers])

    def ask_plainly() -> list[int]:
        return [shop.item(number) for number in numbers] + shop.item.many([(number,) for number in numbers])

    with ThreadPoolExecutor(4) as threads:
        asked: list[Future[list[int]]] = []
        for number, loop in enumerate(loops):
            asked += [loop.submit(ask(number)), loop.submit(ask(number + 2))]
        asked += [threads.submit(ask_plainly) for _ in range(4)]
        assert [future.result(LONG) for future in asked] == [[1] * 120] * 8
    mine = [number for number in numbers if number % 5 < 4]  # a plain call computes where it would wait for a task of its own loop
    assert set(shop.computed) == set(numbers)
    assert len(shop.computed) <= 60 + len(mine)
    for loop in loops:
        loop.run(cache.aclose())


def test_loops_and_threads_share_one_computation(cache: Cache, loops: tuple[LoopThread, LoopThread]) -> None:
    """One of them computes; tasks of both loops and threads wait for it, whatever their colour."""
    shop = Shop(cache)
    with ThreadPoolExecutor(8) as threads:
        for leader in COLOURS:
            number = COLOURS.index(leader)
            gate = shop.hold(number)
            asked = [loops[0].submit(shop.aitem(number)) if leader == "async def" else threads.submit(shop.item, number)]
            gate.wait()
            asked += [loop.submit(shop.aitem(number)) for loop in loops for _ in range(3)]
            asked += [threads.submit(shop.item, number) for _ in range(3)]
            until(lambda: _joined(cache) == 9 * (number + 1), "the others wait")  # noqa: B023 - called at once
            gate.open()
            assert [future.result(LONG) for future in asked] == [1] * 10
    assert shop.computed == [0, 1]
    for loop in loops:
        loop.run(cache.aclose())


def _joined(cache: Cache) -> int:
    return sum(one.joined for one in cache.stats().functions.values())


@pytest.mark.parametrize("kind", ["key", "tag", "prefix", "everything"])
@pytest.mark.parametrize("place", ["another loop", "the same loop", "a thread", "a plain call in the loop", "a plain call in another loop"])
@pytest.mark.parametrize("colour", COLOURS)
def test_an_invalidation_in_one_colour_detaches_computations_of_the_other(
    cache: Cache, loops: tuple[LoopThread, LoopThread], colour: Colour, place: str, kind: str
) -> None:
    """Who computes is given what was asked for; whoever comes later does not join, in either colour, and the old value is held nowhere."""
    shop, (home, away) = Shop(cache), loops
    patterns = {"key": "item:1", "prefix": "item:*", "everything": "*"}
    named: tuple[list[str], list[str]] = ([patterns[kind]], []) if kind in patterns else ([], ["owner:1"])

    async def in_loop() -> None:
        await cache.ainvalidate(*named[0], tags=named[1])

    async def plainly_in_loop() -> None:
        cache.invalidate(*named[0], tags=named[1])

    with ThreadPoolExecutor(4) as threads:
        gate = shop.hold(1)
        first = home.submit(shop.aitem(1)) if colour == "async def" else threads.submit(shop.item, 1)
        gate.wait()
        shop.version = 2
        if place == "a thread":
            threads.submit(cache.invalidate, *named[0], tags=named[1]).result(LONG)
        else:
            (away if "another" in place else home).run(plainly_in_loop() if "plain" in place else in_loop())
        late = [threads.submit(shop.item, 1), home.submit(shop.aitem(1)), away.submit(shop.aitem(1))]
        assert [future.result(LONG) for future in late] == [2, 2, 2]
        gate.open()
        assert first.result(LONG) == 1
        assert [threads.submit(shop.item, 1).result(LONG), home.run(shop.aitem(1)), cache.get("item:1")] == [2, 2, 2]
    assert shop.computed == [1, 1]
    for loop in loops:
        loop.run(cache.aclose())


# --- threads of the library ---------------------------------------------------------------------------------------------------------


def readers() -> set[threading.Thread]:
    """Those that run. One of an earlier test may end meanwhile: closing waits two seconds for it, and an answer may take three."""
    return {thread for thread in threading.enumerate() if thread.name == READER}


async def _end(cache: Cache, ending: str) -> None:
    if ending == "async with":
        async with cache:
            pass
    else:
        await cache.aclose()


@pytest.mark.parametrize("ending", ["close", "aclose", "with", "async with", "closed twice"])
def test_a_cache_has_one_reader_which_ends_with_it(server: Server, namespace: str, ending: str) -> None:
    """None before the shared layer matters, one however many threads and loops ask, and none afterwards."""
    before = readers()
    cache = open_cache(server.url, namespace)
    shop = Shop(cache)
    assert readers() <= before

    async def ask(number: int) -> int:
        return await shop.aitem(number)

    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(shop.item, number) for number in range(20)]
        asked += [threads.submit(asyncio.run, ask(number)) for number in range(20)]
        assert [future.result(LONG) for future in asked] == [1] * 40
    assert len(readers() - before) == 1
    if ending == "close":
        cache.close()
    elif ending == "with":
        with cache:
            pass
    else:
        asyncio.run(_end(cache, ending))
    if ending == "closed twice":
        cache.close()
        asyncio.run(_end(cache, ending))
    until(lambda: readers() <= before, "the reader ends")


@pytest.mark.parametrize("colour", COLOURS)
def test_a_cache_that_nobody_holds_any_more_ends_its_reader_and_its_connections(
    server: Server, proxy: Proxy, namespace: str, colour: Colour
) -> None:
    """Without having been closed, as soon as the collector has seen to it."""
    before = readers()

    def use() -> None:
        cache = open_cache(proxy.url, namespace)
        shop = Shop(cache)
        assert (asyncio.run(shop.aitem(1)) if colour == "async def" else shop.item(1)) == 1
        until(lambda: cache.stats().log.is_heard, "the log is heard")

    def is_over() -> bool:
        gc.collect()
        return readers() <= before and proxy.connections == 0

    use()
    until(is_over, "the reader ends, and nothing is open")


@pytest.mark.parametrize("trouble", ["refused", "held"])
def test_a_reader_ends_with_its_cache_while_redis_is_away(server: Server, proxy: Proxy, namespace: str, trouble: str) -> None:
    """Whether connections are refused or nobody answers: closing waits for no answer."""
    before = readers()
    cache = open_cache(proxy.url, namespace)
    assert Shop(cache).item(1) == 1
    with open_cache(server.url, namespace) as other:
        stamp = other.invalidate("item:2")
    until(lambda: engine_of(cache).ledger.position == stamp, "the log is heard")
    if trouble == "refused":
        proxy.refuse()
        proxy.cut()
    else:
        proxy.hold()
    cache.close()
    until(lambda: readers() <= before, "the reader ends")


@pytest.mark.parametrize("colour", COLOURS)
def test_a_closed_cache_answers_and_keeps_nothing_open(server: Server, proxy: Proxy, namespace: str, colour: Colour) -> None:
    """Neither thread nor connection stays: who closes too early is slower, and nothing leaks."""
    cache = open_cache(proxy.url, namespace)
    shop = Shop(cache)
    before = readers()
    cache.close()

    async def ask() -> list[int]:
        return [await shop.aitem(1), await shop.aitem(2), await shop.aitem(1)]

    assert (asyncio.run(ask()) if colour == "async def" else [shop.item(1), shop.item(2), shop.item(1)]) == [1, 1, 1]
    assert not cache.invalidate("item:1").pending
    until(lambda: proxy.connections == 0, "nothing is open")
    assert readers() <= before


# --- loops that stand still -------------------------------------------------------------------------------------------------------


class Paused:
    """A cache with short leases, and an event loop of this test's own. What is computed in the loop waits until it may go on."""

    def __init__(self, shared: Shared | None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(worlds, "LOOK_AGAIN", 0.02)  # seconds between two looks of those who wait
        settings = Settings(coordination=CoordinationSettings(budget=LONG, lease=0.5, max_lag=LONG))
        self.policies = [Policy(name="items", match="item:*", ttl="1h", stale_while_revalidate="1h")]
        self.cache = Cache(settings, policies=self.policies, shared=shared)
        self.loop = asyncio.new_event_loop()
        self.computed: list[str] = []
        self.stops = True
        self._begun = asyncio.Event()
        self._goes_on = asyncio.Event()

        @self.cache.cached("item:{number}")
        async def aitem(number: int) -> str:
            if asyncio.get_running_loop() is not self.loop or not self.stops:
                return self._told("another loop")
            self._begun.set()
            await self._goes_on.wait()
            return self._told("the loop")

        @self.cache.cached("item:{number}", same_as=aitem)
        def item(number: int) -> str:
            return self._told("a thread")

        self.aitem, self.item = aitem, item

    def _told(self, who: str) -> str:
        self.computed.append(who)
        return who

    async def begun(self) -> None:
        """A computation waits in the loop."""
        await self._begun.wait()

    def let_go(self) -> None:
        """In the loop: what waits may go on."""
        self._goes_on.set()

    def leave_under_way(self) -> asyncio.Task[str]:
        """A computation begins, and its loop runs no more."""

        async def begin() -> asyncio.Task[str]:
            task = asyncio.create_task(self.aitem(1))
            await self._begun.wait()
            return task

        return self.loop.run_until_complete(begin())

    def go_on(self, task: asyncio.Task[str] | None = None) -> str | None:
        """The loop runs again, until nothing is under way in it."""

        async def end() -> str | None:
            self._goes_on.set()
            result = None if task is None else await task
            await asyncio.gather(*(one for one in asyncio.all_tasks() if one is not asyncio.current_task()))
            return result

        return self.loop.run_until_complete(end())

    def close(self) -> None:
        """Whatever is under way is let go, or given up."""
        self.loop.run_until_complete(self._end())
        self.loop.close()

    async def _end(self) -> None:
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self.cache.aclose()
        await self.loop.shutdown_default_executor()


MakePaused = Callable[[Shared | None], Paused]


@pytest.fixture
def pause(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakePaused]:
    """Makes what stands still, and closes it."""
    made: list[Paused] = []

    def one(shared: Shared | None) -> Paused:
        made.append(Paused(shared, monkeypatch))
        return made[-1]

    yield one
    for paused in made:
        paused.close()


async def awaited(answer: Awaitable[str]) -> str:
    return await answer


HERE = ("a thread", "another loop")
STANDING = [*(("in memory", who) for who in HERE), *(("with Redis", who) for who in (*HERE, "another process"))]


@pytest.mark.parametrize(("place", "who"), STANDING)
def test_a_loop_that_stands_still_keeps_nobody_waiting(server: Server, namespace: str, pause: MakePaused, place: str, who: str) -> None:
    """``run_until_complete`` has returned, and a task is under way: its lease lapses, and whoever asks computes. When the loop runs
    again the task goes on, and has its own result.
    """
    paused = pause(RedisShared(server.url, namespace=namespace) if place == "with Redis" else None)
    task = paused.leave_under_way()
    with ThreadPoolExecutor(1) as thread, open_cache(server.url, namespace) as other:

        @other.cached("item:{number}")
        def there(number: int) -> str:
            return "another process"

        ask: dict[str, Callable[[], object]] = {
            "a thread": lambda: paused.item(1),
            "another loop": lambda: asyncio.run(awaited(paused.aitem(1))),
            "another process": lambda: there(1),
        }
        try:
            assert thread.submit(ask[who]).result(LONG) == who
            assert thread.submit(ask[who]).result(LONG) == who, "it is cached"
        finally:
            own = paused.go_on(task)
        assert own == "the loop"
        assert paused.computed == [*([who] if who != "another process" else []), "the loop"]
        if place == "with Redis":
            assert there(1) == who, "what is computed without a lease is not stored"


def test_a_refresh_in_a_loop_that_stands_still_is_done_by_others(server: Server, namespace: str, pause: MakePaused) -> None:
    """Nobody has asked for it: it was begun behind the caller's back, and its caller's loop has ended its work."""
    paused = pause(RedisShared(server.url, namespace=namespace))
    paused.stops = False
    assert paused.loop.run_until_complete(awaited(paused.aitem(1))) == "another loop"
    paused.cache.invalidate("item:1", soft=True)
    paused.stops = True

    async def find_stale() -> str:
        found = await paused.aitem(1)
        await paused.begun()
        return found

    assert paused.loop.run_until_complete(find_stale()) == "another loop"
    with Cache(policies=paused.policies, redis=server.url, namespace=namespace) as other:

        @other.cached("item:{number}")
        def item(number: int) -> str:
            return "another process"

        until(lambda: item(1) == "another process", "it is refreshed")
    paused.go_on()


def test_a_loop_that_runs_keeps_its_lease(server: Server, namespace: str, pause: MakePaused) -> None:
    """However long it computes: others wait for it."""
    holding = HoldingShared(RedisShared(server.url, namespace=namespace))
    paused = pause(holding)
    running = threading.Thread(target=paused.loop.run_forever)
    running.start()
    try:
        asked = asyncio.run_coroutine_threadsafe(awaited(paused.aitem(1)), paused.loop)
        with open_cache(server.url, namespace) as other, ThreadPoolExecutor(1) as thread:

            @other.cached("item:{number}")
            def there(number: int) -> str:
                return "another process"

            until(lambda: holding.count(Extend) >= 1, "the lease is extended")
            waiting = thread.submit(there, 1)
            until(lambda: holding.count(Extend) >= 4, "it would be over")
            assert not waiting.done()
            paused.loop.call_soon_threadsafe(paused.let_go)
            assert (asked.result(LONG), waiting.result(LONG)) == ("the loop", "the loop")
    finally:
        paused.loop.call_soon_threadsafe(paused.loop.stop)
        running.join(LONG)


# --- closing while something is under way -----------------------------------------------------------------------------------------


class Closing:
    """A cache in a loop, with stale values allowed, that is closed while a computation is held."""

    def __init__(self, url: str, namespace: str, loop: LoopThread, **options: Any) -> None:
        self.events: list[Event] = []
        policy = Policy(name="items", match="item:*", ttl="1h", **options)
        patient = Settings(coordination=CoordinationSettings(budget=LONG, lease=LONG, max_lag=LONG))
        self.shared = HoldingShared(RedisShared(url, namespace=namespace))
        self.cache = Cache(patient, policies=[policy], shared=self.shared, namespace=namespace, on_event=self.events.append)
        self.shop = Shop(self.cache)
        self.loop = loop

    async def read(self, how: str) -> int:
        return await self.shop.aitem(1) if how == "one" else (await self.shop.aitem.many([(1,)]))[0]

    async def aclose(self) -> int:
        """Close, and return how many flights and refreshes are left in the loop."""
        await self.cache.aclose()
        return sum("LoopWorld" in repr(one.get_coro()) or "Refresher" in repr(one.get_coro()) for one in asyncio.all_tasks())

    def told(self, name: str) -> list[Event]:
        return [event for event in self.events if event.name == name]


@pytest.fixture
def close(server: Server, namespace: str, loops: tuple[LoopThread, LoopThread]) -> Callable[..., Closing]:
    return partial(Closing, server.url, namespace, loops[0])


@pytest.mark.parametrize("how", ["one", "many"])
@pytest.mark.parametrize("moment", ["computing", "before its first step"])
def test_closing_ends_refreshes_and_says_so(close: Callable[..., Closing], how: str, moment: str) -> None:
    """They are ended while the connection is there: the lease is given back, and nothing waits for a reply that never comes."""
    closing = close(stale_while_revalidate="1h")
    loop = closing.loop
    assert loop.run(closing.read(how)) == 1
    closing.cache.invalidate("item:1", soft=True)
    gate = closing.shop.hold(1)

    async def read_and_close() -> tuple[int, int]:
        found = await closing.read(how)
        if moment == "computing":
            await asyncio.to_thread(gate.wait)
        else:
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()  # as the end of asyncio.run does
            await asyncio.to_thread(until, lambda: not operations_of(closing.cache).refresher.under_way, "the end of the refresh")
        return found, await closing.aclose()

    assert loop.run(read_and_close()) == (1, 0)
    gate.open()
    assert [event.fields["key"] for event in closing.told("refresh_dropped")] == ["item:1"]
    assert closing.told("layer_failed") == []
    assert closing.shared.count(Release) == (moment == "computing")
    assert operations_of(closing.cache).refresher.under_way == 0


@pytest.mark.parametrize("how", ["one", "many"])
def test_closing_lets_callers_have_what_they_wait_for(close: Callable[..., Closing], how: str) -> None:
    """It is stored, too: the connection is closed after that."""
    closing = close()
    gate = closing.shop.hold(1)
    asked = closing.loop.submit(closing.read(how))
    gate.wait()
    closed = closing.loop.submit(closing.aclose())
    until(lambda: operations_of(closing.cache).is_closed, "closing")
    gate.open()
    assert (asked.result(LONG), closed.result(LONG)) == (1, 0)
    assert closing.told("layer_failed") == []
    assert closing.shared.count(Store) == 1


@pytest.mark.parametrize("how", ["one", "many"])
def test_closing_waits_no_longer_than_the_budget(close: Callable[..., Closing], how: str) -> None:
    """What takes longer goes on, and its caller is given the result."""
    closing = close()
    gate = closing.shop.hold(1)
    asked = closing.loop.submit(closing.read(how))
    gate.wait()
    engine_of(closing.cache).budget = SOON
    closing.loop.run(closing.aclose())
    gate.open()
    assert asked.result(LONG) == 1


@pytest.mark.parametrize("how", ["one", "many"])
def test_closing_ends_what_its_callers_have_left(close: Callable[..., Closing], how: str) -> None:
    """They were given an old value after the soft timeout, and wait for the new one no more. What does not end in time is told."""
    closing = close(stale_if_error="1h", soft_timeout=SOON)
    gate = leave_behind(closing, how)
    engine_of(closing.cache).budget = 1.0
    assert closing.loop.run(closing.aclose()) == 0
    gate.open()
    assert [event.fields["key"] for event in closing.told("refresh_dropped")] == ["item:1"]
    assert closing.told("layer_failed") == []
    assert closing.shared.count(Release) == 1


@pytest.mark.parametrize("how", ["one", "many"])
def test_closing_lets_what_its_callers_have_left_come_to_its_end(close: Callable[..., Closing], how: str) -> None:
    """For as long as the budget lasts. It is stored."""
    closing = close(stale_if_error="1h", soft_timeout=SOON)
    gate = leave_behind(closing, how)
    closed = closing.loop.submit(closing.aclose())
    until(lambda: operations_of(closing.cache).is_closed, "closing")
    gate.open()
    assert closed.result(LONG) == 0
    assert closing.told("refresh_dropped") == closing.told("layer_failed") == []
    assert closing.shared.count(Store) == 2


def leave_behind(closing: Closing, how: str) -> Gate:
    """A computation under way, whose caller was given an old value."""
    assert closing.loop.run(closing.read(how)) == 1
    closing.cache.invalidate("item:1", soft=True)
    gate = closing.shop.hold(1)
    assert closing.loop.run(closing.read(how)) == 1
    gate.wait()
    return gate


def test_closing_needs_no_thread_of_the_loop_s_executor(cache: Cache) -> None:
    """They may all be taken by what the application waits for."""

    async def story() -> None:
        gate, loop = Gate(), asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        taken = loop.run_in_executor(None, gate.stand)
        try:
            await asyncio.wait_for(cache.aclose(), LONG / 2)
        finally:
            gate.open()
            await taken

    asyncio.run(story())


# --- what stays open ----------------------------------------------------------------------------------------------------------------

LOOPS = """
from cachesync import Cache, Policy, Settings
from cachesync.coordination import log_reader
from cachesync.core.settings import CoordinationSettings

log_reader.PATIENCE = 20.0
url, namespace, how = sys.argv[1:4]
patient = Settings(coordination=CoordinationSettings(budget=20.0, lease=20.0, max_lag=20.0))
cache = Cache(patient, policies=[Policy(name="items", match="item:*", ttl="1h")], redis=url, namespace=namespace)

@cache.cached("item:{number}")
def item(number: int) -> int:
    return number

@cache.cached("item:{number}", same_as=item)
async def aitem(number: int) -> int:
    if number == 7:
        await asyncio.sleep(60)  # nobody waits so long
    return number

async def story(number):
    assert await asyncio.gather(*(aitem(100 * number + one) for one in range(8, 14))) == [100 * number + one for one in range(8, 14)]
    await cache.ainvalidate(f"item:{number}")
    if how == "left in the middle":
        left = asyncio.create_task(aitem(7))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    elif how == "a flight of reads":
        left = [asyncio.create_task(cache.aget(f"item:{one}")) for one in range(20)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    elif how == "closed each time":
        await cache.aclose()

def run(number):
    if how == "closed without a word":
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(story(number))
        finally:
            loop.close()
    elif how == "in threads":
        thread = threading.Thread(target=lambda: asyncio.run(story(number)))
        thread.start()
        thread.join()
    else:
        asyncio.run(story(number))
    assert item(number) == number

def open_now():
    return len(os.listdir("/proc/self/fd"))

def ready():
    names = [thread.name for thread in threading.enumerate()]
    return "cachesync-connect" not in names and (how == "closed each time" or cache.stats().log.is_heard)

for number in range(3):
    run(number)
until(ready)
before, most = open_now(), 0
for number in range(3, 53):
    run(number)
    most = max(most, open_now())
gc.collect()
until(ready)
say("descriptors", before, most, open_now())
say("threads", sorted(thread.name for thread in threading.enumerate() if thread.name != "MainThread"))
cache.close()
gc.collect()
"""


@pytest.mark.parametrize(
    "how", ["as usual", "in threads", "left in the middle", "a flight of reads", "closed without a word", "closed each time"]
)
def test_fifty_loops_one_after_the_other_leave_nothing_open(server: Server, namespace: str, how: str) -> None:
    """No descriptor, no thread, no warning: each loop's connections end with it, also where it was closed while they were in use."""
    with Script(LOOPS, server.url, namespace, how) as script:
        before, most, after = map(int, script.hear("descriptors").split())
        assert after <= before + 1  # threads may use one connection more than at first
        assert most <= before + 6
        assert script.hear("threads") == ("[]" if how == "closed each time" else f"['{READER}']")
        script.end()


EXIT = """
import atexit

from cachesync import Cache, Policy, Settings
from cachesync.coordination import log_reader
from cachesync.core.settings import CoordinationSettings

log_reader.PATIENCE = 100.0
url, namespace, how = sys.argv[1:4]
slow = Settings(coordination=CoordinationSettings(budget=100.0, lease=300.0, max_lag=300.0))  # nothing of this is waited for
caches = [Cache(slow, policies=[Policy(name="items", match="item:*", ttl="1h")], redis=url, namespace=namespace) for _ in range(2)]
signal.alarm(30)

def sell(cache):
    @cache.cached("item:{number}")
    def item(number: int) -> int:
        if number == 5:
            begun.set()
            time.sleep(100)
        return number
    @cache.cached("item:{number}", same_as=item)
    async def aitem(number: int) -> int:
        return number
    return item, aitem

begun = threading.Event()
functions = [sell(cache) for cache in caches]
for item, aitem in functions:
    assert item(1) == 1
    async def story():
        assert await aitem(2) == 2
    asyncio.run(story())
until(lambda: all(cache.stats().log.is_heard for cache in caches))
if how == "while a thread computes":
    threading.Thread(target=functions[0][0], args=[5], daemon=True).start()
    assert begun.wait(20)
elif how == "while a thread reads":
    threading.Thread(target=lambda: [functions[0][0](number) for number in range(10, 10**6)], daemon=True).start()
elif how == "in a loop that was left":
    loop = asyncio.new_event_loop()
    loop.run_until_complete(functions[0][1](3))
    loop.close()
elif how == "at exit":
    atexit.register(lambda: functions[1][0](1))
say("open")
wait()
"""


@pytest.mark.parametrize("trouble", [False, True])
@pytest.mark.parametrize(
    "how",
    ["as usual", "while a thread computes", "while a thread reads", "in a loop that was left", "at exit"],
)
def test_a_program_that_closes_no_cache_ends_quickly_and_in_silence(proxy: Proxy, namespace: str, how: str, trouble: bool) -> None:
    """Also when Redis has fallen silent: nobody is waited for, and nothing is said."""
    with Script(EXIT, proxy.url, namespace, how) as script:
        script.hear("open")
        if trouble:
            proxy.hold()
        script.say()
        script.end()
