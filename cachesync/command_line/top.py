"""``cachesync top``: the policies or functions of a running application that are asked most, or missed most, live."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from cachesync.command_line.asking import AdminAddress, AskingError, add_address, address_from, ask
from cachesync.command_line.exits import NO, OK, USAGE
from cachesync.command_line.parsing import Commands, add_json, command, number, seconds
from cachesync.command_line.printing import bytes_text, counted, paint, plain
from cachesync.core.units import format_duration

LEAST_PAUSE: Final = 0.1
"""Seconds between two questions, at the least: an admin app refuses who asks too often."""
FORGOTTEN: Final = 10
"""Pauses after which a process that has not answered any more counts no longer: several may stand behind one address."""
COUNTS: Final = ("calls", "computed", "joined", "stale", "failed")
_COLUMNS: Final = ("calls/s", "hits", "computed/s", "joined/s", "stale/s", "failed/s", "p50", "p99")
_ENTER: Final = "\x1b[?1049h\x1b[?25l"
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
"""The terminal's other screen, without a cursor; and back."""


def add(commands: Commands) -> None:
    """Add ``top``."""
    parser = command(
        commands,
        "top",
        "watch what an application asks most, or misses most",
        "Asks the admin app of a running application again and again, and shows its policies by how often they are asked: calls, "
        "computations and failures a second, the share of hits, how long computations take. On a terminal the view is redrawn; elsewhere "
        "each turn prints lines. Where several processes answer at one address, their numbers are added as they are met.",
        "cachesync top --url http://localhost:8000/admin/cache",
        "cachesync top --sort computed --by function",
        "cachesync top --once",
        "cachesync top --json --count 10",
    )
    add_address(parser)
    parser.add_argument("--by", choices=("policy", "function"), default="policy", help="what each line is about (policy)")
    parser.add_argument("--sort", choices=COUNTS, default="calls", help="what comes first: the most calls, or the most of something else")
    parser.add_argument("--every", metavar="T", type=_pause, default=2.0, help="how often to ask (2s)")
    parser.add_argument("--count", metavar="N", type=number("turns", 1), help="end after so many turns (left out: Ctrl-C ends it)")
    parser.add_argument("--once", action="store_true", help="one turn: what was counted since the process began, not by the second")
    add_json(parser, "print JSON, one object on each line")
    parser.set_defaults(run=_run)


def _pause(text: str) -> float:
    return max(LEAST_PAUSE, seconds(text))


def _run(arguments: argparse.Namespace) -> int:
    try:
        address = address_from(arguments)
        if address is None:
            print("cachesync top: name where the admin app of a running application is, by --url or CACHESYNC_ADMIN_URL", file=sys.stderr)
            return USAGE
        view = View(arguments.by, arguments.sort, arguments.every, is_total=arguments.once)
        return follow(address, view, 1 if arguments.once else arguments.count, as_json=arguments.json, out=sys.stdout, errors=sys.stderr)
    except AskingError as error:
        print(f"cachesync top: {error}", file=sys.stderr)
        return NO


# --- what is counted ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One policy or function: counts a second (in total, where that was asked for), the share of hits, and how long it computes."""

    name: str
    counts: Mapping[str, float]
    hits: float
    p50: float | None = None
    p99: float | None = None

    @property
    def hit_rate(self) -> float | None:
        """The share of calls that were answered without computing, ``None`` where there were none."""
        return min(1.0, self.hits / self.counts["calls"]) if self.counts["calls"] else None

    def as_json(self) -> dict[str, Any]:
        """As ``--json`` tells it."""
        return {"name": self.name, **self.counts, "hit_rate": self.hit_rate, "p50": self.p50, "p99": self.p99}


_Counts = dict[str, dict[str, float]]


class Rates:
    """Counts a second, of all processes that have answered lately. Counts of a process are compared with its own alone."""

    def __init__(self, by: str, pause: float) -> None:
        self._table = "policies" if by == "policy" else "functions"
        self._kept = FORGOTTEN * pause
        self._last: dict[tuple[int, float], tuple[float, _Counts]] = {}
        self._rates: dict[tuple[int, float], tuple[float, _Counts]] = {}

    @property
    def processes(self) -> int:
        """How many have answered lately."""
        return len(self._last)

    def take(self, told: Mapping[str, Any]) -> _Counts:
        """Take in an answer of ``/stats``; the sums by name."""
        now, who = float(told["process"]["now"]), (int(told["process"]["pid"]), float(told["since"]))
        counts = counts_of(told, self._table)
        if who in self._last:
            before, old = self._last[who]
            passed = max(now - before, 1e-3)
            empty: dict[str, float] = dict.fromkeys((*COUNTS, "hits"), 0.0)
            self._rates[who] = (
                now,
                {
                    name: {count: max(0.0, value - old.get(name, empty)[count]) / passed for count, value in row.items()}
                    for name, row in counts.items()
                },
            )
        self._last[who] = now, counts
        for known in [one for one, (at, _) in self._last.items() if now - at > self._kept]:
            del self._last[known]
            self._rates.pop(known, None)
        sums: _Counts = {name: dict.fromkeys(row, 0.0) for name, row in counts.items()}
        for _, rates in self._rates.values():
            for name, row in rates.items():
                into = sums.setdefault(name, dict.fromkeys(row, 0.0))
                for count, value in row.items():
                    into[count] += value
        return sums


def counts_of(told: Mapping[str, Any], table: str) -> _Counts:
    """What an answer counts, by name: `COUNTS`, and all hits."""
    return {
        str(name): {**{count: float(row[count]) for count in COUNTS}, "hits": float(row["hits"] + row["joined"] + row["repeated"])}
        for name, row in told[table].items()
    }


