"""Stories: two nodes and both colours around one shared layer, every step in an order that Hypothesis chooses.

Each read, set, update, refresh, invalidation and turn of the log's reader is a *hand*: a flow that is advanced one step at a time, so
that whatever is under way may meet whatever lands. The origin's value of a key is a version number that only grows. After each step the
story knows which version a node *owes*: the newest that an invalidation it has applied was meant for. No read may answer with less
than its node owed when the read began, and when all is quiet nothing less may be valid anywhere. A soft invalidation is owed by fresh
answers only.

The layer may fail, lose everything, or be taken over by a replica that was cut off: without the last records, with the entries and
leases of then. What was lost and is known to nobody any more but to those who had applied it is owed by them alone, until it has been
announced again.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, NamedTuple

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cachesync import Cache, MemoryShared, Policy, Stamp
from cachesync.coordination.engine import Arrival
from cachesync.coordination.flights import Flight
from cachesync.coordination.worlds import LoopWorld, ThreadWorld
from cachesync.core import flows
from cachesync.core.flows import Ask, Result
from cachesync.core.records import EVERYTHING, GLOB, KEY, PREFIX, SOFT, TAG, Record, Targets
from cachesync.core.settings import CoordinationSettings, Settings
from cachesync.core.steps import (
    Announce,
    Announced,
    Await,
    Begin,
    Call,
    Called,
    Encode,
    Fetch,
    Hear,
    Join,
    Lease,
    Pend,
    Refused,
    Seize,
    Settle,
    Step,
    Store,
    Waited,
)
from cachesync.testing import FakeClock
from support.nodes import (
    COLOURS,
    KINDS,
    AnsweredEar,
    Colour,
    HoldingShared,
    LoopThread,
    Node,
    Origin,
    engine_of,
    finished,
    operations_of,
    read_log,
    sites_of,
)

NUMBERS: Final = tuple(range(1, 3))
TTL: Final = 30.0
LEASE: Final = 10.0
MAX_LAG: Final = 5.0
WHOLE: Final = 60
"""More steps than any hand takes that waits for nobody."""
LAST_STEPS: Final = 500
"""More steps than any hand needs to end once nothing else happens."""

Versions = dict[int, int]
Hands = Generator[None, None, Any]


class Owed:
    """Which versions have to be answered with: by any answer, and by those that are fresh."""

    def __init__(self) -> None:
        self.any: Versions = dict.fromkeys(NUMBERS, 0)
        self.fresh: Versions = dict.fromkeys(NUMBERS, 0)

    def add(self, targets: Targets, versions: Versions) -> None:
        for number, version in versions.items():
            self.fresh[number] = max(self.fresh[number], version)
            if not targets.is_soft:
                self.any[number] = max(self.any[number], version)

    def least(self, number: int, *, is_stale: bool) -> int:
        return (self.any if is_stale else self.fresh)[number]

    def copy(self) -> Owed:
        copied = Owed()
        copied.any, copied.fresh = dict(self.any), dict(self.fresh)
        return copied


@dataclass(frozen=True)
class Told:
    """A record of the log, and the versions that it is meant for."""

    stamp: Stamp
    targets: Targets
    versions: Versions


class Saved(NamedTuple):
    """What a replica held when it was cut off."""

    head: Stamp
    entries: dict[str, Any]
    leases: dict[str, Any]


numbers = st.sampled_from((1, 1, 1, 2))
# How far a new hand goes at once: until it has asked for such a step, or as far as it can.
read_stops = st.sampled_from((Fetch, Lease, Call, Call, Encode, Store))
refresh_stops = st.sampled_from((Seize, Call, Call, Announce, Settle, Store))
invalidation_stops = st.sampled_from((Pend, Announce, Settle))
colours = st.sampled_from(COLOURS)
kinds = st.sampled_from(KINDS)
nodes = st.integers(0, 1)


def targets_of_kind(kind: str, number: int) -> Targets:
    return {
        "key of the function": Targets(KEY, (f"item:{number}",)),
        "key as text": Targets(KEY, (f"item:{number}",)),
        "prefix": Targets(PREFIX, ("item:",)),
        "glob": Targets(GLOB, (f"*em:{number}",)),
        "tag of the decorator": Targets(TAG, (f"owner:{number}",)),
        "tag of the policy": Targets(TAG, ("items",)),
        "everything": Targets(EVERYTHING, ("*",)),
    }[kind]


def meant(targets: Targets) -> set[int]:
    """The numbers whose items an invalidation is meant for, told without the package's own matching."""
    if targets.kind in (PREFIX, EVERYTHING) or targets.texts == ("items",):
        return set(NUMBERS)
    return {int(targets.texts[0][-1])}


