"""Steps and replies: what a flow asks of the world, and what it is told.

A flow never acts. It yields a step and is sent a reply. A failure is a reply too (`Failed`): throwing it into the generator would
turn a user's ``StopIteration`` into a ``RuntimeError``. Steps for a shared layer carry one ``deadline`` (seconds, monotonic
clock): all steps of one call share it.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from cachesync.core.auditing import Question
from cachesync.core.bans import Floors
from cachesync.core.entry import NO_DEPENDENCIES, Dependency
from cachesync.core.records import Record, Targets
from cachesync.core.stamps import Lineage, Stamp
from cachesync.core.switches import Thrown

if TYPE_CHECKING:
    from cachesync.core.envelope import Header
    from cachesync.core.flows import Ask

NO_DEADLINE: Final = float("inf")
NEVER: Final = float("-inf")


class Failed(NamedTuple):
    """Any step may be answered by this: what was tried did not happen, or nobody knows whether it did.

    ``seconds`` is for what takes time in this process. ``of_several`` is for `Calls`: the call was for several keys, and nobody knows
    which of them it failed for. ``of_function``: a cancellation that comes from the user's function, and from nobody who cancels it.
    """

    error: BaseException
    seconds: float = 0.0
    of_several: bool = False
    of_function: bool = False


# --- what a shared layer is asked -------------------------------------------------------------------------------------------------


class Fetch(NamedTuple):
    """Read entries by key. Answered by `Fetched`.

    ``strict``: the answer has to come from the master, because it confirms the log's head; any other server is a failure. ``stands``:
    how far whoever asks has applied the log, of which it hears. A layer that would need another trip for the head may answer with that.
    """

    keys: tuple[str, ...]
    deadline: float = NO_DEADLINE
    strict: bool = False
    stands: Stamp | None = None


class Fetched(NamedTuple):
    """The stored bytes in the order asked, ``None`` for what is not there; the log's head and the clock, in the same trip.

    ``head`` is ``None`` when no log has begun. ``now`` is milliseconds of the layer's clock, or a little more.
    """

    blobs: tuple[bytes | None, ...]
    head: Stamp | None
    now: int


class Lease(NamedTuple):
    """Ask for the right to compute ``key``. Answered by `Leased`.

    The layer looks for the entry again, in the same script: ``dead`` is the identity of an entry that was met and refused
    (``None`` for none), any other entry is returned in place of a lease. ``stamp`` is the position of whoever asks; it is kept with
    the lease. ``over`` is what another one's lease holds, to take it over if it is still the same.
    """

    key: str
    token: str
    stamp: Stamp
    milliseconds: int
    dead: bytes | None
    over: Holder | None = None
    deadline: float = NO_DEADLINE


RESTING: Final = "!"
"""The token of nobody: the key is left alone for a while, because its computation failed."""


class Holder(NamedTuple):
    """Who holds a lease, and the position at which it was asked for. ``why`` is what a computation failed with that is left alone, and
    ``since`` when it did: milliseconds of the layer's clock.
    """

    token: str
    stamp: Stamp
    why: str = ""
    since: int = 0

    def __str__(self) -> str:
        """As it is written in a layer."""
        held = f"{self.token} {self.stamp}"
        return f"{held} {self.since} {self.why}" if self.token == RESTING else held


class Leased(NamedTuple):
    """``granted``; or ``blob``, an entry that came meanwhile; or ``holder``, who computes (``None`` where that can not be read)."""

    granted: bool
    blob: bytes | None
    head: Stamp | None
    now: int
    holder: Holder | None = None


class Seize(NamedTuple):
    """Take the lease of ``key`` from whoever holds it; ``unlink`` the entry too. Answered by `Leased`, granted."""

    key: str
    token: str
    stamp: Stamp
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
    """Give a lease back, if it is still one's own. Answered by `Done`.

    ``rest`` is what to leave in its place for ``milliseconds``, so that nobody computes meanwhile; ``ask`` as in `Store`.
    """

    key: str
    token: str
    deadline: float = NO_DEADLINE
    rest: Holder | None = None
    milliseconds: int = 0
    ask: Ask | None = None


class Store(NamedTuple):
    """Fill ``key`` and end the lease, only while the lease is one's own and no higher stamp of the epoch stands there.

    Answered by `Done`: ``done`` is false when the lease was lost, which means that an invalidation came first. ``ask`` is the question
    under whose policy the bytes were made: it is not sent where a reload has replaced that. It means nothing to a layer.
    """

    key: str
    token: str
    blob: bytes
    milliseconds: int
    deadline: float = NO_DEADLINE
    ask: Ask | None = None


class Done(NamedTuple):
    """Whether what was asked has happened."""

    done: bool


class Announce(NamedTuple):
    """Append records to the log, after unlinking entry and lease of every key in ``unlink``. Answered by `Announced`.

    That order matters: appended first, a lease holder could fill between the two (the model shows the interleaving). ``again``: the
    records were acknowledged once by a server that is gone; each is appended unless somebody else has brought it again already.
    """

    targets: tuple[Targets, ...]
    nonces: tuple[str, ...]
    origin: str
    unlink: tuple[str, ...]
    again: bool = False
    deadline: float = NO_DEADLINE


class Announced(NamedTuple):
    """The position of the last record; the records of one call have consecutive numbers, unless they were announced again.

    ``replicas`` have confirmed them (``None``: nobody waited for that). ``unsaid`` of them could not be published: they are in the log,
    and are found there.
    """

    last: Stamp
    replicas: int | None = None
    unsaid: int = 0


class ReadLog(NamedTuple):
    """Read what follows ``after``. Answered by `Log`."""

    after: Stamp
    deadline: float = NO_DEADLINE


class Log(NamedTuple):
    """The records after a position, in order. ``gap`` says that they do not continue it: the epoch changed, or some are gone."""

    records: tuple[Record, ...]
    head: Stamp | None
    gap: bool


class Confirm(NamedTuple):
    """Ask the master where the log ends. Answered by `Beat`."""

    deadline: float = NO_DEADLINE


class Beat(NamedTuple):
    """Where the log ends. ``nonce`` is that of its last record. ``head`` is ``None`` where there is no log.

    ``is_master`` is false for a server that only follows another, and ``is_same`` for one that did not number the records it holds.
    ``asked`` is when the question was sent: seconds, monotonic clock, filled in by whoever sent it. ``thrown`` is what is switched for all
    processes, ``None`` where the layer knows no switches.
    """

    head: Stamp | None
    nonce: str
    is_master: bool
    is_same: bool
    asked: float = NEVER
    thrown: Thrown | None = None


class Hear(NamedTuple):
    """Wait for what is published, up to ``seconds``. With ``beat``, ask where the log ends. Answered by `Heard`.

    ``patience``: seconds after which a question without an answer means that the connection is of no use.
    """

    seconds: float
    beat: bool
    patience: float


class Heard(NamedTuple):
    """What came, in the order in which the server sent it. `Torn` stands for a message that can not be read."""

    items: tuple[Record | Torn | Beat | Woken | Question | Thrown, ...]


class Torn(NamedTuple):
    """A message that can not be read: something was published, and nobody knows what."""


class Woken(NamedTuple):
    """The lease of a key has ended, or its subscription has begun."""

    key: str


class Snapshot(NamedTuple):
    """Read where the log ends, beginning one where there is none. Answered by `Joined`. For a process that starts anew."""

    deadline: float = NO_DEADLINE


class Joined(NamedTuple):
    """Where a process joins the log. ``asked`` and ``thrown`` as in `Beat`."""

    head: Stamp
    nonce: str
    lineage: Lineage
    asked: float = NEVER
    thrown: Thrown | None = None


class ReadBans(NamedTuple):
    """Read ``most`` bans, from the number ``since`` on, in the order of their numbers. Answered by `Bans`."""

    since: int
    most: int
    deadline: float = NO_DEADLINE


class Bans(NamedTuple):
    """A page of bans with their numbers, then the floors: ``hard``, and ``soft`` for what may still be served stale.

    ``epoch`` is that of the log at the time. ``more`` says that there are bans above.
    """

    found: tuple[tuple[Targets, int], ...]
    more: bool
    epoch: str | None
    hard: Floors
    soft: int


class Scan(NamedTuple):
    """Read the names of about ``most`` entries, in the layer's own order from ``cursor`` on. Answered by `Scanned`."""

    cursor: int
    most: int
    deadline: float = NO_DEADLINE


