"""Request scope: inside of ``with cache.request():`` each key is read once, and nothing is older than what the request has seen.

Two caches around one layer stand for two processes, in memory and on a real server. They hear the log when they are told to.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import pytest

from cachesync import MISSING, Cache, MemoryShared, Policy, RedisShared, Settings, Stamp, in_context
from cachesync.coordination import request_scope
from cachesync.coordination.gathering import gathering
from cachesync.coordination.request_scope import Scope
from cachesync.core.records import KEY, Targets
from cachesync.core.settings import CoordinationSettings
from cachesync.core.steps import Called, Fetch
from cachesync.layers.forks import lock_across_forks
from support.nodes import COLOURS, LONG, Callers, Colour, Gate, HoldingShared, LoopThread, engine_of, finished, read_log, until, use
from support.servers import Server

T = TypeVar("T")
Begun = Future[Any] | asyncio.Future[Any]
"""A read of another thread or task."""
PATIENT = CoordinationSettings(budget=LONG, max_lag=10_000.0)
POLICIES = [
    Policy(name="items", match="item:*", ttl="1h", tags=["items"], stale_while_revalidate="1h"),
    Policy(name="spares", match="spare:*", ttl="1h", stale_if_error="1h"),
    Policy(name="strict", match="strict:*", ttl="1h", consistency="strict"),
    Policy(name="copied", match="copied:*", ttl="1h", copy=True),
    Policy(name="all", match="*", ttl="1h"),
]


class OriginError(Exception):
    """What the origin raises."""


class Side:
    """A process: its functions and the ways to change things are called in one colour, from a body that is written once for both."""

    def __init__(self, cache: Cache, origin: dict[str, Any], colour: Colour) -> None:
        self.cache = cache
        self.origin = origin
        self.colour: Colour = colour
        self.computed: list[str] = []
        self.gates: dict[str, Gate] = {}
        self.item = self.cached("item:{name}", tags=["owner:{name}"])(self._read)
        self.spare = self.cached("spare:{name}")(self._read)
        self.strict = self.cached("strict:{name}")(self._read)
        self.copied = self.cached("copied:{name}")(self._read_list)
        self.page = self.cached("page:{name}")(self._page)

    def cached(self, key: str, **how: Any) -> Callable[[Callable[[str], Coroutine[Any, Any, Any]]], Any]:
        def decorate(body: Callable[[str], Coroutine[Any, Any, Any]]) -> Any:
            async def afunction(name: str) -> Any:
                return await body(name)

            def function(name: str) -> Any:
                return finished(body(name))

            chosen = function if self.colour == "def" else afunction
            chosen.__qualname__ = f"function of {key}"
            return self.cache.cached(key, **how)(chosen)

        return decorate

    async def _read(self, name: str) -> Any:
        self.computed.append(name)
        value, gate = self.origin[name], self.gates.pop(name, None)
        if gate is not None:
            await gate.astand() if self.colour == "async def" else gate.stand()
        if isinstance(value, Exception):
            raise value
        return value

    async def _read_list(self, name: str) -> Any:
        return [await self._read(name)]

    async def _page(self, name: str) -> Any:
        return f"page of {await use(self.item, name)}"

    async def do(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A method of the cache, in this side's colour."""
        return await use(partial(getattr(self.cache, method if self.colour == "def" else f"a{method}"), *args, **kwargs))

    def hear(self) -> None:
        assert read_log(self.cache)


