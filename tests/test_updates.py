"""Replacing a value: the block of ``cache.update`` and ``cache.aupdate``, what may be read inside it, and how it may end.

Each in both colours, in a cache that is alone, around one layer in memory, and around one Redis.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, Literal

import pytest

from cachesync import MISSING, Cache, CodecError, Event, MemoryShared, Policy, RedisShared, Settings, Stamp, in_context
from cachesync.core.settings import CoordinationSettings
from cachesync.protocols import Shared
from cachesync.testing import FakeClock
from support.nodes import COLOURS, LONG, Caller, Colour, LoopThread, engine_of, finished, operations_of, until, use
from support.servers import Server

Place = Literal["alone", "in memory", "with Redis"]
PLACES: Final[tuple[Place, ...]] = ("alone", "in memory", "with Redis")
Setting = Callable[[Any], Awaitable[Stamp]]
Told = Callable[..., Any]

POLICIES: Final = (
    Policy(name="all", match="*", ttl="1h"),
    Policy(name="soft", match="soft:*", ttl="1h", stale_while_revalidate="1h"),
    Policy(name="brief", match="brief:*", ttl="10s"),
    Policy(name="strict", match="strict:*", ttl="1h", consistency="strict"),
    Policy(name="told", match="told:*", ttl="dynamic", min_ttl="1s", max_ttl="1h"),
)


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    with LoopThread() as loop:
        yield loop


class Process:
    """One cache in one colour, its events, and a function with a version: ``item(number)``, key ``item:{number}``."""

    def __init__(self, shared: Shared | None, colour: Colour, loop: LoopThread, *, listen: bool, clock: FakeClock | None) -> None:
        self.events: list[Event] = []
        settings = Settings(coordination=CoordinationSettings(budget=LONG, max_lag=60.0))
        self.cache = Cache(settings, policies=POLICIES, shared=shared, clock=clock, listen=listen, on_event=self.events.append)
        self.caller = Caller(self.cache, colour, loop)
        self.colour: Colour = colour
        self.version = 1
        self.computed = 0

        @self.caller.cached("item:{number}", tags=["items"])
        async def item(number: int) -> int:
            self.computed += 1
            return self.version

        @self.cache.cached("item:{number}", tags=["items"], same_as=item)
        def plain(number: int) -> int:
            self.computed += 1
            return self.version

        @self.caller.cached("page:{number}")
        async def page(number: int) -> list[int]:
            return [number, await use(item, number)]

        @self.caller.cached("soft:{number}", tags=["softly"])
        async def soft(number: int) -> int:
            self.computed += 1
            return self.version

        self.item: Any = item
        self.plain: Any = plain
        self.page: Any = page
        self.soft: Any = soft

    def tell(self, story: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run a story, which is written once for both colours: in a thread, or in the loop."""
        if self.colour == "async def":
            return self.caller.loop.run(story())
        return self.caller.do(lambda: finished(story()))

    @asynccontextmanager
    async def updating(self, key: str) -> AsyncGenerator[Setting]:
        """The block, in a story. It gives what sets the value."""
        if self.colour == "def":
            with self.cache.update(key) as update:
                yield partial(use, update.set)
        else:
            async with self.cache.aupdate(key) as aupdate:
                yield partial(use, aupdate.set)

    async def elsewhere(self, *reads: Callable[[], Any]) -> list[Any]:
        """What threads read that are a part of what runs here, all at once: of a pool, or of the loop."""
        if self.colour == "def":
            with ThreadPoolExecutor(len(reads)) as pool:
                return [future.result(LONG) for future in [pool.submit(in_context(read)) for read in reads]]
        return list(await asyncio.gather(*(asyncio.to_thread(read) for read in reads)))

    def reasons(self) -> list[str]:
        """Why values were not stored, so far."""
        return [str(event.fields["error"]) for event in list(self.events) if event.name == "not_stored"]

    def count(self, name: str) -> int:
        """How many events of a name there were."""
        return sum(event.name == name for event in list(self.events))


