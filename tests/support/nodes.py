"""Nodes: caches that stand for processes, in one test, with every wait in the test's hand.

::

    origin = Origin()
    node = Node(shared, origin, colour="async def", loop=loop)
    gate = origin.hold()                # the next computation reads its value and then waits
    reading = node.start(node.read, 1)  # a future, whatever the colour
    gate.wait()
    origin.version += 1
    node.invalidate("by tag", 1)
    gate.open()
    assert reading.result(LONG) == 1

A node reads the log only when told (`Node.read_log`), unless it listens. A `HoldingShared` between node and layer stops a reply on its
way back. A `Caller` asks any cache in either colour; functions that call other cached functions are written once for both::

    @caller.cached("page:{number}")
    async def page(number: int) -> list[int]:
        return [await use(item, number)]
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Generator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar, cast

from cachesync import Cache, Policy, Stamp
from cachesync.coordination.engine import Engine
from cachesync.coordination.events import Event
from cachesync.coordination.operations import Operations
from cachesync.coordination.site import Site
from cachesync.core.entry import Entry
from cachesync.core.names import Names
from cachesync.core.settings import CoordinationSettings, RedisSettings, Settings
from cachesync.core.steps import Beat, Failed, Hear, Heard, Reply, SharedStep, Together
from cachesync.protocols import AsyncSharedLayer, Clock, Ear, Shared, SharedLayer

LONG: Final = 20.0
"""Seconds after which something that should have happened has not."""

Colour = Literal["def", "async def"]
COLOURS: Final[tuple[Colour, ...]] = ("def", "async def")
KINDS: Final = (
    "key of the function",
    "key as text",
    "prefix",
    "glob",
    "tag of the decorator",
    "tag of the policy",
    "everything",
)
KEY_KINDS: Final = KINDS[:2]
"""The kinds whose invalidation takes the lease away, so that nobody waits for the older computation."""

T = TypeVar("T")


def until(condition: Callable[[], object], what: str = "what was waited for") -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.001)


def operations_of(cache: Cache) -> Operations:
    """What runs a cache's flows: tests that play the world to it need it."""
    return cache._operations  # pyright: ignore[reportPrivateUsage] - there is no public way to it, on purpose


def engine_of(cache: Cache) -> Engine:
    return operations_of(cache).engine


def sites_of(cache: Cache) -> tuple[Site, ...]:
    """The functions of a cache, in the order of their decoration."""
    return cache._registry.sites()  # pyright: ignore[reportPrivateUsage] - there is no public way to them, on purpose


class AnsweredEar:
    """An ear that counts the answers to the question where the log ends."""

    def __init__(self, inner: Ear) -> None:
        self._inner = inner
        self.answers = 0

    def perform(self, step: Hear, /) -> Heard | Failed:
        heard = self._inner.perform(step)
        if isinstance(heard, Heard):
            self.answers += sum(isinstance(item, Beat) for item in heard.items)
        return heard

    def watch(self, key: str) -> None:
        self._inner.watch(key)

    def unwatch(self, key: str) -> None:
        self._inner.unwatch(key)

    def wake(self) -> None:
        self._inner.wake()

    def close(self) -> None:
        self._inner.close()


def read_log(cache: Cache) -> bool:
    """Let a cache with ``listen=False`` hear the log as its reader would, up to where it ends now. False when the layer failed."""
    engine, reader = engine_of(cache), operations_of(cache).reader
    assert engine.shared is not None
    ear = engine.waiters.ear
    if not isinstance(ear, AnsweredEar):
        ear = engine.waiters.ear = AnsweredEar(engine.shared.ear())
        weakref.finalize(cache, ear.close)
    before = ear.answers
    reader._due = 0.0  # pyright: ignore[reportPrivateUsage] - the master is asked now
    while ear.answers == before:
        if not reader.turn():
            return False
    return True


