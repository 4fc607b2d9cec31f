"""Events and spans: what is told, to whom, and that telling harms nobody."""

from __future__ import annotations

import ast
import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import pytest

import cachesync
from cachesync import MISSING, Cache, Event, MemoryShared, Policy, Span
from cachesync.coordination.engine import Engine
from cachesync.coordination.events import CATALOGUE, FIELDS, SPANS, EventName, Events
from cachesync.coordination.watching import WatchedShared
from cachesync.core.settings import CoordinationSettings, RedisSettings, Settings
from cachesync.core.steps import Announce
from support.nodes import COLOURS, LONG, Caller, Colour, HoldingShared, LoopThread, Node, Origin, engine_of, until
from support.proxy import Proxy

both_colours = pytest.mark.parametrize("colour", COLOURS)
SOURCE = Path(cachesync.__file__).parent
TELLING = {"send", "watch", "not_stored", "failed", "answered", "leave", "_unreadable", "_end", "_tell_failure"}
"""Methods that send an event or begin a span."""


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    with LoopThread() as thread:
        yield thread


def fields_of(about: str) -> set[str]:
    """The fields that an entry of a catalogue lists at its end."""
    return set(about.rpartition(". ")[2].split(", "))


# --- the catalogue ----------------------------------------------------------------------------------------------------------------


def sent(method: str) -> Iterator[tuple[str, set[str], str]]:
    """Every place of the package that sends an event, or begins a span: its name, its fields, and where that is."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method and node.args):
                continue
            name = node.args[0]
            if not (isinstance(name, ast.Constant) and isinstance(name.value, str)):
                continue
            fields = {keyword.arg for keyword in node.keywords if keyword.arg is not None}
            if any(keyword.arg is None for keyword in node.keywords):  # **written(targets)
                fields |= {"patterns", "tags"}
            yield name.value, fields, f"{path.name}:{node.lineno}"


def test_every_event_that_is_sent_has_the_fields_of_the_catalogue() -> None:
    """No event is sent that the catalogue does not have, none lacks a field, and none that it lists is never sent."""
    told = {"listener_failed"}  # it is made where events are sent
    for name, fields, where in sent("send"):
        if where.startswith("operate.py") or name not in CATALOGUE:
            continue
        assert fields == fields_of(CATALOGUE[name][1]), f"{where}: {name}"
        told.add(name)
    assert told == set(CATALOGUE)


def test_every_span_that_is_begun_has_the_fields_of_the_catalogue() -> None:
    """A span's stamp comes at its end; the rest is known at its beginning."""
    told: dict[str, set[str]] = {name: fields for name, fields, _ in sent("watch") if fields}  # an ear watches keys
    of_an_ask = {"key", "policy", "function"}  # as watch_of gives them, whose name is an argument
    assert {"compute": of_an_ask, "refresh": of_an_ask, **told} == {name: fields_of(about) - {"stamp"} for name, about in SPANS.items()}


def test_type_checkers_know_every_event() -> None:
    """The names in the type are those of the catalogue, in its order, and each field has a unit."""
    assert get_args(EventName) == tuple(CATALOGUE)
    listed = [fields_of(about) for about in (*(about for _, about in CATALOGUE.values()), *SPANS.values())]
    assert set().union(*listed) == set(FIELDS)


# --- listeners --------------------------------------------------------------------------------------------------------------------


