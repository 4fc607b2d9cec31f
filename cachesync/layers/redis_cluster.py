"""Redis Cluster as the shared layer: each step's commands go to the nodes that serve their slots, in the order that the protocol needs.

A step's commands and the meaning of its replies are those of a single server (`redis_wire`). Here they are dealt out: what concerns the
log goes to the node of its slot, what concerns an entry or a lease to the node of that key. What came first stays first: the head of the
log is read before the entries that are judged by it, and keys are unlinked before the record is appended. Nodes are asked side by side
where the order does not matter, and one that is silent takes nothing from the others: what they have brought counts.
"""

from __future__ import annotations

import asyncio
import math
import re
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from functools import partial
from itertools import groupby, islice
from typing import Any, Final, NamedTuple, TypeVar, cast

import redis
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from cachesync.core.names import Names
from cachesync.core.redis_url import ClusterUrl, is_cluster_url, read_cluster_url
from cachesync.core.steps import (
    Done,
    Fetch,
    Fetched,
    Leased,
    Release,
    Replies,
    Reply,
    Scan,
    Scanned,
    SharedReply,
    SharedStep,
    Store,
    Together,
)
from cachesync.errors import PolicyError
from cachesync.layers.one_question import OneQuestion
from cachesync.layers.redis import MAX_CONNECTIONS, RedisShared
from cachesync.layers.redis_ear import RedisEar
from cachesync.layers.redis_line import (
    BROKEN,
    PROTOCOL,
    PUSHES,
    TROUBLE,
    Address,
    Line,
    OutOfTimeError,
    Within,
    connect,
    failed,
    reader,
    refused,
)
from cachesync.layers.redis_nodes import ClusterNode, LeftAloneError, NodeError, UnservedError, place_of
from cachesync.layers.redis_wire import Bounds, Command, WireError, commands_of, pack_all, reply_of

T = TypeVar("T")
DEFAULT_BOUNDS: Final = Bounds()
NODE_PATIENCE: Final = 0.5
"""Seconds a node may take to say how slots are dealt out."""
HEAD_START: Final = 0.05
"""Seconds after which the next node is asked beside it: a silent one may not cost a caller all of his budget."""
REFRESH_EVERY: Final = 0.1
"""Seconds between two questions of one process how slots are dealt out."""
LEAST_REST: Final = 0.5
"""And while a node is left alone."""
CLOCK_KEPT: Final = 60.0
"""Seconds after which the clock of the log's node is read again: no two clocks run alike."""
LOOK_EVERY: Final = 2.0
"""Seconds after which a process that hears the log asks again."""
PAUSE: Final = 0.01
LONGEST_PAUSE: Final = 0.04
"""Seconds to wait where a slot is between two nodes, at first and before the last try."""
SLOTS: Final = 16_384
MOST_TRIES: Final = 8
"""How often a command may be redirected."""
KEYLESS: Final = frozenset((b"TIME", b"INFO", b"ROLE", b"WAIT", b"SCAN"))
_ASKING: Final = pack_all([(b"ASKING",)])
_CLUSTER_SLOTS: Final = pack_all([(b"CLUSTER", b"SLOTS")])
_REDIRECTION: Final = re.compile(r"(MOVED|ASK) ([0-9]+) (.*):([0-9]+)")
_PASSING: Final = ("TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY")


