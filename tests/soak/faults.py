"""What is done to workers, their lines and their server, at random and by the seed.

A fault is a generator: it does harm, yields for how many seconds, and heals. Each has its targets, and a target has one fault at a
time; faults of different targets overlap.
"""

from __future__ import annotations

import heapq
import itertools
import random
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

import redis

from cachesync.core.names import Names
from soak.application import NAMESPACE
from soak.crew import Member
from soak.history import Failover, Happened
from soak.world import WHOLES
from support.proxy import Proxy
from support.servers import Server

Kind = Literal["worker", "line", "server"]
Harm = Generator[float, None, None]
REPLICATES: Final = ("--repl-diskless-sync-delay", "0")
AHEAD: Final = 5
"""So many faults wait until what they harm is free."""
NAMES: Final = Names.of(NAMESPACE)


class Said(NamedTuple):
    """What had been replicated, in bytes, at a moment."""

    at: float
    offset: int


@dataclass(slots=True)
class Stage:
    """What faults act on. ``lines[i]`` is the proxy of ``crew[i]``; ``max_lag`` is seconds.

    ``heirs`` are the servers that were started to take over; whoever made the stage stops them.
    """

    server: Server
    lines: list[Proxy]
    crew: list[Member]
    draw: random.Random
    max_lag: float
    heirs: list[Server] = field(default_factory=list[Server])
    failovers: list[Failover] = field(default_factory=list[Failover])

    def client(self) -> redis.Redis:
        return self.server.client(socket_timeout=5.0, socket_connect_timeout=5.0)

    def said(self) -> Said:
        """How much the server has told its replicas."""
        at = time.monotonic()
        return Said(at, int(dict(self.client().info("replication"))["master_repl_offset"]))

    def end(self) -> None:
        """Stop the heirs."""
        for heir in self.heirs:
            heir.stop()

    def moment(self) -> float:
        """Shorter or longer than ``max_lag``, seconds."""
        return self.draw.choice((0.2, 0.6, 1.5, 4.0)) * self.max_lag * self.draw.uniform(0.8, 1.2)


# --- workers ----------------------------------------------------------------------------------------------------------------------


def freeze(stage: Stage, place: int) -> Harm:
    """SIGSTOP: it wakes up with what it held."""
    stage.crew[place].freeze()
    yield stage.moment() + stage.max_lag * stage.draw.choice((0.0, 1.5))
    stage.crew[place].thaw()


def kill(stage: Stage, place: int) -> Harm:
    """SIGKILL, and another process that knows nothing takes its place."""
    stage.crew[place].kill()
    yield stage.draw.choice((0.0, 0.5))
    stage.crew[place].start()


# --- lines ------------------------------------------------------------------------------------------------------------------------


def cut(stage: Stage, place: int) -> Harm:
    stage.lines[place].cut()
    yield 0.0


def refuse(stage: Stage, place: int) -> Harm:
    stage.lines[place].refuse()
    yield stage.moment()
    stage.lines[place].admit()


def hole(stage: Stage, place: int) -> Harm:
    """Nothing passes, and nobody says so."""
    stage.lines[place].hold()
    yield stage.moment()
    if stage.draw.random() < 0.5:
        stage.lines[place].cut()  # what was held back is lost
    stage.lines[place].release()


def half_hole(stage: Stage, place: int) -> Harm:
    """Requests arrive, their answers do not."""
    stage.lines[place].hold(replies=True)
    yield stage.moment()
    if stage.draw.random() < 0.5:
        stage.lines[place].cut()
    stage.lines[place].release()


def delay(stage: Stage, place: int) -> Harm:
    stage.lines[place].delay(stage.draw.uniform(0.005, 0.06))
    yield stage.moment() + 1.0
    stage.lines[place].delay(0.0)


# --- the server -------------------------------------------------------------------------------------------------------------------


def client_kill(stage: Stage, _: int) -> Harm:
    for kind in ("normal", "pubsub"):
        stage.client().client_kill_filter(_type=kind)
    yield 0.0


def script_flush(stage: Stage, _: int) -> Harm:
    stage.client().script_flush()
    yield 0.0


def flushall(stage: Stage, place: int) -> Harm:
    return _behind(stage, place, lambda client: client.flushall())


def remove_meta(stage: Stage, place: int) -> Harm:
    return _behind(stage, place, lambda client: client.unlink(NAMES.meta))


def remove_log(stage: Stage, place: int) -> Harm:
    return _behind(stage, place, lambda client: client.unlink(NAMES.log))


def remove_bans(stage: Stage, place: int) -> Harm:
    return _behind(stage, place, lambda client: client.unlink(NAMES.bans))


def remove_entries(stage: Stage, place: int) -> Harm:
    chosen = stage.draw.sample(WHOLES, 6)
    return _behind(stage, place, lambda client: client.unlink(*(NAMES.entry(thing.text) for thing in chosen)))


def remove_leases(stage: Stage, place: int) -> Harm:
    return _behind(stage, place, lambda client: client.unlink(*(NAMES.lease(thing.text) for thing in WHOLES)))


def _behind(stage: Stage, place: int, remove: Callable[[redis.Redis], object]) -> Harm:
    """Remove something: while one worker hears nothing, and before it hears again; or before its heir starts; or in the sight of all."""
    line, member = stage.lines[place], stage.crew[place]
    how = stage.draw.choice(("unheard", "unborn", "in sight"))
    if how == "unheard":
        line.hold()
        yield stage.moment()
    elif how == "unborn":
        member.kill()
    remove(stage.client())
    if how == "unheard":
        line.release()
    elif how == "unborn":
        member.start()
    else:
        yield 0.0


