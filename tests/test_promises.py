"""Promises: what strict reads and stamps mean for batches, refreshes and what they call, and for stamps that travel as text.

Two caches around one layer stand for two processes. What was softly invalidated may be served stale by an ordinary read: whoever was
promised more must not be given it, however deep inside it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from http.cookies import SimpleCookie
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachesync import MISSING, Cache, MemoryShared, Policy, Settings, Stamp
from cachesync.core.settings import CoordinationSettings
from support.nodes import COLOURS, LONG, Caller, Colour, LoopThread, Origin, operations_of, read_log, until, use

POLICIES: Final = (
    Policy(name="all", match="*", ttl="1h"),
    Policy(name="parts", match="part:*", ttl="1h", stale_while_revalidate="1h"),
    Policy(name="strict", match="strict:*", ttl="1h", consistency="strict"),
)


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    with LoopThread() as loop:
        yield loop


@pytest.fixture(params=COLOURS)
def colour(request: pytest.FixtureRequest) -> Colour:
    chosen: Colour = request.param
    return chosen


class Process:
    """One cache that hears the log only when told, and refreshes nothing behind its caller's back."""

    def __init__(self, shared: MemoryShared, origin: Origin, colour: Colour, loop: LoopThread) -> None:
        settings = Settings(coordination=CoordinationSettings(budget=LONG, max_lag=60.0))
        self.cache = Cache(settings, policies=POLICIES, shared=shared, listen=False)
        operations_of(self.cache).refresher.close()
        self.caller = Caller(self.cache, colour, loop)
        self.do = self.caller.do
        reading = origin.aread if colour == "async def" else origin.read

        @self.caller.cached("part:{number}", tags=["parts"])
        async def part(number: int) -> int:
            return int(await use(reading))

        @self.caller.cached("middle:{number}")
        async def middle(number: int) -> int:
            return int(await use(part, number))

        @self.caller.cached("strict:{number}")
        async def strict(number: int) -> int:
            return int(await use(part, number))

        @self.caller.cached("strict:own:{number}")
        async def own(number: int) -> int:
            return int(await use(reading))

        self.part: Any = part
        self.middle: Any = middle
        self.strict: Any = strict
        self.own: Any = own


@pytest.fixture
def shared() -> MemoryShared:
    return MemoryShared()


@pytest.fixture
def origin() -> Origin:
    return Origin()


@pytest.fixture
def pair(shared: MemoryShared, origin: Origin, colour: Colour, loop: LoopThread) -> Iterator[tuple[Process, Process]]:
    made = Process(shared, origin, colour, loop), Process(shared, origin, colour, loop)
    yield made
    for one in made:
        one.caller.close()


# --- strict -----------------------------------------------------------------------------------------------------------------------

STRICT: Final[dict[str, Callable[[Process], Any]]] = {
    "a call": lambda process: process.do(process.strict, 1),
    "a refresh": lambda process: process.do(process.strict.refresh, 1),
    "a batch": lambda process: process.do(process.strict.many, [(1,), (2,), (1,)])[0],
    "a batch of several that are there": lambda process: process.do(process.strict.many, [(3,), (1,)])[1],
}


@pytest.mark.parametrize("who", [0, 1], ids=["itself", "another"])
@pytest.mark.parametrize("way", STRICT)
def test_a_strict_answer_is_made_of_nothing_stale(pair: tuple[Process, Process], origin: Origin, way: str, who: int) -> None:
    """By whichever way it was asked for, and though the part itself may be served stale to others."""
    process = pair[0]
    assert (process.do(process.part, 1), process.do(process.part, 1), process.do(process.strict, 3)) == (1, 1, 1)
    for version in (2, 3):
        origin.version = version
        pair[who].caller.drop("part:1", soft=True)
        assert STRICT[way](process) == version
        assert process.do(process.part, 1) == version, "it was computed anew on the way"


@pytest.mark.parametrize("way", STRICT)
def test_a_strict_answer_that_can_not_be_confirmed_joins_no_older_computation(
    pair: tuple[Process, Process], shared: MemoryShared, origin: Origin, way: str
) -> None:
    """It began before an invalidation that has returned elsewhere, and that nobody here has heard of."""
    process, other = pair
    asks: dict[str, Callable[[], Any]] = {
        "a call": lambda: process.do(process.own, 1),
        "a refresh": lambda: process.do(process.own.refresh, 1),
        "a batch": lambda: process.do(process.own.many, [(1,), (1,)])[0],
        "a batch of several that are there": lambda: process.do(process.own.many, [(2,), (1,)])[1],
    }
    assert process.do(process.own, 2) == 1
    gate = origin.hold()
    early = process.caller.start(process.own, 1)
    gate.wait()
    origin.version = 2
    other.caller.drop("strict:own:1")
    with shared.outage():
        assert asks[way]() == 2
        gate.open()
        assert early.result(LONG) == 1