class Slots:
    """Who serves which slot, as far as this process knows. Nodes are asked by one thread for all."""

    def __init__(self, url: ClusterUrl, is_silent: Callable[[Address], bool] = lambda _: False) -> None:
        self._seeds = url.nodes
        self._is_silent = is_silent  # such a node is asked last
        self._make, self._options = reader(redis.ConnectionPool, url.node, PROTOCOL)
        self._owners: list[Address | None] = [None] * SLOTS
        self._told: Address | None = None  # who answered last
        self._question = OneQuestion("cachesync-slots", self._find)

    def owner(self, slot: int) -> Address | None:
        return self._owners[slot]

    def masters(self) -> list[Address]:
        return sorted({owner for owner in self._owners if owner is not None})

    def learn(self, slot: int, owner: Address) -> None:
        """One slot is served by somebody else; others may be too."""
        self._owners[slot] = owner
        self.look(REFRESH_EVERY)

    def refresh(self) -> Future[None]:
        """Ask how slots are dealt out."""
        return self._question.asked()

    def look(self, seconds: float) -> None:
        """The same in the background, unless it was asked within the last ``seconds``."""
        if self._question.age >= seconds:
            self._question.asked()

    def _find(self) -> None:
        reasons: list[str] = []
        first = () if self._told is None else (self._told,)
        left = sorted(dict.fromkeys((*first, *self.masters(), *self._seeds)), key=self._is_silent)
        asked: dict[Future[Any], Address] = {}
        while left or asked:
            if left:
                address = left.pop(0)
                asked[_begin(partial(self.ask, *address))] = address
            for answer in wait(asked, HEAD_START if left else None, FIRST_COMPLETED).done:
                host, port = asked.pop(answer)
                try:
                    self._owners = _owners_of(answer.result(), host)
                except TROUBLE as error:
                    reasons.append(f"{host}:{port}: {str(error) or type(error).__name__}")
                    continue
                self._told = host, port
                return
        raise RedisConnectionError(f"no node of the cluster says how slots are dealt out: {'; '.join(reasons)}")

    def ask(self, host: str, port: int) -> Any:
        """What one node says. Raises ``OSError`` and redis-py's errors."""
        until = time.monotonic() + NODE_PATIENCE
        line = connect(lambda: self._make(**(self._options | {"host": host, "port": port})), until)
        try:
            replies = line.say(_CLUSTER_SLOTS, 1, until)
            refused(replies)
            return replies[0]
        finally:
            line.close()

    def after_fork(self) -> None:
        self._question.after_fork()


def _owners_of(told: Any, asked: str) -> list[Address | None]:
    owners: list[Address | None] = [None] * SLOTS
    try:
        for first, last, master, *_ in told:
            host = (master[0] or b"").decode("ascii").strip("?") or asked  # a node that does not know its own name
            owners[first : last + 1] = [(host, int(master[1]))] * (last + 1 - first)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise WireError(f"its answer can not be read: {error!r}") from error
    if len(owners) != SLOTS or not any(owners):
        raise WireError("it serves no slots")
    return owners


Errand = tuple[Address, bytes, int]
"""What one node is told: the commands in RESP, and how many replies they have."""
Outcome = list[Any] | BaseException
"""What came of it: the replies, or why there are none."""


def slot_of(command: Command, log_slot: int) -> int:
    """The slot that a command is for; that of the log where it has no key."""
    name = command[0]
    if name == b"EVALSHA":
        return key_slot(cast("bytes", command[3]))
    if name in KEYLESS:
        return log_slot
    return key_slot(cast("bytes", command[1]))


def stages_of(step: SharedStep, names: Names, bounds: Bounds) -> list[list[Command]]:
    """A step's commands in their order: each stage after the one before it is answered, all of a stage side by side."""
    commands = commands_of(step, names, bounds)
    log_slot: int = key_slot(names.meta)
    if isinstance(step, Fetch) and step.strict:
        commands.insert(2, commands.pop())  # who knows the head is asked for its role with it
    singles: list[Command] = []
    for command in commands:
        singles += [(b"GET", name) for name in command[1:]] if command[0] == b"MGET" else [command]
    return [list(stage) for _, stage in groupby(singles, key=lambda command: slot_of(command, log_slot) == log_slot)]


class _Clock(NamedTuple):
    """What the clock of the log's node said: milliseconds, when it was asked (seconds, monotonic clock), and which node that was."""

    read: int
    asked: float
    owner: Address | None


