"""After a cut: seconds until all that was missed is applied, and how much of the rest is still a local hit.

Four caches hold 1,000 copies each and are cut off from Redis for five seconds, by a proxy that resets their connections and refuses new
ones, or that keeps them open and lets nothing pass (a black hole). Meanwhile a cache that is not cut off invalidates 50 of the keys.
From healing on the positions that the four have applied are looked at each millisecond; nobody calls a function, so it is their log
readers alone that recover. Then all keys are read: the 50 must be computed anew, and the others should be hits that ask nobody. The
figures are those of the cache that did worst.

Run it: ``python -m benchmarks.recovery``.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.alone import options_of, show
from benchmarks.propagation import cached_items
from benchmarks.server import Server, valkey

if TYPE_CHECKING:
    from support.proxy import Proxy

CUTS: Final = ("reset", "black hole")
SECONDS: Final = 5.0
QUICK_SECONDS: Final = 0.5
MISSED: Final = 50
KEYS: Final = 1_000
CACHES: Final = 4
PATIENCE: Final = 60.0
LOOK: Final = 0.001
NAMESPACE: Final = "recovery"


def measure(server: Server, *, how: str, seconds: float, keys: int, missed: int) -> dict[str, float]:
    """``{"seconds", "share", "hits", "untouched", "served_old"}``. Raises ``RuntimeError`` where it does not recover."""
    with ExitStack() as stack:
        proxy = stack.enter_context(_proxy(server))
        namespace = f"{NAMESPACE} {how}"
        nodes = [cached_items(proxy.url, namespace) for _ in range(CACHES)]
        there, far_item, _ = cached_items(server.url, namespace)
        for cache in (there, *(node[0] for node in nodes)):
            stack.callback(cache.close)
        far_item(0)
        for cache, item, _ in nodes:
            _until(lambda cache=cache, item=item: _hits_of(cache, item, range(keys)) == keys, "holding a copy of every key")
        begun = time.monotonic()
        if how == "reset":
            proxy.refuse()
        else:
            proxy.hold()
        stamp = there.invalidate("nobody")
        for number in range(missed):
            stamp = there.invalidate(f"items:{number}")
            time.sleep(max(0.0, seconds / missed / 2))
        for _, _, version in nodes:
            version[0] = 2
        time.sleep(max(0.0, begun + seconds - time.monotonic()))
        if how == "reset":
            proxy.admit()
        else:
            proxy.release()
        healed = time.monotonic()
        _until(lambda: min(position_of(cache) for cache, _, _ in nodes) >= stamp.number, "applying what was missed")
        spent = time.monotonic() - healed
        hits = min(_hits_of(cache, item, range(missed, keys)) for cache, item, _ in nodes)
        served_old = sum(item(number) == 1 for _, item, _ in nodes for number in range(missed))
    untouched = keys - missed
    told = {"seconds": spent, "share": hits / untouched, "hits": hits, "untouched": untouched, "served_old": served_old, "cut": seconds}
    return {name: float(figure) for name, figure in told.items()}


def _proxy(server: Server) -> Proxy:
    """The proxy of the tests, which are not a package: their folder is put on the path."""
    folder = str(Path(__file__).parents[1] / "tests")
    if folder not in sys.path:
        sys.path.append(folder)
    from support.proxy import Proxy

    return Proxy("127.0.0.1", server.port)


def position_of(cache: Any) -> int:
    """The number of the last record that a cache has applied."""
    position = cache.stats().log.position
    return -1 if position is None else int(position.number)


def _hits_of(cache: Any, item: Any, numbers: range) -> int:
    """How many of these keys are local hits now."""
    before = cache.stats().total.local_hits
    for number in numbers:
        item(number)
    return int(cache.stats().total.local_hits - before)


def _until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} took more than {PATIENCE:g} s")
        time.sleep(LOOK)


def run(*, quick: bool = False, cuts: Sequence[str] = CUTS, seconds: float = 0.0, missed: int = MISSED) -> dict[str, Any]:
    """``{"unit", "rows": {cut: {"seconds", "share", "hits", "untouched", "served_old", "cut"}}, "missed", "server", "missing"}``."""
    seconds = seconds or (QUICK_SECONDS if quick else SECONDS)
    rows: dict[str, dict[str, float]] = {}
    log = logging.getLogger("cachesync")
    level = log.level
    log.setLevel(logging.CRITICAL)  # that the layer fails is what is asked for
    try:
        with valkey() as server:
            for how in cuts:
                rows[how] = measure(server, how=how, seconds=seconds, keys=KEYS, missed=missed)
            version = server.version
    finally:
        log.setLevel(level)
    return {"unit": "s", "rows": rows, "missed": missed, "server": version, "missing": []}


def main(arguments: list[str] | None = None) -> None:
    """Measure it alone."""
    parser = options_of("recovery", __doc__)
    parser.add_argument("--cuts", nargs="+", choices=CUTS, default=list(CUTS), help="what cuts the process off")
    parser.add_argument("--seconds", type=float, default=0.0, help=f"how long (default: {SECONDS:g})")
    parser.add_argument("--missed", type=int, default=MISSED, help=f"invalidations meanwhile (default: {MISSED})")
    options = parser.parse_args(arguments)
    show("recovery", options, lambda: run(quick=options.quick, cuts=options.cuts, seconds=options.seconds, missed=options.missed))


if __name__ == "__main__":
    main()