class Hearing:
    """A listener that is a bound method: each look makes another object of it."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def hear(self, event: Event) -> None:
        self.names.append(event.name)


def a_cache(**how: Any) -> Cache:
    return Cache(policies=[Policy(name="all", match="*", ttl="1h")], **how)


def test_a_listener_that_was_removed_hears_no_more() -> None:
    """Also a bound method, which is another object each time it is looked at."""
    cache, hearing = a_cache(), Hearing()
    assert cache.on_event(hearing.hear) == hearing.hear
    cache.invalidate("a")
    assert cache.off_event(hearing.hear)
    cache.invalidate("b")
    assert hearing.names == ["invalidated"]
    assert not cache.off_event(hearing.hear), "it was not told any more"


def test_a_listener_may_be_added_and_removed_while_it_is_told() -> None:
    """Who is told of an event is settled when it is sent."""
    cache, hearing = a_cache(), Hearing()

    @cache.on_event
    def once(event: Event) -> None:
        cache.off_event(once)
        cache.on_event(hearing.hear)

    cache.invalidate("a")
    assert hearing.names == []
    cache.invalidate("b")
    assert hearing.names == ["invalidated"]


async def a_coroutine(_: object) -> None: ...


class ACallable:
    async def __call__(self, _: object) -> None: ...


@pytest.mark.parametrize("wrong", [a_coroutine, ACallable(), "print", None])
def test_what_nobody_could_call_or_await_is_refused(wrong: Any) -> None:
    """A coroutine function would be called and never awaited: that is said when it is added."""
    cache = a_cache()
    with pytest.raises(TypeError, match="a listener is a"):
        cache.on_event(wrong)
    with pytest.raises(TypeError, match="a watcher is a"):
        cache.on_span(wrong)


def test_a_listener_that_raises_is_told_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """The others hear the event, and that it raised; the caller notices nothing; the log has it once at its level."""
    cache, heard = a_cache(), list[Event]()

    def broken(event: Event) -> None:
        raise RuntimeError("no disk")

    cache.on_event(broken)
    cache.on_event(heard.append)
    with caplog.at_level(logging.DEBUG, "cachesync"):
        for _ in range(3):
            assert not cache.invalidate("a").pending
    assert [event.name for event in heard] == ["listener_failed", "invalidated"] * 3
    assert heard[0].fields["error"] == "RuntimeError('no disk')"
    assert "broken" in heard[0].fields["listener"]
    assert heard[0].fields["event"].startswith("invalidated: ")
    levels = [record.levelno for record in caplog.records if "listener_failed" in record.getMessage()]
    assert levels == [logging.ERROR, logging.DEBUG, logging.DEBUG]


def test_listeners_that_all_raise_do_not_tell_each_other_for_ever() -> None:
    """What fails while it is told of a failure is logged, and that is all."""
    cache = a_cache()
    for number in range(3):

        def broken(event: Event, number: int = number) -> None:
            raise RuntimeError(f"listener {number}")

        cache.on_event(broken)
    cache.invalidate("a")
    counts = cache.stats().events
    assert counts["invalidated"] == 1
    assert 3 <= counts["listener_failed"] <= 9


def test_events_are_counted_and_troubles_are_timed() -> None:
    """A trouble lasts from the first event that told it until it is forgotten."""
    events = Events()
    assert events.lasts("layer_failed", "redis") is None and events.ago("layer_failed") is None
    for _ in range(3):
        events.send("layer_failed", "redis", layer="shared", step="Fetch", error="gone")
    lasts, ago = events.lasts("layer_failed", "redis"), events.ago("layer_failed")
    assert lasts is not None and ago is not None and lasts >= ago >= 0
    events.forget("layer_failed", "redis")
    assert events.lasts("layer_failed", "redis") is None
    assert events.ago("layer_failed") is not None
    assert events.counts() == {name: 3 if name == "layer_failed" else 0 for name in CATALOGUE}


def test_events_of_many_threads_are_all_counted() -> None:
    """None is lost where threads send at once."""
    events = Events()

    def send() -> None:
        for _ in range(500):
            events.send("log_heard", stamp="e:1")

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert events.counts()["log_heard"] == 4_000


# --- locks ------------------------------------------------------------------------------------------------------------------------


class Locksmith:
    """A listener and watcher that looks whether another thread could take the engine's lock while it is told."""

    def __init__(self) -> None:
        self.engine: Engine | None = None
        self.told: list[str] = []
        self.locked: list[str] = []

    def look(self, what: str) -> None:
        self.told.append(what)
        engine = self.engine
        if engine is None:
            return
        taken: list[bool] = []

        def take() -> None:
            taken.append(engine.lock.acquire(timeout=LONG / 4))
            if taken[0]:
                engine.lock.release()

        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
        if not taken[0]:
            self.locked.append(what)

    def hear(self, event: Event) -> None:
        self.look(event.name)

    @contextmanager
    def watch(self, span: Span) -> Generator[None, None, None]:
        self.look(f"{span.name} begins")
        yield
        self.look(f"{span.name} ends")


def test_no_event_is_sent_inside_of_a_lock() -> None:
    """Nor is a span begun, in any block of the package that holds one: whoever is told might wait for another who waits for it."""
    found: list[str] = []
    for path in SOURCE.rglob("*.py"):
        for block in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(block, ast.With):
                continue
            if not any(isinstance(item.context_expr, ast.Attribute) and item.context_expr.attr.endswith("lock") for item in block.items):
                continue
            found += [
                f"{path.name}:{node.lineno}: {node.func.attr}"
                for node in ast.walk(block)
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in TELLING
            ]
    assert found == []