class ClusterShared:
    """A Redis Cluster, shared by all processes of a namespace.

    ``url`` is ``redis+cluster://user:password@host:port,host:port?options``: some nodes by which the others are found. Raises
    ``PolicyError`` for a url that can not be read.
    """

    splits: Final = True
    """The head of the log costs a read a trip of its own."""

    def __init__(self, url: str, *, namespace: str, max_connections: int = MAX_CONNECTIONS, bounds: Bounds = DEFAULT_BOUNDS) -> None:
        try:
            self._url = read_cluster_url(url)
        except ValueError as error:
            raise PolicyError(f"redis.url: {error}") from None
        self.names = Names.of(namespace)
        self.bounds = bounds
        self.slots = Slots(self._url, self._is_silent)
        self._namespace = namespace
        self._most = max_connections
        self._nodes: dict[Address, ClusterNode] = {}
        self._lock = threading.Lock()
        self._log_slot: int = key_slot(self.names.meta)
        self._clock: _Clock | None = None
        self.sync = _Threads(self)
        self._loop_layer = _Loops(self)
        self._make_ear, self._ear_options = reader(redis.ConnectionPool, self._url.node, PUSHES)
        self._make, self._options = reader(redis.ConnectionPool, self._url.node, PROTOCOL)

    def node(self, address: Address) -> ClusterNode:
        node = self._nodes.get(address)
        if node is None:
            with self._lock:
                made = ClusterNode(
                    self._url.node.replace(self._url.place, place_of(address)),
                    namespace=self._namespace,
                    max_connections=self._most,
                    bounds=self.bounds,
                    ask=partial(self.slots.ask, *address),
                    patience=NODE_PATIENCE,
                )
                node = self._nodes.setdefault(address, made)
        return node

    def unasked(self, address: Address, left: float) -> BaseException | None:
        """Why a node is not asked now, ``None`` where it is. ``left`` are the seconds there are for it."""
        if left <= 0:
            return OutOfTimeError()
        node = self.node(address)
        if address == self.log_owner() or not node.is_left_alone():
            return None
        self.slots.look(LEAST_REST)  # another node may have taken over
        return LeftAloneError(node.trouble)

    def answered(self, address: Address, outcome: Outcome) -> Outcome:
        """Note what came of asking a node."""
        node = self.node(address)
        if isinstance(outcome, BaseException):
            if address != self.log_owner():
                node.failed(outcome)
        elif node.breaker.is_open:
            node.breaker.answered()
        return outcome

    def silent(self) -> dict[str, str]:
        """The nodes that are left alone now, with what they have failed with. Where a rest is over, that begins the trying."""
        if not any(node.breaker.is_open for node in list(self._nodes.values())):
            return {}
        serving = set(self.slots.masters()) - {self.log_owner()}
        return {
            place_of(address): node.trouble for address, node in list(self._nodes.items()) if address in serving and node.is_left_alone()
        }

    def _clock_now(self) -> tuple[int, int] | None:
        """What the node of the log would answer to ``TIME``, or a little more; ``None`` where it has to be asked.

        The nodes' clocks may differ, and ages are counted by this one.
        """
        clock = self._clock
        if clock is None or clock.owner != self.log_owner():
            return None
        passed = time.monotonic() - clock.asked
        milliseconds = clock.read + math.ceil(passed * 1000)
        return None if passed > CLOCK_KEPT else (milliseconds // 1000, milliseconds % 1000 * 1000)

    def _is_silent(self, address: Address) -> bool:
        node = self._nodes.get(address)
        return node is not None and node.breaker.is_open

    def of_loop(self) -> _Loops:
        return self._loop_layer

    def ear(self) -> RedisEar:
        return ClusterEar(self.names, lambda deadline: self._connect(self._make_ear, self._ear_options, deadline), self)

    def line(self, deadline: float) -> Line:
        """A connection to the node of the log."""
        return self._connect(self._make, self._options, deadline)

    def _connect(self, make: Callable[..., Any], options: dict[str, Any], deadline: float) -> Line:
        self.slots.refresh().result(max(0.0, deadline - time.monotonic()))  # rare, and after trouble
        owner = self.log_owner()
        if owner is None:
            raise RedisConnectionError("no node serves the slot of the log")
        return connect(lambda: make(**(options | {"host": owner[0], "port": owner[1]})), deadline)

    def log_owner(self) -> Address | None:
        return self.slots.owner(self._log_slot)

    # what an ear asks of its route

    @property
    def follows(self) -> bool:
        return True

    def is_over(self, address: Address, replies: Sequence[Any] = ()) -> bool:
        owner = self.log_owner()
        return owner is not None and address != owner

    def look(self) -> None:
        self.slots.look(LOOK_EVERY)

    def close(self) -> None:
        for node in list(self._nodes.values()):
            node.close()

    async def aclose(self) -> None:
        for node in list(self._nodes.values()):
            await node.aclose()

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self.slots.after_fork()
        for node in list(self._nodes.values()):
            node.after_fork()

    # --- a step, in both colours ----------------------------------------------------------------------------------------------------

    def carry_out(self, step: SharedStep) -> Generator[Any, Any, SharedReply]:
        """Yields errands to run side by side, and is sent what each has brought; or a future, or seconds, to wait for, which may fail."""
        if isinstance(step, Scan):
            return (yield from self._scan(step))
        if isinstance(step, Together):
            return Replies(tuple((yield from self._side_by_side(step.steps))))
        if self.log_owner() is None:
            yield self.slots.refresh()
        clock = self._clock_now() if isinstance(step, Fetch) and step.stands is not None and step.keys and not step.strict else None
        if clock is not None and isinstance(step, Fetch) and step.stands is not None:
            found = yield from self._stage([(b"GET", self.names.entry(key)) for key in step.keys], keeps=True)
            refused(found)
            head = step.stands.epoch.encode("ascii"), step.stands.number
            return reply_of(step, [clock, head, _read(found)], self.names)
        replies: list[Any] = []
        asked = time.monotonic()
        for stage in stages_of(step, self.names, self.bounds):
            replies += yield from self._stage(stage, keeps=isinstance(step, Fetch))
        refused(replies)
        if isinstance(step, Fetch):
            role = [replies.pop(2)] if step.strict else []
            replies = [*replies[:2], *([_read(replies[2:])] if step.keys else []), *role]
        reply = reply_of(step, replies, self.names)
        if isinstance(reply, Fetched | Leased):
            self._clock = _Clock(reply.now, asked, self.log_owner())
        if isinstance(step, Store | Release) and cast("Done", reply).done:
            with suppress(*TROUBLE):  # who waits looks again by itself
                yield from self._stage([(b"PUBLISH", self.names.lease(step.key), b"")])
        return reply

    def _side_by_side(self, steps: Sequence[SharedStep]) -> Generator[Any, Any, list[Reply]]:
        """Several steps, each as it would be alone. What they ask one node at the same time is one trip, and each fails alone.

        Whoever has to wait for something else than a node does it when all others have come so far, and all of these wait at once.
        """
        flows = [self.carry_out(step) for step in steps]
        replies: dict[int, Reply] = {}
        asked: dict[int, Any] = {}

        def advance(i: int, sent: Any, trouble: BaseException | None = None) -> None:
            try:
                asked[i] = flows[i].send(sent) if trouble is None else flows[i].throw(trouble)
            except StopIteration as end:
                replies[i] = end.value
            except TROUBLE as error:
                replies[i] = failed(steps[i], error)

        for i in range(len(steps)):
            advance(i, None)
        while asked:
            errands: dict[int, list[Errand]] = {i: one for i, one in asked.items() if isinstance(one, list)}
            if not errands:
                waits, asked = asked, {}
                troubles = yield from _wait_for(set(waits.values()))
                for i, one in waits.items():
                    advance(i, None, troubles.get(one))
                continue
            asked = {i: one for i, one in asked.items() if i not in errands}
            trips: dict[Address, list[Errand]] = {}
            for one in errands.values():
                for errand in one:
                    trips.setdefault(errand[0], []).append(errand)
            merged = [(owner, b"".join(part[1] for part in parts), sum(part[2] for part in parts)) for owner, parts in trips.items()]
            brought = {owner: found for (owner, _, _), found in zip(merged, (yield merged), strict=True)}
            told = {owner: found if isinstance(found, BaseException) else iter(found) for owner, found in brought.items()}
            for i, one in errands.items():
                advance(i, [_part(told[owner], count) for owner, _, count in one])
        return [replies[i] for i in range(len(steps))]

    def _stage(self, commands: Sequence[Command], *, keeps: bool = False) -> Generator[Any, Any, list[Any]]:
        stage = _Stage(commands, self.slots, self._log_slot, keeps=keeps)
        while stage.left:
            found: list[Outcome] = yield stage.errands()
            refreshes, pause = stage.take(found)
            if refreshes:
                yield self.slots.refresh()
            if pause:
                yield pause
        return stage.replies

    def _scan(self, step: Scan) -> Generator[Any, Any, SharedReply]:
        """The cursor says which master, and where in it."""
        yield self.slots.refresh()
        masters = self.slots.masters()
        at, cursor = step.cursor >> 64, step.cursor & (2**64 - 1)
        if at >= len(masters):
            return Scanned((), 0)
        commands = commands_of(step._replace(cursor=cursor), self.names, self.bounds)
        [found] = yield [(masters[at], pack_all(commands), len(commands))]
        if isinstance(found, BaseException):
            raise found if masters[at] == self.log_owner() else NodeError(masters[at], found)
        refused(found)
        scanned = cast("Scanned", reply_of(step, found, self.names))
        if scanned.cursor:
            return scanned._replace(cursor=at << 64 | scanned.cursor)
        return scanned._replace(cursor=(at + 1) << 64 if at + 1 < len(masters) else 0)


def _read(replies: Sequence[Any]) -> list[Any]:
    """Entries, ``None`` where a node did not bring them: then nothing is known of them. Raises `NodeError` where none was brought."""
    unread = [reply for reply in replies if isinstance(reply, NodeError)]
    if unread and len(unread) == len(replies):
        raise unread[0]
    return [None if isinstance(reply, NodeError) else reply for reply in replies] if unread else list(replies)


def _wait_for(waits: set[Any]) -> Generator[Any, Any, dict[Any, BaseException]]:
    """Wait for futures and pauses, all at once. Returns what went wrong, for each of them."""
    pauses = {one for one in waits if isinstance(one, float)}
    troubles: dict[Any, BaseException] = {}
    for future in waits - pauses:
        try:
            yield future
        except TROUBLE as error:
            troubles[future] = error
    if pauses:
        try:
            yield max(pauses)
        except TROUBLE as error:
            troubles |= dict.fromkeys(pauses, error)
    return troubles


def _part(told: Iterator[Any] | BaseException, count: int) -> Outcome:
    """What one errand of a trip has brought."""
    return told if isinstance(told, BaseException) else list(islice(told, count))


class _Stage:
    """Commands that are said side by side, and again to whomever they are redirected to.

    ``keeps``: where a node fails that is not the log's, a `NodeError` stands in for each of its replies, and the others count.
    """

    def __init__(self, commands: Sequence[Command], slots: Slots, log_slot: int, *, keeps: bool = False) -> None:
        self._commands = commands
        self._keeps = keeps
        self._slots = slots
        self._of = [slot_of(command, log_slot) for command in commands]
        self._log_slot = log_slot
        self._elsewhere: dict[int, Address] = {}  # commands, by their places, that are to be asked for there, this once
        self._groups: dict[Address, list[int]] = {}
        self._pause = PAUSE
        self._tries = 0
        self._is_broken = False
        self.replies: list[Any] = [None] * len(commands)
        self.left = list(range(len(commands)))

    def errands(self) -> list[Errand]:
        """What is to be said to whom."""
        self._groups = {}
        for at in self.left:
            owner = self._elsewhere.get(at) or self._slots.owner(self._of[at])
            if owner is None:
                raise UnservedError(None if self._of[at] == self._log_slot else "")
            self._groups.setdefault(owner, []).append(at)
        return [self._errand(owner, places) for owner, places in self._groups.items()]

    def _errand(self, owner: Address, places: Sequence[int]) -> Errand:
        asked = self._elsewhere
        packed = b"".join((_ASKING if at in asked else b"") + pack_all([self._commands[at]]) for at in places)
        return owner, packed, len(places) + sum(at in asked for at in places)

    def take(self, found: Sequence[Outcome]) -> tuple[bool, float]:
        """Take in what came, and note what is left to be said. Returns whether to refresh the slots, and seconds to wait, before that."""
        again: set[int] = set()
        passing: set[int] = set()
        elsewhere: dict[int, Address] = {}
        refreshes, was_broken = False, self._is_broken
        for (owner, places), outcome in zip(self._groups.items(), found, strict=True):
            if isinstance(outcome, BaseException):
                if not was_broken and isinstance(outcome, BROKEN):
                    again.update(places)
                    self._is_broken = refreshes = True
                    continue
                trouble = self._trouble(owner, outcome)
                for at in places:
                    self.replies[at] = trouble
                continue
            brought = iter(outcome)
            for at in places:
                if at in self._elsewhere:
                    next(brought)  # what ASKING is answered by
                reply = self.replies[at] = next(brought)
                text = str(reply) if reply.__class__ is ResponseError else ""
                if redirected := _REDIRECTION.fullmatch(text):
                    to = redirected[3] or owner[0], int(redirected[4])
                    again.add(at)
                    if redirected[1] == "ASK":
                        elsewhere[at] = to
                    else:
                        self._slots.learn(int(redirected[2]), to)
                elif text.startswith(_PASSING):
                    passing.add(at)
                    refreshes = refreshes or not text.startswith("TRYAGAIN")
                elif at not in self._elsewhere and self._slots.owner(self._of[at]) != owner:
                    again.add(at)  # a master that was may have answered: it is not believed
        self._tries += 1
        pause = 0.0
        if passing and self._pause <= LONGEST_PAUSE:  # then it is a refusal: a slot may be between two nodes for long
            pause, self._pause = self._pause, 2 * self._pause
            again |= passing
        if self._tries > MOST_TRIES:
            again = set()
        self._follow(again, elsewhere)
        self.left, self._elsewhere = sorted(again), elsewhere
        return refreshes, pause

    def _trouble(self, owner: Address, outcome: BaseException) -> NodeError:
        """A node has failed. Raises its error where the rest is of no use then."""
        if not isinstance(outcome, LeftAloneError | OutOfTimeError):
            self._slots.look(REFRESH_EVERY)
        if owner == self._slots.owner(self._log_slot) and not isinstance(outcome, OutOfTimeError):
            raise outcome
        trouble = NodeError(owner, outcome)
        trouble.__cause__ = outcome
        if not self._keeps:
            raise trouble
        return trouble

    def _follow(self, again: set[int], elsewhere: dict[int, Address]) -> None:
        """Commands without a key are about the server that was asked with them: said again, they go along with those about the log."""
        of_log = [at for at in again if self._of[at] == self._log_slot]
        if not of_log:
            return
        for at, command in enumerate(self._commands):
            if command[0] in KEYLESS:
                again.add(at)
                if of_log[0] in elsewhere:
                    elsewhere[at] = elsewhere[of_log[0]]


class ClusterEar(RedisEar):
    """Hears the log, on the node of its slot, and what is published to all nodes: the ends of leases, whose slots are anywhere."""

    def _is_of_shard(self, channel: bytes) -> bool:
        return channel == self._names.log


class _Threads:
    """The layer for ``def``."""

    def __init__(self, cluster: ClusterShared) -> None:
        self._cluster = cluster

    def perform(self, step: SharedStep, /) -> Reply:
        deadline: float = getattr(step, "deadline", float("inf"))
        carrying = self._cluster.carry_out(step)
        try:
            asked = next(carrying)
            while True:
                try:
                    sent = self._do(asked, deadline)
                except TROUBLE as error:
                    asked = carrying.throw(error)
                else:
                    asked = carrying.send(sent)
        except StopIteration as end:
            return cast("Reply", end.value)
        except TROUBLE as error:
            return failed(step, error)

    def _do(self, asked: Any, deadline: float) -> Any:
        if isinstance(asked, list):
            return self._run_all(cast("list[Errand]", asked), deadline)
        left = deadline - time.monotonic()
        if left <= 0:
            raise OutOfTimeError
        if isinstance(asked, Future):
            return cast("Future[None]", asked).result(min(left, threading.TIMEOUT_MAX))
        time.sleep(min(asked, left))
        return None

    def _run_all(self, errands: list[Errand], deadline: float) -> list[Outcome]:
        """Side by side: all but one in threads of their own, so that a silent node costs the others no time."""
        others = [_begin(partial(self._run, errand, deadline)) for errand in errands[1:]]
        return [self._run(errands[0], deadline), *(other.result() for other in others)]

    def _run(self, errand: Errand, deadline: float) -> Outcome:
        address, packed, count = errand
        cluster = self._cluster
        unasked = cluster.unasked(address, deadline - time.monotonic())
        if unasked is not None:
            return unasked
        try:
            return cluster.answered(address, cluster.node(address).exchange(packed, count, deadline))
        except TROUBLE as error:
            return cluster.answered(address, error)


def _begin(run: Callable[[], T]) -> Future[T]:
    """Run something in a thread; where none can be started, here and now."""
    ended: Future[T] = Future()

    def running() -> None:
        try:
            ended.set_result(run())
        except BaseException as error:  # handed to the thread that waits
            ended.set_exception(error)

    try:
        threading.Thread(target=running, name="cachesync-errand", daemon=True).start()
    except RuntimeError:  # the system has no room for another one
        running()
    return ended


class _Loops:
    """The layer for ``async def``."""

    def __init__(self, cluster: ClusterShared) -> None:
        self._cluster = cluster

    async def perform(self, step: SharedStep, /) -> Reply:
        deadline: float = getattr(step, "deadline", float("inf"))
        carrying = self._cluster.carry_out(step)
        try:
            asked = next(carrying)
            while True:
                try:
                    sent = await self._do(asked, deadline)
                except TROUBLE as error:
                    asked = carrying.throw(error)
                else:
                    asked = carrying.send(sent)
        except StopIteration as end:
            return cast("Reply", end.value)
        except TROUBLE as error:
            return failed(step, error)

    async def _do(self, asked: Any, deadline: float) -> Any:
        if isinstance(asked, list):
            errands = cast("list[Errand]", asked)
            if len(errands) == 1:
                return [await self._run(errands[0], deadline)]
            return await asyncio.gather(*(self._run(errand, deadline) for errand in errands))
        left = deadline - time.monotonic()
        if left <= 0:
            raise OutOfTimeError
        if isinstance(asked, float):
            await asyncio.sleep(min(asked, left))
            return None
        async with asyncio.timeout(_seconds(left)):
            return await asyncio.wrap_future(cast("Future[None]", asked))

    async def _run(self, errand: Errand, deadline: float) -> Outcome:
        address, packed, count = errand
        cluster, left = self._cluster, deadline - time.monotonic()
        unasked = cluster.unasked(address, left)
        if unasked is not None:
            return unasked
        try:
            async with Within(deadline):
                return cluster.answered(address, await cluster.node(address).aexchange(packed, count))
        except TROUBLE as error:
            return cluster.answered(address, error)


def _seconds(left: float) -> float | None:
    """What to give asyncio as a timeout."""
    return None if left == float("inf") else left


def redis_layer(url: str, *, namespace: str, bounds: Bounds = DEFAULT_BOUNDS) -> RedisShared | ClusterShared:
    """The layer that a URL means. Raises ``PolicyError``."""
    kind = ClusterShared if is_cluster_url(url) else RedisShared
    return kind(url, namespace=namespace, bounds=bounds)