class Scanned(NamedTuple):
    """Names of entries with their keys (``None`` for a key that its name does not tell), and where to go on: 0 after the last."""

    found: tuple[tuple[bytes, str | None], ...]
    cursor: int


class Heads(NamedTuple):
    """Read the beginnings of entries by name, as much as holds their headers. Answered by `Fetched`."""

    names: tuple[bytes, ...]
    deadline: float = NO_DEADLINE


class Discard(NamedTuple):
    """Delete entries that are still those that were read: names and their identities. Answered by `Discarded`."""

    entries: tuple[tuple[bytes, bytes], ...]
    deadline: float = NO_DEADLINE


class Discarded(NamedTuple):
    """How many entries were deleted."""

    entries: int


class Inquire(NamedTuple):
    """Ask every process a question of the auditor. Answered by `Done`."""

    question: Question
    deadline: float = NO_DEADLINE


class Testify(NamedTuple):
    """Answer a question: ``number`` is the lowest stamp that this process would serve. Answered by `Done`."""

    question: Question
    origin: str
    number: int
    deadline: float = NO_DEADLINE


class Collect(NamedTuple):
    """Take the answers to a question away. Answered by `Testimony`."""

    question: Question
    deadline: float = NO_DEADLINE


class Testimony(NamedTuple):
    """Who would serve what is too old: origins and numbers."""

    answers: tuple[tuple[str, int], ...]