def test_a_strict_batch_that_can_not_be_confirmed_stores_nothing(
    pair: tuple[Process, Process], shared: MemoryShared, origin: Origin
) -> None:
    """Each of it is computed for its caller alone, also what is there."""
    process = pair[0]
    assert process.do(process.own.many, [(1,), (2,)]) == [1, 1]
    origin.version = 2
    with shared.outage():
        assert process.do(process.own.many, [(1,), (2,)]) == [2, 2]
    until(lambda: process.do(process.own.many, [(1,), (2,)]) == [1, 1], "what was there is confirmed again")


# --- stamps -----------------------------------------------------------------------------------------------------------------------

Body = Callable[[Process], Callable[[int], Coroutine[Any, Any, int]]]


def _refreshing(process: Process) -> Callable[[int], Coroutine[Any, Any, int]]:
    async def body(number: int) -> int:
        return int(await use(process.middle.refresh, number))

    return body


def _calling(process: Process) -> Callable[[int], Coroutine[Any, Any, int]]:
    async def body(number: int) -> int:
        return int(await use(process.middle, number))

    return body


def _asking_many(process: Process) -> Callable[[int], Coroutine[Any, Any, int]]:
    async def body(number: int) -> int:
        return int((await use(process.middle.many, [(number,), (number + 1,)]))[0])

    return body


def _refreshing_in_many(process: Process) -> Callable[[int], Coroutine[Any, Any, int]]:
    @process.caller.cached("deeper:{number}")
    async def deeper(number: int) -> int:
        return int(await use(process.middle.refresh, number))

    async def body(number: int) -> int:
        return int((await use(deeper.many, [(number,)]))[0])

    return body


BODIES: Final[dict[str, Body]] = {
    "a refresh": _refreshing,
    "a call": _calling,
    "a batch": _asking_many,
    "a refresh in a batch": _refreshing_in_many,
}


@pytest.mark.parametrize("who", [0, 1], ids=["itself", "another"])
@pytest.mark.parametrize("body", BODIES)
def test_a_stamp_holds_for_all_that_an_answer_is_made_of(pair: tuple[Process, Process], origin: Origin, body: str, who: int) -> None:
    """Also for what is computed anew on the way: what it calls in its turn may be stale."""
    process = pair[0]
    whole: Any = process.caller.cached("whole:{number}")(BODIES[body](process))
    assert (process.do(whole, 1), process.do(process.part, 1)) == (1, 1)
    for version in (2, 3):
        origin.version = version
        stamp = pair[who].caller.drop("part:1", "whole:1", "middle:1", "deeper:1", soft=True)
        assert process.do(whole.at_least, stamp, 1) == version


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_a_pending_stamp_is_pending_as_text(pair: tuple[Process, Process], shared: MemoryShared, origin: Origin, soft: bool) -> None:
    """It travels in a cookie to another process while nobody has told that one: nothing there is as new as it asks for."""
    writer, reader = pair
    assert [reader.do(reader.part, 1) for _ in range(2)] == [1, 1]
    writer.caller.stamp()
    origin.version = 2
    with shared.outage():
        stamp = writer.caller.drop("part:1", soft=soft)
    assert stamp.pending
    cookie = SimpleCookie()
    cookie["stamp"] = str(stamp)
    travelled = Stamp.parse(SimpleCookie(cookie.output(header=""))["stamp"].value)
    assert travelled == stamp
    assert '"' not in cookie.output(), "no character needs to be quoted"
    for asked in (stamp, travelled):
        assert reader.do(reader.part.at_least, asked, 1) == 2
        assert reader.caller.get("part:1", MISSING, at_least=asked) is MISSING
    assert reader.do(reader.part, 1) == 1, "who asks for no stamp is given what this process knows of"


def test_a_stamp_that_was_told_is_no_longer_pending(pair: tuple[Process, Process], shared: MemoryShared, origin: Origin) -> None:
    """The stamp of today is a bound as any other, and costs no computation where a copy is as new."""
    writer, reader = pair
    writer.caller.stamp()
    with shared.outage():
        assert writer.caller.drop("part:1").pending
    until(lambda: read_log(writer.cache) and not writer.cache.stats().log.queued, "it is announced")
    stamp = Stamp.parse(str(writer.caller.stamp()))
    assert not stamp.pending
    computed = origin.computations
    assert [reader.do(reader.part.at_least, stamp, 1) for _ in range(3)] == [1] * 3
    assert origin.computations == computed + 1


@given(st.binary(min_size=8, max_size=8), st.integers(0, 2**53), st.booleans())
def test_a_stamp_comes_back_from_its_text(epoch: bytes, number: int, pending: bool) -> None:
    """One word, whose form says whether it is pending."""
    stamp = Stamp(epoch.hex(), number, pending=pending)
    text = str(stamp)
    assert Stamp.parse(text) == stamp
    assert text.isascii()
    assert text == "".join(text.split())
    assert text.endswith("~") is pending


@pytest.mark.parametrize("text", ["", "~", ":", "a:1~~", "a:~", "~a:1", "a:~1", "a:1 ~", " a:1", "a:-1", "a", "1", "a:1:", "é:1", "a:¹"])
def test_what_is_no_stamp_is_no_stamp(text: str) -> None:
    """Nobody guesses."""
    with pytest.raises(ValueError, match="is not a stamp"):
        Stamp.parse(text)
