"""From a call of ``invalidate()`` in one process to the moment another process refuses its local copy: milliseconds.

One process invalidates; 1 or 8 others hold a local copy of every key, so each invalidation is one that they have to hear of. They are
idle, or a thread in each of them computes in Python without a pause, as a busy worker does, and the log's reader has to wait for the
interpreter. Linux gives all processes of a machine the same monotonic clock, so the times of two of them can be compared.

A worker does not poll: polling eight times over would be most of the work on a small machine, and in a busy interpreter the poller would
wait for its turn like the reader. Instead it notes the time at which its ledger begins a new generation (`Ledger.turn`): from that moment
every hit finds another mark than its own, is judged, and is refused. That costs one clock read and one append for each record. Before
and after a run each worker reads all keys: before, all must be local hits, and after, none may have its old value.

"bare pub/sub" is what nobody can be faster than: a thread in the same kind of process that is blocked on a socket of its own, and a
``PUBLISH`` of a text as long as a record.

Run it: ``python -m benchmarks.propagation``.
"""

from __future__ import annotations

import json
import random
import socket
import statistics
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest.mock import patch

from benchmarks.alone import command_of, options_of, show
from benchmarks.counting import observer
from benchmarks.measure import OURS
from benchmarks.processes import PATIENCE, Process
from benchmarks.server import Server, valkey
from benchmarks.spread import spread
from cachesync import Cache, Policy
from cachesync.core.ledger import Ledger
from cachesync.core.settings import CoordinationSettings, Settings

PROCESSES: Final = (1, 8)
ROUNDS: Final = 400
QUICK_ROUNDS: Final = 20
PAUSES: Final = {"idle": (0.003, 0.007), "busy": (0.02, 0.06)}
"""Seconds between two invalidations, drawn anew each time so that they do not march in step with anybody's timer."""
NAMESPACE: Final = "propagation"
BARE: Final = "bare pub/sub"
CONTESTANTS: Final = (OURS, BARE)
TEXT: Final = "x" * 200

Noted = list[tuple[int, float]]
"""Numbers of records, rising, and when each was applied, or its call began: seconds, monotonic clock."""


PATIENT: Final = CoordinationSettings(budget=PATIENCE)
"""Eight busy processes on few cores let each other wait; that is no failure of Redis."""


def cached_items(url: str, namespace: str, coordination: CoordinationSettings | None = None) -> tuple[Cache, Any, list[int]]:
    """A cache, a cached function of a number, and the list whose only element it returns."""
    version = [1]
    settings = Settings(coordination=coordination or CoordinationSettings())
    cache = Cache(settings, policies=[Policy(name="items", match="items:*", ttl="1h")], redis=url, namespace=namespace)

    @cache.cached("items:{number}")
    def item(number: int) -> int:
        return version[0]

    return cache, item, version


# --- in a worker ----------------------------------------------------------------------------------------------------------------------


@contextmanager
def noting(noted: Noted) -> Generator[None]:
    """Note position and time whenever a ledger of this process begins a new generation."""
    turn = Ledger.turn

    def turn_and_note(ledger: Ledger) -> None:
        turn(ledger)
        position = ledger.position
        noted.append((0 if position is None else position.number, time.monotonic()))

    with patch.object(Ledger, "turn", turn_and_note):  # the one place that every applied record comes through
        yield


def _compute(stop: threading.Event) -> None:
    """What a busy worker does: Python, without a pause."""
    while not stop.is_set():
        sum(number * number for number in range(10_000))


def work(contestant: str, port: int, keys: int, *, busy: bool) -> None:
    """Take orders from the standard input, one a line, until it ends; answer each with a line of JSON.

    A number: read all keys, computing that number where nothing is cached; answers how many of the calls were local hits, and the values
    that were found. ``begin``: from now on be busy, if that is wanted. ``times``: what was noted.
    """
    noted: Noted = []
    stop = threading.Event()
    with ExitStack() as stack:
        stack.callback(stop.set)
        listen = _listen if contestant == OURS else _listen_barely
        read = listen(stack, noted, port, keys)
        computing = threading.Thread(target=_compute, args=(stop,), daemon=True)
        for line in sys.stdin:
            what, answer = line.strip(), None
            if what == "begin" and busy:
                computing.start()
            elif what == "times":
                answer = noted
            elif what.isdigit():
                answer = read(int(what))
            print(json.dumps(answer), flush=True)


def _listen(stack: ExitStack, noted: Noted, port: int, keys: int) -> Callable[[int], Any]:
    stack.enter_context(noting(noted))
    cache, item, version = cached_items(f"redis://127.0.0.1:{port}/0", NAMESPACE, PATIENT)
    stack.callback(cache.close)

    def read(wanted: int) -> Any:
        version[0] = wanted
        before = cache.stats().total.local_hits
        values = sorted({item(number) for number in range(keys)})
        return cache.stats().total.local_hits - before, values

    return read


def _listen_barely(stack: ExitStack, noted: Noted, port: int, keys: int) -> Callable[[int], Any]:
    line = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
    line.sendall(b"SUBSCRIBE %b\r\n" % NAMESPACE.encode())
    line.recv(1_000)  # subscribed

    def hear() -> None:
        while heard := line.recv(100_000).count(TEXT.encode()):
            noted.append(((noted[-1][0] if noted else 0) + heard, time.monotonic()))

    threading.Thread(target=hear, daemon=True).start()
    stack.callback(line.shutdown, socket.SHUT_RDWR)
    return lambda wanted: (keys, [wanted])