class StoryNode:
    """A cache with a function of each colour under the same keys, and what it owes."""

    def __init__(self, memory: MemoryShared, clock: FakeClock, versions: Versions, stale: float) -> None:
        coordination = CoordinationSettings(max_lag=MAX_LAG, lease=LEASE)
        policy = Policy(name="items", match="item:*", ttl=TTL, tags=["items"], stale_while_revalidate=stale)
        self.cache = Cache(Settings(coordination=coordination), policies=[policy], shared=memory, clock=clock, listen=False)
        self.engine = engine_of(self.cache)
        self.operations = operations_of(self.cache)
        self.owed = Owed()
        self.computations = 0
        self.engine.waiters.ear = AnsweredEar(memory.ear())  # nobody listens: a hand does, or a whole turn of the reader
        self._threads = ThreadWorld(self.engine)
        self._loops = LoopWorld(self.engine)

        @self.cache.cached("item:{number}", tags=["owner:{number}"])
        def item(number: int) -> int:
            self.computations += 1
            return versions[number]

        @self.cache.cached("item:{number}", tags=["owner:{number}"], same_as=item)
        async def aitem(number: int) -> int:
            self.computations += 1
            return versions[number]

        self.item = item
        self.aitem = aitem
        self._sites = dict(zip(COLOURS, sites_of(self.cache), strict=True))

    def ask(self, number: int, colour: Colour) -> Ask:
        site = self._sites[colour]
        return self.engine.ask(site, site.address((number,)), (number,))

    def perform(self, step: Step, colour: Colour) -> Any:
        """Answer one step as the world of this colour does."""
        if isinstance(step, Hear):
            assert self.engine.waiters.ear is not None
            return self.engine.waiters.ear.perform(step)
        if colour == "def":
            return self._threads.perform(step)
        handler = self._loops.here.get(type(step))
        if handler is not None:
            return handler(step)
        answering: Any = self._loops.perform(step)
        return finished(answering)

    def join(self, ask: Ask) -> tuple[Flight, bool, Arrival]:
        mine = Flight(ask.key, ask.dependencies, self.engine.token())
        flight, arrival = self.engine.join(mine)
        return flight, flight is mine, arrival

    def share(self, ask: Ask, outcome: Result, flight: Flight, arrival: Arrival) -> Result | None:
        return self._threads.share(ask, outcome, flight, arrival)

    def judge(self, ask: Ask, fetched: Any) -> Called | Refused | None:
        """What a reply of the layer is worth, as the operations judge it."""
        judging: Callable[[Ask, Any], Called | Refused | None] = getattr(self.operations, "_judge")  # noqa: B009 - private
        return judging(ask, fetched)

    def filling(self, step: Join, flight: Flight) -> Generator[Step, Any, Result]:
        return self._threads.filling(step, flight)

    def land(self, flight: Flight, outcome: Result) -> None:
        self._threads.land(flight, outcome)


