"""Single flight: however many ask for a key at once, in threads and tasks, it is computed once, and nobody waits in vain."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

import pytest

from cachesync import Cache, Policy

T = TypeVar("T")
PATIENCE = 30.0
"""Seconds until a wait is given up as hung. No test waits so long for anything that happens."""


@pytest.fixture
def cache() -> Cache:
    """A cache in one process."""
    return Cache(policies=[Policy(name="all", match="*", ttl=60)])


def in_thread(work: Callable[[], T]) -> Future[T]:
    """Run ``work`` in a thread that does not keep the tests from ending if it hangs."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def until(condition: Callable[[], object]) -> None:
    """Wait in this thread for something that another does."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.001)


async def auntil(condition: Callable[[], object]) -> None:
    """The same in a task."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what is waited for is another thread's, or has no event
            await asyncio.sleep(0.001)


def run(story: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a story in a loop in debug mode, and see that it leaves no task and no exception that nobody took."""
    complaints: list[dict[str, Any]] = []

    async def watched() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
        async with asyncio.timeout(PATIENCE):
            result = await story()
        for _ in range(5):
            await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"still pending: {left}"
        gc.collect()
        await asyncio.sleep(0)
        return result

    result = asyncio.run(watched(), debug=True)
    gc.collect()
    assert complaints == []
    return result


def joined(cache: Cache) -> int:
    """How many callers wait, or waited, for somebody else's computation."""
    return cache.stats().total.joined


class Held:
    """A computation that is held open in a thread: ``begun`` says that it runs, ``go`` lets it end."""

    def __init__(self, answer: Callable[[int], Any] = lambda n: n) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()
        self.count = 0
        self._answer = answer
        self._lock = threading.Lock()

    def __call__(self) -> Any:
        with self._lock:
            self.count += 1
            number = self.count
        self.begun.set()
        assert self.go.wait(PATIENCE)
        return self._answer(number)


class AsyncHeld:
    """The same in a task. Made inside the loop that awaits it."""

    def __init__(self, answer: Callable[[int], Any] = lambda n: n) -> None:
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.count = 0
        self.cancelled = 0
        self._answer = answer

    async def __call__(self) -> Any:
        self.count += 1
        number = self.count
        self.begun.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self._answer(number)


# --- one computation ----------------------------------------------------------------------------------------------------------


def test_threads_that_ask_at_once_share_one_computation(cache: Cache) -> None:
    """Twenty callers, one call, one object for all of them."""
    held = Held(lambda _: object())

    @cache.cached("x")
    def find() -> object:
        return held()

    callers = [in_thread(find) for _ in range(20)]
    until(lambda: joined(cache) == 19)
    assert not any(caller.done() for caller in callers)
    held.go.set()
    results = [caller.result(PATIENCE) for caller in callers]
    assert held.count == 1
    assert all(result is results[0] for result in results)
    assert find() is results[0]
    stats = cache.stats().total
    assert (stats.computed, stats.joined, stats.local_hits, stats.calls) == (1, 19, 1, 21)


def test_tasks_that_ask_at_once_share_one_computation(cache: Cache) -> None:
    """Fifty callers, one call, one object for all of them."""

    async def story() -> None:
        held = AsyncHeld(lambda _: object())

        @cache.cached("x")
        async def find() -> object:
            return await held()

        callers = [asyncio.create_task(find()) for _ in range(50)]
        await auntil(lambda: joined(cache) == 49)
        held.go.set()
        results = await asyncio.gather(*callers)
        assert held.count == 1
        assert all(result is results[0] for result in results)
        assert await find() is results[0]

    run(story)
    stats = cache.stats().total
    assert (stats.computed, stats.joined, stats.local_hits) == (1, 49, 1)


def test_different_keys_do_not_wait_for_each_other(cache: Cache) -> None:
    """Two threads compute two keys side by side: each sees the other inside."""
    together = threading.Barrier(2)

    @cache.cached("{n}")
    def find(n: int) -> int:
        together.wait(PATIENCE)
        return n

    callers = [in_thread(partial(find, n)) for n in range(2)]
    assert [caller.result(PATIENCE) for caller in callers] == [0, 1]


def test_many_computes_its_keys_side_by_side_in_tasks(cache: Cache) -> None:
    """``await f.many(...)``: all computations are under way at once, and one that somebody else began is joined."""

    async def story() -> None:
        begun: list[int] = []
        go = asyncio.Event()

        @cache.cached("{n}")
        async def find(n: int) -> int:
            begun.append(n)
            await go.wait()
            return n

        one = asyncio.create_task(find(1))
        await auntil(lambda: begun == [1])
        several = asyncio.create_task(find.many([(0,), (1,), (2,), (0,)]))
        await auntil(lambda: sorted(begun) == [0, 1, 2])
        go.set()
        assert await several == [0, 1, 2, 0]
        assert await one == 1
        assert sorted(begun) == [0, 1, 2]

    run(story)


def test_many_joins_what_another_thread_computes(cache: Cache) -> None:
    """And computes the rest itself."""
    held = Held(lambda _: "held")

    @cache.cached("{n}")
    def find(n: int) -> Any:
        return held() if n == 1 else n

    first = in_thread(lambda: find(1))
    assert held.begun.wait(PATIENCE)
    several = in_thread(lambda: find.many([(0,), (1,), (2,)]))
    until(lambda: joined(cache) == 1)
    held.go.set()
    assert several.result(PATIENCE) == [0, "held", 2]
    assert first.result(PATIENCE) == "held"
    assert held.count == 1


def test_get_or_compute_joins_whoever_computes_the_key(cache: Cache) -> None:
    """By text or through the function that owns the key: one flight."""
    held = Held()

    @cache.cached("{n}")
    def find(n: int) -> Any:
        return held()

    callers = [
        in_thread(lambda: find(1)),
        in_thread(lambda: cache.get_or_compute("1", held)),
        in_thread(lambda: cache.get_or_compute("1", held)),
    ]
    until(lambda: joined(cache) == 2)
    held.go.set()
    assert [caller.result(PATIENCE) for caller in callers] == [1, 1, 1]


# --- failures -----------------------------------------------------------------------------------------------------------------


def test_an_exception_releases_every_thread_that_waits(cache: Cache) -> None:
    """All of them get it, nobody tries again behind their backs, and the next call computes anew."""

    class TroubleError(Exception):
        pass

    def answer(number: int) -> int:
        if number == 1:
            raise TroubleError("of the first")
        return number

    held = Held(answer)

    @cache.cached("x")
    def find() -> Any:
        return held()

    callers = [in_thread(find) for _ in range(10)]
    until(lambda: joined(cache) == 9)
    held.go.set()
    for caller in callers:
        with pytest.raises(TroubleError, match="of the first"):
            caller.result(PATIENCE)
    assert held.count == 1
    assert find() == 2


def test_an_exception_releases_every_task_that_waits(cache: Cache) -> None:
    """The same in ``async def``."""

    class TroubleError(Exception):
        pass

    def answer(number: int) -> int:
        if number == 1:
            raise TroubleError("of the first")
        return number

    async def story() -> None:
        held = AsyncHeld(answer)

        @cache.cached("x")
        async def find() -> Any:
            return await held()

        callers = [asyncio.create_task(find()) for _ in range(10)]
        await auntil(lambda: joined(cache) == 9)
        held.go.set()
        results = await asyncio.gather(*callers, return_exceptions=True)
        assert [(type(result), str(result)) for result in results] == [(TroubleError, "of the first")] * 10
        assert held.count == 1
        assert await find() == 2

    run(story)


def test_an_exception_that_nobody_is_left_to_take_is_no_complaint(cache: Cache) -> None:
    """The only caller went away; the function ends with an exception all the same. No "exception was never retrieved"."""

    async def story() -> None:
        begun = asyncio.Event()

        @cache.cached("x")
        async def find() -> None:
            begun.set()
            try:
                await asyncio.sleep(PATIENCE)
            finally:
                raise LookupError("while leaving")

        caller = asyncio.create_task(find())
        await begun.wait()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller

    run(story)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
def test_what_interrupts_the_thread_that_computes_is_not_handed_to_those_who_wait(cache: Cache, kind: type[BaseException]) -> None:
    """Ctrl-C was meant for the one who got it. The others compute for themselves, once."""

    def answer(number: int) -> int:
        if number == 1:
            raise kind
        return number

    held = Held(answer)

    @cache.cached("x")
    def find() -> Any:
        return held()

    leader = in_thread(find)
    assert held.begun.wait(PATIENCE)
    others = [in_thread(find) for _ in range(3)]
    until(lambda: joined(cache) == 3)
    held.go.set()
    with pytest.raises(kind):
        leader.result(PATIENCE)
    assert [other.result(PATIENCE) for other in others] == [2, 2, 2]
    assert held.count == 2


def test_a_cancellation_inside_the_function_is_not_handed_to_those_who_wait(cache: Cache) -> None:
    """The function awaited something that was cancelled: its own caller sees that, the others compute."""

    def answer(number: int) -> int:
        if number == 1:
            raise asyncio.CancelledError
        return number

    async def story() -> None:
        held = AsyncHeld(answer)

        @cache.cached("x")
        async def find() -> Any:
            return await held()

        leader = asyncio.create_task(find())
        await held.begun.wait()
        others = [asyncio.create_task(find()) for _ in range(3)]
        await auntil(lambda: joined(cache) == 3)
        held.go.set()
        assert await asyncio.gather(*others) == [2, 2, 2]
        with pytest.raises(asyncio.CancelledError):
            await leader

    run(story)


def test_an_interrupt_ends_the_loop_and_leaves_the_key_free(cache: Cache) -> None:
    """``KeyboardInterrupt`` inside an ``async def`` leaves ``asyncio.run``; another loop computes the key as if nothing had been."""
    interrupted: list[bool] = []

    @cache.cached("x")
    async def find() -> int:
        if not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        return 7

    async def both() -> None:
        await asyncio.gather(find(), find())

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(both())
    assert run(find) == 7


# --- cancelling ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaving", [[0], [1], [0, 1], [1, 2], [0, 2]])
def test_a_caller_who_is_cancelled_takes_the_result_from_nobody(cache: Cache, leaving: list[int]) -> None:
    """Whether the first or a later one of three: it ends at once, the others get the one result, which is stored too."""

    async def story() -> None:
        held = AsyncHeld()

        @cache.cached("x")
        async def find() -> Any:
            return await held()

        callers = [asyncio.create_task(find()) for _ in range(3)]
        await auntil(lambda: joined(cache) == 2 and held.begun.is_set())
        for index in leaving:
            callers[index].cancel()
            with pytest.raises(asyncio.CancelledError):
                await callers[index]
        held.go.set()
        for index in {0, 1, 2} - set(leaving):
            assert await callers[index] == 1
        assert await find() == 1
        assert (held.count, held.cancelled) == (1, 0)

    run(story)


@pytest.mark.parametrize("callers", [1, 3])
def test_a_computation_that_nobody_waits_for_is_cancelled(cache: Cache, callers: int) -> None:
    """When the last caller has gone; the key is free, and the next call computes."""

    async def story() -> None:
        held = AsyncHeld()

        @cache.cached("x")
        async def find() -> Any:
            return await held()

        waiting = [asyncio.create_task(find()) for _ in range(callers)]
        await auntil(lambda: joined(cache) == callers - 1 and held.begun.is_set())
        for caller in waiting:
            caller.cancel()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError] * callers
        await auntil(lambda: held.cancelled == 1)
        held.go.set()
        assert await find() == 2
        assert held.count == 2

    run(story)