# --- in the process that invalidates --------------------------------------------------------------------------------------------------


def measure(server: Server, contestant: str, *, processes: int, state: str, rounds: int) -> dict[str, float]:
    """The spread of ``rounds`` invalidations over so many processes; ``issued`` is the median time in which the call returned.

    Raises ``RuntimeError`` where a copy was not held, or survived.
    """
    pauses = random.Random(processes)
    with ExitStack() as stack:
        workers = [stack.enter_context(Process(_command(contestant, server.port, rounds, state))) for _ in range(processes)]
        _ask(workers, "1")
        for hits, _ in _ask(workers, "1"):
            if hits != rounds:
                raise RuntimeError(f"only {hits} of {rounds} keys were held locally: there was nothing to refuse")
        _ask(workers, "begin")
        announce = (_invalidating if contestant == OURS else _publishing)(stack, server)
        called: Noted = []
        issued: list[float] = []
        for number in range(rounds):
            time.sleep(pauses.uniform(*PAUSES[state]))
            begun = time.monotonic()
            called.append((announce(number), begun))
            issued.append((time.monotonic() - begun) * 1000)
        times = _settled(workers, called[-1][0])
        for _, values in _ask(workers, "2"):
            if values != [2]:
                raise RuntimeError(f"a copy survived its invalidation: {values}")
    return spread(delays(called, times)) | {"issued": statistics.median(issued)}


def _command(contestant: str, port: int, keys: int, state: str) -> list[str]:
    return command_of("benchmarks.propagation", "--work", contestant, str(port), str(keys), state)


def _invalidating(stack: ExitStack, server: Server) -> Callable[[int], int]:
    cache, item, _ = cached_items(server.url, NAMESPACE, PATIENT)
    stack.callback(cache.close)
    item(0)  # this process has joined the log
    return lambda number: cache.invalidate(f"items:{number}").number


def _publishing(stack: ExitStack, server: Server) -> Callable[[int], int]:
    client = stack.enter_context(observer(server.port))

    def publish(number: int) -> int:
        client.publish(NAMESPACE, TEXT)
        return number + 1

    return publish


def _ask(workers: Sequence[Process], what: str) -> list[Any]:
    """What each of them answers. They set to work at once."""
    for worker in workers:
        worker.order(what)
    return [worker.answer() for worker in workers]


def _settled(workers: Sequence[Process], last: int) -> list[Noted]:
    """What each worker has noted, once it has applied the ``last`` record."""
    deadline = time.monotonic() + PATIENCE
    times: list[Noted] = []
    for worker in workers:
        noted: Noted = []
        while not noted or noted[-1][0] < last:
            if time.monotonic() > deadline:
                raise RuntimeError("a worker has not heard of an invalidation")
            worker.order("times")
            noted = [(number, at) for number, at in worker.answer()]
            time.sleep(0.01)
        times.append(noted)
    return times


def delays(called: Noted, times: Sequence[Noted]) -> list[float]:
    """Milliseconds between each call and the first moment at which each worker had applied its record."""
    found: list[float] = []
    for noted in times:
        numbers = [number for number, _ in noted]
        found += [(noted[bisect_left(numbers, number)][1] - begun) * 1000 for number, begun in called]
    return found


def run(
    *, quick: bool = False, processes: Sequence[int] = PROCESSES, states: Sequence[str] = tuple(PAUSES), rounds: int = 0
) -> dict[str, Any]:
    """``{"unit", "rows": {"8 processes, idle": {contestant: {"p50", "p99", "max", "count", "issued"}}}, ...}``, milliseconds."""
    rows: dict[str, dict[str, dict[str, float]]] = {}
    version = ""
    for state in states:
        for count in processes:
            row = rows.setdefault(f"{count} process{'es' * (count > 1)}, {state}", {})
            for contestant in CONTESTANTS:
                with valkey() as server:
                    each = rounds or (QUICK_ROUNDS if quick else ROUNDS)
                    row[contestant] = measure(server, contestant, processes=count, state=state, rounds=each)
                    version = server.version
    return {"unit": "ms", "rows": rows, "server": version, "missing": []}


def main(arguments: list[str] | None = None) -> None:
    """Measure, or be a worker."""
    parser = options_of("propagation", __doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=list(PROCESSES), help="how many hold copies")
    parser.add_argument("--states", nargs="+", choices=list(PAUSES), default=list(PAUSES), help="what they do meanwhile")
    parser.add_argument("--rounds", type=int, default=0, help=f"invalidations of each row (default: {ROUNDS}, quick {QUICK_ROUNDS})")
    parser.add_argument("--work", nargs=4, metavar=("WHO", "PORT", "KEYS", "STATE"), help="be a worker of a run")
    options = parser.parse_args(arguments)
    if options.work:
        contestant, port, keys, state = options.work
        work(contestant, int(port), int(keys), busy=state == "busy")
    else:
        how = {"processes": options.processes, "states": options.states, "rounds": options.rounds}
        show("propagation", options, lambda: run(quick=options.quick, **how))


if __name__ == "__main__":
    main()