class Story(RuleBasedStateMachine):
    """Two nodes, one shared layer, one origin, any number of hands. Nothing is served stale."""

    stale = 0.0
    """Seconds in which a value that is not fresh any more may be served."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.memory = MemoryShared(self.clock.monotonic)
        self.versions: Versions = dict.fromkeys(NUMBERS, 1)
        self.nodes = [self.new_node() for _ in range(2)]
        self.hands: list[Hands] = []
        self.contexts: dict[Hands, contextvars.Context] = {}
        self.failed = False  # a hand has met what must not be
        self.last: type | None = None
        self.loop = asyncio.new_event_loop()
        self.epochs: list[str] = []
        self.records: list[Told] = []
        self.called: list[dict[Targets, Versions]] = [{}, {}]  # by node: the versions that an invalidation was last meant for
        self.meant = Owed()
        self.replica: Saved | None = None
        for who, node in enumerate(self.nodes):
            for start, colour in zip(("start", "start_task"), COLOURS, strict=True):
                setattr(node.operations.refresher, start, partial(self.refresh_behind, who, colour))  # no thread of its own

    def new_node(self) -> StoryNode:
        return StoryNode(self.memory, self.clock, self.versions, self.stale)

    def refresh_behind(self, who: int, colour: Colour, ask: Ask) -> None:
        """What the refresher does for a value that was served stale, as a hand."""
        self.hands.append(self.joining(who, Join(ask, self.nodes[who].engine.uses_shared(), None, late=True), colour))

    # --- one step, and what it teaches --------------------------------------------------------------------------------------------

    def perform(self, who: int, step: Step, colour: Colour, gives: Versions | None = None) -> Any:
        node = self.nodes[who]
        if isinstance(step, Await):
            return Waited(self.clock.monotonic())
        reply = node.perform(step, colour)
        self.last = type(step)
        if isinstance(step, Pend):
            for targets in step.targets:
                versions = {number: self.versions[number] for number in meant(targets)}
                if targets.mode == "v":
                    versions = gives or {}  # a set leaves its own value, a refresh whatever it has read
                self.called[who][targets] = versions
                node.owed.add(targets, versions)
                self.meant.add(targets, versions)
        if isinstance(step, Announce) and isinstance(reply, Announced) and step.again:
            self.note_announced(who)  # some of it may be in the log already
        elif isinstance(step, Announce) and isinstance(reply, Announced):
            first = reply.last.number - len(step.targets) + 1
            for position, targets in enumerate(step.targets, first):
                self.records.append(Told(Stamp(reply.last.epoch, position), targets, self.called[who][targets]))
        self.learn()
        return reply

    def learn(self) -> None:
        """What each node has applied of the log, it owes."""
        for node in self.nodes:
            position, lineage = node.engine.ledger.position, node.engine.ledger.lineage
            if position is None:
                continue
            if position.epoch not in self.epochs:
                self.epochs.append(position.epoch)
            for told in self.records:
                epoch, number = told.stamp.epoch, told.stamp.number
                if epoch not in self.epochs:
                    self.epochs.append(epoch)
                if epoch == position.epoch:
                    is_known = number <= position.number
                elif epoch in lineage.cuts:
                    is_known = number <= lineage.cuts[epoch]  # what was above it is lost
                else:
                    is_known = self.epochs.index(epoch) < self.epochs.index(position.epoch)  # nothing may be left of it
                if is_known:
                    node.owed.add(told.targets, told.versions)

    # --- hands --------------------------------------------------------------------------------------------------------------------

    def follow(
        self, who: int, flow: Generator[Step, Any, Any], colour: Colour, *, gives: Versions | None = None
    ) -> Generator[None, None, Any]:
        """A flow as a hand: one step, a pause, the next step. ``gives`` is what a set gives."""
        reply: Any = None
        while True:
            try:
                step = flow.send(reply)
            except StopIteration as end:
                return end.value
            if isinstance(step, Join):
                reply = yield from self.joining(who, step, colour)
            else:
                reply = self.perform(who, step, colour, gives)
                yield

    def joining(self, who: int, step: Join, colour: Colour) -> Generator[None, None, Result]:
        """What both worlds do when a flow joins: lead the flight, or wait for it."""
        node, ask = self.nodes[who], step.ask
        while True:
            flight, leading, arrival = node.join(ask)
            if leading:
                at_hand = node.engine.at_hand(ask, only_fresh=True)
                outcome: Result = at_hand or (yield from self.follow(who, node.filling(step, flight), colour))
                node.land(flight, outcome)
                return outcome
            ask.site.counts.joined += 1
            while not flight.outcome.done():
                yield
            outcome = flight.outcome.result()
            if (shared := node.share(ask, outcome, flight, arrival)) is not None:
                return shared
            step = step._replace(late=True)

    def reading(self, who: int, number: int, colour: Colour) -> Hands:
        node = self.nodes[who]
        owed = node.owed.copy()
        ask = node.ask(number, colour)
        result: Any = node.engine.at_hand(ask)
        if result is None:
            fetched: Any = self.perform(who, Fetch((ask.key,), ask.deadline), colour) if node.engine.uses_shared() else None
            yield
            judged = node.judge(ask, fetched)
            yield
            result = judged if isinstance(judged, Called) else (yield from self.follow(who, flows.obtain(ask, fetched, judged), colour))
        assert isinstance(result, Called)
        least = owed.least(number, is_stale=result.is_stale)
        note(f"node {who} reads {ask.key}: {result.value}, {'stale' if result.is_stale else 'fresh'}, owed {least}")
        assert result.value >= least, f"node {who} read {result.value} of {ask.key}, and owed {least} when it began"
        if result.is_stale:
            assert self.stale, "this policy lets nothing be served stale"
            self.refresh_behind(who, colour, ask)

    def reading_at_least(self, who: int, number: int, colour: Colour, stamp: Stamp) -> Hands:
        """A caller who has the stamp of an invalidation, perhaps from another process, and asks for nothing older."""
        owed = self.nodes[who].owed.copy()
        for told in self.records:
            if told.stamp.epoch == stamp.epoch and told.stamp.number <= stamp.number:
                owed.add(told.targets, told.versions)
        result = yield from self.follow(who, self.nodes[who].operations.obtaining(self.nodes[who].ask(number, colour), stamp), colour)
        assert isinstance(result, Called)
        assert not result.is_stale
        assert result.value >= owed.fresh[number], f"node {who} read {result.value} of {number}, and {stamp} was asked for"

    def updating(self, who: int, number: int, colour: Colour) -> Hands:
        """The value is read between the two halves: whatever lands after that wins."""
        node = self.nodes[who]
        ask = node.ask(number, colour)
        seized = yield from self.follow(who, node.operations.seizing(ask), colour)
        version = self.versions[number]
        self.last = Call
        yield
        yield from self.follow(who, node.operations.replacing(ask, seized, version), colour)
        yield from self.follow(who, node.operations.giving_up(seized), colour)

    def advance(self, hand: Hands) -> None:
        self.failed = True
        context = self.contexts.setdefault(hand, contextvars.copy_context())  # a block in one hand is around nothing in another
        if context.run(next, hand, hand) is hand:  # it has ended
            self.hands.remove(hand)
        self.failed = False

    # --- rules --------------------------------------------------------------------------------------------------------------------
    #
    # Hypothesis chooses among rules evenly: what is common has several, and all trouble together has one.

    @initialize(warm=st.booleans())
    def everybody_has_read(self, warm: bool) -> None:
        """Half of the stories begin with copies everywhere and a log that is heard."""
        if warm:
            for _ in range(2):
                for node in self.nodes:
                    for number in NUMBERS:
                        node.item(number)
            self.learn()

    def begin(self, hand: Hands, stop: type | None = None) -> None:
        """A new hand, advanced until it has asked for a step of a kind; else to its end, or to where it waits for another."""
        self.hands.append(hand)
        self.last = None
        for _ in range(WHOLE):
            if hand not in self.hands or self.has_asked(stop):
                break
            self.advance(hand)

    def has_asked(self, stop: type | None) -> bool:
        return stop is not None and self.last is stop

    def go_on(self, hand: Hands, steps: int) -> None:
        for _ in range(steps):
            if hand not in self.hands:
                break
            self.advance(hand)

    @rule(who=nodes, number=numbers, colour=colours, stop=read_stops)
    def read(self, who: int, number: int, colour: Colour, stop: type) -> None:
        self.begin(self.reading(who, number, colour), stop)

    @rule(who=nodes, number=numbers, colour=colours)
    def read_whole(self, who: int, number: int, colour: Colour) -> None:
        self.begin(self.reading(who, number, colour))

    @rule(who=nodes, number=numbers, colour=colours, stop=refresh_stops)
    def refresh(self, who: int, number: int, colour: Colour, stop: type | None) -> None:
        node = self.nodes[who]
        self.begin(self.follow(who, node.operations.putting(node.ask(number, colour), None), colour), stop)

    @rule(who=nodes, number=numbers, colour=colours, further=st.booleans())
    def set(self, who: int, number: int, colour: Colour, further: bool) -> None:
        """The origin has the value first, then the cache, at once: what lands before the set has taken its position is older to it."""
        node = self.nodes[who]
        self.versions[number] += 1
        version = self.versions[number]
        hand = self.follow(who, node.operations.putting(node.ask(number, colour), (version,)), colour, gives={number: version})
        self.begin(hand, Begin)
        if further:
            self.go_on(hand, WHOLE)

    @precondition(lambda self: self.records)
    @rule(who=nodes, number=numbers, colour=colours, back=st.integers(0, 3), stop=st.sampled_from((Fetch, Call, None)))
    def read_at_least(self, who: int, number: int, colour: Colour, back: int, stop: type | None) -> None:
        stamp = self.records[max(0, len(self.records) - 1 - back)].stamp
        self.begin(self.reading_at_least(who, number, colour, stamp), stop)

    @rule(who=nodes, number=numbers, colour=colours, stop=st.sampled_from((Seize, Call, Call, Announce, Settle, Store)))
    def update(self, who: int, number: int, colour: Colour, stop: type) -> None:
        self.begin(self.updating(who, number, colour), stop)

    def invalidated(self, targets: Targets, who: int, colour: Colour, stop: type | None) -> None:
        """The origin changes, and then the cache is told."""
        for number in meant(targets):
            self.versions[number] += 1
        self.begin(self.follow(who, self.nodes[who].operations.invalidating((targets,)), colour), stop)

    @rule(who=nodes, number=numbers, kind=kinds, colour=colours, stop=invalidation_stops)
    def invalidate(self, who: int, number: int, kind: str, colour: Colour, stop: type | None) -> None:
        self.invalidated(targets_of_kind(kind, number), who, colour, stop)

    @rule(who=nodes, number=numbers, kind=kinds, colour=colours)
    def invalidate_whole(self, who: int, number: int, kind: str, colour: Colour) -> None:
        self.invalidate(who, number, kind, colour, None)

    @rule(
        refreshes=st.booleans(), who=nodes, number=numbers, colour=colours, stop=st.sampled_from((Fetch, Call, Call, Encode, Store)),
        by=nodes, kind=kinds, hears=st.booleans(), late=st.booleans(),
    )  # fmt: skip
    def race(self, refreshes: bool, who: int, number: int, colour: Colour, stop: type, by: int, kind: str, hears: bool, late: bool) -> None:
        """What everything here is about, in one go: a computation is held, an invalidation lands, a late caller comes, it ends."""
        (self.refresh if refreshes else self.read)(who, number, colour, stop)
        held = self.hands[-1:]
        self.invalidate_whole(by, number, kind, colour)
        if hears:
            self.read_the_log(who)
        if late:
            self.read_whole(who, number, colour)
        for hand in held:
            self.go_on(hand, WHOLE)

    @rule(who=nodes, beat=st.booleans())
    def listen(self, who: int, beat: bool) -> None:
        """As the log's reader does, but step by step: a reply may be applied late."""
        self.begin(self.follow(who, flows.listen(0.0, beat=beat, patience=1.0, now=self.clock.monotonic()), "def"), Hear)

    @rule(who=nodes)
    def read_the_log(self, who: int) -> None:
        """A whole turn of the reader, with all it does besides: leases are extended, queued invalidations announced."""
        waited = bool(self.nodes[who].engine.ledger.tickets.queued)
        heard = read_log(self.nodes[who].cache)
        assert heard or self.memory.down
        if waited and not self.memory.down:
            self.note_announced(who)
        self.learn()

    @precondition(lambda self: self.hands)
    @rule(which=st.integers(0, 5), steps=st.integers(1, 12))
    def advance_a_hand(self, which: int, steps: int) -> None:
        self.go_on(self.hands[which % len(self.hands)], steps)

    @precondition(lambda self: self.hands)
    @rule(which=st.integers(0, 5))
    def finish_a_hand(self, which: int) -> None:
        self.go_on(self.hands[which % len(self.hands)], WHOLE)

    @rule(
        what=st.sampled_from(["time", "time", "time", "away", "flush", "cut off", "fail over", "fail over"]),
        seconds=st.sampled_from([0.1, 1.1, 3.0, MAX_LAG, LEASE, TTL]),
    )
    def trouble(self, what: str, seconds: float) -> None:
        if what == "time":
            self.clock.advance(seconds)
        elif what == "away":
            self.memory.down = True
        elif what == "flush":
            self.memory.flush()
            self.replica = None
        elif what == "cut off":
            self.cut_the_replica_off()
        else:
            self.fail_over()

    def cut_the_replica_off(self) -> None:
        """From now on it hears of nothing."""
        head = self.memory.head()
        if head is not None:
            self.replica = Saved(head, dict(getattr(self.memory, "_entries")), dict(getattr(self.memory, "_leases")))  # noqa: B009 - private

    def fail_over(self) -> None:
        """The replica takes over: with what it has heard, or with everything where it was not cut off."""
        saved, head = self.replica, self.memory.head()
        self.replica = None
        if head is None:
            return
        if saved is None:
            self.memory.fail_over(0)
        elif saved.head.epoch == head.epoch:
            self.memory.fail_over(head.number - saved.head.number)
            for name, value in (("_entries", saved.entries), ("_leases", saved.leases)):
                setattr(self.memory, name, value)

    @precondition(lambda self: self.memory.down)
    @rule()
    def the_layer_comes_back(self) -> None:
        self.memory.down = False
        self.clock.advance(1.5)  # a failure a moment ago is forgotten

    def is_leased(self) -> bool:
        """Whether a lease is left over: its holder could not give it back while the layer was away, and it has not lapsed yet."""
        leases: dict[str, tuple[str, int]] = getattr(self.memory, "_leases")  # noqa: B009 - private: nobody else asks for all of them
        return any(expiry > self.clock.monotonic() * 1000 for _, expiry in leases.values())

    def note_announced(self, who: int) -> None:
        """The reader, or a caller, has announced what was queued: find the records in the layer's own log."""
        known = {told.stamp for told in self.records}
        for record in logged(self.memory):
            stamp = Stamp(record.epoch, record.number)
            if stamp in known:
                continue
            versions = self.called[who].get(record.targets)
            lost = [told for told in self.records if told.stamp.epoch != record.epoch and says(record.targets, told.targets)]
            if versions is None:  # announced again, perhaps together with others
                versions = {number: max(told.versions.get(number, 0) for told in lost) for number in NUMBERS} if lost else {}
            self.records.append(Told(stamp, record.targets, versions))

    @precondition(lambda self: not self.hands and not self.memory.down and not self.is_leased())
    @rule(who=nodes, number=numbers, colour=colours, looks=st.booleans())
    def a_plain_call(self, who: int, number: int, colour: Colour, looks: bool) -> None:
        """The function itself, where nothing is under way: what is valid is served, and nothing is computed while it is."""
        node = self.nodes[who]
        owed = node.owed.any[number]
        valid = node.cache.get(f"item:{number}", None) if looks else None
        before = node.computations
        value = node.item(number) if colour == "def" else self.loop.run_until_complete(node.aitem(number))
        self.note_announced(who)
        self.learn()
        assert value >= owed
        if valid is not None:
            assert (value, node.computations) == (valid, before)
        else:
            assert node.computations <= before + 1
        if not node.engine.ledger.tickets:  # until it is announced, an invalidation refuses what was computed after it, too
            assert node.cache.get(f"item:{number}") == value, "what was computed is at hand"

    @precondition(lambda self: not self.hands and not self.memory.down and not self.is_leased())
    @rule(who=nodes, colour=colours)
    def a_batch(self, who: int, colour: Colour) -> None:
        node = self.nodes[who]
        owed = dict(node.owed.any)
        calls = [(number,) for number in (*NUMBERS, NUMBERS[0])]
        values = node.item.many(calls) if colour == "def" else self.loop.run_until_complete(node.aitem.many(calls))
        self.note_announced(who)
        self.learn()
        assert values[0] == values[-1]
        assert all(values[index] >= owed[number] for index, number in enumerate(NUMBERS))

    # --- what always holds --------------------------------------------------------------------------------------------------------

    @invariant()
    def what_a_hit_would_serve_is_what_is_owed(self) -> None:
        """Asked of each copy as the compiled wrapper does it, without touching it: until, and mark."""
        for node in self.nodes:
            for number in NUMBERS:
                ask = node.ask(number, "def")
                held = ask.site.shelf.copies.get(ask.raw)
                if held is not None and self.clock.monotonic() < held.until and held.mark is node.engine.ledger.mark:
                    assert held.value >= node.owed.fresh[number]

    @invariant()
    def nothing_is_left_where_no_hand_is(self) -> None:
        if not self.hands:
            for node in self.nodes:
                assert len(node.engine.flights) == 0
                assert node.engine.leases == {}

    def teardown(self) -> None:
        try:
            if not self.failed:  # a hand that has failed never ends, and others would wait for it
                self.settle()
        finally:
            self.loop.close()

    def settle(self) -> None:
        """All hands end, everybody reads the log: nothing old is valid anywhere, and both colours answer alike."""
        self.memory.down = False
        for turn in range(LAST_STEPS):
            for hand in tuple(self.hands):
                self.advance(hand)
            if not self.hands:
                break
            if turn > LAST_STEPS / 2:  # somebody waits for a lease that nobody could give back while the layer was away
                self.clock.advance(LEASE)
        assert not self.hands, "a hand does not end"
        self.clock.advance(1.5)
        for _ in range(4):
            for node in self.nodes:
                assert read_log(node.cache)
        assert not any(node.engine.ledger.tickets for node in self.nodes), "all invalidations are announced"
        for number in NUMBERS:
            for node in (self.new_node(), *self.nodes):
                entry = node.cache.peek(f"item:{number}")
                least = self.meant.least(number, is_stale=entry is not None and entry.is_stale)
                assert entry is None or entry.value >= least, f"{entry} is valid, and {least} was meant"
        self.clock.advance(LEASE)
        for node in self.nodes:
            for number in NUMBERS:
                value = node.item(number)
                assert value >= self.meant.any[number]
                assert self.loop.run_until_complete(node.aitem(number)) == value


