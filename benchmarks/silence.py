"""Redis falls silent: what that adds to the calls of a cached function.

The server is stopped (SIGSTOP): its connections stay open, and nothing comes back. Then the function is called with new arguments, one
call after the other: `CALLS` times, or until `SPAN` seconds are over, where each call takes long. It takes no time itself, so whatever a
call takes is added by the cache. Each library has its default settings; a call that has not returned after `LONGEST` seconds counts as
that, and its library is asked no more.

Run it: ``python -m benchmarks.silence``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import select
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Final

from benchmarks.alone import command_of, options_of, show
from benchmarks.counting import observer
from benchmarks.measure import OURS, peer
from benchmarks.processes import Process
from benchmarks.server import Server, valkey

LONGEST: Final = 30.0
CALLS: Final = 40
SPAN: Final = 22.0
"""Seconds of silence in which calls are begun."""
PAUSE: Final = 0.1
"""Seconds between two calls."""


def _value(number: int) -> int:
    return number


async def _avalue(number: int) -> int:
    return number


# --- in a worker ------------------------------------------------------------------------------------------------------------------------


def _cache(port: int) -> Any:
    from cachesync import Cache, Policy

    logging.getLogger("cachesync").setLevel(logging.CRITICAL)  # that the layer fails is what is asked for
    return Cache(policies=[Policy(name="items", match="items:*", ttl="1h")], redis=f"redis://127.0.0.1:{port}/0", namespace="silence")


def _ours(port: int) -> Callable[[int], Any]:
    function: Callable[[int], Any] = _cache(port).cached("items:{number}")(_value)
    return function


def _ours_async(port: int) -> Callable[[int], Any]:
    function: Callable[[int], Any] = _cache(port).cached("items:{number}")(_avalue)
    return function


def _dogpile(port: int) -> Callable[[int], Any]:
    region = peer("dogpile.cache").make_region()
    region.configure("dogpile.cache.redis", expiration_time=3600, arguments={"host": "127.0.0.1", "port": port})
    function: Callable[[int], Any] = region.cache_on_arguments()(_value)
    return function


def _cashews(port: int) -> Callable[[int], Any]:
    cache = peer("cashews").Cache()
    cache.setup(f"redis://127.0.0.1:{port}/0")
    logging.getLogger("cashews").setLevel(logging.CRITICAL)
    function: Callable[[int], Any] = cache(ttl="1h", key="cashews:{number}")(_avalue)
    return function


def _aiocache(port: int) -> Callable[[int], Any]:
    backend = peer("aiocache.backends.redis").RedisCache
    pickled = peer("aiocache.serializers").PickleSerializer()
    function: Callable[[int], Any] = peer("aiocache").cached(ttl=3600, cache=backend, serializer=pickled, endpoint="127.0.0.1", port=port)(
        _avalue
    )
    logging.getLogger("aiocache").setLevel(logging.CRITICAL)
    return function


MAKERS: Final = {
    f"{OURS}, def": (_ours, "cachesync"),
    f"{OURS}, async def": (_ours_async, "cachesync"),
    "dogpile, def": (_dogpile, "dogpile.cache"),
    "cashews, async def": (_cashews, "cashews"),
    "aiocache, async def": (_aiocache, "aiocache"),
}


def work(contestant: str, port: int) -> None:
    """Answer orders on standard input. A number: call the function with it; answers the milliseconds it took."""
    function = MAKERS[contestant][0](port)
    with asyncio.Runner() as runner:

        async def called(number: int) -> None:
            await function(number)

        for line in sys.stdin:
            begun = time.monotonic()
            if contestant.endswith("async def"):
                runner.run(called(int(line)))
            else:
                function(int(line))
            print(json.dumps((time.monotonic() - begun) * 1000), flush=True)


# --- in the process that measures -------------------------------------------------------------------------------------------------------


class Silenced(Process):
    """A worker that may never answer."""

    def call(self, number: int) -> float:
        """Milliseconds, at most those of `LONGEST`."""
        self.order(str(number))
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], LONGEST)[0]:
            self._process.kill()
            return LONGEST * 1000
        answer: float = self.answer()
        return answer


def measure(server: Server, contestant: str, *, calls: int) -> dict[str, float]:
    """``{"first", "worst_later", "median_later", "calls"}``, milliseconds: of the first call in silence, and of those after it."""
    with ExitStack() as stack:
        looking = stack.enter_context(observer(server.port))
        pid = int(dict(looking.info("server"))["process_id"])
        worker = stack.enter_context(Silenced(command_of("benchmarks.silence", "--work", contestant, str(server.port))))
        for number in range(10):
            worker.call(number)
        os.kill(pid, signal.SIGSTOP)
        stack.callback(os.kill, pid, signal.SIGCONT)
        waits: list[float] = []
        silent_since = time.monotonic()
        for number in range(100, 100 + calls):
            waits.append(worker.call(number))
            time.sleep(PAUSE)
            if waits[-1] >= LONGEST * 1000 or time.monotonic() - silent_since >= SPAN:
                break
    later = waits[1:] or [waits[0]]
    return {"first": waits[0], "worst_later": max(later), "median_later": statistics.median(later), "calls": float(len(waits))}


def run(*, quick: bool = False, contestants: Sequence[str] = tuple(MAKERS)) -> dict[str, Any]:
    """``{"unit", "rows": {contestant: {"first", "worst_later", "median_later", "calls"}}, "most", "span", "longest", ...}``.

    ``most`` calls are made, but begun within ``span`` seconds; each counts as ``longest`` seconds at most.
    """
    most = 5 if quick else CALLS
    rows: dict[str, dict[str, float]] = {}
    missing: list[str] = []
    version = ""
    for name in contestants:
        try:
            peer(MAKERS[name][1])
            with valkey() as server:
                version = server.version
                rows[name] = measure(server, name, calls=most)
        except (ImportError, RuntimeError) as error:
            missing.append(f"{name}: left out, {error}")
    limits = {"most": most, "span": SPAN, "longest": LONGEST}
    return {"unit": "ms", "rows": rows, **limits, "server": version, "missing": missing}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure it alone."""
    parser = options_of("silence", __doc__)
    parser.add_argument("--work", nargs=2, metavar=("LIBRARY", "PORT"), help="be a worker, and take orders")
    options = parser.parse_args(arguments)
    if options.work is not None:
        work(options.work[0], int(options.work[1]))
    else:
        show("silence", options, lambda: run(quick=options.quick))


if __name__ == "__main__":
    main()
