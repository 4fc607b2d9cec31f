"""What a delivered record costs Redis: microseconds of its processor time, with 1, 8 and 64 subscribers.

Pub/sub beside the alternative, ``XREAD BLOCK`` in every process. The subscribers are bare sockets in one process, so what they do with a
record costs nothing here; the records are ours, appended by the commands that an invalidation by tag sends. One record is under way
at a time: the next is appended when everybody has the last one, so that nobody gets two for the price of one. What the same record
costs without subscribers is subtracted: that is the price of the log, not of its delivery. A question is the heartbeat that each
process sends now and then.

"16 at once" appends sixteen records in one turn of the server's event loop. The publishing is paid for each of them, the writing to a
subscriber's socket once for all; the difference tells the two apart, and `benchmarks.scale` reckons with both.

Run it: ``python -m benchmarks.delivery``.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import count
from typing import Any, Final

import redis

from benchmarks.alone import options_of, show
from benchmarks.counting import observer, processor_seconds
from benchmarks.server import Server, valkey
from cachesync.core.names import Names
from cachesync.core.records import TAG, Targets
from cachesync.core.steps import Announce
from cachesync.layers.redis_wire import Bounds, Command, commands_of, confirm, pack_all
from cachesync.layers.scripts import APPEND

SUBSCRIBERS: Final = (1, 8, 64)
RECORDS: Final = 480
TURNS: Final = 4
AT_ONCE: Final = 16
WORKERS: Final = 32
"""Of one host: so many does a relay write to."""
PUBSUB: Final = "pub/sub"
XREAD: Final = "XREAD BLOCK"
KINDS: Final = {PUBSUB: (PUBSUB, 1), f"{PUBSUB}, {AT_ONCE} at once": (PUBSUB, AT_ONCE), XREAD: (XREAD, 1)}

NAMES: Final = Names.of("delivery")
MARK: Final = "marked"


class Subscriber:
    """A bare socket that is told of records."""

    def __init__(self, port: int, *, by_xread: bool) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._last = 0
        self._asks = by_xread
        if by_xread:
            self._ask()
        else:
            self._socket.sendall(pack_all([(b"SSUBSCRIBE", NAMES.log)]))
            self._socket.recv(1_000)

    def hear(self, records: int) -> None:
        """Return when so many records more have come."""
        wanted = self._last + records
        while self._last < wanted:
            came = self._socket.recv(1 << 20)
            if not came:
                raise ConnectionError("the server has closed a subscriber's connection")
            records_in_it = came.count(MARK.encode())
            self._last += records_in_it
            if self._asks and records_in_it:
                self._ask()

    def _ask(self) -> None:
        after = b"%d-0" % self._last
        self._socket.sendall(pack_all([(b"XREAD", b"COUNT", 1_000, b"BLOCK", 0, b"STREAMS", NAMES.log, after)]))

    def close(self) -> None:
        self._socket.close()


def announcement(number: int) -> list[Command]:
    """The commands of an invalidation by a tag that nobody has used before."""
    step = Announce((Targets(TAG, (f"{MARK}:{number}",)),), (f"{number:016x}",), "0123456789ab", ())
    return commands_of(step, NAMES, Bounds())


def per_record(server: Server, kind: str, subscribers: int, records: int, at_once: int) -> float:
    """Seconds of the server's processor for one record, its append included."""
    with ExitStack() as stack:
        client = stack.enter_context(observer(server.port))
        client.flushall()
        client.script_load(APPEND.text.decode())
        ears = [Subscriber(server.port, by_xread=kind == XREAD) for _ in range(subscribers)]
        for ear in ears:
            stack.callback(ear.close)
        numbers = count(1)

        def turn() -> None:
            with client.pipeline(transaction=False) as pipe:
                for command in (command for _ in range(at_once) for command in announcement(next(numbers))):
                    pipe.execute_command(*command)
                pipe.execute()
            for ear in ears:
                ear.hear(at_once)

        return _processor_time(client, turn, max(1, records // at_once)) / at_once


def _processor_time(client: redis.Redis, turn: Callable[[], object], turns: int) -> float:
    """Seconds of the server's processor for one turn, after a few that warm it up."""
    for _ in range(max(1, turns // 10)):
        turn()
    before = processor_seconds(client)
    for _ in range(turns):
        turn()
    return (processor_seconds(client) - before) / turns


def per_question(server: Server, questions: int) -> float:
    """Seconds of the server's processor for one question where the log ends: a heartbeat."""
    with observer(server.port) as client:

        def turn() -> None:
            with client.pipeline(transaction=False) as pipe:
                for command in confirm(NAMES):
                    pipe.execute_command(*command)
                pipe.execute()

        return _processor_time(client, turn, questions)


def per_relayed(records: int) -> float:
    """Seconds of a relay's own processor for handing one record to one of the workers of its host, over a local socket."""
    with ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(WORKERS)]
        for here, there in pairs:
            stack.enter_context(here)
            stack.enter_context(there)
        spent, message = 0.0, b"x" * 250
        for _ in range(records):
            begun = time.process_time()
            for here, _ in pairs:
                here.sendall(message)
            spent += time.process_time() - begun
            for _, there in pairs:
                there.recv(1_000)
        return spent / records / WORKERS


def run(*, quick: bool = False, subscribers: Sequence[int] = (), records: int = 0) -> dict[str, Any]:
    """``{"unit", "rows": {"64 subscribers": {kind: {"record", "delivered"}}}, "costs", "server", "missing"}``, microseconds.

    ``costs`` are what `benchmarks.scale` reckons with, from the largest number of subscribers: ``append``, ``publish`` (each record and
    subscriber), ``write`` (each subscriber and turn of the event loop), ``xread`` (each record and reader), ``question``, ``relay``.
    """
    subscribers = subscribers or ((1, 4) if quick else SUBSCRIBERS)
    records = records or (64 if quick else RECORDS)
    turns = 1 if quick else TURNS
    least: dict[tuple[int, str], float] = {}
    question = float("inf")
    with valkey() as server:
        for _ in range(turns):  # A B C, A B C: a machine that slows down slows down all of them
            for many in (0, *subscribers):
                for name, (kind, at_once) in KINDS.items():
                    spent = per_record(server, kind, many, records, at_once) * 1e6
                    least[many, name] = min(spent, least.get((many, name), spent))
            question = min(question, per_question(server, records) * 1e6)
        version = server.version
    alone = {name: least[0, name] for name in KINDS}
    rows = {
        f"{many} subscriber{'s' * (many > 1)}": {
            name: {"record": least[many, name], "delivered": (least[many, name] - alone[name]) / many} for name in KINDS
        }
        for many in subscribers
    }
    relay = min(per_relayed(max(1, records // WORKERS)) for _ in range(turns)) * 1e6
    costs = costs_of(alone, rows[next(reversed(rows))]) | {"question": question, "relay": relay}
    return {"unit": "us", "rows": rows, "alone": alone, "costs": costs, "server": version, "missing": []}


def costs_of(alone: dict[str, float], row: dict[str, dict[str, float]]) -> dict[str, float]:
    """What delivering is made of: one record alone pays publish + write, each of sixteen pays publish + write / 16."""
    one, many = row[PUBSUB]["delivered"], row[f"{PUBSUB}, {AT_ONCE} at once"]["delivered"]
    write = max(0.0, (one - many) * AT_ONCE / (AT_ONCE - 1))
    return {"append": alone[PUBSUB], "publish": max(0.0, one - write), "write": write, "xread": row[XREAD]["delivered"]}


def main(arguments: list[str] | None = None) -> None:
    """Measure it alone."""
    parser = options_of("delivery", __doc__)
    parser.add_argument("--subscribers", type=int, nargs="+", default=[], help=f"how many (default: {' '.join(map(str, SUBSCRIBERS))})")
    parser.add_argument("--records", type=int, default=0, help=f"of each turn (default: {RECORDS})")
    options = parser.parse_args(arguments)
    show("delivery", options, lambda: run(quick=options.quick, subscribers=options.subscribers, records=options.records))


if __name__ == "__main__":
    main()
