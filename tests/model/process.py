"""One process: a real engine, step by step."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, Final, NamedTuple, cast

from cachesync.coordination.engine import ALWAYS, Arrival, Engine
from cachesync.coordination.gathering import Gathering
from cachesync.coordination.operations import Operations
from cachesync.coordination.site import Site
from cachesync.coordination.worlds import ThreadWorld
from cachesync.core.entry import Dependency, Held
from cachesync.core.flows import Ask, Result
from cachesync.core.ledger import Ledger
from cachesync.core.policy import Policy
from cachesync.core.settings import Settings
from cachesync.core.steps import NO_DEADLINE, Called, Failed, Reply, SharedStep
from model.state import clone, freeze

STATE: Final = ("ledger", "flights", "leases", "forsaken", "losses")
"""What changes in an engine, besides its copies."""
KNOWN: Final = frozenset(
    {"settings", "local", "shared", "clock", "now", "events", "origin", "lock", "waiters", "violations", "budget", "lease", "here"}
    | {"switches", "is_forgotten"}  # nobody switches
    | {"closing", "is_closed", "blocks"}  # an end, and reads inside of an update, are not explored
    | {"failures", "raised", "limits", "keyring"}  # nor computations that are left alone or that hang, nor encryption
    | {"sending", "ending"}  # nor reloads, which alone look at it
    | {"breaker"}  # but for whether it is open
    | {"splits", "parts"}  # one server has everything
    | {"tasks"}  # no event loop runs
    | {"groups", "hub"}  # nor do browsers listen
)
"""What stays as it is. There is nothing else, which is a test of its own."""


class Look(NamedTuple):
    """Look for a copy. Answered by `Seen`."""

    ask: Ask
    only_fresh: bool = False


class Seen(NamedTuple):
    """What a copy answers, and whether the shared layer may be asked."""

    called: Called | None
    shares: bool


class Judge(NamedTuple):
    """Judge what the shared layer has replied. Answered as the cache's own door is."""

    ask: Ask
    fetched: Any


class Enter(NamedTuple):
    """Join the flight of a key, or lead one under ``token``. Answered by `Entered`."""

    ask: Ask
    token: str


class Entered(NamedTuple):
    """Whose flight it is, and where this process stood."""

    token: str
    arrival: Arrival


class Land(NamedTuple):
    """The flight is over."""

    token: str
    outcome: Result


class Wait(NamedTuple):
    """Wait for a flight to land. Answered by its outcome, ``None`` if it is not for this caller."""

    ask: Ask
    token: str
    arrival: Arrival


class Counted(NamedTuple):
    """A computation has come to its end, having used some cached values. Answered by `Called`."""

    ask: Ask
    value: Any
    used: tuple[tuple[str, Called], ...]


class Note(NamedTuple):
    """What a reply of the shared layer says besides its answer. Answered by the reply."""

    step: SharedStep
    reply: Reply


class GiveBack(NamedTuple):
    """Take the leases that are of no more use. Answered by the steps that give them back."""


PROCESS_STEPS: Final = (Look, Judge, Enter, Land, Wait, Counted, Note, GiveBack)


class Flown:
    """A flight, without the thread or task that it runs in."""

    def __init__(self, key: str, dependencies: tuple[Dependency, ...], token: str) -> None:
        self.key = key
        self.dependencies = dependencies
        self.token = token
        self.limit = NO_DEADLINE
        self.pends = 0
        self.waiting = 0


class Versions:
    """Writes version numbers."""

    def encode(self, value: Any, /) -> bytes:
        return str(value).encode()

    def decode(self, data: bytes | memoryview, /) -> Any:
        return int(bytes(data))


class Copies:
    """A shelf without bounds."""

    def __init__(self) -> None:
        self.copies: dict[Hashable, Held] = {}
        self.hits = 0

    def put(self, raw: Hashable, held: Held) -> Held:
        standing = self.copies.get(raw)
        if standing is None:
            self.copies[raw] = standing = held
        else:
            standing.renew(held)
        return standing

    def drop(self, raw: Hashable) -> bool:
        return self.copies.pop(raw, None) is not None

    def __iter__(self) -> Iterator[Held]:
        return iter(self.copies.values())

    def __len__(self) -> int:
        return len(self.copies)


class _Local:
    def __init__(self) -> None:
        self.kept = Copies()

    def shelf(self) -> Copies:
        return self.kept

    def clear(self) -> None:
        self.kept.copies.clear()


class _Silence:
    masking = None

    def send(self, *_: object, **__: object) -> None:
        """Nobody listens."""

    def forget(self, *_: object) -> None:
        """Nobody listens."""


class _Gauge:
    def units(self, _value: object, _bytes: int) -> int:
        return 1


class Clock:
    """A clock that the explorer sets."""

    def __init__(self) -> None:
        self.time = 0.0

    def monotonic(self) -> float:
        return self.time


