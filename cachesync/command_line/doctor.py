"""``cachesync doctor``: looks at everything a deployment needs, and says what to do about each."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import chain

from cachesync.command_line.asking import AskingError, add_address, address_from, ask
from cachesync.command_line.doctor_here import examine_here
from cachesync.command_line.doctor_redis import examine_redis
from cachesync.command_line.exits import NO, OK
from cachesync.command_line.findings import COLOUR, Finding, fine, warning, wrong
from cachesync.command_line.parsing import Commands, add_file, add_json, command
from cachesync.command_line.policy_files import file_of
from cachesync.command_line.printing import counted, paint, plain, print_json
from cachesync.coordination.policy_file import load_settings
from cachesync.errors import PolicyError


def add(commands: Commands) -> None:
    """Add ``doctor``."""
    parser = command(
        commands,
        "doctor",
        "examine everything that a deployment needs",
        "Looks at the policy file, the environment, Python packages, and Redis: version, latency, memory and eviction, persistence, "
        "the rights of the user, a cluster's slots, whether the log can be heard, the clocks. Says of each what it means and what to do. "
        "Rights are tried on names of its own, which are gone afterwards. With the address of an application's admin app, asks that too.",
        "cachesync doctor",
        "cachesync doctor --url http://localhost:8000/admin/cache",
        "cachesync doctor --file deploy/cachesync.toml",
        "cachesync doctor --json | jq '.findings[] | select(.status != \"ok\")'",
    )
    add_address(parser)
    add_file(parser)
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    found: list[Finding] = []
    for finding in chain(_examine(file_of(arguments.file)), _application(arguments)):
        found.append(finding)
        if not arguments.json:
            _show(finding)
    is_well = all(finding.status != "wrong" for finding in found)
    if arguments.json:
        print_json({"ok": is_well, "findings": [finding._asdict() for finding in found]})
    else:
        _show_sum(found)
    return OK if is_well else NO


def _examine(file: str) -> Iterator[Finding]:
    try:
        settings = load_settings(file)
    except PolicyError as error:
        advice = "name it with --file, or by CACHESYNC_FILE" if "can not be read" in str(error) else ""
        for problem in error.problems:
            yield wrong("policy file", problem, advice or "mend it; `cachesync check` looks again")
        return
    yield from examine_here(settings, file)
    yield from examine_redis(settings)


def _application(arguments: argparse.Namespace) -> Iterator[Finding]:
    """How a process says it is, where it was named."""
    address = None
    try:
        address = address_from(arguments)
        if address is None:
            return
        health = ask(address, "/health")
        reasons = "; ".join(str(reason["text"]) for reason in health["reasons"])
        status = str(health["status"])
    except AskingError as error:
        yield wrong("application", error.says, error.advice or "name where the admin app is mounted")
    except (LookupError, TypeError) as error:
        yield wrong("application", f"{address} is of another version: {error!r}", "deploy the same version everywhere")
    else:
        says = f"{address} is {status}{': ' if reasons else ''}{reasons}"
        if status == "ok":
            yield fine("application", says)
        elif status == "degraded":
            yield warning("application", says, "callers are served; What can be observed says what each reason means")
        else:
            yield wrong("application", says, "every call computes: What can be observed says what each reason means")


def _show(finding: Finding) -> None:
    """Each at once: some take seconds."""
    print(f"{paint(finding.status.ljust(7), COLOUR[finding.status])}  {finding.name.ljust(11)}  {plain(finding.says)}")
    if finding.advice:
        print(f"{' ' * 22}{paint('->', 'dim')} {finding.advice}")
    sys.stdout.flush()


def _show_sum(found: Sequence[Finding]) -> None:
    count = {status: sum(finding.status == status for finding in found) for status in COLOUR}
    bad, note = counted(count["wrong"], "thing is", "things are"), counted(count["warning"], "warning", "warnings")
    told = f"{bad} wrong, {note}" if count["wrong"] else f"nothing is wrong, {note}" if count["warning"] else "all is well"
    print(f"\n{paint(told, 'bad' if count['wrong'] else 'note' if count['warning'] else 'good')}")