@both_colours
def test_nobody_is_called_while_the_engine_is_locked(proxy: Proxy, namespace: str, colour: Colour, loop: LoopThread) -> None:
    """Whatever happens: listeners and watchers may take their time, or ask this cache from another thread."""
    smith = Locksmith()
    policies = [
        Policy(name="all", match="*", ttl="1h", stale_while_revalidate="1h"),
        Policy(name="bad", match="bad:*", ttl="50ms", errors="10s", stale_if_error="1h"),
        Policy(name="worse", match="worse:*", ttl="1h", errors="10s", stale_while_revalidate="1h"),
    ]
    settings = Settings(
        namespace=namespace, redis=RedisSettings(url=proxy.url), coordination=CoordinationSettings(budget=LONG, max_lag=0.5)
    )
    cache = Cache(settings, policies=policies, on_event=smith.hear)
    smith.engine = engine_of(cache)
    cache.on_span(smith.watch)
    caller, broken = Caller(cache, colour, loop), threading.Event()

    @caller.cached("item:{number}")
    async def item(number: int) -> Any:
        return (n for n in range(3)) if number == 7 else number  # a generator is used up by its first reader

    @caller.cached("bad:{number}")
    async def bad(number: int) -> int:
        if broken.is_set():
            raise OSError("the origin is away")
        return number

    @caller.cached("worse:{number}")
    async def worse(number: int) -> int:
        if broken.is_set():
            raise OSError("the origin is away")
        return number

    def is_told(name: str) -> Callable[[], bool]:
        return lambda: name in smith.told

    for function, number in ((item, 1), (item, 7), (bad, 1), (worse, 1)):
        caller.do(function, number)
    caller.drop("item:*", "worse:*", soft=True)
    broken.set()
    caller.do(item, 1)
    caller.do(worse, 1)
    until(is_told("refresh ends"), "a refresh")
    until(is_told("refresh_failed"), "a refresh that fails")
    until(lambda: caller.do(bad, 1) == 1 and is_told("spare_served")(), "a spare that is served")
    until(is_told("left_alone"), "a computation that is left alone")
    engine_of(cache).budget = 0.3
    proxy.refuse()
    assert caller.drop("item:*").pending
    until(is_told("log_silent"), "the log's silence")
    proxy.admit()
    until(is_told("log_heard"), "the log")
    until(lambda: not cache.stats().log.queued, "announcing")
    caller.close()
    expected = {"invalidated", "not_stored", "layer_failed", "layer_recovered", "invalidation_queued", "log_silent", "log_heard"}
    expected |= {f"{span} {when}" for span in SPANS.keys() - {"compute_many"} for when in ("begins", "ends")}
    assert expected <= set(smith.told)
    assert smith.locked == []


# --- spans ------------------------------------------------------------------------------------------------------------------------


