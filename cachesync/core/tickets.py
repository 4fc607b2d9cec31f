"""Tickets: invalidations of this process that have no number here yet.

Each refuses what it matches. Some are on their way to the log; some are *queued*, because the shared layer could not be told; some have
numbers of an epoch that this process has not joined, and wait *elsewhere* until its position has reached them. All are known by
their first nonce.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from cachesync.core.entry import Dependency
from cachesync.core.patterns import Pattern
from cachesync.core.records import EVERYTHING, KEY, PREFIX, TAG, Targets
from cachesync.core.stamps import Stamp
from cachesync.core.steps import Ticket

MAX_QUEUED: Final = 1_000
"""Invalidations that wait one by one; what comes on top makes them one "everything"."""
MAX_TEXTS: Final = 100_000
"""And texts in those that are queued, all together."""
EVERY_TARGET: Final = Targets(EVERYTHING, ("*",))


class Tickets:
    """The tickets of one process. Not thread-safe: its owner holds a lock. Times are seconds, monotonic clock."""

    __slots__ = ("_elsewhere", "_held", "_named", "_queued", "_same", "_wide")

    def __init__(self) -> None:
        self._held: dict[str, tuple[Ticket, float]] = {}  # all of them, with the time since when they refuse
        self._queued: dict[str, Ticket] = {}  # the oldest first
        self._same: dict[tuple[Targets, ...], str] = {}  # the queued one that says so
        self._elsewhere: dict[str, tuple[Ticket, Stamp]] = {}
        self._named: Counter[tuple[str, str]] = Counter()  # keys and tags that they name, as dependencies are written
        self._wide = 0  # those that name something else, too

    def __bool__(self) -> bool:
        return bool(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket.nonces[0] in self._held

    @property
    def held(self) -> tuple[Ticket, ...]:
        """All of them."""
        return tuple(ticket for ticket, _ in self._held.values())

    @property
    def queued(self) -> tuple[Ticket, ...]:
        """Those that wait for the shared layer, the oldest first."""
        return tuple(self._queued.values())

    def add(self, ticket: Ticket, now: float) -> None:
        """Refuse what the ticket matches, from now on."""
        if ticket.nonces[0] not in self._held:
            self._hold(ticket, now)

    def remove(self, ticket: Ticket) -> float | None:
        """The ticket has its numbers: it refuses no more. Since when it did, ``None`` for one that is not known."""
        held = self._held.get(ticket.nonces[0])
        self._drop(ticket.nonces[0])
        return None if held is None else held[1]

    def queue(self, ticket: Ticket) -> bool:
        """The ticket could not be announced: it goes on refusing, and waits. An older one that says the same is not needed any more
        (the newer is kept: the older may be on its way, with a number from before this one was asked for).

        True if they were too many and became one that says "everything".
        """
        nonce = ticket.nonces[0]
        same = self._same.get(ticket.targets)
        if same is not None and same != nonce:
            since, older = self._held[same][1], self._queued[same]
            ticket = ticket._replace(again=ticket.again and older.again)  # a new one has to be appended, whoever has said it before
            self._drop(same)
            mine = self._let_go(nonce)
            self._hold(ticket, since if mine is None else min(since, mine[1]))
        self._queued[nonce] = ticket
        self._same[ticket.targets] = nonce
        texts = sum(len(targets.texts) for same in self._same for targets in same)
        if len(self._queued) <= MAX_QUEUED and texts <= MAX_TEXTS:
            return False
        everything = self._fold(self._queued, ticket)
        self._queued, self._same = {everything.nonces[0]: everything}, {everything.targets: everything.nonces[0]}
        return True

    def is_queued(self, ticket: Ticket) -> bool:
        """Whether the ticket waits for the shared layer already."""
        return ticket.nonces[0] in self._queued

    def is_on_its_way(self, ticket: Ticket) -> bool:
        """Whether the ticket has no number yet, and does not wait for one either: somebody has to announce it, or to queue it."""
        nonce = ticket.nonces[0]
        return nonce in self._held and nonce not in self._queued and nonce not in self._elsewhere

    def wait_for(self, ticket: Ticket, last: Stamp, now: float) -> None:
        """The ticket was announced under ``last``, of another epoch: it refuses until that is reached. Too many become one."""
        self.add(ticket, now)
        self._leave_queue(ticket.nonces[0])
        self._elsewhere[ticket.nonces[0]] = (ticket, last)
        if len(self._elsewhere) > MAX_QUEUED:
            everything = self._fold(self._elsewhere, ticket)
            self._elsewhere = {everything.nonces[0]: (everything, last)}

    def look_elsewhere(self, number_of: Callable[[Stamp], int | None], position: int) -> None:
        """The position has moved: those that it has reached refuse no more, those whose log is lost are queued."""
        for nonce, (ticket, last) in tuple(self._elsewhere.items()):
            number = number_of(last)
            if number is None:
                del self._elsewhere[nonce]
                self.queue(ticket)
            elif number <= position:
                self._drop(nonce)

    def keep_waiting(self) -> None:
        """Forget what is on its way to the log by other hands."""
        for nonce in self._held.keys() - self._queued.keys() - self._elsewhere.keys():
            self._let_go(nonce)

    def refuses(self, key: str, dependencies: Iterable[Dependency]) -> bool:
        """Whether a hard one matches."""
        return self._may_match(key, dependencies) and any(
            not targets.is_soft and matches(targets, key, dependencies) for ticket, _ in self._held.values() for targets in ticket.targets
        )

    def softened(self, key: str, dependencies: Iterable[Dependency]) -> float | None:
        """Since when a soft one matches, the first of them; ``None`` for none."""
        if not self._may_match(key, dependencies):
            return None
        since = (
            at
            for ticket, at in self._held.values()
            if any(targets.is_soft and matches(targets, key, dependencies) for targets in ticket.targets)
        )
        return min(since, default=None)

    def _fold(self, folded: Iterable[str], newest: Ticket) -> Ticket:
        at = min(self._held[nonce][1] for nonce in folded if nonce in self._held)
        everything = Ticket((EVERY_TARGET,), (newest.nonces[0] + "00",), newest.origin)
        for nonce in tuple(folded):
            self._let_go(nonce)
        self._hold(everything, at)
        return everything

    def _may_match(self, key: str, dependencies: Iterable[Dependency]) -> bool:
        """False if surely none matches. Found by a few look-ups, however many texts are named."""
        if not self._held:
            return False
        if self._wide or (KEY, key) in self._named:
            return True
        return any(kind == EVERYTHING or (kind, text) in self._named for kind, text in dependencies)

    def _hold(self, ticket: Ticket, at: float) -> None:
        self._held[ticket.nonces[0]] = (ticket, at)
        self._wide += any(targets.kind not in _NAMED for targets in ticket.targets)
        self._named.update(_names(ticket))

    def _let_go(self, nonce: str) -> tuple[Ticket, float] | None:
        held = self._held.pop(nonce, None)
        if held is not None:
            self._wide -= any(targets.kind not in _NAMED for targets in held[0].targets)
            for name in _names(held[0]):
                self._named[name] -= 1
                if not self._named[name]:
                    del self._named[name]
        return held

    def _drop(self, nonce: str) -> None:
        self._let_go(nonce)
        self._elsewhere.pop(nonce, None)
        self._leave_queue(nonce)

    def _leave_queue(self, nonce: str) -> None:
        ticket = self._queued.pop(nonce, None)
        if ticket is not None and self._same.get(ticket.targets) == nonce:
            del self._same[ticket.targets]


_NAMED: Final = (KEY, TAG)


def _names(ticket: Ticket) -> Iterator[tuple[str, str]]:
    return ((targets.kind, text) for targets in ticket.targets if targets.kind in _NAMED for text in targets.texts)


def matches(targets: Targets, key: str, dependencies: Iterable[Dependency]) -> bool:
    """Whether an invalidation concerns a key that depends on ``dependencies``."""
    if targets.kind == EVERYTHING or any(kind == EVERYTHING for kind, _ in dependencies):
        return True
    if targets.kind == TAG:
        return any(kind == TAG and text in targets.texts for kind, text in dependencies)
    keys = (key, *(text for kind, text in dependencies if kind == KEY))
    if targets.kind == KEY:
        return any(one in targets.texts for one in keys)
    if targets.kind == PREFIX:
        return any(one.startswith(targets.texts) for one in keys)
    patterns = [Pattern.parse(text) for text in targets.texts]
    return any(pattern.matches(one) for pattern in patterns for one in keys)