class Throw(NamedTuple):
    """Switch for all processes, and tell them. Answered by `Thrown`: what is switched now.

    ``changes`` are targets and values. Instead, ``again`` is what was switched once and the layer may have lost: it counts unless something
    newer stands there.
    """

    changes: tuple[tuple[str, str], ...] = ()
    again: Thrown | None = None
    deadline: float = NO_DEADLINE


class Together(NamedTuple):
    """Several questions at once, in as few trips as can be. Answered by `Replies`, one for each, or `Failed` where none was answered.

    They are independent: one that fails or is refused says nothing about the others, and a layer may ask them in any order. It splits
    them as it has to, as by the slots of a cluster.
    """

    steps: tuple[SharedStep, ...]
    deadline: float = NO_DEADLINE


class Replies(NamedTuple):
    """The replies to the steps of a `Together`, in their order."""

    replies: tuple[SharedReply | Failed, ...]


SharedStep: TypeAlias = (
    Fetch
    | Lease
    | Seize
    | Extend
    | Release
    | Store
    | Announce
    | ReadLog
    | Confirm
    | Snapshot
    | ReadBans
    | Scan
    | Heads
    | Discard
    | Inquire
    | Testify
    | Collect
    | Throw
    | Together
)
SharedReply: TypeAlias = (
    Fetched | Leased | Done | Announced | Log | Beat | Joined | Bans | Scanned | Discarded | Testimony | Thrown | Replies
)
Reply: TypeAlias = SharedReply | Failed


# --- what the engine is asked, in this process ------------------------------------------------------------------------------------


class Admit(NamedTuple):
    """Judge stored bytes and hold them here if they are fresh, in one piece against the log. Answered by `Called`, or `Refused`."""

    ask: Ask
    blob: bytes
    head: Stamp | None
    now: int


class Refused(NamedTuple):
    """Nothing that may be served. ``behind``: judge again after catching up. ``dead`` names an entry that was met and refused, which took
    ``seconds``.
    """

    behind: bool = False
    dead: bytes | None = None
    seconds: float = 0.0


class Position(NamedTuple):
    """Ask how far this process has applied the log. Answered by `Stands`."""


class Stands(NamedTuple):
    """The position, ``None`` before this process has joined. ``is_heard`` says whether the log was heard within ``max_lag``."""

    stamp: Stamp | None
    is_heard: bool


class Apply(NamedTuple):
    """Apply records of the log to this process. Answered by `Done`, false when they do not continue its position."""

    log: Log


