"""What the actors of a world do: generators that yield steps, the package's own flows among them.

A story is written for one process. What a flow yields goes on to the explorer, but for three steps: joining a flight, running the
user's function and waiting for a lease take several steps here, as they do in ``cachesync.coordination.worlds``.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, cast

from cachesync.core import flows
from cachesync.core.auditing import Question
from cachesync.core.flows import Ask, Result
from cachesync.core.records import Record, Targets
from cachesync.core.stamps import NOWHERE, UNREACHED, Stamp
from cachesync.core.steps import (
    Announce,
    Await,
    Beat,
    Call,
    Called,
    Done,
    Failed,
    Fetch,
    Hear,
    Heard,
    Holder,
    Join,
    Lease,
    Leased,
    Position,
    Reaches,
    Release,
    SharedStep,
    Stands,
    Step,
    Ticket,
    Torn,
    Waited,
    Woken,
)
from model.layer import AskBeat, Do, Subscribe, Take
from model.process import Counted, Enter, Entered, GiveBack, Judge, Land, Look, Note, Seen, Wait

Story = Generator[Any, Any, Any]
FOREVER: Final = 1e9


# --- what the world is asked --------------------------------------------------------------------------------------------------------


Asks = Literal["", "strict", "at_least"]
"""What a reader asks for: nothing, the log's head, or the stamp of what has returned last."""


class Owe(NamedTuple):
    """A read begins: note what it may not be older than. Answered by `Owed`."""

    row: int
    asks: Asks = ""


class Owed(NamedTuple):
    """The version that has to be reached at least, and the one below which not even a stale value may be served.

    ``least`` is the stamp that the reader asks for.
    """

    fresh: int
    stale: int
    least: Stamp | None = None


class Check(NamedTuple):
    """A read is over."""

    owed: Owed
    called: Called


class Origin(NamedTuple):
    """A computation reads a row. Answered by its version."""

    row: int


class Write(NamedTuple):
    """A row is changed. Answered by its new version."""

    row: int


class Meant(NamedTuple):
    """An invalidation has begun whose records will be known by ``nonces``: it is about ``row`` at ``version``."""

    row: int
    version: int
    ticket: Ticket


class Returned(NamedTuple):
    """An invalidation has returned to its caller."""

    row: int
    version: int
    stamp: Stamp
    is_soft: bool


class Due(NamedTuple):
    """Wait until the log's reader has something to do. Answered by what it is."""


class Held(NamedTuple):
    """Wait while another one holds a lease: until looking again could change anything. ``dead`` is the entry that was refused."""

    ask: Ask
    holder: Holder | None
    dead: bytes | None


WORLD_STEPS: Final = (Owe, Check, Origin, Write, Meant, Returned, Due, Held)


# --- how the package's steps are taken ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ways:
    """How things are done where there are several ways, the wrong ones included.

    ``split``: the log's head and the entry are read one after the other, as a pipeline does and a cluster has to.
    ``entry_first``: in this order. ``log_first``: an invalidation appends before it unlinks. ``in_one``: it does both at once.
    """

    split: bool = False
    entry_first: bool = False
    log_first: bool = False
    in_one: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """How a value is computed: from a ``row`` of the origin, or from another cached value, which may then be all there is."""

    row: int
    child: Ask | None = None