class Gate:
    """Where a computation waits. Both sides give up after `LONG` seconds."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._open = threading.Event()

    @property
    def is_reached(self) -> bool:
        return self._reached.is_set()

    def wait(self) -> None:
        """Return when somebody stands at the gate."""
        assert self._reached.wait(LONG), "nobody came to the gate"

    def open(self) -> None:
        self._open.set()

    def stand(self) -> None:
        self._reached.set()
        assert self._open.wait(LONG), "the gate was not opened"

    async def astand(self) -> None:
        self._reached.set()
        assert await asyncio.to_thread(self._open.wait, LONG), "the gate was not opened"


class Origin:
    """The source of the data: ``version`` is its value for every key. Computations are counted, and can be held or failed."""

    def __init__(self) -> None:
        self.version = 1
        self.computations = 0
        self.batches: list[list[int]] = []
        """What was asked of the functions of many arguments, call by call."""
        self._gates: list[Gate] = []
        self._failures: list[BaseException] = []
        self._lock = threading.Lock()

    def hold(self) -> Gate:
        """The next computation reads the version and then waits at this gate."""
        gate = Gate()
        self._gates.append(gate)
        return gate

    def fail(self, error: BaseException) -> None:
        """The next computation that passes its gate, or has none, raises this."""
        self._failures.append(error)

    def read(self) -> int:
        value, gate = self._begin()
        if gate is not None:
            gate.stand()
        return self._end(value)

    async def aread(self) -> int:
        value, gate = self._begin()
        if gate is not None:
            await gate.astand()
        return self._end(value)

    def _begin(self) -> tuple[int, Gate | None]:
        with self._lock:
            self.computations += 1
            return self.version, self._gates.pop(0) if self._gates else None

    def _end(self, value: int) -> int:
        with self._lock:
            if self._failures:
                raise self._failures.pop(0)
        return value


def finished(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return cast("T", end.value)
    raise AssertionError("it waits")


async def use(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function of either colour, inside of a computation that is written once for both."""
    result = function(*args)
    return await result if inspect.isawaitable(result) else result


class LoopThread:
    """An event loop in a thread of its own, so that both colours can be driven from a test that is neither."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="test-loop", daemon=True)

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.submit(coroutine).result(LONG)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.run(self._end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _end(self) -> None:
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self.loop.shutdown_default_executor()


@dataclass
class HeldReply:
    """A reply that was given and is not delivered yet."""

    kind: type
    gate: Gate = field(default_factory=Gate)


class HoldingShared:
    """A shared layer that notes each step it passes on, and holds back a reply where told. Steps that are asked together are one trip."""

    def __init__(self, inner: Shared) -> None:
        self.inner = inner
        self.steps: list[SharedStep] = []
        self.trips = 0
        self._held: list[HeldReply] = []
        self._lock = threading.Lock()

    def hold(self, kind: type) -> Gate:
        """The reply to the next step of this kind waits at this gate."""
        held = HeldReply(kind)
        self._held.append(held)
        return held.gate

    def count(self, kind: type) -> int:
        """How many steps of this kind were asked."""
        return sum(isinstance(step, kind) for step in list(self.steps))

    @property
    def sync(self) -> SharedLayer:
        return _Holding(self, self.inner.sync)

    def of_loop(self) -> AsyncSharedLayer:
        return _AsyncHolding(self, self.inner.of_loop())

    def gate_of(self, step: SharedStep) -> Gate | None:
        asked = step.steps if isinstance(step, Together) else (step,)
        with self._lock:
            self.steps.extend(asked)
            self.trips += 1
            for held in self._held:
                if any(isinstance(one, held.kind) for one in asked):
                    self._held.remove(held)
                    return held.gate
        return None

    def ear(self) -> Ear:
        return self.inner.ear()

    def close(self) -> None:
        self.inner.close()

    async def aclose(self) -> None:
        await self.inner.aclose()

    def after_fork(self) -> None:
        self.inner.after_fork()


class _Holding:
    def __init__(self, owner: HoldingShared, layer: SharedLayer) -> None:
        self._owner = owner
        self._layer = layer

    def perform(self, step: SharedStep, /) -> Reply:
        gate = self._owner.gate_of(step)
        reply = self._layer.perform(step)
        if gate is not None:
            gate.stand()
        return reply


class _AsyncHolding:
    def __init__(self, owner: HoldingShared, layer: AsyncSharedLayer) -> None:
        self._owner = owner
        self._layer = layer

    async def perform(self, step: SharedStep, /) -> Reply:
        gate = self._owner.gate_of(step)
        reply = await self._layer.perform(step)
        if gate is not None:
            await gate.astand()
        return reply


class Caller:
    """Asks one cache in one colour, from a test that is neither: every call has its thread, or runs in the loop."""

    def __init__(self, cache: Cache, colour: Colour, loop: LoopThread) -> None:
        self.cache = cache
        self.colour: Colour = colour
        self.loop = loop

    def start(self, ask: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        """Call ``ask`` where it does not block this test: in a thread, or in the loop."""
        if inspect.iscoroutinefunction(ask):
            return self.loop.submit(ask(*args, **kwargs))
        future: Future[Any] = Future()

        def work() -> None:
            try:
                future.set_result(ask(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=work, name="test-caller", daemon=True).start()
        return future

    def do(self, ask: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self.start(ask, *args, **kwargs).result(LONG)

    def cached(self, key: str, **how: Any) -> Callable[[Callable[..., Any]], Any]:
        """Decorates an ``async def`` that waits for nothing but what it calls through `use`: in this caller's colour."""

        def decorate(body: Callable[..., Coroutine[Any, Any, Any]]) -> Any:
            if self.colour == "async def":
                return self.cache.cached(key, **how)(body)

            @functools.wraps(body)
            def plain(*args: Any, **kwargs: Any) -> Any:
                return finished(body(*args, **kwargs))

            return self.cache.cached(key, **how)(plain)

        return decorate

    def get(self, key: str, default: Any = None, *, at_least: Stamp | None = None) -> Any:
        return self.do(self.cache.get if self.colour == "def" else self.cache.aget, key, default, at_least=at_least)

    def get_or_compute(self, key: str, compute: Callable[[], Any], *, at_least: Stamp | None = None) -> Any:
        if self.colour == "def":
            return self.do(self.cache.get_or_compute, key, compute, at_least=at_least)

        async def computing() -> Any:
            return compute()

        return self.do(self.cache.aget_or_compute, key, computing, at_least=at_least)

    def peek(self, key: str) -> Entry[Any] | None:
        return cast("Entry[Any] | None", self.do(self.cache.peek if self.colour == "def" else self.cache.apeek, key))

    def put(self, key: str, value: Any) -> Stamp:
        return cast("Stamp", self.do(self.cache.set if self.colour == "def" else self.cache.aset, key, value))

    def drop(self, *patterns: str, tags: Sequence[str] = (), soft: bool = False) -> Stamp:
        """Invalidate."""
        invalidate = self.cache.invalidate if self.colour == "def" else self.cache.ainvalidate
        return cast("Stamp", self.do(invalidate, *patterns, tags=tags, soft=soft))

    def switch(self, target: str, value: str) -> None:
        """Switch for all."""
        self.do(self.cache.switch if self.colour == "def" else self.cache.aswitch, target, value)

    def obeys(self, **switched: str) -> None:
        """Wait until exactly this is switched here. A policy is named without ``policy.`` in front."""
        full = {name if name in ("all", "local", "redis") else f"policy.{name}": value for name, value in switched.items()}
        until(lambda: self.cache.switches().effective == full, f"obeying {full}")

    def stamp(self) -> Stamp:
        return cast("Stamp", self.do(self.cache.stamp if self.colour == "def" else self.cache.astamp))

    @contextmanager
    def update(self, key: str) -> Generator[Callable[[Any], Stamp], None, None]:
        """``with cache.update(key)``, or ``async with cache.aupdate(key)``; gives what sets the value."""
        if self.colour == "def":
            with self.cache.update(key) as updating:
                yield updating.set
            return
        aupdating = self.cache.aupdate(key)
        self.loop.run(aupdating.__aenter__())
        try:
            yield lambda value: self.loop.run(aupdating.set(value))
        finally:
            self.loop.run(aupdating.__aexit__(None, None, None))

    def has_applied(self, stamp: Stamp) -> bool:
        """Whether the process has applied the log up to there: not before in another epoch."""
        position = self.cache.stats().position
        return position is not None and position.epoch == stamp.epoch and position.number >= stamp.number

    def close(self) -> None:
        self.loop.run(self.cache.aclose())


