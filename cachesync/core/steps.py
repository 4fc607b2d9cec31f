"""Steps and replies: what a flow asks of the world, and what it is told.

A flow never acts. It yields a step and is sent a reply. A failure is a reply too (`Failed`): throwing it into the generator would
turn a user's ``StopIteration`` into a ``RuntimeError``. Steps for a shared layer carry one ``deadline`` (seconds, monotonic
clock): all steps of one call share it.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from cachesync.core.records import Record, Targets
from cachesync.core.stamps import Stamp

if TYPE_CHECKING:
    from cachesync.core.flows import Ask

NO_DEADLINE: Final = float("inf")
NEVER: Final = float("-inf")


class Failed(NamedTuple):
    """Any step may be answered by this: what was tried did not happen, or nobody knows whether it did. ``seconds`` is for `Call`."""

    error: BaseException
    seconds: float = 0.0


# --- what a shared layer is asked -------------------------------------------------------------------------------------------------


class Fetch(NamedTuple):
    """Read entries by key. Answered by `Fetched`."""

    keys: tuple[str, ...]
    deadline: float = NO_DEADLINE


class Fetched(NamedTuple):
    """The stored bytes in the order asked, ``None`` for what is not there; the log's head and the clock, in the same trip.

    ``head`` is ``None`` when no log has begun. ``now`` is milliseconds of the layer's clock.
    """

    blobs: tuple[bytes | None, ...]
    head: Stamp | None
    now: int


class Lease(NamedTuple):
    """Ask for the right to compute ``key``. Answered by `Leased`.

    The layer looks for the entry again, in the same script: ``dead`` is the identity of an entry that was met and refused
    (``None`` for none), any other entry is returned in place of a lease.
    """

    key: str
    token: str
    milliseconds: int
    dead: bytes | None
    deadline: float = NO_DEADLINE


class Leased(NamedTuple):
    """``granted``; or ``blob``, an entry that came meanwhile; or neither: somebody else computes."""

    granted: bool
    blob: bytes | None
    head: Stamp | None
    now: int


class Seize(NamedTuple):
    """Take the lease of ``key`` from whoever holds it; ``unlink`` the entry too. Answered by `Leased`, granted."""

    key: str
    token: str
    milliseconds: int
    unlink: bool
    deadline: float = NO_DEADLINE


class Extend(NamedTuple):
    """Keep a lease alive while its holder computes. Compares the token and never makes a lease anew. Answered by `Done`."""

    key: str
    token: str
    milliseconds: int
    deadline: float = NO_DEADLINE


class Release(NamedTuple):
    """Give a lease back, if it is still one's own. Answered by `Done`."""

    key: str
    token: str
    deadline: float = NO_DEADLINE


class Store(NamedTuple):
    """Fill ``key`` and end the lease, only while the lease is one's own and no higher stamp of the epoch stands there.

    Answered by `Done`: ``done`` is false when the lease was lost, which means that an invalidation came first.
    """

    key: str
    token: str
    blob: bytes
    milliseconds: int
    deadline: float = NO_DEADLINE


class Done(NamedTuple):
    """Whether what was asked has happened."""

    done: bool


class Announce(NamedTuple):
    """Append records to the log, after unlinking entry and lease of every key in ``unlink``. Answered by `Announced`.

    That order matters: appended first, a lease holder could fill between the two (the model shows the interleaving).
    """

    targets: tuple[Targets, ...]
    nonces: tuple[str, ...]
    origin: str
    unlink: tuple[str, ...]
    deadline: float = NO_DEADLINE


class Announced(NamedTuple):
    """The position of the last record; the records of one call have consecutive numbers."""

    last: Stamp


class ReadLog(NamedTuple):
    """Read what follows ``after``, waiting up to ``block`` seconds for the first record. Answered by `Log`."""

    after: Stamp
    block: float = 0.0
    deadline: float = NO_DEADLINE


class Log(NamedTuple):
    """The records after a position, in order. ``gap`` says that they do not continue it: the epoch changed, or some are gone."""

    records: tuple[Record, ...]
    head: Stamp | None
    gap: bool
    asked: float = NEVER
    """When the question was sent: seconds, monotonic clock. Filled in by whoever sent it."""


class Snapshot(NamedTuple):
    """Read position, floor and bans, beginning a log where there is none. Answered by `Joined`. For a process that starts anew."""

    deadline: float = NO_DEADLINE


class Joined(NamedTuple):
    """Where a process joins the log: position, floor, and bans with their numbers."""

    head: Stamp
    floor: int
    bans: tuple[tuple[Targets, int], ...]
    asked: float = NEVER
    """As in `Log`."""


