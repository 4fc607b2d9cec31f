"""Which reads break a promise: plain functions of a history.

A value is known by when its computation began. A cut that concerns it and began later makes it invalid, whatever its version says;
who has to know of the cut, and from when on, is what the rules say:

=================  ========================================================================================================
own process        from the moment the call returned, in the process that made it, also where the log could not be told yet
other process      from ``max_lag`` after an acknowledged call returned; in a process that began after that, at once
strict             any read under a strict policy: from the moment an acknowledged call returned
stamp              a read with ``at_least``: every cut of that epoch up to that number, and every one that had returned before
                   the one with that number began
final              when all faults are over and all is quiet: every cut, also those that had to wait for the log
age                nothing is older than its ttl, and where its policy has a stale window, than that on top
refresh            what ``refresh`` returns was computed after it was called
stamps             no two cuts have one stamp, and a cut that began after another had returned has a higher number
=================  ========================================================================================================

A failover to a replica that lacks acknowledged cuts suspends them: other processes owe them again when the process that made them had
`RECOVERY` seconds without a fault, so that it could announce them again; never, if it was killed before.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import inf
from typing import Final, Literal

from soak.history import HOWS, Cut, History, Read
from soak.world import THINGS, Thing, concerned

Rule = Literal["own process", "other process", "strict", "stamp", "final", "age", "refresh", "stamps"]
RULES: Final[tuple[Rule, ...]] = ("own process", "other process", "strict", "stamp", "final", "age", "refresh", "stamps")

RECOVERY: Final = 3.0
"""Seconds without a fault in which a process announces again what a failover has lost."""
AGE_SLACK: Final = 0.05
"""Seconds: what lies in Redis has its age in milliseconds of the server's clock."""
MAX_VIOLATIONS: Final = 1_000
"""So many are kept with their story; all are counted."""

