"""``cachesync stats``: the numbers of a running application, asked of its admin app, or of what lies in Redis."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TextIO

from cachesync.command_line.asking import AdminAddress, AskingError, add_address, address_from, ask
from cachesync.command_line.exits import INTERRUPTED, NO, OK, USAGE
from cachesync.command_line.parsing import Commands, add_file, add_json, command
from cachesync.command_line.policy_files import with_redis
from cachesync.command_line.printing import StatusLine, address_of, bytes_text, counted, plain, print_json, print_pairs, print_table
from cachesync.command_line.survey import Lying, Survey, survey
from cachesync.core.settings import Settings
from cachesync.core.units import format_duration
from cachesync.errors import LayerError


def add(commands: Commands) -> None:
    """Add ``stats``."""
    parser = command(
        commands,
        "stats",
        "count what an application does, or what lies in Redis",
        "With the address of an application's admin app, tells the numbers of the process that answers: hits, computations and "
        "latencies by policy, local memory, the log. Without one, counts what lies in Redis: entries and bytes by policy, and where the "
        "log stands; every name of the namespace is looked at, page by page. Changes nothing.",
        "cachesync stats",
        "cachesync stats --json | jq .policies.stores.entries",
        "cachesync stats --url http://localhost:8000/admin/cache",
    )
    add_address(parser)
    add_file(parser)
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    try:
        address = address_from(arguments)
        if address is not None:
            return _of_application(address, as_json=arguments.json)
    except AskingError as error:
        print(f"cachesync stats: {error}", file=sys.stderr)
        return NO
    if arguments.token:
        print("cachesync stats: a token is for an admin app; name where that is, by --url", file=sys.stderr)
        return USAGE
    return with_redis("stats", arguments, lambda settings: stats(settings, as_json=arguments.json, out=sys.stdout, errors=sys.stderr))


# --- of an application ----------------------------------------------------------------------------------------------------------


def _of_application(address: AdminAddress, *, as_json: bool) -> int:
    told = ask(address, "/stats")
    try:
        print_json({"ok": True, "url": str(address), **told}) if as_json else _show_application(told)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise AskingError(f"{address} is of another version, and what it answers can not be shown: {error!r}") from error
    return OK


def _show_application(told: Mapping[str, Any]) -> None:
    process, log, local = told["process"], told["log"], told["local"]
    lag = "never heard" if log["lag"] is None else f"heard {log['lag']:.1f} s ago"
    switched = ", ".join(f"{target} {value}" for target, value in told["switches"].items())
    print_pairs(
        [
            ("namespace", plain(process["namespace"])),
            ("process", f"{process['pid']}, for {format_duration(max(0, round(process['now'] - told['since'])))}"),
            ("log", f"at {log['position'] or 'no position'}, {lag}; {counted(log['bans'], 'ban', 'bans')}, {log['queued']:,} queued"),
            ("copies", f"{local['entries']:,} of {local['max_entries']:,}; {local['evictions']:,} evicted"),
            ("memory", f"{bytes_text(local['bytes'])} of {bytes_text(local['max_bytes'])}"),
            ("breaker", str(told["shared"]["breaker"])),
            ("switched", plain(switched) or "nothing"),
        ]
    )
    print()
    latencies: Mapping[str, Any] = told["latency"].get("compute", {})
    rows = [*told["policies"].items(), ("all", told["total"])]
    head = ("policy", "calls", "hits", "local", "redis", "joined", "computed", "failed", "stale", "p50", "p99")
    print_table(head, (_row(name, row, latencies.get(name)) for name, row in rows), numbers=head[1:])
    if latencies:
        print("\np50 and p99: how long computations took lately")


def _row(name: str, row: Mapping[str, Any], latency: Mapping[str, Any] | None) -> tuple[str, ...]:
    counts = (f"{row[count]:,}" for count in ("local_hits", "shared_hits", "joined", "computed", "failed", "stale"))
    quantiles = ("", "") if latency is None else (_time(latency["p50"]), _time(latency["p99"]))
    return plain(name), f"{row['calls']:,}", f"{row['hit_rate']:.1%}", *counts, *quantiles


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


# --- what lies in Redis ---------------------------------------------------------------------------------------------------------


def stats(settings: Settings, *, as_json: bool, out: TextIO, errors: TextIO) -> int:
    """Count what lies in Redis, and print it. Returns the exit code."""
    line = StatusLine(errors)
    problem, code, found = "", OK, None
    try:
        found = survey(settings, lambda so_far: line.show(f"{counted(so_far.total.entries, 'entry', 'entries')} counted"))
    except LayerError as error:
        problem, code = f"{address_of(settings)} can not be counted: {str(error).rstrip('.')}. Try again when it answers", NO
    except KeyboardInterrupt:
        problem, code = "interrupted", INTERRUPTED
    finally:
        line.clear()
    if problem:
        errors.write(f"cachesync stats: {problem}\n")
    if as_json:
        out.write(json.dumps({"ok": code == OK, **_as_json(settings, found)}) + "\n")
    elif found is not None:
        _show(settings, found)
    return code


def _as_json(settings: Settings, found: Survey | None) -> dict[str, Any]:
    told: dict[str, Any] = {"namespace": settings.namespace, "redis": address_of(settings)}
    if found is None:
        return told
    return {
        **told,
        "stamp": None if found.stamp is None else str(found.stamp),
        "records": found.records,
        "bans": found.bans,
        "switched": dict(found.switched),
        "leases": found.leases,
        **asdict(found.total),
        "policies": {name: asdict(row) for name, row in found.policies.items()},
        "others": {name: asdict(row) for name, row in found.others.items()},
    }


def _show(settings: Settings, found: Survey) -> None:
    log = "none: nothing was cached or invalidated" if found.stamp is None else f"at {found.stamp}"
    print_pairs(
        [
            ("namespace", f"{settings.namespace} at {address_of(settings)}"),
            ("log", f"{log}; {counted(found.records, 'record', 'records')} kept, {counted(found.bans, 'ban', 'bans')}"),
            ("switched", ", ".join(f"{target} {value}" for target, value in found.switched.items()) or "nothing"),
            ("leases", f"{found.leases:,}"),
        ]
    )
    print()
    rows = [*found.policies.items(), *((f"({name})", row) for name, row in found.others.items()), ("all", found.total)]
    print_table(("policy", "entries", "bytes"), (_lying(name, row) for name, row in rows), numbers=("entries", "bytes"))


def _lying(name: str, row: Lying) -> tuple[str, str, str]:
    return name, f"{row.entries:,}", bytes_text(row.bytes)