class SoftStory(Story):
    """The same where values may be served stale, and invalidations may be soft."""

    stale = 20.0

    @rule(who=nodes, number=numbers, kind=kinds, colour=colours, stop=st.sampled_from((Pend, Announce, Settle, None)))
    def invalidate_softly(self, who: int, number: int, kind: str, colour: Colour, stop: type | None) -> None:
        self.invalidated(replace(targets_of_kind(kind, number), mode=SOFT), who, colour, stop)


def says(again: Targets, lost: Targets) -> bool:
    """Whether a record that is announced again says, among others, what a lost one said."""
    if again.kind == EVERYTHING:
        return True
    return again.kind == lost.kind and again.is_soft == lost.is_soft and not set(again.texts).isdisjoint(lost.texts)


def logged(memory: MemoryShared) -> Sequence[Record]:
    """The records of a layer's log, in order."""
    records: tuple[Record, ...] = tuple(getattr(memory, "_records"))  # noqa: B009 - private: nobody else asks for all of them
    return records


# --- both colours alike -----------------------------------------------------------------------------------------------------------


class Plain:
    """Three nodes of one colour, to be told one thing after the other. What they answer is written down."""

    def __init__(self, colour: Colour, loop: LoopThread) -> None:
        self.clock = FakeClock()
        self.memory = MemoryShared(self.clock.monotonic)
        self.layers = [HoldingShared(self.memory) for _ in range(3)]
        self.origin = Origin()
        self.nodes = [
            Node(layer, self.origin, colour=colour, loop=loop, clock=self.clock, lease=LEASE, max_lag=MAX_LAG, ttl=TTL)
            for layer in self.layers
        ]
        self.said: list[Any] = []

    def tell(self, what: str, who: int, number: int, kind: str) -> None:
        node = self.nodes[who]
        does: dict[str, Callable[[], Any]] = {
            "read": lambda: node.read(number),
            "valid": lambda: node.valid(number),
            "peek": lambda: shown(node.do(node.item.peek, number)),
            "many": lambda: node.do(node.item.many, [(1,), (2,), (number,)]),
            "refresh": lambda: node.start_refresh(number).result(),
            "set": lambda: node.set(1000 + self.origin.version, number).number,
            "invalidate": lambda: node.invalidate(kind, number).pending,
            "change": lambda: setattr(self.origin, "version", self.origin.version + 1),
            "fail": lambda: self.origin.fail(LookupError("not today")),
            "log": lambda: read_log(node.cache),
            "time": lambda: self.clock.advance(number * 4.0),
            "away": lambda: setattr(self.memory, "down", not self.memory.down),
            "flush": self.memory.flush,
        }
        try:
            answer = does[what]()
        except LookupError as error:
            answer = str(error)
        self.said.append((what, who, number, answer))

    def close(self) -> None:
        self.memory.down = False
        for node in self.nodes:
            node.close()