_PEEK: Final = HOWS.index("peek")
_REFRESH: Final = HOWS.index("refresh")


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise: what was read, and the cuts it should have known of, oldest first."""

    rule: Rule
    cuts: tuple[Cut, ...]
    read: Read | None = None
    says: str = ""


@dataclass(slots=True)
class Verdict:
    """What the checker found. ``checked`` counts by rule how often there was something to compare with.

    ``reused`` counts values that were not computed for their read; ``longest_lag`` is the longest time, in seconds, that an
    acknowledged cut had been returned when a read of another process still, and rightly, did not know of it.
    """

    violations: list[Violation] = field(default_factory=list[Violation])
    broken: dict[Rule, int] = field(default_factory=lambda: dict.fromkeys(RULES, 0))
    checked: dict[Rule, int] = field(default_factory=lambda: dict.fromkeys(RULES, 0))
    reads: dict[str, int] = field(default_factory=lambda: dict.fromkeys(HOWS, 0))
    final_reads: int = 0
    shown: int = 0
    reused: int = 0
    longest_lag: float = 0.0

    @property
    def count(self) -> int:
        """How many violations there are, those that were not kept included."""
        return sum(self.broken.values())

    def break_rule(self, violation: Violation) -> None:
        self.broken[violation.rule] += 1
        if len(self.violations) < MAX_VIOLATIONS:
            self.violations.append(violation)


class Owed:
    """Cuts in the order of ``due``, each with the moment or number from which on it is owed."""

    def __init__(self, cuts: Iterable[tuple[float, Cut]]) -> None:
        ordered = sorted(cuts, key=lambda owed: owed[0])
        self.due = [due for due, _ in ordered]
        self._cuts = [cut for _, cut in ordered]
        self._newest = list(accumulate((cut.began for cut in self._cuts), max))

    def __len__(self) -> int:
        return len(self.due)

    def first_after(self, began: float) -> float:
        """When the first cut was due that began after ``began``; infinite if there is none."""
        place = bisect_right(self._newest, began)
        return self.due[place] if place < len(self.due) else inf

    def after(self, began: float, *, until: float, maker: int) -> tuple[Cut, ...]:
        """The cuts that began after ``began``, were due at ``until``, and did not leave the value of ``maker`` behind themselves."""
        place = bisect_right(self.due, until)
        return tuple(cut for cut in self._cuts[:place] if cut.began > began and cut.own != maker)


_NOTHING: Final = Owed(())
_Process = tuple[int, int]


class _Books:
    """The cuts of a history, sorted by who owes them."""

    def __init__(self, history: History) -> None:
        self.lives = {(life.slot, life.life): life for life in history.lives}
        own: dict[tuple[_Process, int], list[tuple[float, Cut]]] = {}
        own_plain: dict[tuple[_Process, int], list[tuple[float, Cut]]] = {}
        others: dict[int, list[tuple[float, Cut]]] = {}
        plain: dict[int, list[tuple[float, Cut]]] = {}
        final: dict[int, list[tuple[float, Cut]]] = {}
        stamped: dict[tuple[int, int], list[tuple[float, Cut]]] = {}
        self.given: dict[int, float] = {}
        """When the calls returned that left values, by maker: a bare ``set`` may be ordered after any cut that it overlaps."""
        self.given_at: dict[tuple[int, int], float] = {}
        """When the calls began that were given a stamp: what had returned before is older, also in another epoch."""
        for cut in history.cuts:
            process = (cut.slot, cut.life)
            killed = self.lives[process].killed if process in self.lives else None
            due = _announced(cut, history)
            if killed is not None and killed < due and due > cut.ended:
                due = inf  # nobody is left who announces it again
            position = cut.position
            if cut.own:
                self.given[cut.own] = cut.ended if cut.how == "set" else -inf
            if position is not None and cut.is_acknowledged:
                self.given_at[int(position.epoch, 16), position.number] = cut.began
            for number in concerned(cut.patterns, cut.tags):
                grace = THINGS[number].stale_window if cut.is_soft else 0.0
                own.setdefault((process, number), []).append((cut.ended, cut))
                own_plain.setdefault((process, number), []).append((cut.ended + grace, cut))
                if cut.is_acknowledged and due < inf:
                    others.setdefault(number, []).append((due, cut))
                    plain.setdefault(number, []).append((due + max(grace, THINGS[number].deaf_window), cut))
                if position is not None and cut.is_acknowledged:
                    stamped.setdefault((number, int(position.epoch, 16)), []).append((position.number, cut))
                if killed is None or (cut.is_acknowledged and due < inf):
                    final.setdefault(number, []).append((cut.ended, cut))
        self._own = {key: Owed(cuts) for key, cuts in own.items()}
        self._own_plain = {key: Owed(cuts) for key, cuts in own_plain.items()}
        self._plain = {key: Owed(cuts) for key, cuts in plain.items()}
        self._others = {key: Owed(cuts) for key, cuts in others.items()}
        self._final = {key: Owed(cuts) for key, cuts in final.items()}
        self._stamped = {key: Owed(cuts) for key, cuts in stamped.items()}

    def own(self, read: Read) -> Owed:
        """What the reading process itself has cut."""
        owed = self._own_plain if _may_be_stale(read) else self._own
        return owed.get(((read.slot, read.life), read.thing), _NOTHING)

    def others(self, read: Read) -> Owed:
        """What any process has announced."""
        return (self._plain if _may_be_stale(read) else self._others).get(read.thing, _NOTHING)

    def final(self, read: Read) -> Owed:
        return self._final.get(read.thing, _NOTHING)

    def stamped(self, read: Read) -> Owed:
        return self._stamped.get((read.thing, read.epoch), _NOTHING)

    def born(self, read: Read) -> float:
        """When the reading process began."""
        life = self.lives.get((read.slot, read.life))
        return -inf if life is None else life.began


def _announced(cut: Cut, history: History) -> float:
    """From when on others owe a cut: when its call returned, or when it could be announced again after a failover."""
    due = cut.ended
    for failover in history.failovers:
        if cut.ended >= failover.cut_off and cut.began <= failover.ended:
            due = max(due, failover.ended + RECOVERY)
    if due == cut.ended:
        return due
    needed = {"server", f"line {cut.slot}", f"worker {cut.slot}"}
    for fault in sorted(history.faults, key=lambda fault: fault.began):
        if fault.targets & needed and fault.ended > due - RECOVERY and fault.began < due:
            due = fault.ended + RECOVERY
    return due


def _may_be_stale(read: Read) -> bool:
    """Whether a read may show what a soft cut concerned: nobody can tell, unless the read says so or has asked for better."""
    return read.is_stale or not (read.how == _PEEK or read.epoch or THINGS[read.via].is_strict)


def check(history: History) -> Verdict:
    """Compare every read with every cut it should have known of."""
    verdict = Verdict()
    books = _Books(history)
    _check_stamps(history.cuts, verdict)
    last: tuple[object, ...] = ()
    for read in history.reads:
        call = (read.slot, read.life, read.began, read.ended, read.via)
        if call != last:  # a value of several parts is one read
            last = call
            verdict.reads[HOWS[read.how]] += 1
            verdict.final_reads += read.is_final
        verdict.shown += 1
        verdict.reused += read.shown_began < read.began
        _check_read(read, books, history, verdict)
    return verdict


def _check_read(read: Read, books: _Books, history: History, verdict: Verdict) -> None:
    thing = THINGS[read.thing]
    made = read.shown_began
    if read.given:
        made = max(made, books.given.get(read.maker, inf))  # whoever gave it was killed before it could say so: anything goes

    def compare(rule: Rule, owed: Owed, until: float) -> float:
        """Break the rule if a cut was due. Returns when the first that concerns the value was."""
        if not owed:
            return inf
        verdict.checked[rule] += 1
        due = owed.first_after(made)
        if due < until:
            cuts = owed.after(made, until=until, maker=read.maker)
            if cuts:
                verdict.break_rule(Violation(rule, cuts, read))
        return due

    compare("own process", books.own(read), read.began)
    if THINGS[read.via].is_strict:
        compare("strict", books.others(read), read.began)
    else:
        # A lag can not reach back to before the process was there.
        lag = max(read.began - history.max_lag - history.slack, books.born(read))
        due = compare("other process", books.others(read), lag)
        if lag <= due < read.began and not read.given:
            verdict.longest_lag = max(verdict.longest_lag, read.began - due)
    if read.epoch:
        compare("stamp", books.stamped(read), read.number + 0.5)
        compare("stamp", books.others(read), books.given_at.get((read.epoch, read.number), -inf))
    if read.is_final:
        compare("final", books.final(read), read.began)
    _check_age(read, thing, verdict)
    if read.how == _REFRESH and read.thing == read.via:
        verdict.checked["refresh"] += 1
        if made < read.began:
            verdict.break_rule(Violation("refresh", (), read, f"computed {read.began - made:.4f} s before it was asked for"))


def _check_age(read: Read, thing: Thing, verdict: Verdict) -> None:
    verdict.checked["age"] += 1
    age = read.began - read.shown_began
    longest = thing.ttl + (thing.stale_window if _may_be_stale(read) else 0.0)
    if age > longest + AGE_SLACK and not read.given:
        verdict.break_rule(Violation("age", (), read, f"{age:.3f} s old, and it may be {longest:g} s"))


def _check_stamps(cuts: Sequence[Cut], verdict: Verdict) -> None:
    """Numbers are given once, and never against the order in which callers saw them."""
    stamped = [(cut, cut.position) for cut in cuts if cut.is_acknowledged]
    seen: dict[str, Cut] = {}
    for cut, _ in stamped:
        assert cut.stamp is not None
        verdict.checked["stamps"] += 1
        if cut.stamp in seen:
            verdict.break_rule(Violation("stamps", (seen[cut.stamp], cut), says=f"{cut.stamp} was given twice"))
        seen[cut.stamp] = cut
    by_epoch: dict[str, list[tuple[Cut, int]]] = {}
    for cut, position in stamped:
        assert position is not None
        by_epoch.setdefault(position.epoch, []).append((cut, position.number))
    for found in by_epoch.values():
        returned = sorted(found, key=lambda pair: pair[0].ended)
        ended = [cut.ended for cut, _ in returned]
        highest = list(accumulate(returned, _higher))
        for cut, number in found:
            place = bisect_left(ended, cut.began) - 1
            if place >= 0 and highest[place][1] >= number:
                earlier = highest[place][0]
                verdict.break_rule(
                    Violation("stamps", (earlier, cut), says=f"{cut.stamp} was given after {earlier.stamp} had been returned")
                )


def _higher(one: tuple[Cut, int], other: tuple[Cut, int]) -> tuple[Cut, int]:
    return other if other[1] > one[1] else one
