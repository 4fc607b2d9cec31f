"""The story: what happens in which order, and what is measured. Yields one scene after the other, each a plain value."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from cachesync.demo.data import Row
from cachesync.demo.freshness import Change, Judgement, judge
from cachesync.demo.processes import DemoError, Node
from cachesync.demo.traffic import Answer, Burst, Client, all_at_once, burst, plan

STORE: Final = "CGK"
OVERVIEW: Final = "/admin/analytics/overview"
CROWD: Final = 20
MAX_LAG: Final = 2.0
"""Seconds: the default of the policy file, which the demonstration leaves as it is."""
SOURCES: Final = {"computed": "computed", "shared_hits": "Redis hit", "local_hits": "local hit"}


@dataclass(frozen=True, slots=True)
class Asked:
    """One question to one worker. ``source`` is "computed", "Redis hit" or "local hit", as the worker's own counts tell it."""

    title: str
    worker: str
    path: str
    source: str
    expected: str
    function_ms: float
    client_ms: float


@dataclass(frozen=True, slots=True)
class Crowd:
    """Many callers at once, at both workers, for a cold key. ``computed`` is how often it was computed, over both."""

    path: str
    callers: int
    computed: int
    function_ms: float
    slowest_ms: float


@dataclass(frozen=True, slots=True)
class Changed:
    """An administrator's change at worker A. ``fresh_ms`` counts from the call of ``invalidate`` to the fresh answer, by worker;
    ``function_ms`` of it were spent in the cached function.

    ``old_answers`` is how many answers B gave in that time that still showed what was before.
    """

    path: str
    old_name: str
    new_name: str
    announce_ms: float
    fresh_ms: dict[str, float]
    function_ms: dict[str, float]
    names: dict[str, str]
    old_answers: int
    overview_changes: dict[str, int]


@dataclass(frozen=True, slots=True)
class Spread:
    """Half of the times were at most ``p50``, 99 of 100 at most ``p99``. Milliseconds."""

    count: int
    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """The burst. ``computing_ms`` was spent in SQLite; ``uncached_ms`` is what it had been, had every answer cost the mean of its kind."""

    requests: int
    seconds: float
    changes: int
    hit_rate: float
    sources: dict[str, int]
    client: Spread
    function: Spread
    hits: Spread
    computations: Spread
    computing_ms: float
    uncached_ms: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """The end. ``problems`` is empty when every answer was fresh and came from where it should."""

    answers: int
    stale: int
    behind: int
    longest_behind_ms: float
    problems: list[str]


Scene = Asked | Crowd | Changed | Traffic | Verdict


