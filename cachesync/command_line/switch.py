"""``cachesync switch``: turns caching down in every process, or shows what is."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import TextIO

from cachesync.cache import Cache
from cachesync.command_line.briefly import BUDGET, PAUSE, Outcome, brief_cache, sentence
from cachesync.command_line.exits import INTERRUPTED, NO, OK, USAGE
from cachesync.command_line.parsing import Commands, add_file, add_json, add_timeout, command
from cachesync.command_line.policy_files import with_redis
from cachesync.command_line.printing import address_of, plain, print_table
from cachesync.core.settings import Settings
from cachesync.core.switches import read_switch
from cachesync.core.units import format_duration
from cachesync.errors import LayerError, SwitchError


def add(commands: Commands) -> None:
    """Add ``switch``."""
    parser = command(
        commands,
        "switch",
        "turn caching down in every process, or show what is",
        "Switches in all running processes, in less than a second, and in those that start later, until it is switched back. Without a "
        "target, shows what is switched. TARGET is all, a policy, or a layer. all and policies can be full (as the policies say), ttl "
        "(lifetimes alone, no invalidation), headers (HTTP validators alone; functions as with off) or off (everything is computed). "
        "local and redis are on or off. Where several concern a key, the most cautious counts. Needs Redis.",
        "cachesync switch",
        "cachesync switch redis off",
        "cachesync switch redis on",
        "cachesync switch all ttl",
        "cachesync switch stores off",
        "cachesync switch --json | jq .switched",
    )
    parser.add_argument("target", nargs="?", metavar="TARGET", help="all, local, redis, or the name of a policy")
    parser.add_argument("value", nargs="?", metavar="VALUE", help="full, ttl, headers or off; for a layer on or off")
    add_timeout(parser)
    add_file(parser)
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    def run(settings: Settings) -> int:
        target, value = arguments.target, arguments.value
        return switch(settings, target, value, timeout=arguments.timeout, as_json=arguments.json, out=sys.stdout, errors=sys.stderr)

    return with_redis("switch", arguments, run)


def switch(settings: Settings, target: str | None, value: str | None, *, timeout: float, as_json: bool, out: TextIO, errors: TextIO) -> int:
    """Switch for all processes (nothing, where no target is named), and print what is switched now. Returns the exit code."""
    if (target is None) != (value is None):
        errors.write("cachesync switch: a target goes with a value, such as: cachesync switch all ttl\n")
        return USAGE
    names = {policy.name for policy in settings.policies}
    outcome, problem, code = Outcome(), "", OK
    switched: dict[str, str] = {}
    version = 0
    try:
        with brief_cache(settings, outcome, min(timeout, BUDGET)) as cache:
            if target is not None and value is not None:
                _check_switch(cache, target, value, names, timeout)
            problem = _switched(cache, target, value, timeout)
            switched, version = dict(cache.switches().everywhere), cache.switches().version
    except SwitchError as mistake:
        errors.write(f"cachesync switch: {mistake}\n")
        return USAGE
    except KeyboardInterrupt:
        problem, code = "interrupted: say it again to be sure, that does no harm", INTERRUPTED
    if problem and code == OK:
        problem = f"{address_of(settings)} could not be asked within {format_duration(timeout)}: {sentence(problem)}" + (
            " Nothing was switched for certain; say it again, that does no harm." if target else ""
        )
        code = NO
    if as_json:
        told: dict[str, object] = {"ok": code == OK, "switched": switched, "changed": _time_of(version)}
        out.write(json.dumps(told | ({"error": problem} if problem else {})) + "\n")
    elif not problem:
        _show_switched(switched, version, names, out)
    if problem:
        errors.write(f"cachesync switch: {problem}\n")
    return code


def _check_switch(cache: Cache, target: str, value: str, names: Collection[str], timeout: float) -> None:
    """Raises `SwitchError` for what can not be switched. Before a name is refused, Redis is asked: it may be that of a policy that was
    switched and is no more.
    """
    read_switch(target, value, {*names, target.removeprefix("policy.")})
    try:
        read_switch(target, value, names)
    except SwitchError:
        _switched(cache, None, None, timeout)
        read_switch(target, value, names, cache.switches().everywhere)


def _switched(cache: Cache, target: str | None, value: str | None, timeout: float) -> str:
    """Try until the timeout. What went wrong, empty for nothing."""
    until = time.monotonic() + timeout
    while True:
        try:
            if target is not None and value is not None:
                cache.switch(target, value)
                return ""
            health = cache.check()
            problem = next((reason.text for reason in health.reasons if reason.name == "unanswered"), "")
            if not problem:
                return ""
        except LayerError as error:
            problem = str(error)
        left = until - time.monotonic()
        if left <= 0:
            return problem
        time.sleep(min(PAUSE, left))


def _time_of(version: int) -> str | None:
    """When something was switched last, as RFC 3339 writes it: versions are milliseconds since 1970, by the server's clock."""
    if not version:
        return None
    try:
        return datetime.fromtimestamp(version / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return None


def _show_switched(switched: Mapping[str, str], version: int, policies: Collection[str], out: TextIO) -> None:
    since = _time_of(version)
    when = f" (since {since})" if since else ""
    if not switched:
        out.write(f"nothing is switched: everything is cached as its policy says{when}\n")
        return
    rows = [(plain(target), plain(value), _remark(target, policies)) for target, value in switched.items()]
    print_table(("switched", "to", ""), rows)
    out.write(f"for all processes; the rest is as its policy says{when}\n")


def _remark(target: str, policies: Collection[str]) -> str:
    known = not target.startswith("policy.") or target.removeprefix("policy.") in policies
    return "" if known else "no such policy in this file"