SharedStep: TypeAlias = Fetch | Lease | Seize | Extend | Release | Store | Announce | ReadLog | Snapshot
SharedReply: TypeAlias = Fetched | Leased | Done | Announced | Log | Joined
Reply: TypeAlias = SharedReply | Failed


# --- what the engine is asked, in this process ------------------------------------------------------------------------------------


class Admit(NamedTuple):
    """Judge stored bytes and hold them here if they are fresh, in one piece against the log. Answered by `Called`, or `Refused`."""

    ask: Ask
    blob: bytes
    head: Stamp | None
    now: int


class Refused(NamedTuple):
    """Nothing that may be served. ``behind``: judge again after catching up. ``dead`` names an entry that was met and refused."""

    behind: bool = False
    dead: bytes | None = None


class Position(NamedTuple):
    """Ask how far this process has applied the log. Answered by a `Stamp`, or ``None`` before it has joined."""


class Apply(NamedTuple):
    """Apply records of the log to this process. Answered by `Done`, false when they do not continue its position."""

    log: Log


class Rejoin(NamedTuple):
    """Take over a position and its bans. In another epoch what was held before is dead. Answered by `Done`."""

    joined: Joined


class Begin(NamedTuple):
    """A computation is about to begin: note the position it is stamped with. Answered by `Begun`.

    ``now`` is milliseconds of the shared layer's clock, 0 where none was heard.
    """

    now: int


class Begun(NamedTuple):
    """``stamp`` is ``None`` in a process that never joined; ``made`` is seconds, monotonic clock; ``now`` as in `Begin`."""

    stamp: Stamp | None
    made: float
    now: int


class Call(NamedTuple):
    """Run the user's function, or take ``given[0]`` for its result. Answered by `Called`, or `Failed` with what it raised."""

    ask: Ask
    given: tuple[Any] | None = None


class Called(NamedTuple):
    """A result; the seconds it took; how long it is fresh, in seconds (``None``: it may not be stored).

    One that was cached has its ``stamp`` and when it was ``made`` (seconds, monotonic clock).
    """

    value: Any
    seconds: float = 0.0
    fresh: float | None = None
    stamp: Stamp | None = None
    made: float = 0.0


class Encode(NamedTuple):
    """Make the bytes of a value. Answered by `Encoded`, or `Failed` with a ``CodecError``.

    ``given`` says that a caller of ``set`` is told of it; otherwise it is an event.
    """

    ask: Ask
    value: Any
    given: bool = False


class Encoded(NamedTuple):
    """The bytes of a value: compressed as ``flags`` say, ``digest`` of them before that."""

    payload: bytes
    flags: int
    digest: bytes


class Keep(NamedTuple):
    """Hold a computed value here, unless an invalidation matched meanwhile; atomic against applying the log. Answered by `Done`.

    ``own`` is the number of the record that announced the value itself, 0 for none.
    """

    ask: Ask
    called: Called
    begun: Begun
    own: int = 0


class Join(NamedTuple):
    """Compute once in this process: run the fill, or wait for whoever runs it already. Answered by `Called` or `Failed`.

    ``late`` says that time has passed since the question was asked that was not spent on the shared layer, but on other
    computations: its budget begins anew.
    """

    ask: Ask
    shared: bool
    dead: bytes | None
    late: bool = False


class Each(NamedTuple):
    """Run several flows: one after the other in ``def``, side by side in ``async def``. Answered by a tuple of their results."""

    flows: tuple[Generator[Any, Any, Any], ...]


class Later(NamedTuple):
    """Wait. Answered by `Waited`."""

    seconds: float


class Waited(NamedTuple):
    """The waiting is over: seconds, monotonic clock."""

    now: float


class Pend(NamedTuple):
    """Apply an invalidation to this process at once, before it has a number. Answered by a `Ticket`."""

    targets: tuple[Targets, ...]


class Ticket(NamedTuple):
    """An invalidation that holds in this process: what is announced, and under which nonces and origin.

    Without a shared layer it has its numbers at once: ``last`` is the last of them.
    """

    targets: tuple[Targets, ...]
    nonces: tuple[str, ...]
    origin: str
    last: Stamp | None = None


class Settle(NamedTuple):
    """A pending invalidation got its numbers (``Announced``), is queued (`Failed`), or needs none from outside (``None``).

    Answered by a `Stamp`.
    """

    ticket: Ticket
    reply: Announced | Failed | None


Step: TypeAlias = SharedStep | Admit | Position | Apply | Rejoin | Begin | Call | Encode | Keep | Join | Each | Later | Pend | Settle
Flow: TypeAlias = Generator[Step, Any, Any]