class Scene:
    """Processes around one layer. Where a cache is alone, all of them are the same one."""

    def __init__(self, place: Place, colour: Colour, loop: LoopThread, url: str, namespace: str) -> None:
        self.place: Place = place
        self.colour: Colour = colour
        self.loop = loop
        self._url, self._namespace = url, namespace
        self._memory = MemoryShared()
        self.processes: list[Process] = []

    def new(self, *, listen: bool = True) -> Process:
        if self.place == "alone" and self.processes:
            return self.processes[0]
        shared: dict[Place, Callable[[], Shared | None]] = {
            "alone": lambda: None,
            "in memory": lambda: self._memory,
            "with Redis": lambda: RedisShared(self._url, namespace=self._namespace),
        }
        self.processes.append(Process(shared[self.place](), self.colour, self.loop, listen=listen, clock=None))
        return self.processes[-1]

    def hear(self, stamp: Stamp) -> None:
        """Everybody who listens has applied a position."""
        assert not stamp.pending
        for process in self.processes:
            if operations_of(process.cache).reader.is_running:
                until(partial(process.caller.has_applied, stamp), f"applying {stamp}")

    def listen(self) -> None:
        """The readers of the log have begun: what is invalidated from now on they hear, and when. One that joins later knows no time, and
        then nothing stale is served.
        """
        began = time.monotonic()
        for operations in (operations_of(process.cache) for process in self.processes):
            if operations.reader.is_running:
                until(lambda: operations.engine.ledger.contact > began, "hearing the log")  # noqa: B023 - called before the next turn

    def close(self) -> None:
        for process in self.processes:
            process.caller.close()


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Place:
    chosen: Place = request.param
    return chosen


@pytest.fixture(params=COLOURS)
def colour(request: pytest.FixtureRequest) -> Colour:
    chosen: Colour = request.param
    return chosen


@pytest.fixture
def scene(place: Place, colour: Colour, loop: LoopThread, server: Server, namespace: str) -> Iterator[Scene]:
    made = Scene(place, colour, loop, server.url, namespace)
    yield made
    made.close()


@pytest.fixture
def tasks(place: Place, loop: LoopThread, server: Server, namespace: str) -> Iterator[Scene]:
    """A scene for what only tasks can do."""
    made = Scene(place, "async def", loop, server.url, namespace)
    yield made
    made.close()


# --- reading the key that is replaced ---------------------------------------------------------------------------------------------


async def by_a_call(process: Process, number: int) -> int:
    return int(await use(process.item, number))


async def with_others(process: Process, number: int) -> int:
    return int((await use(process.item.many, [(number,), (number + 100,)]))[0])


async def as_text(process: Process, number: int) -> int:
    cache, computing = process.cache, process.item.__wrapped__
    get: Told = cache.get_or_compute if process.colour == "def" else cache.aget_or_compute
    return int(await use(get, f"item:{number}", partial(computing, number)))


async def by_a_function_that_calls_it(process: Process, number: int) -> int:
    return int((await use(process.page, number))[1])


async def not_below_a_stamp(process: Process, number: int) -> int:
    stamp = await use(process.cache.stamp if process.colour == "def" else process.cache.astamp)
    return int(await use(process.item.at_least, stamp, number))


async def in_threads(process: Process, number: int) -> int:
    found = await process.elsewhere(*[partial(process.plain, number)] * 2, partial(process.plain, number + 100))
    assert found[0] == found[1]
    return int(found[0])


READINGS: Final = (by_a_call, with_others, as_text, by_a_function_that_calls_it, not_below_a_stamp, in_threads)


@pytest.mark.parametrize("reading", READINGS)
def test_a_block_may_read_the_key_it_replaces(scene: Scene, reading: Callable[[Process, int], Awaitable[int]]) -> None:
    """Read, add, set: whether it was cached, was invalidated, or never was there. Nobody waits for a lease that is the block's own."""
    a, b = scene.new(), scene.new()
    assert (b.caller.do(b.item, 1), b.caller.do(b.item, 2)) == (1, 1)
    a.version = b.version = 5
    scene.hear(b.caller.drop("item:2"))
    for number, old in ((1, 1), (2, 5), (3, 5)):

        async def story(number: int = number, old: int = old) -> Stamp:
            async with a.updating(f"item:{number}") as put:
                assert await reading(a, number) == old
                return await put(old + 1)

        scene.hear(a.tell(story))
        before = (a.computed, b.computed)
        assert [one.caller.do(one.item, number) for one in (a, b, scene.new())] == [old + 1] * 3
        assert (a.computed, b.computed) == before, "it is found"
    assert a.reasons() == []


def test_a_block_may_only_look_at_the_key_it_replaces(scene: Scene) -> None:
    """``get`` and ``peek`` compute nothing, and wait for nothing."""
    a = scene.new()

    async def story() -> Stamp:
        cache = a.cache
        get, peek = (cache.get, cache.peek) if a.colour == "def" else (cache.aget, cache.apeek)
        async with a.updating("item:1") as put:
            assert await use(get, "item:1") is MISSING
            assert await use(peek, "item:1") is None
            return await put(2)

    scene.hear(a.tell(story))
    assert a.caller.get("item:1") == 2
    assert a.computed == 0


