"""Stories: two nodes and both colours around one shared layer, every step in an order that Hypothesis chooses.

Each read, set, refresh, invalidation and turn of the log's reader is a *hand*: a flow that is advanced one step at a time, so that
whatever is under way may meet whatever lands. The origin's value of a key is a version number that only grows. After each step the
story knows which version a node *owes*: the newest that an invalidation it has applied was meant for. No read may answer with less
than its node owed when the read began, and when all is quiet nothing less may be valid anywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cachesync import Cache, MemoryShared, Policy
from cachesync.coordination.engine import Arrival
from cachesync.coordination.flights import Flight
from cachesync.coordination.worlds import LoopWorld, ThreadWorld
from cachesync.core import flows
from cachesync.core.flows import Ask, Result
from cachesync.core.records import EVERYTHING, GLOB, KEY, PREFIX, TAG, Targets
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


def finished(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that waits for nothing. What an in-memory layer and an origin at hand ask for is such."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


class StoryNode:
    """A cache with a function of each colour under the same keys, and what it owes."""

    def __init__(self, memory: MemoryShared, clock: FakeClock, versions: Versions) -> None:
        coordination = CoordinationSettings(max_lag=MAX_LAG, lease=LEASE)
        policy = Policy(name="items", match="item:*", ttl=TTL, tags=["items"])
        self.cache = Cache(Settings(coordination=coordination), policies=[policy], shared=memory, clock=clock, listen=False)
        self.engine = engine_of(self.cache)
        self.operations = operations_of(self.cache)
        self.owed = dict.fromkeys(NUMBERS, 0)
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
        if colour == "def" or isinstance(step, Hear):
            return self._threads.perform(step)
        handler = self.engine.here.get(type(step))
        if handler is not None:
            return handler(step)
        answering: Any = self._loops.perform(step)
        return finished(answering)

    def join(self, ask: Ask) -> tuple[Flight, bool, Arrival]:
        mine = Flight(ask.key, ask.dependencies)
        flight, arrival = self.engine.join(mine)
        return flight, flight is mine, arrival

    def is_for(self, ask: Ask, outcome: Result, flight: Flight, arrival: Arrival) -> bool:
        return self._threads.is_for(ask, outcome, flight, arrival)

    def judge(self, ask: Ask, fetched: Any) -> Called | Refused | None:
        """What a reply of the layer is worth, as the operations judge it."""
        judging: Callable[[Ask, Any], Called | Refused | None] = getattr(self.operations, "_judge")  # noqa: B009 - private
        return judging(ask, fetched)

    def filling(self, step: Join, flight: Flight) -> Generator[Step, Any, Result]:
        return self._threads.filling(step, flight)

    def land(self, flight: Flight, outcome: Result) -> None:
        self._threads.land(flight, outcome)


class Story(RuleBasedStateMachine):
    """Two nodes, one shared layer, one origin, any number of hands."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.memory = MemoryShared(self.clock.monotonic)
        self.versions: Versions = dict.fromkeys(NUMBERS, 1)
        self.nodes = [StoryNode(self.memory, self.clock, self.versions) for _ in range(2)]
        self.hands: list[Hands] = []
        self.last: type | None = None
        self.loop = asyncio.new_event_loop()
        self.epochs: list[str] = []
        self.records: list[tuple[str, int, Versions]] = []  # epoch, number, the versions that the record is meant for
        self.called: list[dict[Targets, Versions]] = [{}, {}]  # by node: the versions that an invalidation was last meant for
        self.meant = dict.fromkeys(NUMBERS, 0)

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
                owe(node.owed, versions)
                owe(self.meant, versions)
        if isinstance(step, Announce) and isinstance(reply, Announced):
            first = reply.last.number - len(step.targets) + 1
            for position, targets in enumerate(step.targets, first):
                self.records.append((reply.last.epoch, position, self.called[who][targets]))
        self.learn()
        return reply

    def learn(self) -> None:
        """What each node has applied of the log, it owes."""
        for node in self.nodes:
            position = node.engine.ledger.position
            if position is None:
                continue
            if position.epoch not in self.epochs:
                self.epochs.append(position.epoch)
            for epoch, number, versions in self.records:
                if epoch not in self.epochs:
                    self.epochs.append(epoch)
                if epoch == position.epoch:
                    if number <= position.number:
                        owe(node.owed, versions)
                elif self.epochs.index(epoch) < self.epochs.index(position.epoch):
                    owe(node.owed, versions)  # of an epoch that is over nothing may be left

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
            if node.is_for(ask, outcome, flight, arrival):
                return outcome
            step = step._replace(late=True)

    def reading(self, who: int, number: int, colour: Colour) -> Hands:
        node = self.nodes[who]
        owed = node.owed[number]
        ask = node.ask(number, colour)
        result: Any = node.engine.at_hand(ask)
        if result is None:
            fetched: Any = self.perform(who, Fetch((ask.key,), ask.deadline), colour) if node.engine.uses_shared() else None
            yield
            judged = node.judge(ask, fetched)
            yield
            result = judged if isinstance(judged, Called) else (yield from self.follow(who, flows.obtain(ask, fetched, judged), colour))
        assert isinstance(result, Called)
        note(f"node {who} reads {ask.key}: {result.value}, owed {owed}")
        assert result.value >= owed, f"node {who} read {result.value} of {ask.key}, and owed {owed} when it began"

    def advance(self, hand: Hands) -> None:
        if next(hand, hand) is hand:  # it has ended
            self.hands.remove(hand)

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

    @rule(who=nodes, number=numbers, kind=kinds, colour=colours, stop=invalidation_stops)
    def invalidate(self, who: int, number: int, kind: str, colour: Colour, stop: type | None) -> None:
        """The origin changes, and then the cache is told."""
        for meant_number in meant(targets_of_kind(kind, number)):
            self.versions[meant_number] += 1
        self.begin(self.follow(who, self.nodes[who].operations.invalidating((targets_of_kind(kind, number),)), colour), stop)

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
        waited = bool(self.nodes[who].engine.ledger.queued)
        read_log(self.nodes[who].cache)
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

    @rule(what=st.sampled_from(["time", "time", "time", "away", "flush"]), seconds=st.sampled_from([0.1, 1.1, 3.0, MAX_LAG, LEASE, TTL]))
    def trouble(self, what: str, seconds: float) -> None:
        if what == "time":
            self.clock.advance(seconds)
        elif what == "away":
            self.memory.down = True
        else:
            self.memory.flush()

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
        """The reader has announced what was queued: find the records in the layer's own log."""
        known = {(epoch, number) for epoch, number, _ in self.records}
        for record in logged(self.memory):
            if (record.epoch, record.number) not in known and record.targets in self.called[who]:
                self.records.append((record.epoch, record.number, self.called[who][record.targets]))

    @precondition(lambda self: not self.hands and not self.memory.down and not self.is_leased())
    @rule(who=nodes, number=numbers, colour=colours, looks=st.booleans())
    def a_plain_call(self, who: int, number: int, colour: Colour, looks: bool) -> None:
        """The function itself, where nothing is under way: what is valid is served, and nothing is computed while it is."""
        node = self.nodes[who]
        owed = node.owed[number]
        valid = node.cache.get(f"item:{number}", None) if looks else None
        before = node.computations
        value = node.item(number) if colour == "def" else self.loop.run_until_complete(node.aitem(number))
        self.learn()
        assert value >= owed
        if valid is not None:
            assert (value, node.computations) == (valid, before)
        else:
            assert node.computations <= before + 1
        if not node.engine.ledger.pending:  # until it is announced, an invalidation refuses what was computed after it, too
            assert node.cache.get(f"item:{number}") == value, "what was computed is at hand"

    @precondition(lambda self: not self.hands and not self.memory.down and not self.is_leased())
    @rule(who=nodes, colour=colours)
    def a_batch(self, who: int, colour: Colour) -> None:
        node = self.nodes[who]
        owed = dict(node.owed)
        calls = [(number,) for number in (*NUMBERS, NUMBERS[0])]
        values = node.item.many(calls) if colour == "def" else self.loop.run_until_complete(node.aitem.many(calls))
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
                    assert held.value >= node.owed[number]

    @invariant()
    def nothing_is_left_where_no_hand_is(self) -> None:
        if not self.hands:
            for node in self.nodes:
                assert len(node.engine.flights) == 0
                assert node.engine.leases == {}

    def teardown(self) -> None:
        try:
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
        for _ in range(2):
            for node in self.nodes:
                assert read_log(node.cache)
        assert not any(node.engine.ledger.pending for node in self.nodes), "all invalidations are announced"
        for number in NUMBERS:
            fresh = StoryNode(self.memory, self.clock, self.versions)
            for node in (fresh, *self.nodes):
                valid = node.cache.get(f"item:{number}", None)
                assert valid is None or valid >= self.meant[number], f"{valid} is valid, and {self.meant[number]} was meant"
        self.clock.advance(LEASE)
        for node in self.nodes:
            for number in NUMBERS:
                value = node.item(number)
                assert value >= self.meant[number]
                assert self.loop.run_until_complete(node.aitem(number)) == value


def owe(owed: Versions, versions: Versions) -> None:
    for number, version in versions.items():
        owed[number] = max(owed[number], version)


def logged(memory: MemoryShared) -> tuple[Any, ...]:
    """The records of a layer's log, in order."""
    records: tuple[Any, ...] = tuple(getattr(memory, "_records"))  # noqa: B009 - private: nobody else asks for all of them
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


TestStory = Story.TestCase
TestStory.settings = settings(
    max_examples=400, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