class Diary:
    """A watcher that writes down what begins and ends, where, and with which error."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.spans: list[Span] = []

    @contextmanager
    def __call__(self, span: Span) -> Generator[None, None, None]:
        step = f" {span.fields['step']}" if span.name == "shared" else ""
        self.spans.append(span)
        self.lines.append(f"{span.name}{step} begins")
        yield
        self.lines.append(f"{span.name}{step} ends" + ("" if span.error is None else f": {span.error}"))


@both_colours
def test_a_miss_is_spans_and_a_hit_is_none(colour: Colour, loop: LoopThread) -> None:
    """What takes time is told from its beginning to its end, in order; a hit in local memory is told to nobody."""
    cache, diary = a_cache(shared=MemoryShared(), listen=False), Diary()
    caller = Caller(cache, colour, loop)

    @caller.cached("item:{number}")
    async def item(number: int) -> int:
        return number

    caller.do(item, 1)
    cache.on_span(diary)
    assert caller.do(item, 1) == 1
    assert diary.lines == []
    caller.do(item, 2)
    steps = ["shared Fetch", "shared Lease", "compute", "shared Store"]
    assert diary.lines == [f"{step} {when}" for step in steps for when in ("begins", "ends")]
    assert [span.fields.get("key") for span in diary.spans] == [None, None, "item:2", None]
    assert diary.spans[0].fields["keys"] == ["item:2"]
    assert diary.spans[2].fields["policy"] == "all" and diary.spans[2].fields["function"].endswith(".item")


@both_colours
def test_a_call_for_many_items_is_one_span(colour: Colour, loop: LoopThread) -> None:
    """With the keys that it computes."""
    cache, diary = a_cache(shared=MemoryShared(), listen=False), Diary()

    def squares(numbers: list[int]) -> dict[int, int]:
        return {number: number * number for number in numbers}

    async def asquares(numbers: list[int]) -> dict[int, int]:
        return squares(numbers)

    decorate: Any = cache.cached_many("square:{number}")
    many: Any = decorate(squares if colour == "def" else asquares)
    cache.on_span(diary)
    assert Caller(cache, colour, loop).do(many, [1, 2]) == {1: 1, 2: 4}
    [span] = [span for span in diary.spans if span.name.startswith("compute")]
    assert (span.name, span.fields["keys"], span.fields["policy"]) == ("compute_many", ["square:1", "square:2"], "all")


@both_colours
def test_spans_show_nothing_that_a_policy_masks(colour: Colour, loop: LoopThread) -> None:
    """Neither in their fields nor, for those who heed it, in the text of their errors."""
    masked = Policy(name="contacts", match="contacts:*", ttl="1h", mask=["phone"])
    cache, diary = Cache(policies=[masked], shared=MemoryShared(), listen=False), Diary()
    caller = Caller(cache, colour, loop)

    @caller.cached("contacts:{phone}")
    async def contact(phone: str) -> str:
        raise OSError(f"{phone} does not answer")

    cache.on_span(diary)
    with pytest.raises(OSError, match="does not answer"):
        caller.do(contact, "5550100")
    assert "5550100" not in repr([span.fields for span in diary.spans])
    assert all(span.conceals for span in diary.spans)


@both_colours
def test_an_invalidation_is_a_span_around_its_announcement(colour: Colour, loop: LoopThread) -> None:
    """Its stamp is known at its end."""
    cache, diary = a_cache(shared=MemoryShared(), listen=False), Diary()
    caller = Caller(cache, colour, loop)
    cache.on_span(diary)
    stamp = caller.drop("a:*", tags=["b"])
    assert diary.lines == ["invalidate begins", "shared Announce begins", "shared Announce ends", "invalidate ends"]
    assert diary.spans[0].fields == {"patterns": ["a:*"], "tags": ["b"], "stamp": str(stamp)}


@both_colours
def test_what_fails_is_the_error_of_its_span(colour: Colour, loop: LoopThread) -> None:
    """A step of the shared layer that is answered by a failure, and a computation that raises; the caller gets what it would."""
    shared, diary = MemoryShared(), Diary()
    cache = a_cache(shared=shared, listen=False)
    caller = Caller(cache, colour, loop)
    problem = OSError("the origin is away")

    @caller.cached("item:{number}")
    async def item(number: int) -> int:
        raise problem

    cache.on_span(diary)
    with shared.outage(), pytest.raises(OSError, match="the origin is away") as raised:
        caller.do(item, 1)
    assert raised.value is problem
    assert [line for line in diary.lines if "compute" in line] == ["compute begins", "compute ends: the origin is away"]
    assert "shared Fetch ends: memory, fetch: it is down" in diary.lines


@both_colours
def test_a_refresh_is_a_span_around_its_computation(colour: Colour, loop: LoopThread) -> None:
    """It is made where the stale value was served, and begins where it is run."""
    made: list[int] = []
    ran: list[int] = []
    origin, diary = Origin(), Diary()
    node = Node(MemoryShared(), origin, colour=colour, loop=loop, stale=600.0)
    node.read()
    node.drop("item:*", soft=True)

    @contextmanager
    def watching(span: Span) -> Generator[None, None, None]:
        if span.name == "refresh":
            ran.append(threading.get_ident())
        yield

    @node.cache.on_span
    def watcher(span: Span) -> Any:
        if span.name == "refresh":
            made.append(threading.get_ident())
        return watching(span)

    assert callable(watcher)
    node.cache.on_span(diary)
    node.read()
    until(lambda: "refresh ends" in diary.lines, "the refresh")
    inside = diary.lines[diary.lines.index("refresh begins") : diary.lines.index("refresh ends")]
    assert "compute begins" in inside and "compute ends" in inside
    assert len(made) == len(ran) == 1
    assert (made == ran) is (colour == "async def"), "a def is refreshed in another thread"


@both_colours
@pytest.mark.parametrize("where", ["made", "entered", "left"])
def test_a_watcher_that_raises_is_told_and_harms_nobody(colour: Colour, loop: LoopThread, where: str) -> None:
    """The call goes on, other watchers see beginning and end, and an event tells of it."""
    cache, diary, heard = a_cache(shared=MemoryShared(), listen=False), Diary(), list[Event]()
    caller = Caller(cache, colour, loop)

    @contextmanager
    def entering(span: Span) -> Generator[None, None, None]:
        if where == "entered":
            raise RuntimeError("no disk")
        yield
        raise RuntimeError("no disk")

    def broken(span: Span) -> Any:
        if where == "made":
            raise RuntimeError("no disk")
        return entering(span)

    cache.on_event(heard.append)
    cache.on_span(broken)
    cache.on_span(diary)
    assert caller.get_or_compute("a", lambda: 1) == 1
    assert diary.lines[-1] == "shared Store ends"
    assert {event.name for event in heard} == {"listener_failed"}
    assert len(heard) == len(diary.spans)
    assert "broken" in heard[0].fields["listener"] and heard[0].fields["event"] == "shared"


@both_colours
def test_while_nobody_watches_nothing_stands_in_the_way(colour: Colour, loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    """No span is made, and the shared layer is asked directly: before the first watcher, and after the last."""
    shared = MemoryShared()
    cache, diary = a_cache(shared=shared, listen=False), Diary()
    caller = Caller(cache, colour, loop)

    def no_span(*_: Any, **__: Any) -> Any:
        raise AssertionError("a span was made")

    def work(number: int) -> None:
        assert caller.get_or_compute(f"a:{number}", lambda: number) == number
        caller.drop(f"a:{number}", soft=True)

    with monkeypatch.context() as patched:
        patched.setattr(Events, "watch", no_span)
        work(1)
    assert engine_of(cache).shared is shared
    assert cache.on_span(diary) is diary
    assert isinstance(engine_of(cache).shared, WatchedShared)
    work(2)
    assert cache.off_span(diary) and not cache.off_span(diary)
    assert engine_of(cache).shared is shared
    seen = len(diary.lines)
    with monkeypatch.context() as patched:
        patched.setattr(Events, "watch", no_span)
        work(3)
    assert seen == len(diary.lines) > 0


@both_colours
def test_a_step_that_is_under_way_when_watching_ends_is_answered(colour: Colour, loop: LoopThread) -> None:
    """Watchers come and go while steps are on their way."""
    shared, diary = HoldingShared(MemoryShared()), Diary()
    cache = a_cache(shared=shared, listen=False)
    caller = Caller(cache, colour, loop)
    cache.on_span(diary)
    gate = shared.hold(Announce)
    dropping = caller.start(cache.invalidate if colour == "def" else cache.ainvalidate, "a")
    gate.wait()
    cache.off_span(diary)
    gate.open()
    assert not dropping.result(LONG).pending
    assert diary.lines[-1] == "invalidate ends", "what has begun is ended"
    assert caller.get("a") is None and cache.get("a") is MISSING


@both_colours
def test_an_interrupted_computation_ends_its_span(colour: Colour, loop: LoopThread) -> None:
    """Whatever ends a computation ends its span: a signal in ``def``, a caller who is cancelled in ``async def``."""
    diary, origin = Diary(), Origin()
    node = Node(None, origin, colour=colour, loop=loop)
    node.cache.on_span(diary)
    gate = origin.hold()
    if colour == "def":
        origin.fail(KeyboardInterrupt())
    reading = node.start_read()
    gate.wait()
    if colour == "async def":
        reading.cancel()
    gate.open()
    until(lambda: len(diary.lines) == 2, "the end of the span")
    assert diary.lines[0] == "compute begins" and diary.lines[1].startswith("compute ends: ")
    kinds = {"def": KeyboardInterrupt, "async def": asyncio.CancelledError}
    assert isinstance(diary.spans[0].error, kinds[colour])


FORKED = """
import os, sys
from contextlib import contextmanager
from cachesync import Cache, MemoryShared, Policy

cache = Cache(policies=[Policy(name="all", match="*", ttl="1h")], shared=MemoryShared())
lines = []

@cache.on_span
@contextmanager
def watch(span):
    lines.append(span.name)
    yield

assert cache.get_or_compute("a", lambda: 1) == 1
before = len(lines)
pid = os.fork()
if pid == 0:
    code = 1
    try:
        assert cache.get_or_compute("b", lambda: 2) == 2
        assert "compute" in lines[before:] and "shared" in lines[before:]
        assert cache.off_span(watch)
        before = len(lines)
        assert cache.get_or_compute("c", lambda: 3) == 3 and len(lines) == before
        code = 0
    finally:
        os._exit(code)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_a_forked_child_is_watched_too() -> None:
    """What its parent has set up goes on in it, and can be ended there."""
    run = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 0, run.stderr