def freeze_server(stage: Stage, _: int) -> Harm:
    stage.server.freeze()
    yield stage.moment()
    stage.server.thaw()


def restart_server(stage: Stage, _: int) -> Harm:
    """Killed, and back without data."""
    stage.server.kill()
    (stage.server.folder / "dump.rdb").unlink(missing_ok=True)  # one that was a replica has written what it was given
    yield stage.draw.choice((0.0, 0.3, 1.5))
    stage.server.start()


def fail_over(stage: Stage, _: int) -> Harm:
    """A replica takes over that lacks what was acknowledged since its link was cut."""
    primary, heir = stage.server, Server(stage.server.flavour, options=REPLICATES).start()
    stage.heirs.append(heir)
    with Proxy("127.0.0.1", primary.port) as link, closing(heir.client()) as client:
        client.replicaof("127.0.0.1", link.port)
        while not _has(client, said := stage.said()):
            yield 0.02
        cut_off = said.at
        link.refuse()  # stopping the heir would lose nothing: what waits in its socket is still delivered
        yield stage.moment()
        primary.kill()
        client.replicaof("NO", "ONE")
        client.config_set("port", primary.port)
    heir.port = primary.port
    stage.server = heir
    stage.failovers.append(Failover(cut_off=cut_off, ended=time.monotonic()))


def _has(heir: redis.Redis, said: Said) -> bool:
    """Whether the replica is linked, and has heard what the primary had said."""
    told: dict[str, Any] = dict(heir.info("replication"))
    return bool(told["master_link_status"] == "up" and told["slave_repl_offset"] >= said.offset)


@dataclass(frozen=True, slots=True)
class Fault:
    """A row in the table of faults. ``kinds`` are what it harms: nothing else happens to them meanwhile. ``unless`` it is this server."""

    kinds: tuple[Kind, ...]
    harm: Callable[[Stage, int], Harm]
    weight: float = 1.0
    unless: str = ""

    @property
    def name(self) -> str:
        return self.harm.__name__.replace("_", " ")


ALL: Final[tuple[Kind, ...]] = ("server", "line", "worker")
FAULTS: Final = (
    Fault(("worker",), freeze, 6),
    Fault(("worker",), kill, 2),
    Fault(("line",), cut, 3),
    Fault(("line",), refuse, 2),
    Fault(("line",), hole, 3),
    Fault(("line",), half_hole, 2),
    Fault(("line",), delay, 2),
    Fault(("server",), client_kill, 2),
    Fault(("server",), script_flush),
    Fault(ALL, flushall),
    Fault(ALL, remove_meta),
    Fault(ALL, remove_log),
    Fault(ALL, remove_bans),
    Fault(ALL, remove_entries),
    Fault(ALL, remove_leases),
    Fault(("server",), freeze_server, 1.5),
    Fault(("server",), restart_server, 1.5),
    Fault(("server",), fail_over, 1.5, unless="redis6"),  # it can not change its port
)


class Misfortune:
    """Faults, one after the other and some at once. ``every`` is how many seconds lie between the beginnings of two, on average."""

    def __init__(self, stage: Stage, *, every: float, only: frozenset[str] = frozenset()) -> None:
        self.stage = stage
        self._every = every
        self._faults = [fault for fault in FAULTS if (not only or fault.name in only) and fault.unless != stage.server.flavour]
        self._healing: list[tuple[float, int, Harm, Happened]] = []
        self._turns = itertools.count()
        self._busy: frozenset[str] = frozenset()
        self._next = time.monotonic() + every
        self._waiting: list[Fault] = []
        self.happened: list[Happened] = []

    def turn(self) -> None:
        """Heal what is due, and begin another fault when it is time and its targets are free."""
        self._heal(time.monotonic())
        if time.monotonic() >= self._next and self._faults and len(self._waiting) < AHEAD:
            self._next = time.monotonic() + self.stage.draw.expovariate(1 / self._every)
            self._waiting += self.stage.draw.choices(self._faults, weights=[fault.weight for fault in self._faults])
        self._waiting = [fault for fault in self._waiting if not self._begins(fault)]

    def _begins(self, fault: Fault) -> bool:
        for place in self.stage.draw.sample(range(len(self.stage.crew)), len(self.stage.crew)):
            targets = frozenset(kind if kind == "server" else f"{kind} {place}" for kind in fault.kinds)
            if not targets & self._busy:
                told = Happened(what=fault.name, targets=targets, began=time.monotonic(), ended=float("inf"))
                self.happened.append(told)
                self._busy |= targets
                self._go_on(fault.harm(self.stage, place), told)
                return True
        return False

    def _go_on(self, harm: Harm, told: Happened) -> None:
        """From one moment of a fault to its next, or to its end."""
        seconds = next(harm, None)
        if seconds is None:
            told.ended = time.monotonic()
            self._busy -= told.targets
        else:
            heapq.heappush(self._healing, (time.monotonic() + seconds, next(self._turns), harm, told))

    def end(self) -> None:
        """Heal everything."""
        self._heal(float("inf"))

    def _heal(self, until: float) -> None:
        while self._healing and self._healing[0][0] <= until:
            _, _, harm, told = heapq.heappop(self._healing)
            self._go_on(harm, told)
