"""The command line: ``cachesync check | explain | schema | demo``.

Each command is a function from its arguments to an exit code. 0: all is well. 1: the answer is no: mistakes were found, no policy
matches, an answer was stale. 2: the command was not understood, or something has to be installed first. 130: interrupted. 141: who
read the output stopped reading.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib import resources
from io import TextIOWrapper
from typing import Any, Final, TextIO

from cachesync import __version__
from cachesync.coordination.policy_file import load_settings
from cachesync.core.keys import check_key
from cachesync.core.names import Names
from cachesync.core.policy import Policy
from cachesync.core.settings import Settings
from cachesync.core.units import format_duration, format_size
from cachesync.errors import KeyArgumentError, PolicyError

DEFAULT_FILE: Final = "cachesync.toml"
OK: Final = 0
NO: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141

_EXIT_CODES: Final = """\
exit codes:
  0  all is well
  1  the answer is no: mistakes found, no policy matches, an answer was stale
  2  the command was not understood, or something has to be installed first
"""
_FILE_HELP: Final = f"the policy file; left out: $CACHESYNC_FILE, or {DEFAULT_FILE} in the working directory"
_COLOURS: Final = {"good": "32", "bad": "31", "name": "36", "head": "1", "dim": "2", "note": "33"}


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says. Returns the exit code; raises ``SystemExit`` only for ``--help``, ``--version`` and misuse."""
    _never_fail_to_print(sys.stdout, sys.stderr)
    try:
        try:
            arguments = _parser().parse_args(argv)
            code: int = arguments.run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes standard output once more at its end, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _never_fail_to_print(*streams: TextIO) -> None:
    """A terminal that can not show a character shows its code instead."""
    for stream in streams:
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


# --- what is understood ---------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cachesync",
        description="Keeps every copy of a piece of data in step: each worker's memory and Redis.",
        epilog="cachesync COMMAND --help says more, with examples.\n\n" + _EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cachesync {__version__}")
    parser.set_defaults(run=_no_command)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    check = _command(
        commands,
        "check",
        "find every mistake in a policy file",
        "Reads a policy file as an application would at its start, environment included, and tells every mistake at once.",
        "cachesync check",
        "cachesync check deploy/cachesync.toml",
        "cachesync check --json | jq '.problems'",
    )
    check.add_argument("file", nargs="?", metavar="FILE", help=_FILE_HELP)
    _add_json(check)
    check.set_defaults(run=_check)

    explain = _command(
        commands,
        "explain",
        "say which policy a key gets, and why",
        "Tells which policy a key gets, which others match it, how long its value lives, and its names in Redis.",
        "cachesync explain stores:JKT",
        "cachesync explain stores:JKT:stats:7 --file deploy/cachesync.toml",
        "cachesync explain stores:JKT --json | jq -r .redis.entry",
    )
    explain.add_argument("key", metavar="KEY", help="a key as text, such as stores:JKT")
    explain.add_argument("--file", metavar="FILE", help=_FILE_HELP)
    _add_json(explain)
    explain.set_defaults(run=_explain)

    schema = _command(
        commands,
        "schema",
        "print the JSON Schema of the policy file",
        "Prints the JSON Schema of the policy file, for editors that complete and check while you type.",
        "cachesync schema > cachesync.schema.json",
    )
    schema.set_defaults(run=_schema)

    demo = _command(
        commands,
        "demo",
        "see it work: two workers, a real Valkey server, real data",
        "Starts a Valkey server and two workers of a store dashboard, shows a cold miss, hits, a change and some traffic, "
        'and checks that every answer was fresh. Needs: pip install "cachesync[demo]".',
        "cachesync demo",
        "cachesync demo --requests 20000",
        "cachesync demo --keep-open",
        "cachesync demo --json | jq .traffic",
    )
    demo.add_argument("--requests", metavar="N", type=_count, default=8000, help="requests in the burst of traffic (8000)")
    demo.add_argument("--keep-open", action="store_true", help="leave the workers running afterwards, until Ctrl-C")
    _add_json(demo)
    demo.set_defaults(run=_demo)
    return parser


def _command(commands: Any, name: str, short: str, long: str, *examples: str) -> argparse.ArgumentParser:
    shown = "".join(f"  {example}\n" for example in examples)
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=short,
        description=long,
        epilog=f"examples:\n{shown}\n{_EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.description = _wrapped(long)
    return parser


def _wrapped(text: str) -> str:
    import textwrap

    return textwrap.fill(text, 78)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 8 and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of requests; write a whole number from 1 to 9999999")
    return int(text)


def _file_of(given: str | None) -> str:
    return given or os.environ.get("CACHESYNC_FILE") or DEFAULT_FILE


