"""``cachesync export``: writes the constants that a front end uses, from the policy file."""

from __future__ import annotations

import argparse
import json
import sys
from difflib import unified_diff
from itertools import islice
from pathlib import Path
from typing import Final

from cachesync.command_line.exits import NO, OK, UNWRITTEN, USAGE
from cachesync.command_line.parsing import Commands, add_file, command
from cachesync.command_line.policy_files import file_of, with_settings
from cachesync.command_line.printing import quoted
from cachesync.core.front_end import policies_as_json, policies_as_typescript, same_query_keys
from cachesync.core.settings import Settings

LINES_SHOWN: Final = 20
"""Lines of a difference that are told."""


def add(commands: Commands) -> None:
    """Add ``export``."""
    parser = command(
        commands,
        "export",
        "write what a front end knows: query keys, staleTime, gcTime",
        "Writes what a front end needs to know of each policy that has an http table: name, match, query key, staleTime and gcTime "
        "(milliseconds, as TanStack Query v5 takes them), version and visibility. As TypeScript, unless --json is given or the name of "
        "the file ends in .json. With --check nothing is written: the exit code is 1 where the file is not what would be.",
        "cachesync export",
        "cachesync export --out web/src/policies.ts",
        "cachesync export --out web/src/policies.ts --check",
        "cachesync export --json | jq '.policies.stores.staleTime'",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--typescript", action="store_true", help="a module that exports them, with types")
    form.add_argument("--json", action="store_true", help="JSON")
    parser.add_argument("--out", metavar="PATH", help="the file to write; left out: standard output")
    parser.add_argument("--check", action="store_true", help="only compare: 1 where the file would change, for CI")
    add_file(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.check and not arguments.out:
        print("cachesync export: --check compares with a file; name it with --out", file=sys.stderr)
        return USAGE
    as_json = arguments.json or (not arguments.typescript and (arguments.out or "").endswith(".json"))
    return with_settings(arguments, lambda settings: _export(settings, arguments, as_json=as_json))


def _export(settings: Settings, arguments: argparse.Namespace, *, as_json: bool) -> int:
    _warn(settings, file_of(arguments.file))
    text = f"{json.dumps(policies_as_json(settings), indent=2)}\n" if as_json else policies_as_typescript(settings)
    if not arguments.out:
        sys.stdout.write(text)
        return OK
    path = Path(arguments.out)
    try:
        there = path.read_bytes() if path.is_file() else None  # a device may have no end
        if arguments.check:
            return OK if there == text.encode() else _tell_difference(path, there, text)
        if there != text.encode():  # what is right already stays untouched: whoever watches the file is not woken
            path.write_text(text, encoding="ascii", newline="\n")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        print(f"cachesync export: {quoted(arguments.out)} can not be {'read' if arguments.check else 'written'}: {why}", file=sys.stderr)
        return NO if arguments.check else UNWRITTEN
    return OK


def _warn(settings: Settings, file: str) -> None:
    if all(policy.http is None for policy in settings.policies):
        print(f"cachesync export: no policy of {file} has an http table, so a front end is told of none", file=sys.stderr)
    for names in same_query_keys(settings):
        advice = "give each its own, by query_key in its http table"
        print(f"cachesync export: {' and '.join(names)} have the same query key; {advice}", file=sys.stderr)


def _tell_difference(path: Path, there: bytes | None, text: str) -> int:
    if there is None:
        says = "is no file"
    else:
        says = "is not what the policy file says"
        lines = unified_diff(there.decode("utf-8", "replace").splitlines(), text.splitlines(), "there", "right", n=0, lineterm="")
        for line in islice(lines, LINES_SHOWN):
            print("".join(sign if sign.isprintable() else "?" for sign in line), file=sys.stderr)
    print(f"cachesync export: {path} {says}; write it by the same command without --check", file=sys.stderr)
    return NO