@dataclass(slots=True)
class Teller:
    """Tells the stories of one process. ``name`` makes the tokens of its leases, ``origin`` is the process's."""

    name: str
    given: Ways
    tokens: int = 0
    last: tuple[Holder | None, bytes | None] = (None, None)

    @property
    def ways(self) -> Ways:
        """How things are done."""
        return self.given

    def standing(self) -> Hashable:
        """What it will still look at."""
        return self.name, self.tokens, self.last

    def token(self) -> str:
        self.tokens += 1
        return f"{self.name}{self.tokens}"

    def through(self, flow: Generator[Step, Any, Any], ask: Ask | None = None) -> Story:
        """Run one of the package's flows; ``ask`` is what it may have to wait for."""
        reply: Any = None
        while True:
            try:
                step = flow.send(reply)
            except StopIteration as stop:
                return stop.value
            if isinstance(step, Join):
                reply = yield from self.joining(step)
            elif isinstance(step, Call):
                reply = yield from self.calling(step)
            elif isinstance(step, Await):
                assert ask is not None
                held, self.last = Held(ask, *self.last), (None, None)
                yield held
                reply = Waited(0.0)
            elif isinstance(step, SharedStep):
                reply = yield from self.asking(step)
            else:
                reply = yield step

    def asking(self, step: SharedStep) -> Story:
        """Ask the shared layer, in as many pieces as it takes."""
        reply: Any
        if isinstance(step, Fetch) and self.ways.split:
            ends_at = Fetch((), step.deadline, step.strict)
            one: Any = yield step if self.ways.entry_first else ends_at
            other: Any = yield ends_at if self.ways.entry_first else step
            found, ends = (one, other) if self.ways.entry_first else (other, one)
            if isinstance(found, Failed) or isinstance(ends, Failed):
                reply = found if isinstance(found, Failed) else ends
            else:
                reply = found._replace(head=ends.head)
        elif isinstance(step, Announce) and step.unlink and not self.ways.in_one:
            unlink, append = step._replace(targets=(), nonces=()), step._replace(unlink=())
            first, second = (append, unlink) if self.ways.log_first else (unlink, append)
            one = yield first
            other = yield second
            reply = one if self.ways.log_first and not isinstance(other, Failed) else other
        else:
            reply = yield step
        if isinstance(step, Lease) and isinstance(reply, Leased):
            self.last = (reply.holder, None if reply.holder is None else step.dead)
        reply = yield Note(step, reply)
        return reply

    def joining(self, step: Join) -> Story:
        """As the world of threads does it."""
        ask = step.ask
        while True:
            mine = self.token()
            entered: Entered = yield Enter(ask, mine)
            if entered.token == mine:
                seen: Seen = yield Look(ask, only_fresh=True)
                filling = flows.fill(ask, token=mine, shared=step.shared and seen.shares, dead=step.dead)
                outcome: Result = (yield from self.through(filling, ask)) if seen.called is None else seen.called
                yield Land(mine, outcome)
                return outcome
            waited: Result | None = yield Wait(ask, entered.token, entered.arrival)
            if waited is not None:
                return waited

    def calling(self, step: Call) -> Story:
        """Run the user's function, or take what was given."""
        ask, given = step.ask, step.given
        used: tuple[tuple[str, Called], ...] = ()
        if given is not None:
            value = given[0]
        else:
            recipe = cast("Recipe", ask.call)
            if recipe.child is None:
                value = yield Origin(recipe.row)
            else:
                called: Called = yield from self.getting(recipe.child._replace(least=ask.least))
                value, used = called.value, ((recipe.child.key, called),)
        return (yield Counted(ask, value, used))

    def getting(self, ask: Ask) -> Story:
        """What a call of a cached function does (``Operations.obtain``)."""
        if ask.least is not None:
            return (yield from self.confirming(ask, ask.least))
        seen: Seen = yield Look(ask)
        if seen.called is not None:
            return seen.called
        fetched: Any = (yield from self.asking(Fetch((ask.key,), ask.deadline))) if seen.shares else None
        judged = yield Judge(ask, fetched)
        if isinstance(judged, Called):
            return judged
        return (yield from self.through(flows.obtain(ask, fetched, judged)))

    def confirming(self, ask: Ask, least: Stamp | None) -> Story:
        """What a strict call does, or one that asks for a stamp (``Operations.confirming``)."""
        seen: Seen = yield Look(ask, only_fresh=True)
        if least is not None:
            reached: Done = yield Reaches(least)
            if reached.done:
                seen = yield Look(ask, only_fresh=True)
                if seen.called is not None:
                    return seen.called
        found: Any = Failed(LookupError("the layer rests"))
        if seen.shares:
            found = yield from self.through(flows.obtain_confirmed(ask, least))
        if isinstance(found, Called):
            return found
        if isinstance(found, Failed):
            return (yield from self.calling(Call(ask._replace(least=UNREACHED))))
        stands: Stands = yield Position()
        return (yield from self.joining(Join(ask._replace(least=least or stands.stamp), True, found.dead)))

    # --- actors -----------------------------------------------------------------------------------------------------------------------

    def read(self, ask: Ask, asks: Asks = "") -> Story:
        """Read once. A stale answer is refreshed behind the reader's back."""
        owed: Owed = yield Owe(row_of(ask), asks)
        confirms = asks == "strict" or owed.least is not None
        called: Result = yield from self.confirming(ask, owed.least) if confirms else self.getting(ask)
        assert isinstance(called, Called), called
        yield Check(owed, called)
        if called.is_stale:
            yield from self.joining(Join(ask, True, None))

    def leave_lease(self, ask: Ask) -> Story:
        """Take the lease of a key, and do nothing with it."""
        stands: Stands = yield Position()
        yield Lease(ask.key, self.token(), stands.stamp or NOWHERE, ask.lease, None)

    def change(self, row: int, targets: tuple[Targets, ...]) -> Story:
        """Change a row and invalidate what is made of it."""
        version: int = yield Write(row)
        yield from self.announcing(row, version, flows.invalidate(targets, shared=True, deadline=FOREVER))

    def set(self, ask: Ask, *, late: bool = False) -> Story:
        """Change a row, and set its new value. ``late``: the value is obtained after the lease and the position (``cache.update``)."""
        row, token = row_of(ask), self.token()
        if late:
            seized = yield from self.through(flows.seize(ask, token=token, shared=True, unlink=False))
            version: int = yield Write(row)
            called = yield Counted(ask, version, ())
            flow = flows.replace(ask, seized, called, shared=True)
        else:
            version = yield Write(row)
            flow = flows.put(ask, token=token, shared=True, given=(version,))
        yield from self.announcing(row, version, flow)

    def renew(self, ask: Ask) -> Story:
        """Compute a value anew and set it (``f.refresh``)."""
        yield from self.through(flows.put(ask, token=self.token(), shared=True, given=None))

    def announcing(self, row: int, version: int, flow: Generator[Step, Any, Any]) -> Story:
        """Run a flow that invalidates, and tell the judge what it is about."""
        told = self.through(flow)
        reply: Any = None
        stamp: Stamp | None = None
        soft = False
        while True:
            try:
                step = told.send(reply)
            except StopIteration:
                break
            reply = yield step
            if isinstance(reply, Ticket):
                soft = all(targets.is_soft for targets in reply.targets)
                yield Meant(row, version, reply)
            elif isinstance(reply, Stamp):
                stamp = reply
                yield Returned(row, version, stamp, soft)

    def listen(self, process: int) -> Story:
        """One turn of the log's reader."""
        due: Any = yield Due()
        if due == "subscribe":
            yield Subscribe(process)
            yield AskBeat(process)
        elif due == "beat":
            yield AskBeat(process)
        elif due == "take":
            item: Any = yield Take(process)
            if not isinstance(item, Failed):
                yield from self.hearing(item)
        elif due == "give back":
            releases: tuple[Release, ...] = yield GiveBack()
            for release in releases:
                yield from self.asking(release)
        else:
            yield from self.through(flows.announce(due, shared=True, deadline=FOREVER))

    def hearing(self, item: Record | Beat | Torn | Woken | Question) -> Story:
        """What the flow of the log's reader does with something it has heard."""
        flow = flows.listen(0.0, beat=False, patience=1.0, now=0.0)
        heard = flow.send(None)
        assert isinstance(heard, Hear)
        yield from self.through(_continued(flow, Heard((item,))))


def once(step: Any) -> Story:
    """One step, at any time."""
    yield step


def befall(*events: Do) -> Story:
    """What happens to the layer, one after the other, each at any time."""
    for _, event in enumerate(events):  # the number tells two of a kind apart
        yield event


def row_of(ask: Ask) -> int:
    """Which row an answer is made of in the end."""
    recipe = cast("Recipe", ask.call)
    return recipe.row if recipe.child is None else row_of(recipe.child)


def _continued(flow: Generator[Step, Any, Any], reply: Any) -> Generator[Step, Any, Any]:
    """A flow whose first step was answered already."""
    while True:
        try:
            step = flow.send(reply)
        except StopIteration as stop:
            return stop.value
        reply = yield step