def shown(entry: Any) -> Any:
    return entry and (entry.value, entry.age, entry.is_stale, entry.stamp.number, entry.etag, entry.layer)


WHAT: Final = ("read", "valid", "peek", "many", "refresh", "set", "invalidate", "change", "fail", "log", "time", "away", "flush")
orders = st.tuples(st.sampled_from((*WHAT, "read", "read", "log", "invalidate")), st.integers(0, 2), numbers, kinds)


@settings(max_examples=60)
@given(story=st.lists(orders, min_size=1, max_size=40))
def test_both_colours_give_the_same_answers_in_the_same_steps(story: list[tuple[str, int, int, str]]) -> None:
    """The same story told to ``def`` and to ``async def``: answers, computations, steps and counts agree, and the counts add up."""
    told: list[Any] = []
    with LoopThread() as loop:
        for colour in COLOURS:
            plain = Plain(colour, loop)
            for order in story:
                plain.tell(*order)
            plain.close()
            counts = [node.cache.stats().total for node in plain.nodes]
            told.append((plain.said, [[type(step) for step in layer.steps] for layer in plain.layers], plain.origin.computations, counts))
    assert told[0] == told[1]
    _, _, computations, counts = told[0]
    assert sum(count.computed for count in counts) == computations
    least = sum({"read": 1, "refresh": 1, "many": 2}.get(what, 0) for what, *_ in story)
    most = sum({"read": 1, "refresh": 1, "many": 3, "valid": 1, "peek": 1}.get(what, 0) for what, *_ in story)
    assert least <= sum(count.calls for count in counts) <= most, "what is asked twice in a batch, or looked for, counts where it is found"
    assert sum(count.failed for count in counts) <= sum(what == "fail" for what, *_ in story)


STORIES: Final = settings(
    max_examples=400, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
TestStory = Story.TestCase
TestStory.settings = STORIES
TestSoftStory = SoftStory.TestCase
TestSoftStory.settings = STORIES