def test_what_a_block_computes_of_its_own_key_is_nobody_else_s(scene: Scene) -> None:
    """It is read to be replaced. Where the block sets nothing after all, the next caller computes."""
    a = scene.new()

    async def story() -> None:
        async with a.updating("item:1"):
            assert [await use(a.item, 1) for _ in range(2)] == [1, 1]

    a.tell(story)
    assert a.caller.get("item:1", MISSING) is MISSING
    a.version = 2
    assert [a.caller.do(a.item, 1) for _ in range(2)] == [2, 2]
    assert a.computed == 3


def test_other_keys_are_cached_inside_a_block_as_ever(scene: Scene) -> None:
    """Only the key that is replaced is computed anew each time."""
    a = scene.new()

    async def story() -> None:
        async with a.updating("item:1") as put:
            assert [await use(a.item, 2) for _ in range(3)] == [1] * 3
            await put(7)

    a.tell(story)
    assert a.computed == 1
    assert (a.caller.do(a.item, 2), a.computed) == (1, 1)


def test_what_a_block_has_begun_and_outlives_it_caches_the_key_again(tasks: Scene) -> None:
    """A task has the context of where it was begun, for as long as it lives."""
    a = tasks.new()

    async def story() -> None:
        over = asyncio.Event()

        async def work() -> list[int]:
            await over.wait()
            return [await a.item(1) for _ in range(3)]

        async with a.updating("item:1"):
            working = asyncio.create_task(work())
        over.set()
        assert await working == [1] * 3

    a.tell(story)
    assert a.computed == 1


# --- what the value is made of ----------------------------------------------------------------------------------------------------


async def say(process: Process, number: int) -> int:
    process.cache.depends_on(f"item:{number}", tags=["items"])
    return process.version


ENDS: Final[dict[str, Callable[[Caller], Stamp]]] = {
    "key": lambda caller: caller.drop("item:1"),
    "prefix": lambda caller: caller.drop("item:*"),
    "glob": lambda caller: caller.drop("*em:1"),
    "tag": lambda caller: caller.drop(tags=["items"]),
}
PARTS: Final = (by_a_call, with_others, as_text, by_a_function_that_calls_it, not_below_a_stamp, in_threads, say)


@pytest.mark.parametrize("reading", PARTS)
def test_what_a_block_reads_is_what_its_value_is_made_of(scene: Scene, reading: Callable[[Process, int], Awaitable[int]]) -> None:
    """As in a cached function: an invalidation of a part ends the value, in every process, and that of another part does not."""
    a, b = scene.new(), scene.new()
    for end, drop in ENDS.items():
        key = f"note:{end}"

        async def story(key: str = key) -> Stamp:
            async with a.updating(key) as put:
                return await put(["made of", await reading(a, 1)])

        scene.hear(a.tell(story))
        scene.hear(b.caller.drop("item:999"))
        assert [one.caller.get(key, MISSING) for one in (a, b, scene.new())] == [["made of", 1]] * 3
        scene.hear(drop(b.caller))
        assert [one.caller.get(key, MISSING) for one in (a, b, scene.new())] == [MISSING] * 3


def test_what_is_invalidated_while_a_block_runs_is_not_stored_in_its_value(scene: Scene) -> None:
    """The part was read before, and the value is set after."""
    a, b = scene.new(), scene.new()
    for end, drop in ENDS.items():
        key = f"note:{end}"

        async def story(key: str = key, drop: Callable[[Caller], Stamp] = drop) -> Stamp:
            async with a.updating(key) as put:
                part = await use(a.item, 1)
                scene.hear(await asyncio.to_thread(drop, b.caller) if a.colour == "async def" else drop(b.caller))
                return await put(part)

        scene.hear(a.tell(story))
        assert [one.caller.get(key, MISSING) for one in (a, b, scene.new())] == [MISSING] * 3


