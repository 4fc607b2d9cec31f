"""What ten thousand processes would be like: a simulation of one Redis, its event loop and its subscribers, with measured costs.

Nothing here asks a server. The server is one thread that works in turns, as Redis does: it carries out what has arrived, then writes to
every socket that has something to be written. Invalidations come at random (Poisson, seeded). Each process asks for the log's head now
and then, to prove contact. From `benchmarks.delivery` come the processor times:

=========  ==========================================================================================================
append     each record: number, stream, bans
publish    each record and subscriber: into the subscriber's output buffer (of a reader: each record after the first)
write      each subscriber and turn of the event loop in which it has something to be written
question   each heartbeat
xread      each reader and turn, where processes wait with ``XREAD BLOCK`` instead of subscribing
relay      each record and worker, paid by a relay and not by Redis
reach      from being written to being applied, for one hop: wire, waking up, applying (from `benchmarks.propagation`)
=========  ==========================================================================================================

Six designs. ``direct``: each process subscribes. ``coalesced``: the same, but a message is sent at most every 5 ms, or every 50 ms, with
all records that came meanwhile; the first after a quiet time goes at once. ``relay``: one subscriber for each host of 32 workers passes on
what it hears; the last is both. ``XREAD BLOCK``: each process reads the stream.

What it leaves out: the network's bandwidth, the rest of what Redis does, processes that are busy, and the queue in front of a relay
(its load is shown). A share of 100 % means that the server does nothing else; what is asked of it beyond that waits longer and longer.

Run it: ``python -m benchmarks.scale``; ``--costs FILE`` takes the costs from a JSON of ``python -m benchmarks``.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from benchmarks.alone import options_of, show
from benchmarks.measure import OURS
from benchmarks.spread import at_share

PROCESSES: Final = (1, 10, 30, 100, 300, 1_000, 3_000, 10_000)
RATES: Final = (10.0, 100.0, 300.0, 1_000.0)
HOST: Final = 32
WINDOW: Final = 0.005
LONG_WINDOW: Final = 0.05
INTERVAL: Final = 0.4
"""A heartbeat of each subscriber, so often: a fifth of the usual ``max_lag``."""
RECORDS: Final = 600
QUICK_RECORDS: Final = 60
SAMPLES: Final = 16
"""Processes whose delay is looked at for each record, drawn anew each time."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds. The figures are those of one run on two cores of a server's processor; `of` takes those of another run."""

    append: float = 45e-6
    publish: float = 0.3e-6
    write: float = 5.4e-6
    question: float = 15e-6
    xread: float = 18.5e-6
    relay: float = 1.3e-6
    reach: float = 150e-6

    @classmethod
    def of(cls, results: Mapping[str, Any]) -> Costs:
        """Those that were measured in the same run, as far as they were."""
        told: dict[str, float] = {name: cost / 1e6 for name, cost in results.get("delivery", {}).get("costs", {}).items()}
        costs = replace(cls(), **{each.name: told[each.name] for each in fields(cls) if each.name in told})
        heard = results.get("propagation", {}).get("rows", {}).get("1 process, idle", {}).get(OURS)
        return costs if heard is None else replace(costs, reach=max(0.0, heard["p50"] / 1e3 - costs.append))


@dataclass(frozen=True, slots=True)
class Design:
    """How records reach processes. ``host`` processes share one subscriber; ``window`` seconds lie between two messages."""

    host: int = 1
    window: float = 0.0
    reads_stream: bool = False

    def subscribers(self, processes: int) -> int:
        return math.ceil(processes / self.host)