class View:
    """What is shown of each answer."""

    def __init__(self, by: str, sort: str, pause: float, *, is_total: bool) -> None:
        self.by, self.sort, self.pause, self.is_total = by, sort, pause, is_total
        self.rates = Rates(by, pause)

    def rows(self, told: Mapping[str, Any]) -> list[Row]:
        """The rows, the first in order first. Latencies are known by policy."""
        counts = self.rates.take(told)
        if self.is_total:
            counts = counts_of(told, "policies" if self.by == "policy" else "functions")
        latencies: Mapping[str, Any] = told["latency"].get("compute", {}) if self.by == "policy" else {}
        found = [
            Row(
                name,
                {count: row[count] for count in COUNTS},
                row["hits"],
                latencies.get(name, {}).get("p50"),
                latencies.get(name, {}).get("p99"),
            )
            for name, row in counts.items()
        ]
        return sorted(found, key=lambda row: (-row.counts[self.sort], row.name))


# --- what is shown --------------------------------------------------------------------------------------------------------------


def follow(
    address: AdminAddress,
    view: View,
    turns: int | None,
    *,
    as_json: bool,
    out: TextIO,
    errors: TextIO,
    pause: Callable[[float], object] = time.sleep,
) -> int:
    """Show one answer after the other. Who has answered once is waited for. Returns the exit code; raises `AskingError`."""
    is_drawn = out.isatty() and not as_json and not view.is_total
    with _screen(out) if is_drawn else _no_screen():
        done, away = 0, ""
        while True:
            try:
                told = ask(address, "/stats")
                rows = _rows_of(view, told, address)
                away = ""
            except AskingError as error:
                if not done:
                    raise
                if not away and not is_drawn:
                    errors.write(f"cachesync top: {error}\n")
                away = str(error)
                told, rows = {}, []
            if as_json and not away:
                out.write(json.dumps(_as_json(view, told, rows)) + "\n")
            elif is_drawn:
                _draw(out, _page(view, told, rows, address, away))
            elif not away:
                out.writelines(f"{line}\n" for line in _lines(view, rows, told, is_first=not done))
            out.flush()
            done += 1
            if turns is not None and done >= turns:
                return NO if away else OK
            pause(view.pause)


def _rows_of(view: View, told: Mapping[str, Any], address: AdminAddress) -> list[Row]:
    try:
        return view.rows(told)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise AskingError(f"{address} is of another version, and what it answers can not be read: {error!r}") from error


@contextmanager
def _screen(out: TextIO) -> Generator[None]:
    out.write(_ENTER)
    try:
        yield
    finally:
        out.write(_LEAVE)
        out.flush()


@contextmanager
def _no_screen() -> Generator[None]:
    yield


def _as_json(view: View, told: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "ok": True,
        "time": _moment(told).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "by": view.by,
        "per": "process" if view.is_total else "second",
        "processes": view.rates.processes,
        "rows": [row.as_json() for row in rows],
    }


def _moment(told: Mapping[str, Any]) -> datetime:
    return datetime.fromtimestamp(told["process"]["now"], UTC)


def _lines(view: View, rows: Sequence[Row], told: Mapping[str, Any], *, is_first: bool) -> list[str]:
    """For no terminal: each row with its time."""
    moment = f"{_moment(told).astimezone():%H:%M:%S}"
    head = [f"{'time'.ljust(8)}  {_head(view, rows)}"] if is_first else []
    return [*head, *(f"{moment}  {_line(view, row, rows)}" for row in rows)]


def _page(view: View, told: Mapping[str, Any], rows: Sequence[Row], address: AdminAddress, away: str) -> list[tuple[str, str]]:
    """For a terminal: lines about the whole, and the rows, each with its colour."""
    about = f"cachesync top  {address}  every {format_duration(view.pause)}, by {view.sort}; Ctrl-C ends it"
    if away:
        return [(about, "head"), (plain(away), "bad")]
    log, local = told["log"], told["local"]
    state = (
        f"{counted(view.rates.processes, 'process', 'processes')}; log at {log['position'] or '-'};"
        f" {counted(local['entries'], 'copy', 'copies')}, {bytes_text(local['bytes'])}; breaker {told['shared']['breaker']}"
    )
    return [(about, "head"), (plain(state), ""), ("", ""), (_head(view, rows), "dim"), *((_line(view, row, rows), "") for row in rows)]


def _draw(out: TextIO, page: Sequence[tuple[str, str]]) -> None:
    """As many lines as there is room for, each no longer than the terminal is wide."""
    size = shutil.get_terminal_size()
    shown = [(text[: size.columns], colour) for text, colour in page[: max(1, size.lines - 1)]]
    lines = (paint(text, colour, out) if colour else text for text, colour in shown)
    out.write("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J")


def _head(view: View, rows: Sequence[Row]) -> str:
    columns = [column.removesuffix("/s") for column in _COLUMNS] if view.is_total else _COLUMNS
    return view.by.ljust(_width(rows)) + "".join(column.rjust(12) for column in columns)


def _line(view: View, row: Row, rows: Sequence[Row]) -> str:
    form = "{:,.0f}" if view.is_total else "{:,.1f}"
    calls, *others = (form.format(row.counts[count]) for count in COUNTS)
    rate = "-" if row.hit_rate is None else f"{row.hit_rate:.1%}"
    times = ("-" if taken is None else f"{1000 * taken:.1f} ms" for taken in (row.p50, row.p99))
    return plain(row.name)[: _width(rows)].ljust(_width(rows)) + "".join(cell.rjust(12) for cell in (calls, rate, *others, *times))


def _width(rows: Sequence[Row]) -> int:
    return min(40, max((len(row.name) for row in rows), default=0) + 2)