def test_what_a_block_makes_of_something_stale_is_stored_nowhere(scene: Scene) -> None:
    """Within its window the part may be served, but nobody may take for fresh what is made of it."""
    a, b = scene.new(), scene.new()
    assert a.caller.do(a.soft, 1) == 1
    scene.hear(a.caller.put("note:1", ["before"]))
    scene.listen()
    scene.hear(b.caller.drop("soft:1", soft=True))
    operations_of(a.cache).refresher.close()  # otherwise it may be fresh again before it is read

    async def story() -> Stamp:
        async with a.updating("note:1") as put:
            return await put([await use(a.soft, 1)])

    scene.hear(a.tell(story))
    assert [one.caller.get("note:1", MISSING) for one in (a, b, scene.new())] == [MISSING] * 3, "and what stood there has been replaced"
    assert a.reasons() == ["it was made of a stale value"]


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "in memory"])
def test_what_a_block_sets_is_fresh_no_longer_than_its_parts(colour: Colour, loop: LoopThread, shared: bool) -> None:
    """The rest of the part's life, counted from when it was made."""
    clock = FakeClock()
    a = Process(MemoryShared(clock.monotonic) if shared else None, colour, loop, listen=False, clock=clock)

    @a.caller.cached("brief:{number}")
    async def brief(number: int) -> int:
        return number

    assert a.caller.do(brief, 1) == 1
    clock.advance(6.0)

    async def story() -> Stamp:
        async with a.updating("note:1") as put:
            return await put([await use(brief, 1)])

    a.tell(story)
    clock.advance(3.9)
    assert a.caller.get("note:1") == [1]
    clock.advance(0.2)
    assert a.caller.get("note:1", MISSING) is MISSING
    a.caller.close()


@pytest.mark.parametrize("leaving", ["at its end", "by an exception"])
@pytest.mark.parametrize("end", ENDS)
def test_a_computation_depends_on_what_its_blocks_have_read(scene: Scene, end: str, leaving: str) -> None:
    """A cached function replaces another key on the way, and returns what it has read there."""
    a, b = scene.new(), scene.new()

    @a.caller.cached("whole:{number}")
    async def whole(number: int) -> int:
        value = 0
        try:
            async with a.updating("note:1") as put:
                value = await use(a.item, number)
                if leaving == "by an exception":
                    raise LookupError
                await put(value)
        except LookupError:
            pass
        return value

    assert [a.caller.do(whole, 1) for _ in range(2)] == [1, 1]
    a.version = 2
    scene.hear(ENDS[end](b.caller))
    assert a.caller.do(whole, 1) == 2


def test_a_block_holds_what_it_reads_to_the_promise_of_who_asked(scene: Scene) -> None:
    """The outer call has named a stamp: within its window the old part would be served, but not below the stamp."""
    a, b = scene.new(), scene.new()

    @a.caller.cached("whole:{number}")
    async def whole(number: int) -> list[int]:
        async with a.updating("note:1") as put:
            value = await use(a.soft, number)
            await put([value])
        return [value]

    assert a.caller.do(whole, 1) == [1]
    a.version = b.version = 2
    operations_of(a.cache).refresher.close()
    scene.listen()
    stamp = b.caller.drop("soft:1", "whole:1", soft=True)
    scene.hear(stamp)
    assert a.caller.do(a.soft, 1) == 1, "it may be served stale"
    assert a.caller.do(whole.at_least, stamp, 1) == [2]
    assert a.caller.get("note:1") == [2]


@pytest.mark.parametrize("place", ["in memory", "with Redis"])
def test_a_block_of_a_strict_key_is_made_of_nothing_stale(scene: Scene) -> None:
    """What replaces it is as current as what a strict read would compute."""
    a, b = scene.new(), scene.new(listen=False)
    assert b.caller.do(b.soft, 1) == 1
    a.version = b.version = 2
    operations_of(b.cache).refresher.close()
    a.caller.drop("soft:1", soft=True)

    async def story() -> Stamp:
        async with b.updating("strict:1") as put:
            return await put([await use(b.soft, 1)])

    b.tell(story)
    assert (a.caller.get("strict:1"), b.caller.get("strict:1")) == ([2], [2])


# --- blocks in blocks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ENDS)
def test_a_block_depends_on_what_the_blocks_in_it_have_read(scene: Scene, end: str) -> None:
    """Of other keys. The inner value depends on its own parts only."""
    a, b = scene.new(), scene.new()

    async def story() -> Stamp:
        async with a.updating("note:outer") as put:
            async with a.updating("note:inner") as put_inner:
                part = await use(a.item, 1)
                await put_inner([part])
            await put([part, await use(a.item, 2) if end == "key" else 0])
            stamp: Stamp = await use(a.cache.stamp if a.colour == "def" else a.cache.astamp)
            return stamp

    scene.hear(a.tell(story))
    keys = ("note:outer", "note:inner")
    assert [one.caller.get(key, MISSING) is MISSING for one in (a, b) for key in keys] == [False] * 4
    if end == "key":
        scene.hear(b.caller.drop("item:2"))
        assert [a.caller.get(key, MISSING) is MISSING for key in keys] == [True, False]
    scene.hear(ENDS[end](b.caller))
    assert [one.caller.get(key, MISSING) for one in (a, b) for key in keys] == [MISSING] * 4