class Callers:
    """Callers of one colour around one Redis, each with a cache of its own that listens: as good as processes, within one test.

    Policies and their options are those of ``Policy``; left out, every key is fresh for an hour.
    """

    def __init__(self, url: str, namespace: str, colour: Colour, loop: LoopThread) -> None:
        self.url = url
        self.namespace = namespace
        self.colour: Colour = colour
        self.loop = loop
        self.names = Names.of(namespace)
        self._made: list[Caller] = []

    def new(
        self, *policies: Policy, url: str | None = None, listen: bool = True, coordination: CoordinationSettings | None = None
    ) -> Caller:
        """Another process, as far as the cache is concerned. ``url`` is another way to the server."""
        settings = Settings(
            namespace=self.namespace,
            redis=RedisSettings(url=url or self.url),
            coordination=coordination or CoordinationSettings(budget=LONG, max_lag=60.0),
        )
        cache = Cache(settings, policies=policies or (Policy(name="all", match="*", ttl="1h"),), listen=listen)
        self._made.append(Caller(cache, self.colour, self.loop))
        return self._made[-1]

    def apply(self, stamp: Stamp) -> None:
        """Wait until everybody who listens has applied a position."""
        assert not stamp.pending
        for caller in self._made:
            if operations_of(caller.cache).reader.is_running:
                until(partial(caller.has_applied, stamp), f"applying {stamp}")

    def close(self) -> None:
        for caller in self._made:
            caller.close()