class Rejoin(NamedTuple):
    """Take over a position and the bans from the number ``since`` on. In another epoch what was held before is dead.

    Answered by `Done`, false where all bans are needed.
    """

    joined: Joined
    bans: tuple[Bans, ...]
    since: int


class Obey(NamedTuple):
    """All processes were told what is switched. Answered by `Done`, false for what is older than what is known here."""

    thrown: Thrown


class Reaches(NamedTuple):
    """Ask whether this process has applied the log up to a stamp. Answered by `Done`.

    It has not for a stamp that is pending, or of an epoch that is not known here.
    """

    stamp: Stamp


class Contact(NamedTuple):
    """The log was heard: compare where it ends with this process's position. Answered by `Done`, false where they differ."""

    beat: Beat


class Wake(NamedTuple):
    """Whoever waits for the lease of ``key`` may look again. Answered by `Done`."""

    key: str


class Begin(NamedTuple):
    """A computation is about to begin: note the position it is stamped with. Answered by `Begun`.

    ``now`` is milliseconds of the shared layer's clock, 0 where none was heard. ``by_ttl``: no position counts for it.
    """

    now: int
    by_ttl: bool = False


class Begun(NamedTuple):
    """``stamp`` is ``None`` in a process that never joined; ``made`` is seconds, monotonic clock; ``now`` as in `Begin`."""

    stamp: Stamp | None
    made: float
    now: int


class Call(NamedTuple):
    """Run the user's function, or take ``given[0]`` for its result. Answered by `Called`, or `Failed` with what it raised.

    ``found`` is what a given value was made of, as far as that is known; it means nothing to the flows.
    """

    ask: Ask
    given: tuple[Any] | None = None
    found: Any = None


class Called(NamedTuple):
    """A result; the seconds it took, to compute or to judge and decode; how long it is fresh, in seconds (``None``: it may not be stored).

    One that was cached has its ``stamp``, when it was ``made`` and until when it is fresh (seconds, monotonic clock).
    ``dependencies`` is all that it depends on besides its key. ``is_stale``: it is served although it is not fresh any more, until it
    ``ends``. ``is_due``: it is fresh, and to be refreshed before its time (``early_refresh``). ``is_shared``: it was computed
    under a lease, and the shared layer has answered to the end: it has the value, or has said that it must not be stored.
    """

    value: Any
    seconds: float = 0.0
    fresh: float | None = None
    stamp: Stamp | None = None
    made: float = 0.0
    until: float = NO_DEADLINE
    dependencies: tuple[Dependency, ...] = NO_DEPENDENCIES
    is_stale: bool = False
    ends: float = NO_DEADLINE
    is_due: bool = False
    is_shared: bool = False


class Rest(NamedTuple):
    """A computation that began at ``begun`` has failed: it is left alone for as long as its policy says. Answered by `Done`."""

    ask: Ask
    begun: Begun
    failed: Failed


class Rests(NamedTuple):
    """Ask whether a computation is left alone. Answered by `Failed`, with what it failed with, or ``None``."""

    ask: Ask


class Encode(NamedTuple):
    """Make the bytes of a value. Answered by `Encoded`, or `Failed` with a ``CodecError``.

    ``given`` says that a caller of ``set`` is told of it; otherwise it is an event.
    """

    ask: Ask
    value: Any
    given: bool = False


class Encoded(NamedTuple):
    """The bytes of a value: compressed as ``flags`` say, ``digest`` of them before that. ``seconds`` is how long it took."""

    payload: bytes
    flags: int
    digest: bytes
    seconds: float = 0.0


class Encrypt(NamedTuple):
    """Make the bytes to store of a payload that its policy wants encrypted. Answered by `Encrypted`, or `Failed`."""

    ask: Ask
    header: Header
    payload: bytes