# --- the commands ---------------------------------------------------------------------------------------------------------------


def _no_command(_: argparse.Namespace) -> int:
    _parser().print_help(sys.stderr)
    return USAGE


def _check(arguments: argparse.Namespace) -> int:
    file = _file_of(arguments.file)
    try:
        settings = load_settings(file)
    except PolicyError as error:
        return _tell_problems(file, error, arguments)
    if arguments.json:
        _print_json(_settings_as_json(file, settings))
        return OK
    count = len(settings.policies)
    print(f"{_paint(file, 'head')}: {_paint('no mistakes', 'good')}, {count} {'policy' if count == 1 else 'policies'}")
    print(f"namespace {settings.namespace}, {_redis_as_text(settings)}")
    if settings.ttl:
        print("named durations: " + ", ".join(f"{name} = {format_duration(seconds)}" for name, seconds in settings.ttl.items()))
    print()
    _print_table(("policy", "match", "ttl", "local_ttl", "tags", "also"), (_row(policy) for policy in settings.policies))
    if unused := settings.without_effect():
        print(f"\n{_paint('Accepted, without effect in this version:', 'note')}")
        for name in unused:
            print(f"  {name}")
    return OK


def _tell_problems(file: str, error: PolicyError, arguments: argparse.Namespace) -> int:
    """Every mistake of a policy file: to the output of ``--json``, else to standard error."""
    if arguments.json:
        _print_json({"ok": False, "file": file, "problems": list(error.problems)})
        return NO
    for problem in error.problems:
        print(problem, file=sys.stderr)
    if not arguments.file and not os.path.exists(file):
        print("Name the policy file, or set CACHESYNC_FILE.", file=sys.stderr)
    count = len(error.problems)
    print(_paint(f"{count} {'mistake' if count == 1 else 'mistakes'}", "bad", sys.stderr), file=sys.stderr)
    return NO


def _explain(arguments: argparse.Namespace) -> int:
    try:
        key = check_key(arguments.key)  # as it stands in a key: control characters are percent-encoded
    except KeyArgumentError as error:
        print(f"cachesync explain: {error}", file=sys.stderr)
        return USAGE
    file = _file_of(arguments.file)
    try:
        settings = load_settings(file)
    except PolicyError as error:
        return _tell_problems(file, error, arguments)
    chosen = settings.policies.match(key)
    matching = sorted((policy for policy in settings.policies if policy.pattern.matches(key)), key=lambda policy: -policy.pattern.literals)
    near = _near_misses(key, settings)
    names = Names.of(settings.namespace)
    redis_names = {"entry": _text(names.entry(key)), "lease": _text(names.lease(key))}
    if arguments.json:
        _print_json(
            {
                "ok": chosen is not None,
                "file": file,
                "key": key,
                "policy": _policy_as_json(chosen) if chosen else None,
                "matching": [{"name": policy.name, "match": policy.match, "literals": policy.pattern.literals} for policy in matching],
                "near_misses": [{"name": policy.name, "match": policy.match} for policy in near],
                "redis": redis_names,
                "enabled": settings.enabled,
            }
        )
        return OK if chosen else NO
    if chosen is None:
        print(f"{_paint('No policy', 'bad')} of {file} matches {_quoted(key)}: it can not be cached.")
        _print_near(near)
        print('\nA policy with match = "*" would take every key that no other matches.')
        return NO
    print(f"{_quoted(key)} gets the policy {_paint(chosen.name, 'name')} of {file}.\n")
    print("why: of these, it has the most literal characters" if len(matching) > 1 else "why: it is the only one that matches")
    _print_table(("policy", "match", "literals"), ((policy.name, policy.match, str(policy.pattern.literals)) for policy in matching))
    _print_near(near)
    print("\nwhat that means")
    _print_pairs(_meaning(chosen))
    print(f"\nin Redis ({_redis_as_text(settings)})")
    _print_pairs(redis_names.items())
    if not settings.enabled:
        print(_paint("\nCACHESYNC_ENABLED is false: nothing is cached at all.", "bad"))
    return OK


def _near_misses(key: str, settings: Settings) -> list[Policy]:
    """Policies that do not match, but whose patterns look like the key: at most three, the most alike first."""
    others = {policy.match: policy for policy in settings.policies if not policy.pattern.matches(key)}
    return [others[match] for match in get_close_matches(key[:200], list(others), 3, 0.5)]


def _schema(_: argparse.Namespace) -> int:
    sys.stdout.write(resources.files("cachesync").joinpath("policy.schema.json").read_text(encoding="utf-8"))
    return OK


def _demo(arguments: argparse.Namespace) -> int:
    from cachesync.demo.run import run

    return run(requests=arguments.requests, as_json=arguments.json, keep_open=arguments.keep_open, out=sys.stdout, errors=sys.stderr)