def test_a_caller_who_comes_while_the_last_one_leaves_gets_a_result(cache: Cache) -> None:
    """In the very tick of the cancellation."""

    async def story() -> None:
        held = AsyncHeld()

        @cache.cached("x")
        async def find() -> Any:
            return await held()

        for _ in range(3):
            held.begun.clear()
            leaves = asyncio.create_task(find())
            await held.begun.wait()
            leaves.cancel()
            comes = asyncio.create_task(find())
            with pytest.raises(asyncio.CancelledError):
                await leaves
            held.go.set()
            assert await comes == held.count
            held.go.clear()
            await find.invalidate()

    run(story)


def test_a_timeout_around_a_call_ends_the_computation(cache: Cache) -> None:
    """``asyncio.timeout`` cancels its caller; alone, it takes the computation along."""

    async def story() -> None:
        held = AsyncHeld()

        @cache.cached("x")
        async def find() -> Any:
            return await held()

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await find()
        await auntil(lambda: held.cancelled == 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(find(), 0.01)
        await auntil(lambda: held.cancelled == 2)

    run(story)


def test_a_function_that_will_not_be_cancelled_is_heard_out(cache: Cache) -> None:
    """It swallowed the cancellation and returned a value: whoever came meanwhile gets that or a newer one, and nobody hangs."""

    async def story() -> None:
        begun, go = asyncio.Event(), asyncio.Event()
        count = 0

        @cache.cached("x")
        async def find() -> int:
            nonlocal count
            count += 1
            begun.set()
            try:
                await go.wait()
            except asyncio.CancelledError:
                await asyncio.sleep(0)
            return count

        leaves = asyncio.create_task(find())
        await begun.wait()
        leaves.cancel()
        comes = asyncio.create_task(find())
        with pytest.raises(asyncio.CancelledError):
            await leaves
        go.set()
        assert await comes in (1, 2)

    run(story)


def test_a_computation_that_never_got_its_first_step_blocks_nobody(cache: Cache) -> None:
    """A callback of the same tick ends the loop before the computation has begun, and all tasks are cancelled unstarted."""

    @cache.cached("x")
    async def find() -> int:
        return 7

    def stop() -> None:
        raise SystemExit

    async def story() -> None:
        caller = asyncio.ensure_future(find())
        asyncio.get_running_loop().call_soon(stop)
        await caller

    with pytest.raises(SystemExit):
        asyncio.run(story())
    again = in_thread(lambda: asyncio.run(find()))
    assert again.result(PATIENCE) == 7


def test_a_coroutine_that_is_driven_by_hand_leaves_no_computation_that_nobody_leads(cache: Cache) -> None:
    """As other loops than asyncio's do it, or a test: it is told what is missing, and whoever asks in asyncio computes."""

    @cache.cached("x")
    async def find() -> int:
        return 7

    @cache.cached_many("square:{number}")
    async def squares(numbers: list[int]) -> dict[int, int]:
        return {number: number * number for number in numbers}

    driven: list[Coroutine[Any, Any, object]] = [find(), squares([1, 2])]
    for coroutine in driven:
        with pytest.raises(RuntimeError, match="no running event loop"):
            coroutine.send(None)

    async def story() -> None:
        assert await find() == 7
        assert await squares([2, 3]) == {2: 4, 3: 9}

    run(story)


# --- calling oneself ----------------------------------------------------------------------------------------------------------


def test_a_function_may_call_itself_with_the_same_arguments(cache: Cache) -> None:
    """It would wait for itself for ever; instead the inner call computes."""
    depth: list[int] = []

    @cache.cached("{n}")
    def find(n: int) -> int:
        depth.append(n)
        return find(n) + 1 if len(depth) < 3 else 0

    caller = in_thread(lambda: find(1))
    assert caller.result(PATIENCE) == 2
    assert depth == [1, 1, 1]
    assert find(1) == 2


def test_an_async_function_may_call_itself_with_the_same_arguments(cache: Cache) -> None:
    """Directly, in tasks that it starts, and in a ``refresh``."""

    async def story() -> None:
        depth: list[int] = []

        @cache.cached("{n}")
        async def find(n: int) -> int:
            depth.append(n)
            if len(depth) == 1:
                return await find(n) + 1
            if len(depth) == 2:
                return max(await asyncio.gather(find(n), asyncio.create_task(find(n)))) + 1
            return 0

        assert await find(1) == 2
        assert await find(1) == 2
        depth.clear()
        assert await find.refresh(1) == 3, "the inner call of a refresh finds what is cached"

    run(story)


def test_functions_may_call_each_other_in_a_circle(cache: Cache) -> None:
    """Two keys, each of which needs the other: both colours."""
    depth: list[str] = []

    @cache.cached("a")
    def one() -> int:
        depth.append("a")
        return two() + 1

    @cache.cached("b")
    def two() -> int:
        depth.append("b")
        return one() + 1 if len(depth) < 4 else 0

    assert in_thread(one).result(PATIENCE) == 3

    async def story() -> None:
        depth.clear()

        @cache.cached("c")
        async def aone() -> int:
            depth.append("a")
            return await atwo() + 1

        @cache.cached("d")
        async def atwo() -> int:
            depth.append("b")
            return await aone() + 1 if len(depth) < 4 else 0

        assert await aone() == 3

    run(story)


def test_an_async_function_may_ask_its_twin_in_a_thread(cache: Cache) -> None:
    """``asyncio.to_thread`` takes the context along: the thread knows whose computation it is part of."""

    @cache.cached("x")
    def find() -> int:
        return 1

    @cache.cached("x", same_as=find)
    async def afind() -> int:
        return await asyncio.to_thread(find) + 1

    assert in_thread(lambda: run(afind)).result(PATIENCE) == 2


def test_a_function_may_ask_its_async_twin_in_a_loop_of_its_own(cache: Cache) -> None:
    """``asyncio.run`` inside a computation, for the same key."""

    @cache.cached("x")
    def find() -> int:
        return asyncio.run(afind()) + 1

    @cache.cached("x", same_as=find)
    async def afind() -> int:
        return 1

    assert in_thread(find).result(PATIENCE) == 2


def test_a_function_may_ask_itself_in_a_thread_that_has_its_context(cache: Cache) -> None:
    """A thread started with a copy of the context, and waited for."""
    depth: list[int] = []

    @cache.cached("x")
    def find() -> int:
        depth.append(1)
        if len(depth) == 1:
            context = contextvars.copy_context()
            inner: Future[int] = in_thread(lambda: context.run(find))
            return inner.result(PATIENCE) + 1
        return 1

    assert in_thread(find).result(PATIENCE) == 2


def test_a_task_that_outlives_its_computation_is_an_ordinary_caller(cache: Cache) -> None:
    """Later calls from it find entries, join flights and store what they compute."""

    async def story() -> None:
        go = asyncio.Event()
        tasks: list[asyncio.Task[list[int]]] = []
        count = 0

        @cache.cached("x")
        async def find() -> int:
            nonlocal count
            count += 1
            if count == 1:
                tasks.append(asyncio.create_task(later()))
            return count

        async def later() -> list[int]:
            await go.wait()
            await find.invalidate()
            return [await find(), await find()]

        assert await find() == 1
        go.set()
        assert await tasks[0] == [2, 2]
        assert await find() == 2

    run(story)


# --- loops, threads, both colours ---------------------------------------------------------------------------------------------


def test_two_loops_in_two_threads_share_one_computation(cache: Cache) -> None:
    """The one computes, the other is woken."""
    count: list[int] = []
    begun, go = threading.Event(), threading.Event()

    @cache.cached("x")
    async def find() -> int:
        count.append(1)
        begun.set()
        await auntil(go.is_set)
        return len(count)

    first = in_thread(lambda: run(find))
    assert begun.wait(PATIENCE)
    second = in_thread(lambda: run(find))
    until(lambda: joined(cache) == 1)
    go.set()
    assert [first.result(PATIENCE), second.result(PATIENCE)] == [1, 1]


def test_a_loop_that_ends_hands_its_computation_on(cache: Cache) -> None:
    """The loop that computed is closed, its tasks cancelled; whoever waited in another one computes."""
    begun, end = threading.Event(), threading.Event()
    count: list[int] = []

    @cache.cached("x")
    async def find() -> int:
        count.append(1)
        if len(count) == 1:
            begun.set()
            await asyncio.sleep(PATIENCE)
        return len(count)

    async def ends_early() -> None:
        task = asyncio.create_task(find())
        await auntil(end.is_set)
        assert not task.done()

    first = in_thread(lambda: asyncio.run(ends_early()))
    assert begun.wait(PATIENCE)
    second = in_thread(lambda: run(find))
    until(lambda: joined(cache) == 1)
    end.set()
    first.result(PATIENCE)
    assert second.result(PATIENCE) == 2


@pytest.fixture
def twins(cache: Cache) -> Iterator[tuple[Callable[[], Any], Callable[[], Awaitable[Any]], Held]]:
    """A function in both colours on one key; both are held open by the same thing."""
    held = Held()

    @cache.cached("x")
    def find() -> Any:
        return held()

    @cache.cached("x", same_as=find)
    async def afind() -> Any:
        held.count += 1
        number = held.count
        held.begun.set()
        await auntil(held.go.is_set)
        return number

    yield find, afind, held
    held.go.set()


Twins = tuple[Callable[[], Any], Callable[[], Coroutine[Any, Any, Any]], Held]


def test_a_thread_waits_for_what_a_task_computes(cache: Cache, twins: Twins) -> None:
    """One computation for both colours."""
    find, afind, held = twins
    first = in_thread(lambda: run(afind))
    assert held.begun.wait(PATIENCE)
    second = in_thread(find)
    until(lambda: joined(cache) == 1)
    held.go.set()
    assert [first.result(PATIENCE), second.result(PATIENCE)] == [1, 1]


def test_a_task_waits_for_what_a_thread_computes_and_its_loop_goes_on(cache: Cache, twins: Twins) -> None:
    """Other tasks run meanwhile; leaving does not cancel what a thread computes."""
    find, afind, held = twins
    first = in_thread(find)
    assert held.begun.wait(PATIENCE)

    async def story() -> None:
        stays, leaves = asyncio.create_task(afind()), asyncio.create_task(afind())
        await auntil(lambda: joined(cache) == 2)
        leaves.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaves
        await asyncio.sleep(0.001)
        assert not stays.done()
        held.go.set()
        assert await stays == 1

    run(story)
    assert first.result(PATIENCE) == 1


def test_a_plain_call_inside_the_loop_does_not_wait_for_a_task_of_that_loop(cache: Cache) -> None:
    """It could never be answered: it computes. Afterwards the task's callers may still come and go."""
    sync_count: list[int] = []

    @cache.cached("x")
    def find() -> str:
        sync_count.append(1)
        return "def"

    async def story() -> None:
        held = AsyncHeld(lambda _: "async def")

        @cache.cached("x", same_as=find)
        async def afind() -> Any:
            return await held()

        caller = asyncio.create_task(afind())
        await held.begun.wait()
        assert find() == "def"
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        await auntil(lambda: held.cancelled == 1)
        again = asyncio.create_task(afind())
        await auntil(lambda: held.count == 2)
        held.go.set()
        assert await again == "async def"
        assert find() == "async def"

    assert in_thread(lambda: run(story)).result(PATIENCE) is None
    assert len(sync_count) == 1


def test_the_function_runs_in_the_context_of_the_caller_who_began(cache: Cache) -> None:
    """Context variables, such as the request's user for a log line, are those of the first caller; both colours."""
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")

    @cache.cached("x")
    def find() -> str:
        return who.get()

    @cache.cached("y")
    async def afind() -> str:
        return who.get()

    token = who.set("ann")
    assert find() == "ann"
    assert run(afind) == "ann"
    who.reset(token)


# --- nothing is left ----------------------------------------------------------------------------------------------------------


class Big:
    """Something whose going can be watched."""


def test_an_exception_is_let_go_with_its_frames(cache: Cache) -> None:
    """What the function had in its hands when it failed is not kept by a flight that has landed."""
    seen: list[weakref.ref[Big]] = []

    @cache.cached("x")
    def find() -> None:
        big = Big()
        seen.append(weakref.ref(big))
        raise LookupError

    for call in (find, find.refresh):
        with pytest.raises(LookupError):
            call()
    gc.collect()
    assert [ref() for ref in seen] == [None, None]


def test_a_result_that_was_invalidated_is_held_by_nobody(cache: Cache) -> None:
    """After the flight has landed and the copy has been refused, the value goes."""

    @cache.cached("x")
    def find() -> Big:
        return Big()

    ref = weakref.ref(find())
    assert ref() is find()
    cache.invalidate("x")
    find()
    gc.collect()
    assert ref() is None