class Process:
    """One engine. ``limit`` bans of a kind are kept in its ledger."""

    def __init__(self, index: int, settings: Settings, limit: int) -> None:
        self.index = index
        self.clock = Clock()
        self.local = _Local()
        self.engine = Engine(
            settings, local=cast("Any", self.local), shared=cast("Any", object()), clock=self.clock, events=cast("Any", _Silence())
        )
        self.engine.origin = f"{index:012x}"
        self.engine.ledger = Ledger(None, -ALWAYS, limit)
        self._world = ThreadWorld(self.engine)
        self.flown: dict[str, Flown] = {}
        self.outcomes: dict[str, Result] = {}
        self._handlers: Mapping[type, Callable[[Any], Any]] = {
            **self._world.here,
            Look: self._look,
            Judge: self._judge,
            Enter: self._enter,
            Land: self._land,
            Wait: self._wait,
            Counted: self._counted,
            Note: self._note,
            GiveBack: lambda _: tuple(self.engine.take_forsaken()),
        }

    def site(self, policy: Policy, *, tags_from: Callable[[Any], Any] | None = None) -> Site:
        """A function's place in this process."""
        site = Site(policy.name, policy, self.local.shelf(), cast("Any", Versions), _never, tags_from=tags_from)
        site.gauge = cast("Any", _Gauge())
        return site

    def save(self) -> dict[str, Any]:
        """All that may change."""
        engine = {name: getattr(self.engine, name) for name in STATE}
        engine["is_open"] = self.engine.breaker.is_open
        return engine | {"copies": self.local.kept.copies, "flown": self.flown, "outcomes": self.outcomes}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go back to what `save` has said. A flight that can still be joined is the one that lands."""
        for name in STATE:
            setattr(self.engine, name, clone(saved[name]))
        breaker = self.engine.breaker
        breaker.is_open = saved["is_open"]
        breaker.resting_until = ALWAYS if breaker.is_open else -ALWAYS  # time stands still here
        self.local.kept.copies = clone(saved["copies"])
        self.outcomes = clone(saved["outcomes"])
        joinable = cast("dict[str, Flown]", cast("Any", self.engine.flights)._flights)
        self.flown = {
            token: joinable[flight.key] if _is_joinable(joinable, flight) else clone(flight) for token, flight in saved["flown"].items()
        }

    @staticmethod
    def key(saved: Mapping[str, Any]) -> Hashable:
        return freeze(dict(saved), saved["ledger"].mark)

    def may(self, step: Any) -> bool:
        """Whether a step can happen now: only a flight is waited for."""
        return not isinstance(step, Wait) or step.token in self.outcomes

    def answer(self, step: Any, now: float) -> Any:
        """Perform a step at a time."""
        self.clock.time = now
        return self._handlers[step.__class__](step)

    def _look(self, step: Look) -> Seen:
        return Seen(self.engine.at_hand(step.ask, only_fresh=step.only_fresh), self.engine.uses_shared())

    def _judge(self, step: Judge) -> Any:
        return Operations._judge(cast("Any", self), step.ask, step.fetched)  # pyright: ignore[reportPrivateUsage] - the door's own way

    def _enter(self, step: Enter) -> Entered:
        mine = Flown(step.ask.key, step.ask.dependencies, step.token)
        flight, arrival = self.engine.join(cast("Any", mine))
        self.flown.setdefault(flight.token, cast("Any", flight))
        return Entered(flight.token, arrival)

    def _land(self, step: Land) -> None:
        engine, flight = self.engine, self.flown[step.token]
        engine.forsake(step.token)
        engine.flights.land(cast("Any", flight))
        self.outcomes[step.token] = step.outcome
        self._leave(flight)

    def _wait(self, step: Wait) -> Result | None:
        flight, outcome = self.flown[step.token], self.outcomes[step.token]
        given = self._world.share(step.ask, outcome, cast("Any", flight), step.arrival)
        self._leave(flight)
        return given

    def _leave(self, flight: Flown) -> None:
        flight.waiting -= 1
        if not flight.waiting:
            del self.flown[flight.token], self.outcomes[flight.token]

    def _counted(self, step: Counted) -> Called:
        found = Gathering(self.engine, step.ask.least)
        for key, called in step.used:
            found.take_in(self.engine, key, called, step.ask.policy)
        return self.engine.called(step.ask, step.value, self.engine.now(), found)

    def _note(self, step: Note) -> Reply:
        return self._world.note(step.step, self.engine.now(), step.reply)


def _is_joinable(joinable: Mapping[str, Flown], flight: Flown) -> bool:
    return flight.key in joinable and joinable[flight.key].token == flight.token


def _never() -> Any:
    raise AssertionError("the explorer computes")


def is_failed(reply: object) -> bool:
    """Whether a reply is a failure."""
    return isinstance(reply, Failed)