class Node(Caller):
    """One cache with one cached function of either colour: ``item(number)``, key ``item:{number}``, tags ``owner:{number}`` and
    ``items``; and ``page(number)``, key ``page:{number}``, which is made of that item.

    ``budget`` is long, so that a held reply is not a failure. ``stale`` is for how many seconds a value may be served that is not
    fresh any more.
    """

    def __init__(
        self,
        shared: Shared | None,
        origin: Origin,
        *,
        colour: Colour,
        loop: LoopThread,
        clock: Clock | None = None,
        lease: float = 10.0,
        max_lag: float = 60.0,
        ttl: float = 3600.0,
        budget: float = LONG,
        stale: float = 0.0,
        on_disconnect: Literal["bypass", "serve"] = "bypass",
        listen: bool = False,
    ) -> None:
        coordination = CoordinationSettings(max_lag=max_lag, budget=budget, lease=lease)
        policies = [
            Policy(name=name, match=match, ttl=ttl, tags=tags, stale_while_revalidate=stale, on_disconnect=on_disconnect)
            for name, match, tags in (("items", "item:*", ["items"]), ("pages", "page:*", []))
        ]
        self.events: list[Event] = []
        cache = Cache(
            Settings(coordination=coordination),
            policies=policies,
            shared=shared,
            clock=clock,
            listen=listen,
            on_event=self.events.append,
        )
        super().__init__(cache, colour, loop)
        self.origin = origin
        self.item: Any
        cached_item = self.cache.cached("item:{number}", tags=["owner:{number}"])

        if colour == "def":

            @cached_item
            def item(number: int) -> int:
                return origin.read()

            self.item = item
        else:

            @cached_item
            async def aitem(number: int) -> int:
                return await origin.aread()

            self.item = aitem

        @self.cached("page:{number}")
        async def page(number: int) -> list[int]:
            return [number, await use(self.item, number)]

        self.page = page

    # --- both colours alike -------------------------------------------------------------------------------------------------------

    def read(self, number: int = 1) -> int:
        return cast("int", self.do(self.item, number))

    def start_read(self, number: int = 1) -> Future[int]:
        return self.start(self.item, number)

    def valid(self, number: int = 1) -> int | None:
        """The value that is valid here now, or in the shared layer, without computing; ``None`` where there is none."""
        return cast("int | None", self.get(f"item:{number}"))

    def set(self, value: int, number: int = 1) -> Stamp:
        return cast("Stamp", self.do(self.item.set, value, number))

    def start_refresh(self, number: int = 1) -> Future[int]:
        return self.start(self.item.refresh, number)

    def invalidate(self, kind: str, number: int = 1, *, soft: bool = False) -> Stamp:
        """Invalidate ``item(number)`` in one of the `KINDS` of ways."""
        if kind == "key of the function" and not soft:
            return cast("Stamp", self.do(self.item.invalidate, number))
        patterns = {"key of the function": f"item:{number}", "key as text": f"item:{number}", "prefix": "item:*"}
        patterns |= {"glob": f"*em:{number}", "everything": "*"}
        tags = {"tag of the decorator": f"owner:{number}", "tag of the policy": "items"}
        named = [patterns[kind]] if kind in patterns else []
        return self.drop(*named, tags=[] if named else [tags[kind]], soft=soft)

    def read_log(self) -> None:
        assert read_log(self.cache)

    def told(self, name: str) -> list[Event]:
        """The events of a name, so far."""
        return [event for event in list(self.events) if event.name == name]


class BatchNode(Node):
    """A node that has a function of many arguments, too: ``items(numbers)``, which shares its entries with ``item``.

    One call of it is one computation of the origin, whatever it is asked for: `Origin.batches` says what.
    """

    def __init__(self, *args: Any, **how: Any) -> None:
        super().__init__(*args, **how)
        origin = self.origin
        cached_items = self.cache.cached_many("item:{number}", tags=["owner:{number}"], same_as=self.item)
        self.items: Any

        if self.colour == "def":

            @cached_items
            def items(numbers: list[int]) -> dict[int, int]:
                origin.batches.append(numbers)
                return dict.fromkeys(numbers, origin.read())

            self.items = items
        else:

            @cached_items
            async def aitems(numbers: list[int]) -> dict[int, int]:
                origin.batches.append(numbers)
                return dict.fromkeys(numbers, await origin.aread())

            self.items = aitems

    def read_many(self, *numbers: int) -> dict[int, int]:
        return cast("dict[int, int]", self.do(self.items, list(numbers)))

    def start_many(self, *numbers: int) -> Future[dict[int, int]]:
        return self.start(self.items, list(numbers))
