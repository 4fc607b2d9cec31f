"""The table at the end, and the story of each violation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from soak.checker import RULES, Verdict, Violation
from soak.history import HOWS, Cut, History, Read, maker_of
from soak.world import THINGS, concerned

AROUND: Final = 1.0
"""Seconds before and after, in which a story names what else happened."""
CHAOS: Final = "chaos, "
"""What the names of counts begin with that tell what was done inside of workers."""


def table(history: History, verdict: Verdict) -> str:
    """Everything that was counted."""
    cuts = Counter(cut.how for cut in history.cuts)
    pending = sum(cut.is_pending and cut.stamp is not None for cut in history.cuts)
    faults = Counter(fault.what for fault in history.faults)
    troubles = Counter(trouble.what for trouble in history.troubles)
    share = 100 * verdict.reused / max(1, verdict.shown)
    checks: dict[str, str] = {rule: f"{verdict.checked[rule]:,}, {verdict.broken[rule]} broken" for rule in RULES}
    return "\n\n".join(
        (
            _block(f"reads {sum(verdict.reads.values()):,}, of them {verdict.final_reads:,} when all was quiet", verdict.reads),
            _block(f"cuts {len(history.cuts):,}, of them {pending:,} pending when they returned", cuts),
            _block(f"faults {len(history.faults):,}", faults),
            _block("promises, and how often each was compared", checks),
            *((_block("chaos in the workers", chaos),) if (chaos := _of_chaos(history.counts)) else ()),
            _block("the workers", _ordered({name: count for name, count in history.counts.items() if not name.startswith(CHAOS)})),
            f"{share:.0f} % of what was shown had been computed before it was asked for; the longest lag of a cut was "
            f"{verdict.longest_lag * 1000:.0f} ms, the slowest call {history.slowest.seconds:.1f} s ({history.slowest.what})",
            _block(f"troubles {len(history.troubles):,}", troubles),
            f"violations {verdict.count:,}",
        )
    )


def _of_chaos(counts: Mapping[str, int]) -> dict[str, int]:
    return {name.removeprefix(CHAOS): count for name, count in counts.items() if name.startswith(CHAOS)}


def _ordered(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items()))


def _block(title: str, rows: Mapping[str, object]) -> str:
    lines = [title]
    for name, value in sorted(rows.items(), key=lambda row: -row[1] if isinstance(row[1], int) else 0):
        shown = f"{value:,}" if isinstance(value, int) else str(value)
        lines.append(f"  {name:<34} {shown:>12}" if isinstance(value, int) else f"  {name:<34} {shown}")
    return "\n".join(lines)


def story(violation: Violation, history: History) -> str:
    """All that is known about one violation. Times are seconds before (-) or after the read began."""
    lines = [f"--- {violation.rule}: {violation.says or 'an older value was read'}"]
    read = violation.read
    zero = violation.cuts[-1].began if read is None else read.began
    if read is not None:
        lines += _reading(read, zero)
    lines += ["  cuts that it should have known of, first and last:" if read is not None else "  cuts:"]
    shown = violation.cuts if len(violation.cuts) <= 6 else (*violation.cuts[:3], *violation.cuts[-3:])
    lines += [f"    {_cut(cut, zero, read)}" for cut in shown]
    if len(violation.cuts) > 6:
        lines.append(f"    ({len(violation.cuts)} in all)")
    begin = min([zero, *(cut.began for cut in violation.cuts), *(() if read is None else (read.shown_began,))]) - AROUND
    if read is not None:
        others = [
            cut
            for cut in history.cuts
            if begin < cut.began < zero + AROUND and cut not in violation.cuts and read.thing in concerned(cut.patterns, cut.tags)
        ]
        lines += ["  other cuts that concern it:", *(f"    {_cut(cut, zero, read)}" for cut in others[-6:])]
    lines.append(_around(history, zero, begin, AROUND))
    return "\n".join(lines)


def _around(history: History, zero: float, begin: float, after: float) -> str:
    """The faults, and the processes that began, from ``begin`` to ``after`` seconds after ``zero``."""
    near = [fault for fault in history.faults if fault.began < zero + after and fault.ended > begin]
    lines = [f"    {_span(one.began, one.ended, zero)} {one.what} ({', '.join(sorted(one.targets))})" for one in near]
    lives = [life for life in history.lives if begin < life.began < zero + after]
    lines += [f"    {life.began - zero:+.4f} worker {life.slot}.{life.life} began" for life in lives]
    return "\n".join(("  faults around it:", *lines))


def _reading(read: Read, zero: float) -> Iterable[str]:
    thing, via = THINGS[read.thing], THINGS[read.via]
    slot, life, serial = maker_of(read.maker)
    part = "" if thing is via else f", which shows {thing.family} {thing.args} (thing {thing.number})"
    flags = ", ".join(name for name, is_so in (("given", read.given), ("stale", read.is_stale), ("final", read.is_final)) if is_so)
    yield f"  worker {read.slot}.{read.life} read {via.text}{part}: {HOWS[read.how]} {_span(read.began, read.ended, zero)} {flags}"
    if read.epoch:
        yield f"  at least {read.epoch:016x}:{read.number} was asked for"
    yield (
        f"  it was shown version {read.version}, computed by worker {slot}.{life} (its value {serial}), "
        f"begun at {read.shown_began - zero:+.4f}; all times in seconds, the read began at {zero:.4f}"
    )


def _cut(cut: Cut, zero: float, read: Read | None) -> str:
    names = " ".join((*cut.patterns, *(f"tag={tag}" for tag in cut.tags)))
    version = "" if read is None or not cut.versions else f", the origin had version {cut.versions[THINGS[read.thing].cell]}"
    state = "pending" if cut.is_pending else "acknowledged"
    return f"{_span(cut.began, cut.ended, zero)} worker {cut.slot}.{cut.life} {cut.how}: {names}; {cut.stamp}, {state}{version}"


def _span(began: float, ended: float, zero: float) -> str:
    return f"[{began - zero:+.4f} .. {ended - zero:+.4f}]"


def stories(history: History, violations: Sequence[Violation]) -> str:
    """The stories of all violations that were kept, and every trouble."""
    told = [story(violation, history) for violation in violations]
    slow = history.slowest
    told.append(
        f"--- the slowest call\n  {slow.what}, {slow.seconds:.2f} s\n" + _around(history, slow.began, slow.began, slow.seconds + AROUND)
    )
    told += [
        f"--- trouble in worker {trouble.slot}.{trouble.life} at {trouble.at:.4f}: {trouble.what}\n{trouble.detail}"
        for trouble in history.troubles
    ]
    return "\n\n".join(told) + "\n"