@dataclass(slots=True)
class Story:
    """What happens, and everything that was seen while it did."""

    nodes: tuple[Node, Node]
    rows: Sequence[Row]
    requests: int
    answers: list[Answer] = field(default_factory=list[Answer])
    changes: list[Change] = field(default_factory=list[Change])
    problems: list[str] = field(default_factory=list[str])

    def tell(self) -> Iterator[Scene]:
        """One scene after the other."""
        with contextlib.closing(Client(self.nodes)) as client:
            self._warm_up(client)
            page = f"/admin/stores/{STORE}"
            yield self._asked(client, "Nobody has asked before", "A", page, "computed")
            yield self._asked(client, "The other worker asks the same", "B", page, "shared_hits")
            yield self._asked(client, "It asks again", "B", page, "local_hits")
            yield self._asked(client, "So does the first one", "A", page, "local_hits")
            yield self._crowd()
            yield self._changed(client, page)
        yield self._traffic()
        yield self._verdict()

    def _warm_up(self, client: Client) -> None:
        """Open the connections, and wait until both workers hear the log."""
        for node in self.nodes:
            deadline = time.monotonic() + 20
            client.get(node.name, "/admin/stores?country=AQ")
            while node.figures()["position"] == "None":
                if time.monotonic() > deadline:
                    raise DemoError(f"worker {node.name} does not hear the log")
                time.sleep(0.01)

    def _counts(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for node in self.nodes:
            figures = node.figures()["total"]
            total.update({name: figure for name, figure in figures.items() if name != "policy"})
        return total

    def _get(self, client: Client, worker: str, path: str) -> Answer:
        answer = client.get(worker, path)
        self.answers.append(answer)
        return answer

    def _asked(self, client: Client, title: str, worker: str, path: str, expected: str) -> Asked:
        before = self._counts()
        answer = self._get(client, worker, path)
        counts = self._counts() - before
        source = next((SOURCES[name] for name in SOURCES if counts[name]), "nothing")
        if source != SOURCES[expected]:
            self.problems.append(f"{worker} {path}: this was {source} and should have been {SOURCES[expected]}")
        return Asked(title, worker, path, source, SOURCES[expected], answer.function_ms, answer.client_ms)

    def _crowd(self) -> Crowd:
        before = self._counts()
        answers = all_at_once(self.nodes, OVERVIEW, CROWD)
        self.answers += answers
        computed = (self._counts() - before)["computed"]
        if computed != 1:
            self.problems.append(f"{CROWD} callers at once: computed {computed} times and not once")
        took = max((answer.function_ms for answer in answers if answer.computed), default=0.0)
        return Crowd(OVERVIEW, CROWD, computed, took, max(answer.client_ms for answer in answers))

    def _changed(self, client: Client, page: str) -> Changed:
        old_name: str = self._get(client, "B", page).body["store"]["name"]
        new_name = "Jakarta Flagship Store"
        watch = _Watch(self.nodes, "B", page)
        watch.has_begun.wait(10)
        change, told = client.change("A", STORE, new_name)
        self.changes.append(change)
        announced: float = told["announced_at"]
        at_a = self._get(client, "A", page)
        seen = watch.until(change)
        self.answers += seen
        fresh = next((answer for answer in seen if answer.seen.revisions[STORE] >= change.revision), None)
        at_b = self._get(client, "B", page)
        names = {"A": at_a.body["store"]["name"], "B": at_b.body["store"]["name"]}
        overviews = {node.name: self._get(client, node.name, OVERVIEW).body["changes"] for node in self.nodes}
        if fresh is None or set(names.values()) != {new_name} or set(overviews.values()) != {1}:
            self.problems.append(f"after the change the workers answer {names} and count {overviews} changes")
        return Changed(
            path=page,
            old_name=old_name,
            new_name=new_name,
            announce_ms=told["announce_ms"],
            fresh_ms={"A": 1000 * (at_a.received - announced), "B": 1000 * ((fresh or at_b).received - announced)},
            function_ms={"A": at_a.function_ms, "B": (fresh or at_b).function_ms},
            names=names,
            old_answers=sum(a.seen.sent > change.done and a.seen.revisions[STORE] < change.revision for a in seen),
            overview_changes=overviews,
        )

    def _traffic(self) -> Traffic:
        before = self._counts()
        requests = plan(self.rows, [node.name for node in self.nodes], self.requests)
        found = burst(self.nodes, requests)
        counts = self._counts() - before
        self.answers += (answer for _, answer in found.answers)
        self.changes += found.changes
        return _traffic(found, counts)

    def _verdict(self) -> Verdict:
        judgement: Judgement = judge(self.changes, (answer.seen for answer in self.answers), max_lag=MAX_LAG)
        self.problems += judgement.stale
        return Verdict(judgement.answers, len(judgement.stale), judgement.behind, 1000 * judgement.longest_behind, self.problems)


class _Watch:
    """Asks a worker for a page over and over, in a thread, and notes every answer."""

    def __init__(self, nodes: Sequence[Node], worker: str, path: str) -> None:
        self.has_begun = threading.Event()
        self._target = (nodes, worker, path)
        self._seen: list[Answer] = []
        self._change: Change | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def until(self, change: Change, *, patience: float = 2 * MAX_LAG) -> list[Answer]:
        """Every answer up to the first that shows the change, and that one; all of them when none does in time."""
        self._change = change
        self._thread.join(patience)
        self._stop.set()
        self._thread.join(patience)
        return self._seen

    def _watch(self) -> None:
        nodes, worker, path = self._target
        with contextlib.closing(Client(nodes)) as client, contextlib.suppress(DemoError):
            while not self._stop.is_set():
                answer = client.get(worker, path)
                self._seen.append(answer)
                self.has_begun.set()
                if self._change is not None and answer.seen.revisions[self._change.code] >= self._change.revision:
                    return


def _traffic(found: Burst, counts: Counter[str]) -> Traffic:
    answers = [answer for _, answer in found.answers]
    spent: defaultdict[str, list[float]] = defaultdict(list)
    asked: Counter[str] = Counter()
    for kind, answer in found.answers:
        asked[kind] += 1
        if answer.computed:
            spent[kind].append(answer.function_ms)
    calls = sum(counts[name] for name in ("local_hits", "shared_hits", "computed", "joined"))
    return Traffic(
        requests=len(answers) + len(found.changes),
        seconds=found.seconds,
        changes=len(found.changes),
        hit_rate=1 - counts["computed"] / calls if calls else 0.0,
        sources={name: counts[name] for name in ("local_hits", "shared_hits", "joined", "computed")},
        client=spread([answer.client_ms for answer in answers]),
        function=spread([answer.function_ms for answer in answers]),
        hits=spread([answer.function_ms for answer in answers if not answer.computed]),
        computations=spread([answer.function_ms for answer in answers if answer.computed]),
        computing_ms=sum(map(sum, spent.values())),
        uncached_ms=sum(asked[kind] * sum(times) / len(times) for kind, times in spent.items()),
    )


def spread(times: Sequence[float]) -> Spread:
    """The middle and the slow end of some times (nearest rank)."""
    ordered = sorted(times) or [0.0]
    return Spread(len(times), *(ordered[max(0, math.ceil(len(times) * share) - 1)] for share in (0.5, 0.99)))


__all__ = ["Asked", "Changed", "Crowd", "Scene", "Spread", "Story", "Traffic", "Verdict", "spread"]