def test_a_block_within_one_of_the_same_key_leaves_nothing_old(scene: Scene) -> None:
    """What the inner one sets came between the beginning and the end of the outer one, whose value is from before: it is told so."""
    a, b = scene.new(), scene.new()
    assert (a.caller.do(a.item, 1), b.caller.do(b.item, 1)) == (1, 1)

    async def story() -> Stamp:
        async with a.updating("item:1") as put:
            async with a.updating("item:1") as put_inner:
                await put_inner(await use(a.item, 1) + 1)
            assert await use(a.item, 1) in {1, 2}, "nobody waits"
            return await put(3)

    scene.hear(a.tell(story))
    a.version = b.version = 3
    assert [one.caller.get("item:1", MISSING) for one in (a, b)] == [MISSING, MISSING]
    assert a.reasons() == ["an invalidation came first"]
    assert (a.caller.do(a.item, 1), b.caller.do(b.item, 1)) == (3, 3)


# --- setting ----------------------------------------------------------------------------------------------------------------------


def test_a_block_sets_one_value(scene: Scene) -> None:
    """A second one is an error, and the first one stays."""
    a, b = scene.new(), scene.new()

    async def story() -> Stamp:
        async with a.updating("item:1") as put:
            stamp = await put(1)
            with pytest.raises(RuntimeError, match="one value"):
                await put(2)
            return stamp

    scene.hear(a.tell(story))
    assert (a.caller.get("item:1"), b.caller.get("item:1")) == (1, 1)


@pytest.mark.parametrize("place", ["in memory", "with Redis"])
def test_a_value_that_can_not_be_stored_does_not_use_the_block_up(scene: Scene) -> None:
    """Nothing has changed, so another value may be set."""
    a, b = scene.new(), scene.new()

    async def story() -> Stamp:
        async with a.updating("note:1") as put:
            with pytest.raises(CodecError):
                await put(object())
            return await put(2)

    scene.hear(a.tell(story))
    assert (a.caller.get("note:1"), b.caller.get("note:1")) == (2, 2)


@pytest.mark.parametrize("when", ["before", "after"])
def test_nothing_is_set_outside_of_the_block(scene: Scene, when: str) -> None:
    """Whoever keeps it is told."""
    a = scene.new()

    async def story() -> None:
        updating: Any = a.cache.update("item:1") if a.colour == "def" else a.cache.aupdate("item:1")
        if when == "after":
            if a.colour == "def":
                with updating:
                    pass
            else:
                async with updating:
                    pass
        with pytest.raises(RuntimeError, match="belongs into"):
            await use(updating.set, 1)

    a.tell(story)
    assert a.caller.get("item:1", MISSING) is MISSING


def tags_that_raise(result: int) -> list[str]:
    if result < 0:
        raise LookupError("no tags")
    return ["positive"]


def tags_that_are_none(result: int) -> Any:
    return 5 if result < 0 else ["positive"]


def ttl_that_raises(result: int) -> float:
    if result < 0:
        raise LookupError("no ttl")
    return 60.0


def ttl_that_is_none(result: int) -> Any:
    return "soon" if result < 0 else 60.0


MISTAKES: Final[dict[str, dict[str, Any]]] = {
    "its tags raise": {"key": "thing:{number}", "tags_from": tags_that_raise},
    "its tags are none": {"key": "thing:{number}", "tags_from": tags_that_are_none},
    "its ttl raises": {"key": "told:{number}", "ttl": ttl_that_raises},
    "its ttl is none": {"key": "told:{number}", "ttl": ttl_that_is_none},
}


