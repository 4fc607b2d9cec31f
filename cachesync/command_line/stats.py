"""``cachesync stats``: the numbers of a running application, asked of its admin app, or of what lies in Redis."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any, TextIO

from cachesync.command_line.exits import INTERRUPTED, NO, OK
from cachesync.command_line.parsing import Commands, add_file, add_json, command
from cachesync.command_line.policy_files import with_redis
from cachesync.command_line.printing import StatusLine, address_of, bytes_text, counted, print_pairs, print_table
from cachesync.command_line.survey import Lying, Survey, survey
from cachesync.core.settings import Settings
from cachesync.errors import LayerError


def add(commands: Commands) -> None:
    """Add ``stats``."""
    parser = command(
        commands,
        "stats",
        "count what an application does, or what lies in Redis",
        "With the address of an application's admin app, tells the numbers of that process: hits, misses, computations by policy, local "
        "memory, the log. Without one, counts what lies in Redis: entries and bytes by policy, and where the log stands; every name of "
        "the namespace is looked at, page by page. Changes nothing.",
        "cachesync stats",
        "cachesync stats --json | jq .policies.stores.entries",
    )
    add_file(parser)
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    return with_redis("stats", arguments, lambda settings: stats(settings, as_json=arguments.json, out=sys.stdout, errors=sys.stderr))


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
    print_table(("policy", "entries", "bytes"), (_row(name, row) for name, row in rows), numbers=("entries", "bytes"))


def _row(name: str, row: Lying) -> tuple[str, str, str]:
    return name, f"{row.entries:,}", bytes_text(row.bytes)