class Two:
    """Two processes around one layer, and the origin of their data."""

    def __init__(self, shared: Callable[[], Any], colour: Colour, loop: LoopThread) -> None:
        self.origin: dict[str, Any] = {"a": 1, "b": 1}
        self.colour: Colour = colour
        self.loop = loop
        self.layer = HoldingShared(shared())
        self.here, self.there = (
            Side(Cache(Settings(coordination=PATIENT), policies=POLICIES, shared=layer, listen=False), self.origin, colour)
            for layer in (self.layer, shared())
        )

    def run(self, body: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """A body that waits for nothing but cached functions, in the colour of these processes."""
        return finished(body()) if self.colour == "def" else self.loop.run(body())

    async def change(self, value: Any, *patterns: str, soft: bool = False) -> Stamp:
        """The other process changes everything, and says so of some keys; this one hears it."""
        self.origin.update(dict.fromkeys(self.origin, value))
        stamp: Stamp = await self.there.do("invalidate", *patterns, soft=soft)
        self.here.hear()
        return stamp

    def close(self) -> None:
        for side in (self.here, self.there):
            self.loop.run(side.cache.aclose())


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    with LoopThread() as loop:
        yield loop


@pytest.fixture(params=COLOURS)
def colour(request: pytest.FixtureRequest) -> Colour:
    chosen: Colour = request.param
    return chosen


@pytest.fixture(params=["memory", "redis"])
def two(request: pytest.FixtureRequest, server: Server, namespace: str, colour: Colour, loop: LoopThread) -> Iterator[Two]:
    memory = MemoryShared()
    made = Two(lambda: memory if request.param == "memory" else RedisShared(server.url, namespace=namespace), colour, loop)
    yield made
    made.close()


# --- one read -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [True, False], ids=["cached before", "computed in it"])
def test_a_repeated_read_is_the_same_answer_whatever_others_change(two: Two, cached: bool) -> None:
    """An invalidation of another process lands between the two reads: whoever reads outside of the request has the new value at once."""

    async def body() -> list[Any]:
        here = two.here
        if cached:
            await use(here.item, "a")
        with here.cache.request():
            first = await use(here.item, "a")
            await two.change(2, "item:a")
            repeated = await use(here.item, "a")
        return [first, repeated, await use(here.item, "a")]

    assert two.run(body) == [1, 1, 2]
    assert two.here.cache.stats().total.repeated == 1


def test_processes_that_hear_the_log_by_themselves(server: Server, namespace: str, colour: Colour, loop: LoopThread) -> None:
    """As in production: the invalidation of one is heard by the other within its request, and takes effect when that is over."""
    callers = Callers(server.url, namespace, colour, loop)
    here, there = callers.new(), callers.new()
    data = {"value": 1}

    @here.cached("item:{name}")
    async def item(name: str) -> int:
        return data["value"]

    async def body() -> list[int]:
        async with here.cache.request():
            values = [await use(item, "a")]
            data["value"] = 2
            stamp = await use(there.cache.invalidate if colour == "def" else there.cache.ainvalidate, "item:a")
            until(lambda: here.has_applied(stamp), "hearing")
            values.append(await use(item, "a"))
        return [*values, await use(item, "a")]

    assert (finished(body()) if colour == "def" else loop.run(body())) == [1, 1, 2]
    callers.close()


def test_a_repeated_read_asks_nobody(two: Two) -> None:
    """Not even a layer, and whichever way it is read: as a function, by its key as text, or as one of many."""

    async def body() -> None:
        here = two.here
        with here.cache.request():
            assert await use(here.item, "a") == 1
            steps, counted = len(two.layer.steps), here.cache.stats().total
            assert await use(here.item, "a") == 1
            assert await here.do("get", "item:a") == 1
            assert await here.do("get_many", ["item:a"]) == {"item:a": 1}
            assert await use(here.item.many, [("a",), ("a",)]) == [1, 1]
            assert len(two.layer.steps) == steps
            after = here.cache.stats().total
            assert (after.repeated, after.calls) == (4, counted.calls + 4)
            assert (after.hits, after.computed) == (counted.hits, counted.computed)
            assert after.hit_rate > counted.hit_rate

    two.run(body)


def test_what_one_way_reads_another_repeats(two: Two) -> None:
    """A key that was read as text, in a batch, or computed by what its caller brought, is a key that was read."""

    async def body() -> None:
        here = two.here
        two.origin.update(c=1, d=1)
        await use(here.item.many, [("a",), ("b",)])
        with here.cache.request():
            assert await here.do("get", "item:a") == 1
            assert await here.do("get_many", ["item:b"]) == {"item:b": 1}
            assert await use(here.item.many, [("c",), ("d",)]) == [1, 1]
            assert await here.do("get_or_compute", "e", _returning(two.colour, 1)) == 1
            await two.change(2, "*")
            assert [await use(here.item, name) for name in "abcd"] == [1, 1, 1, 1]
            assert await use(here.item.many, [("a",), ("d",)]) == [1, 1]
            assert await here.do("get_or_compute", "e", _returning(two.colour, 2)) == 1
        assert [await use(here.item, name) for name in "abcd"] == [2, 2, 2, 2]

    two.run(body)


def _returning(colour: Colour, value: Any) -> Callable[[], Any]:
    async def acompute() -> Any:
        return value

    return (lambda: value) if colour == "def" else acompute


def test_a_miss_and_a_failure_are_no_answers(two: Two) -> None:
    """What was not there is looked for again, and what has failed is tried again."""

    async def body() -> None:
        here = two.here
        with here.cache.request():
            assert await here.do("get", "item:a") is MISSING
            two.origin["a"] = OriginError("not today")
            with pytest.raises(OriginError):
                await use(here.item, "a")
            two.origin["a"] = 1
            assert await use(here.item, "a") == 1
            assert await here.do("get", "item:a") == 1

    two.run(body)


def test_a_strict_read_and_one_with_a_stamp_are_no_repetition(two: Two) -> None:
    """They confirm what they answer each time. What was read with a stamp takes the place of what was read before."""

    async def body() -> None:
        here = two.here
        with here.cache.request():
            assert [await use(here.item, "a"), await use(here.strict, "a")] == [1, 1]
            stamp = await two.change(2, "item:a", "strict:a")
            assert await use(here.strict, "a") == 2
            assert await use(here.item, "a") == 1
            assert await use(here.item.at_least, stamp, "a") == 2
            assert await use(here.item, "a") == 2
            assert await here.do("get", "item:a", at_least=stamp) == 2

    two.run(body)


def test_each_caller_has_a_copy_of_its_own_where_the_policy_says_so(two: Two) -> None:
    async def body() -> None:
        with two.here.cache.request():
            first = await use(two.here.copied, "a")
            first.append("mine")
            assert await use(two.here.copied, "a") == [1]

    two.run(body)


def test_the_first_of_two_that_read_at_once_is_the_answer_of_both(two: Two) -> None:
    """Two threads or tasks of one request read a key side by side, and an invalidation lands between their answers."""

    async def body() -> list[Any]:
        here = two.here
        await use(two.there.item, "a")
        with here.cache.request():
            gate = two.layer.hold(Fetch)
            second = _begin(two, in_context(lambda: here.item("a")))
            await _reached(two, gate)
            first = await use(here.item, "a")
            await two.change(2, "item:a")
            gate.open()
            return [first, await _end(second), await use(here.item, "a")]

    assert two.run(body) == [1, 1, 1]


def _begin(two: Two, call: Callable[[], Any]) -> Begun:
    if two.colour == "async def":
        task: asyncio.Future[Any] = asyncio.ensure_future(call())
        return task
    pool = ThreadPoolExecutor(1)
    future = pool.submit(call)
    pool.shutdown(wait=False)
    return future


async def _end(begun: Begun) -> Any:
    return await begun if isinstance(begun, asyncio.Future) else begun.result(LONG)


async def _reached(two: Two, gate: Gate) -> None:
    if two.colour == "async def":
        await asyncio.to_thread(gate.wait)
    else:
        gate.wait()


# --- nothing older ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["local", "shared"])
def test_another_key_is_not_older_than_what_was_seen(two: Two, where: str) -> None:
    """A value computed after a change was seen, so the old value of another key, which may be served stale, is not for this request."""

    async def body() -> list[Any]:
        here = two.here
        await use((here if where == "local" else two.there).item, "b")
        await two.there.do("invalidate", "item:b", soft=True)
        await two.change(2, "item:a")
        with here.cache.request():
            return [await use(here.item, "a"), await use(here.item, "b")]

    assert two.run(body) == [2, 2]


def test_in_a_batch_too_nothing_is_older_than_what_was_seen(two: Two) -> None:
    async def body() -> None:
        here = two.here
        await use(here.item, "b")
        await two.there.do("invalidate", "item:b", soft=True)
        await two.change(2, "item:a")
        with here.cache.request():
            assert await use(here.item, "a") == 2
            assert await here.do("get_many", ["item:b"]) == {}
            assert await here.do("get", "item:b") is MISSING
            assert await use(here.item.many, [("b",), ("a",)]) == [2, 2]

    two.run(body)


def test_what_is_stale_and_no_older_is_served(two: Two) -> None:
    """The other key was softly invalidated after the newest value that the request has seen: at that position it is right."""

    async def body() -> list[Any]:
        here = two.here
        values = [await use(here.item, "a"), await use(here.item, "b")]
        with here.cache.request():
            values.append(await use(here.item, "a"))
            await two.change(2, "item:b", soft=True)
            values.append(await use(here.item, "b"))
        return values

    assert two.run(body) == [1, 1, 1, 1]


def test_without_a_request_it_would_have_been_served_stale(two: Two) -> None:
    """What the scope costs: the request waits for a computation."""

    async def body() -> list[Any]:
        here = two.here
        await use(here.item, "b")
        await two.there.do("invalidate", "item:b", soft=True)
        await two.change(2, "item:a")
        return [await use(here.item, "a"), await use(here.item, "b")]

    assert two.run(body) == [2, 1]


def test_what_is_made_of_something_stale_is_not_older_either(two: Two) -> None:
    """The page is computed in the request, of an item that may be served stale to others."""

    async def body() -> list[Any]:
        here = two.here
        await use(here.item, "b")
        await two.there.do("invalidate", "item:b", soft=True)
        await two.change(2, "item:a")
        with here.cache.request():
            return [await use(here.item, "a"), await use(here.page, "b")]

    assert two.run(body) == [2, "page of 2"]


def test_a_computation_of_others_that_is_made_of_something_stale_is_not_joined(two: Two) -> None:
    """It was begun by somebody who may be given it; the request computes for itself."""

    async def body() -> list[Any]:
        here = two.here
        await use(here.item, "b")
        await two.there.do("invalidate", "item:b", soft=True)
        await two.change(2, "item:a")
        gate, values = Gate(), list[Any]()

        @here.cached("slow:{name}")
        async def slow(name: str) -> Any:
            found = await use(here.item, name)
            if not gate.is_reached:
                await gate.astand() if two.colour == "async def" else gate.stand()
            return found

        other = _begin(two, lambda: slow("b"))
        await _reached(two, gate)
        with here.cache.request():
            values.append(await use(here.item, "a"))
            mine = _begin(two, in_context(lambda: slow("b")))
            if two.colour == "def":
                until(lambda: here.cache.stats().total.joined, "joining")
            else:
                await asyncio.to_thread(until, lambda: here.cache.stats().total.joined, "joining")
            gate.open()
            values += [await _end(mine), await _end(other)]
        return values

    assert two.run(body) == [2, 2, 1]


def test_a_spare_that_is_older_does_not_stand_in(two: Two) -> None:
    """The error is the answer then, as it is without a spare."""

    async def body() -> None:
        here = two.here
        await use(here.spare, "b")
        await two.there.do("invalidate", "spare:b", soft=True)
        await two.change(2, "item:a")
        two.origin["b"] = OriginError("not today")
        with here.cache.request():
            assert await use(here.spare, "b") == 1  # nothing newer was seen yet
        with here.cache.request():
            assert await use(here.item, "a") == 2
            with pytest.raises(OriginError):
                await use(here.spare, "b")

    two.run(body)


# --- one's own changes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["key", "tag", "prefix", "glob", "everything", "function", "set", "update", "refresh"])
def test_a_request_sees_what_it_changes_itself(two: Two, how: str) -> None:
    """And what it does not concern is still what was read, though others have changed it."""

    async def body() -> None:
        here = two.here
        with here.cache.request():
            assert [await use(here.item, "a"), await use(here.item, "b"), await use(here.page, "a")] == [1, 1, "page of 1"]
            await two.change(2, "item:b")
            if how == "function":
                await use(here.item.invalidate, "a")
            elif how == "set":
                await use(here.item.set, 2, "a")
            elif how == "refresh":
                assert await use(here.item.refresh, "a") == 2
            elif how == "update":
                if two.colour == "def":
                    with here.cache.update("item:a") as updating:
                        updating.set(2)
                else:
                    async with here.cache.aupdate("item:a") as aupdating:
                        await aupdating.set(2)
            else:
                patterns = {"key": "item:a", "prefix": "item:a*", "glob": "*m:a", "everything": "*"}
                await (here.do("invalidate", patterns[how]) if how in patterns else here.do("invalidate", tags=["owner:a"]))
            assert await use(here.item, "a") == 2
            assert await use(here.page, "a") == "page of 2"
            assert await use(here.item, "b") == (2 if how == "everything" else 1)

    two.run(body)


@pytest.mark.parametrize("how", ["key", "tag"])
def test_what_a_request_softly_invalidates_itself_is_not_served_stale_to_it(two: Two, how: str) -> None:
    """To everybody else it is, for as long as its policy says."""

    async def body() -> None:
        here = two.here
        await use(here.item, "a")
        two.origin["a"] = 2
        with here.cache.request():
            await (here.do("invalidate", "item:a", soft=True) if how == "key" else here.do("invalidate", tags=["items"], soft=True))
            entry = await here.do("peek", "item:a")
            assert (entry.value, entry.is_stale) == (1, True)
            assert await use(here.item, "a") == 2

    two.run(body)


def test_a_read_under_way_is_not_remembered_when_the_request_changes_the_key(two: Two) -> None:
    """It began before the change, and may bring the old value to its own caller."""

    async def body() -> list[Any]:
        here = two.here
        with here.cache.request():
            gate = here.gates["a"] = Gate()
            reading = _begin(two, in_context(lambda: here.item("a")))
            await _reached(two, gate)
            two.origin["a"] = 2
            await here.do("invalidate", "item:a")
            gate.open()
            return [await _end(reading), await use(here.item, "a"), await use(here.item, "a")]

    assert two.run(body) == [1, 2, 2]


def test_a_change_inside_of_a_computation_is_the_requests_own(two: Two) -> None:
    async def body() -> list[Any]:
        here = two.here

        @here.cached("changing:{name}")
        async def changing(name: str) -> str:
            two.origin[name] = 2
            await here.do("invalidate", f"item:{name}")
            return "changed"

        with here.cache.request():
            return [await use(here.item, "a"), await use(changing, "a"), await use(here.item, "a")]

    assert two.run(body) == [1, "changed", 2]


# --- what belongs to a request ------------------------------------------------------------------------------------------------------


def test_a_computation_takes_nothing_from_what_its_request_remembers(two: Two) -> None:
    """Its result is for everybody. So the request is a reader that goes forward, and no snapshot: the page is newer than the item."""

    async def body() -> list[Any]:
        here = two.here
        with here.cache.request():
            values = [await use(here.item, "a")]
            await two.change(2, "item:a")
            values += [await use(here.page, "a"), await use(here.item, "a")]
        return [*values, await use(two.there.page, "a")]

    assert two.run(body) == [1, "page of 2", 1, "page of 2"]


def test_a_request_inside_of_another_is_part_of_it(two: Two) -> None:
    """Its end ends nothing."""

    async def body() -> list[Any]:
        here = two.here
        with here.cache.request():
            values = [await use(here.item, "a")]
            async with here.cache.request():
                await two.change(2, "item:a")
                values.append(await use(here.item, "a"))
            values.append(await use(here.item, "a"))
        return values

    assert two.run(body) == [1, 1, 1]


def test_an_inner_request_may_be_another_caches(two: Two) -> None:
    """Each cache has a scope of its own, and goes on having it inside of the other's."""

    async def body() -> list[Any]:
        here, there = two.here, two.there
        with here.cache.request():
            values = [await use(here.item, "a")]
            with there.cache.request():
                values.append(await use(there.item, "b"))
                await two.change(2, "item:b", "item:a")
                values += [await use(there.item, "b"), await use(here.item, "a")]
            values += [await use(there.item, "b"), await use(here.item, "a")]
        return values

    # The change is the other cache's own, so its request sees it.
    assert two.run(body) == [1, 1, 2, 1, 2, 1]


def test_inside_of_a_computation_a_request_does_nothing(two: Two) -> None:
    """What is computed is for everybody, and made of what everybody is given."""

    async def body() -> list[Any]:
        here = two.here

        @here.cached("both:{name}")
        async def both(name: str) -> list[Any]:
            with here.cache.request():
                first = await use(here.item, name)
                await two.change(2, "item:a")
                return [first, await use(here.item, name)]

        return list(await use(both, "a"))

    assert two.run(body) == [1, 2]


def test_a_request_is_entered_once(two: Two) -> None:
    scope = two.here.cache.request()
    with scope, pytest.raises(RuntimeError, match="one block"):
        scope.__enter__()


def test_threads_and_tasks_belong_to_the_request_they_were_begun_in(two: Two) -> None:
    """`asyncio.to_thread`, tasks, and threads of an executor with `in_context`. A plain executor loses it."""

    async def body() -> list[Any]:
        here = two.here
        with here.cache.request():
            values = [await use(here.item, "a")]
            await two.change(2, "item:a")
            values.append(await _end(_begin(two, in_context(lambda: here.item("a")))))
            if two.colour == "async def":
                values += [await asyncio.to_thread(here.cache.get, "item:a", 0), await asyncio.create_task(here.item("a"))]
            with ThreadPoolExecutor(1) as pool:
                values += [pool.submit(in_context(here.cache.get), "item:a", 0).result(LONG)]
                values += [pool.submit(here.cache.get, "item:a", 0).result(LONG)]
        return values

    assert two.run(body) == ([1, 1, 1, 1, 1, 0] if two.colour == "async def" else [1, 1, 1, 0])


def test_what_outlives_its_request_reads_as_if_there_were_none(two: Two) -> None:
    """A task that a handler leaves behind is not bound for ever to what the request had read. Nor is it slower than others from then on."""

    async def body() -> list[Any]:
        here = two.here
        with here.cache.request():
            values = [await use(here.item, "a")]
            left = contextvars.copy_context()
        await two.change(2, "item:a")
        if two.colour == "def":
            return [*values, left.run(here.item, "a"), left.run(_is_outside)]
        task = asyncio.get_running_loop().create_task(_and_look(here.item), context=left)
        return [*values, *await task]

    assert two.run(body) == [1, 2, True]


def _is_outside() -> bool:
    return gathering.get() is None


async def _and_look(item: Any) -> list[Any]:
    return [await item("a"), _is_outside()]


def test_a_scope_may_end_in_another_context_than_it_began_in() -> None:
    """As generators of frameworks do, which are resumed in a copy."""
    cache = Cache(policies=POLICIES)
    scope, began = cache.request(), contextvars.copy_context()
    began.run(scope.__enter__)
    scope.__exit__(None, None, None)
    assert began.run(cache.get_or_compute, "a", lambda: 1) == 1
    cache.invalidate("a")
    assert began.run(cache.get_or_compute, "a", lambda: 2) == 2
    assert began.run(_is_outside)


def test_a_request_remembers_so_many_keys(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one it read first is forgotten, and is then read anew."""
    monkeypatch.setattr(request_scope, "MOST_READ", 2)

    async def body() -> list[Any]:
        here = two.here
        two.origin["c"] = 1
        with here.cache.request():
            for name in "abc":
                await use(here.item, name)
            await two.change(2, "*")
            return [await use(here.item, name) for name in "cba"]

    assert two.run(body) == [1, 1, 2]


def test_while_the_layer_is_away_a_repeated_read_is_still_one_read(colour: Colour, loop: LoopThread) -> None:
    memory = MemoryShared()
    two = Two(lambda: memory, colour, loop)
    numbers = itertools.count(1)

    async def body() -> list[Any]:
        @two.here.cached("number:{name}")
        async def number(name: str) -> int:
            return next(numbers)

        with memory.outage(), two.here.cache.request():
            return [await use(number, "a"), await use(number, "a"), await use(number, "b")]

    assert two.run(body) == [1, 1, 2]
    two.close()


def test_what_only_one_reader_can_read_is_not_remembered() -> None:
    """A generator would be used up at the second read."""
    cache = Cache(policies=POLICIES)

    @cache.cached("numbers:{most}")
    def numbers(most: int) -> Any:
        return (number for number in range(most))

    with cache.request():
        assert [list(numbers(2)), list(numbers(2))] == [[0, 1], [0, 1]]


def test_a_cache_that_was_switched_off_repeats_nothing() -> None:
    """Every layer is passed by, and so is this."""
    numbers = itertools.count(1)
    cache = Cache(Settings(enabled=False), policies=POLICIES)
    with cache.request():
        assert [cache.get_or_compute("a", lambda: next(numbers)) for _ in range(2)] == [1, 2]


def test_functions_of_many_arguments_repeat_item_by_item() -> None:
    """What the request has read of its items is not asked for again, and the rest is one call."""
    cache, asked = Cache(policies=POLICIES), list[list[str]]()

    @cache.cached_many("many:{name}")
    def many(names: list[str]) -> dict[str, int]:
        asked.append(names)
        return dict.fromkeys(names, len(asked))

    with cache.request():
        assert many(["a", "b"]) == {"a": 1, "b": 1}
        contextvars.Context().run(cache.invalidate, "*")
        assert many(["a", "c", "b"]) == {"a": 1, "c": 2, "b": 1}
    assert asked == [["a", "b"], ["c"]]


class Last:
    """A value whose finalizer waits for another thread, which changes something in the request."""

    def __init__(self, scope: Scope, ended: list[bool]) -> None:
        self.scope = scope
        self.ended = ended

    def __del__(self) -> None:
        thread = threading.Thread(target=self.scope.forget, args=((),), daemon=True)
        thread.start()
        thread.join(LONG)
        self.ended.append(not thread.is_alive())


@pytest.mark.parametrize("how", ["read anew", "forgotten", "one too many", "over"])
def test_values_are_let_go_when_no_lock_is_held(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finalizer may do anything, also wait for somebody who uses the same request."""
    monkeypatch.setattr(request_scope, "MOST_READ", 1)
    scope, ended = Scope(engine_of(Cache(policies=POLICIES)), None), list[bool]()
    scope.remember("a", Called(Last(scope, ended)), since=0, anew=False)
    assert ended == []
    if how == "read anew":
        scope.remember("a", Called(1), since=0, anew=True)
    elif how == "forgotten":
        scope.forget([Targets(KEY, ("a",))])
    elif how == "one too many":
        scope.remember("b", Called(1), since=0, anew=False)
    else:
        scope.close()
    assert ended == [True]


def test_a_request_is_asked_when_no_lock_is_held(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who holds the lock of a request may wait for that of the cache, in a finalizer: they are taken one after the other."""
    refuses, busy = Scope.refuses, list[bool]()

    def looking(scope: Scope, *given: Any) -> bool:
        busy.append(scope.engine.is_busy_here())
        return refuses(scope, *given)

    monkeypatch.setattr(Scope, "refuses", looking)

    async def body() -> list[Any]:
        here, gate = two.here, Gate()

        @here.cached("item:slow:{name}")
        async def slow(name: str) -> Any:
            found = await use(here.item, name)
            if not gate.is_reached:
                await gate.astand() if two.colour == "async def" else gate.stand()
            return found

        other = _begin(two, lambda: slow("b"))
        await _reached(two, gate)
        await two.there.do("invalidate", "item:b", soft=True)
        here.hear()
        with here.cache.request():
            mine = _begin(two, in_context(lambda: slow("b")))
            if two.colour == "def":
                until(lambda: here.cache.stats().total.joined, "joining")
            else:
                await asyncio.to_thread(until, lambda: here.cache.stats().total.joined, "joining")
            gate.open()
            return [await _end(mine), await _end(other)]

    assert two.run(body) == [1, 1]
    assert busy
    assert not any(busy)


def test_many_threads_of_a_request_read_the_same() -> None:
    """Whatever lands between: once a key was read, its answer stays."""
    cache, numbers = Cache(policies=POLICIES), itertools.count(1)
    lock = lock_across_forks()
    answers: dict[str, set[int]] = {name: set() for name in "abcd"}
    outside = contextvars.Context()

    @cache.cached("counted:{name}")
    def counted(name: str) -> int:
        return next(numbers)

    def work() -> None:
        for _ in range(50):
            for name, values in answers.items():
                value = counted(name)
                with lock:
                    values.add(value)

    with cache.request():
        threads = [threading.Thread(target=in_context(work)) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            outside.run(cache.invalidate, "*")
        for thread in threads:
            thread.join()
    assert {name: len(values) for name, values in answers.items()} == dict.fromkeys("abcd", 1)