@pytest.mark.parametrize("how", ["cache.set", "function.set", "update.set"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_setting_a_value_whose_lifetime_or_tags_can_not_be_told_changes_nothing(scene: Scene, mistake: str, how: str) -> None:
    """It is its caller's mistake, and told before anything has changed: the old value stands, in every process."""
    a = scene.new()

    async def thing(number: int) -> int:
        return number

    told = a.caller.cached(**MISTAKES[mistake])(thing)
    key = told.key(1)
    assert (a.caller.do(told, 1), a.caller.do(told, 1)) == (1, 1)
    before = a.caller.stamp()

    async def story() -> None:
        if how == "cache.set":
            await use(a.cache.set if a.colour == "def" else a.cache.aset, key, -1)
        elif how == "function.set":
            await use(told.set, -1, 1)
        else:
            async with a.updating(key) as put:
                await put(-1)

    with pytest.raises(CodecError, match="can not be told") as raised:
        a.tell(story)
    assert raised.value.__cause__ is not None
    assert a.caller.stamp() == before
    assert (a.count("invalidated"), a.count("invalidation_queued"), a.reasons()) == (0, 0, [])
    assert a.caller.get(key) == 1
    assert not engine_of(a.cache).leases


# --- leaving ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", ["nothing", "reading it", "setting it"])
def test_a_block_that_is_left_by_an_exception_gives_its_lease_back(scene: Scene, after: str) -> None:
    """At once: nobody waits for it. What was set stays set; what was not leaves the old value where it was."""
    a, b = scene.new(listen=False), scene.new()
    assert a.caller.do(a.item, 1) == 1

    async def story() -> None:
        for number in (1, 2):
            async with a.updating(f"item:{number}") as put:
                if after == "reading it":
                    assert await use(a.item, number) == 1
                elif after == "setting it":
                    await put(7)
                raise LookupError("left")

    with pytest.raises(LookupError, match="left"):
        a.tell(story)
    expected = 7 if after == "setting it" else 1
    assert [one.caller.do(one.item, number) for one in (b, a) for number in (1, 2)] == [expected, 1] * 2
    engine = engine_of(a.cache)
    assert (engine.leases, engine.forsaken) == ({}, [])


def test_a_block_whose_task_is_cancelled_gives_its_lease_back(tasks: Scene) -> None:
    """Wherever it stands: here it waits for something of its own."""
    a, b = tasks.new(), tasks.new()

    async def story() -> None:
        inside = asyncio.Event()

        async def replace() -> None:
            async with a.updating("item:1"):
                inside.set()
                await asyncio.sleep(LONG)

        replacing = asyncio.create_task(replace())
        await inside.wait()
        replacing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await replacing

    a.tell(story)
    assert b.caller.do(b.item, 1) == 1
    assert engine_of(a.cache).leases == {}


@pytest.mark.parametrize("how", ["at its end", "by an exception"])
def test_after_a_block_all_is_as_before(scene: Scene, how: str) -> None:
    """In the very thread or task: the key is cached, and joined, again; nothing is gathered for nobody."""
    a = scene.new()

    async def story() -> None:
        try:
            async with a.updating("item:1"):
                if how == "by an exception":
                    raise LookupError
        except LookupError:
            pass
        assert [await use(a.item, 1) for _ in range(3)] == [1] * 3
        assert a.computed == 1
        a.cache.depends_on("item:1")
        async with a.updating("note:1") as put:
            await put(5)

    a.tell(story)
    a.caller.drop("item:1")
    assert a.caller.get("note:1") == 5


def test_what_a_computation_reads_after_a_block_is_what_it_is_made_of(scene: Scene) -> None:
    """The block gathers for its own value only while it lasts."""
    a, b = scene.new(), scene.new()

    @a.caller.cached("whole:{number}")
    async def whole(number: int) -> int:
        async with a.updating("note:1") as put:
            await put(number)
        return int(await use(a.item, number))

    assert [a.caller.do(whole, 1) for _ in range(2)] == [1, 1]
    a.version = 2
    scene.hear(b.caller.drop(tags=["items"]))
    assert a.caller.get("note:1") == 1
    assert a.caller.do(whole, 1) == 2


@pytest.mark.parametrize("reads", [False, True], ids=["read nothing", "read the key"])
def test_a_block_may_end_in_another_task_than_it_began_in(tasks: Scene, reads: bool) -> None:
    """As fixtures of tests do, and what hands a block on by hand."""
    a = tasks.new()
    updating = a.cache.aupdate("item:1")

    async def begin() -> None:
        await updating.__aenter__()
        if reads:
            assert await a.item(1) == 1

    tasks.loop.run(begin())
    tasks.hear(tasks.loop.run(updating.set(2)))
    tasks.loop.run(updating.__aexit__(None, None, None))
    assert a.caller.get("item:1") == 2
    assert engine_of(a.cache).leases == {}