DESIGNS: Final[Mapping[str, Design]] = {
    "direct": Design(),
    "coalesced, 5 ms": Design(window=WINDOW),
    "coalesced, 50 ms": Design(window=LONG_WINDOW),
    "relay": Design(host=HOST),
    "relay, coalesced, 5 ms": Design(host=HOST, window=WINDOW),
    "XREAD BLOCK": Design(reads_stream=True),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """Delays in seconds; ``busy`` is the share of the time in which the server worked, ``relay`` the load of one relay, 0 to 1."""

    p50: float
    p99: float
    busy: float
    relay: float
    messages: int


class Heartbeats:
    """Questions that come evenly, ``per_second`` of them; the first after half a space. Some have been answered."""

    def __init__(self, per_second: float) -> None:
        self.spacing = math.inf if per_second <= 0 else 1 / per_second
        self._answered = 0

    @property
    def last(self) -> float:
        """When the last that was answered came."""
        return (self._answered - 0.5) * self.spacing

    @property
    def next(self) -> float:
        """When the first that was not answered comes, or came."""
        return (self._answered + 0.5) * self.spacing

    def take(self, now: float) -> int:
        """Answer all that have come by ``now``. Returns how many."""
        if self.next > now:
            return 0
        count = max(1, int(now / self.spacing + 0.5) - self._answered)
        self._answered += count
        return count


def simulate(
    design: Design, costs: Costs, *, processes: int, rate: float, records: int = RECORDS, seed: int = 1, interval: float = INTERVAL
) -> Outcome:
    """So many records at ``rate`` a second, for so many processes. The first tenth warms up and does not count.

    ``interval`` is infinite where nobody sends heartbeats.
    """
    chance = random.Random(f"{seed} {processes} {rate}")
    arrivals = list(accumulate(chance.expovariate(rate) for _ in range(records)))
    subscribers = design.subscribers(processes)
    beats = Heartbeats(subscribers / interval)
    now = busy = 0.0
    gate = 0.0  # no message before
    arrived = 0
    waiting: list[float] = []  # appended, and not sent yet: when they arrived
    delays: list[float] = []
    warm_up, messages, sent = records // 10, 0, 0
    while sent < records:
        due = [arrivals[arrived]] if arrived < records else []
        due += [gate] if waiting else []
        now, worked = _answering(now, min(due), beats, costs.question)
        begun = now
        busy += worked
        asked = beats.take(now)
        first = arrived
        while arrived < records and arrivals[arrived] <= now:
            arrived += 1
        waiting += arrivals[first:arrived]
        now += asked * costs.question + (arrived - first) * costs.append
        if waiting and begun >= gate:
            messages += 1
            gate = begun + design.window
            each = costs.xread if design.reads_stream else costs.write
            copied = len(waiting) - 1 if design.reads_stream else len(waiting)  # what a reader costs holds its first record
            now += copied * subscribers * costs.publish
            for at in waiting:
                sent += 1
                if sent > warm_up:
                    delays += [_delivered(design, costs, now, each, processes, len(waiting), chance) - at for _ in range(SAMPLES)]
            waiting = []
            now += subscribers * each
        busy += now - begun
    ordered = sorted(delays)
    load = rate * design.host * costs.relay if design.host > 1 else 0.0
    return Outcome(at_share(ordered, 0.5), at_share(ordered, 0.99), min(1.0, busy / now), load, messages)


def _answering(now: float, due: float, beats: Heartbeats, question: float) -> tuple[float, float]:
    """Answer heartbeats, and nothing else, until something is due. Returns when the server is free for it, and how long it worked."""
    worked = 0.0
    while now < due:
        count = beats.take(now)
        if count:  # they came during the turn before
            now += count * question
            worked += count * question
        elif beats.next >= due:
            now = due
        elif question < beats.spacing:  # each is answered before the next comes: no need to look at them one by one
            worked += beats.take(due) * question
            now = max(due, beats.last + question)
        else:
            now = beats.next
    return now, worked


def _delivered(design: Design, costs: Costs, written: float, each: float, processes: int, records: int, chance: random.Random) -> float:
    """When one process, drawn at random, has applied a message that the server begins to write to its subscribers at ``written``."""
    process = chance.randrange(processes)
    at = written + (process // design.host + 1) * each + costs.reach
    if design.host > 1:
        at += (process % design.host + 1) * records * costs.relay + costs.reach
    return at


def run(
    *,
    quick: bool = False,
    costs: Costs | None = None,
    processes: Sequence[int] = PROCESSES,
    rates: Sequence[float] = RATES,
    records: int = 0,
    seed: int = 1,
) -> dict[str, Any]:
    """``{"costs", "processes", "rates", "designs": {design: {rate: [outcome of each number of processes]}}, "missing"}``, seconds."""
    costs = costs or Costs()
    records = records or (QUICK_RECORDS if quick else RECORDS)
    found = {
        name: {
            f"{rate:g}": [asdict(simulate(design, costs, processes=count, rate=rate, records=records, seed=seed)) for count in processes]
            for rate in rates
        }
        for name, design in DESIGNS.items()
    }
    told = {"unit": "s", "costs": asdict(costs), "host": HOST, "interval": INTERVAL, "records": records, "seed": seed}
    return told | {"processes": list(processes), "rates": list(rates), "designs": found, "missing": []}


def main(arguments: list[str] | None = None) -> None:
    """Simulate it alone."""
    parser = options_of("scale", __doc__)
    parser.add_argument("--costs", type=Path, metavar="FILE", help="take the costs from a JSON of `python -m benchmarks`")
    parser.add_argument("--processes", type=int, nargs="+", default=list(PROCESSES), help="how many")
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES), help="invalidations a second")
    parser.add_argument("--seed", type=int, default=1, help="of the random arrivals (default: 1)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the curves there (svg or png)")
    for name, cost in asdict(Costs()).items():
        parser.add_argument(f"--{name}", type=float, metavar="US", help=f"microseconds (default: {cost * 1e6:g})")
    options = parser.parse_args(arguments)
    costs = Costs() if options.costs is None else Costs.of(json.loads(options.costs.read_text())["results"])
    given = {each.name: getattr(options, each.name) for each in fields(Costs)}
    costs = replace(costs, **{name: value / 1e6 for name, value in given.items() if value is not None})
    result = run(quick=options.quick, costs=costs, processes=options.processes, rates=options.rates, seed=options.seed)
    show("scale", options, lambda: result)
    if options.plot is not None:
        from benchmarks.plot import draw_scale

        draw_scale(result, options.plot)
        print(f"plot:    {options.plot}")


if __name__ == "__main__":
    main()
