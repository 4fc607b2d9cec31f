"""A cold key that everybody wants: how often it is computed, what that costs Redis, and how long the slowest caller waits.

Processes start together, each with callers that ask for the same key at the same moment: tasks of one loop, for dogpile threads. The
function takes 100 ms. Each library is used as its documentation says for this case: dogpile with ``distributed_lock``, aiocache with
``cached_stampede``, cashews with ``lock=True``. Of several turns the median is told.

Run it: ``python -m benchmarks.stampede``.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Final

from benchmarks.alone import command_of, options_of, show
from benchmarks.counting import commands, observer, reset_commands
from benchmarks.measure import OURS, peer
from benchmarks.processes import Process
from benchmarks.server import Server, valkey

PROCESSES: Final = 4
CALLERS: Final = 50
SECONDS: Final = 0.1
"""What the function takes."""
TURNS: Final = 5
PEERS: Final = ("cashews", "dogpile", "aiocache")

computed = 0


def _value(number: int) -> int:
    global computed
    computed += 1
    time.sleep(SECONDS)
    return number


async def _avalue(number: int) -> int:
    global computed
    computed += 1
    await asyncio.sleep(SECONDS)
    return number


# --- in a worker ------------------------------------------------------------------------------------------------------------------------


def _ours(port: int) -> Callable[[int], Any]:
    from cachesync import Cache, Policy

    cache = Cache(policies=[Policy(name="items", match="items:*", ttl="1h")], redis=f"redis://127.0.0.1:{port}/0", namespace="stampede")
    return cache.cached("items:{number}")(_avalue)


def _cashews(port: int) -> Callable[[int], Any]:
    cache = peer("cashews").Cache()
    cache.setup(f"redis://127.0.0.1:{port}/0", max_connections=CALLERS)
    function: Callable[[int], Any] = cache(ttl="1h", key="cashews:{number}", lock=True)(_avalue)
    return function


def _aiocache(port: int) -> Callable[[int], Any]:
    backend = peer("aiocache.backends.redis").RedisCache
    pickled = peer("aiocache.serializers").PickleSerializer()
    decorate = peer("aiocache").cached_stampede(lease=10, ttl=3600, cache=backend, serializer=pickled, endpoint="127.0.0.1", port=port)
    function: Callable[[int], Any] = decorate(_avalue)
    return function


def _dogpile(port: int) -> Callable[[int], Any]:
    region = peer("dogpile.cache").make_region()
    arguments = {"host": "127.0.0.1", "port": port, "distributed_lock": True, "thread_local_lock": False}
    region.configure("dogpile.cache.redis", expiration_time=3600, arguments=arguments)
    function: Callable[[int], Any] = region.cache_on_arguments()(_value)
    return function


MAKERS: Final = {OURS: _ours, "cashews": _cashews, "aiocache": _aiocache, "dogpile": _dogpile}


def work(contestant: str, port: int, callers: int) -> None:
    """Answer orders on standard input. A number: ask for it with all callers at once; answers how often it was computed, and the
    milliseconds that the slowest has waited.
    """
    global computed
    function = MAKERS[contestant](port)
    ask = _in_threads if contestant == "dogpile" else _in_tasks
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            computed = 0
            waits = ask(runner, function, int(line), callers)
            print(json.dumps([computed, max(waits)]), flush=True)


def _in_tasks(runner: asyncio.Runner, function: Callable[[int], Any], number: int, callers: int) -> list[float]:
    async def one() -> float:
        begun = time.monotonic()
        await function(number)
        return (time.monotonic() - begun) * 1000

    async def together() -> list[float]:
        return list(await asyncio.gather(*(one() for _ in range(callers))))

    return runner.run(together())


def _in_threads(_: asyncio.Runner, function: Callable[[int], Any], number: int, callers: int) -> list[float]:
    waits: list[float] = []
    barrier = threading.Barrier(callers)

    def one() -> None:
        barrier.wait()
        begun = time.monotonic()
        function(number)
        waits.append((time.monotonic() - begun) * 1000)

    threads = [threading.Thread(target=one) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return waits


# --- in the process that measures -------------------------------------------------------------------------------------------------------


def measure(server: Server, contestant: str, *, processes: int, callers: int, turns: int) -> dict[str, float]:
    """``{"computed", "commands", "slowest"}``: medians; ``slowest`` in milliseconds. The first turn, which connects, does not count."""
    with ExitStack() as stack:
        looking = stack.enter_context(observer(server.port))
        looking.flushall()
        command = command_of("benchmarks.stampede", "--work", contestant, str(server.port), str(callers))
        workers = [stack.enter_context(Process(command)) for _ in range(processes)]
        found: list[tuple[int, int, float]] = []
        for turn in range(turns + 1):
            time.sleep(0.3)
            reset_commands(looking)
            for worker in workers:
                worker.order(str(turn))
            answers = [worker.answer() for worker in workers]
            carried = sum(commands(looking).values())
            found.append((sum(times for times, _ in answers), carried, max(waited for _, waited in answers)))
    times, counts, waits = zip(*found[1:], strict=True)
    return {"computed": statistics.median(times), "commands": statistics.median(counts), "slowest": statistics.median(waits)}


def run(*, quick: bool = False, processes: int = 0, callers: int = 0) -> dict[str, Any]:
    """``{"unit", "rows": {contestant: {"computed", "commands", "slowest"}}, "processes", "callers", "server", "missing"}``."""
    processes, callers = processes or (2 if quick else PROCESSES), callers or (5 if quick else CALLERS)
    rows: dict[str, dict[str, float]] = {}
    missing: list[str] = []
    version = ""
    for name in MAKERS:
        with valkey() as server:
            try:
                if name != OURS:
                    peer({"dogpile": "dogpile.cache"}.get(name, name))
                rows[name] = measure(server, name, processes=processes, callers=callers, turns=1 if quick else TURNS)
            except (ImportError, RuntimeError) as error:
                missing.append(f"{name}: left out, {error}")
            version = server.version
    return {"unit": "ms", "rows": rows, "processes": processes, "callers": callers, "server": version, "missing": missing}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure it alone."""
    parser = options_of("stampede", __doc__)
    parser.add_argument("--work", nargs=3, metavar=("LIBRARY", "PORT", "CALLERS"), help="be a worker, and take orders")
    parser.add_argument("--processes", type=int, default=0, help=f"(default: {PROCESSES})")
    parser.add_argument("--callers", type=int, default=0, help=f"of each process (default: {CALLERS})")
    options = parser.parse_args(arguments)
    if options.work is not None:
        contestant, port, callers = options.work
        work(contestant, int(port), int(callers))
    else:
        show("stampede", options, lambda: run(quick=options.quick, processes=options.processes, callers=options.callers))


if __name__ == "__main__":
    main()