class Encrypted(NamedTuple):
    """The bytes to store. ``seconds`` is how long it took."""

    blob: bytes
    seconds: float = 0.0


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
    computations: its budget begins anew. ``patience`` is how long to wait, seconds (``None``: to the end). After that the answer is
    `Overdue`, and the computation goes on. ``early``: a fresh value is refreshed before its time, if no other process does that.
    ``anew``: a local copy is not good enough. ``alone``: nobody else joins it, and nothing is stored.
    """

    ask: Ask
    shared: bool
    dead: bytes | None
    late: bool = False
    patience: float | None = None
    early: bool = False
    anew: bool = False
    alone: bool = False


class Calls(NamedTuple):
    """Run a function of many arguments once, for several keys. Answered by a tuple of what answers a `Call`, in their order."""

    calls: tuple[Call, ...]


class Joins(NamedTuple):
    """`Join` for several keys of one batch. Answered by a tuple of what answers a `Join`, in their order.

    What nobody computes yet is led by this one, all of it at once. What others compute is waited for when that is done.
    """

    joins: tuple[Join, ...]


class Awaits(NamedTuple):
    """Wait until the first of several leases ends. Answered by a tuple of `Waited`, in their order: ``None`` for what goes on waiting."""

    awaits: tuple[Await, ...]


class Overdue(NamedTuple):
    """A computation takes longer than somebody would wait for it."""


class Spare(NamedTuple):
    """Ask for an old value that may stand in for a computation. Answered by `Called`, stale, or ``None``.

    ``reason`` says why it is needed (empty: it is only looked for).
    """

    ask: Ask
    reason: str = ""


class Each(NamedTuple):
    """Run several flows: one after the other in ``def``, side by side in ``async def``. Answered by a tuple of their results."""

    flows: tuple[Generator[Any, Any, Any], ...]


class Await(NamedTuple):
    """Wait for the lease of ``key`` to end, and look again after ``seconds`` at the latest. Answered by `Waited`.

    ``token`` is who waits.
    """

    key: str
    token: str
    seconds: float


class Examine(NamedTuple):
    """Find what this process would serve of what a question is about. Answered by a `Testify` to be said, or ``None``."""

    question: Question


class Sift(NamedTuple):
    """Find the dead among entries. Answered by `Sifted`. Each has a name, its key where that is known, and the beginning of its bytes."""

    entries: tuple[tuple[bytes, str | None, bytes], ...]


class Sifted(NamedTuple):
    """Names and identities of the dead, and how many entries could not be judged."""

    dead: tuple[tuple[bytes, bytes], ...]
    unjudged: int


class Outdated(NamedTuple):
    """Whether what is computed under another one's lease is known to be refused: its position is before an invalidation that matches.

    Answered by `Done`. ``rests``: nothing is computed, and a soft invalidation ends that too.
    """

    ask: Ask
    stamp: Stamp
    rests: bool = False


class Waited(NamedTuple):
    """The waiting is over: seconds, monotonic clock. ``alone``: what is waited for may wait for us, so go on without it."""

    now: float
    alone: bool = False


class Pend(NamedTuple):
    """Apply an invalidation to this process at once, before it has a number. Answered by a `Ticket`."""

    targets: tuple[Targets, ...]


class Ticket(NamedTuple):
    """An invalidation that holds in this process: what is announced, and under which nonces and origin.

    Without a shared layer it has its numbers at once: ``last`` is the last of them. ``again`` as in `Announce`.
    """

    targets: tuple[Targets, ...]
    nonces: tuple[str, ...]
    origin: str
    last: Stamp | None = None
    again: bool = False


class Settle(NamedTuple):
    """A pending invalidation got its numbers (``Announced``), is queued (`Failed`), or needs none from outside (``None``).

    Answered by a `Stamp`.
    """

    ticket: Ticket
    reply: Announced | Failed | None


LogStep: TypeAlias = Hear | Position | Apply | Rejoin | Obey | Reaches | Contact | Wake | Examine | Sift
LocalStep: TypeAlias = (
    Admit
    | Outdated
    | Spare
    | Begin
    | Call
    | Calls
    | Rest
    | Rests
    | Encode
    | Encrypt
    | Keep
    | Join
    | Joins
    | Each
    | Await
    | Awaits
    | Pend
    | Settle
)
Step: TypeAlias = SharedStep | LogStep | LocalStep
Flow: TypeAlias = Generator[Step, Any, Any]
"""Whatever is asked step by step."""