# --- policies as text and as JSON -----------------------------------------------------------------------------------------------


def _ttl(policy: Policy) -> str:
    if policy.ttl is not None:
        return format_duration(policy.ttl)
    return f"dynamic, {_duration(policy.min_ttl)} to {_duration(policy.max_ttl)}"


def _duration(seconds: float | None) -> str:
    return "-" if seconds is None else format_duration(seconds)


def _others(policy: Policy) -> dict[str, str]:
    """The settings that differ from their defaults and have an effect, as they are written in a file; those of the table apart."""
    usual = policy.defaults()
    found: dict[str, str] = {}
    for name, rule in policy.rules.items():
        value = getattr(policy, name)
        if name in _TABLE or not rule.works or value == usual.get(name):
            continue
        if rule.is_duration:
            found[name] = format_duration(value)
        elif name == "compress_over":
            found[name] = format_size(value)
        else:
            found[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return found


_TABLE: Final = frozenset(("name", "match", "ttl", "min_ttl", "max_ttl", "local_ttl", "tags", "http"))


def _row(policy: Policy) -> tuple[str, ...]:
    also = ", ".join(f"{name} {value}" for name, value in _others(policy).items())
    return (policy.name, policy.match, _ttl(policy), _duration(policy.local_ttl), ", ".join(policy.tags) or "-", also)


def _meaning(policy: Policy) -> Iterable[tuple[str, str]]:
    decides = " (the decorated function decides)" if policy.is_dynamic else ""
    yield "fresh for", _ttl(policy) + decides
    yield (
        "in one process",
        f"at most {_duration(policy.local_ttl)} without asking Redis" if policy.local_ttl is not None else "as long as it is fresh",
    )
    yield (
        "out of date with",
        ", ".join((_quoted("*"), *(f"the tag {_quoted(tag)}" for tag in policy.tags), "its own key, and patterns that match it")),
    )
    yield from _others(policy).items()
    if unused := policy.without_effect():
        yield "no effect yet", ", ".join(unused)


def _policy_as_json(policy: Policy) -> dict[str, Any]:
    """Every setting of a policy; durations are seconds, sizes bytes."""
    found = {name: getattr(policy, name) for name in policy.rules if name != "http"}
    found["ttl"] = "dynamic" if policy.is_dynamic else policy.ttl
    found["http"] = None if policy.http is None else {name: getattr(policy.http, name) for name in policy.http.rules}
    return found | {"literals": policy.pattern.literals, "without_effect": policy.without_effect()}


def _settings_as_json(file: str, settings: Settings) -> dict[str, Any]:
    return {
        "ok": True,
        "file": file,
        "problems": [],
        "namespace": settings.namespace,
        "redis": _address(settings),
        "enabled": settings.enabled,
        "ttl": dict(settings.ttl),
        "policies": [_policy_as_json(policy) for policy in settings.policies],
        "without_effect": settings.without_effect(),
    }


def _redis_as_text(settings: Settings) -> str:
    address = _address(settings)
    return f"Redis at {address}" if address else "no Redis: one process"


def _address(settings: Settings) -> str | None:
    """Where Redis is, without user, password and options."""
    from urllib.parse import urlsplit

    if settings.redis is None:
        return None
    parts = urlsplit(settings.redis.url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _quoted(text: str) -> str:
    shown = text if len(text) <= 200 else text[:197] + "..."
    return json.dumps(shown, ensure_ascii=not shown.isprintable())


# --- printing -------------------------------------------------------------------------------------------------------------------


def wants_colour(stream: TextIO) -> bool:
    """Whether to write in colour: to a terminal that can show it, unless NO_COLOR is set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if wants_colour(stream or sys.stdout) else text


def _print_json(value: object) -> None:
    json.dump(value, sys.stdout, indent=2)
    print()


def _print_table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Columns as wide as they have to be; one that is empty in every row is left out."""
    lines = [head, *rows]
    kept = [column for column in range(len(head)) if any(line[column] for line in lines[1:])]
    widths = {column: max(len(line[column]) for line in lines) for column in kept}
    for number, line in enumerate(lines):
        text = "  " + "  ".join(line[column].ljust(widths[column]) for column in kept).rstrip()
        print(_paint(text, "dim") if number == 0 else text)


def _print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    listed = list(pairs)
    width = max(len(name) for name, _ in listed)
    for name, value in listed:
        print(f"  {name.ljust(width)}  {value}")


def _print_near(near: Sequence[Policy]) -> None:
    if near:
        print("\nsimilar, but no match")
        _print_table(("policy", "match"), ((policy.name, policy.match) for policy in near))


if __name__ == "__main__":
    sys.exit(main())
