"""The command line: ``cachesync check | explain | schema | key | tail | invalidate | sweep | switch | warm | demo``.

Each command is a function from its arguments to an exit code. 0: all is well. 1: the answer is no: mistakes were found, no policy
matches, an answer was stale, a key could not be warmed, Redis could not be reached. 2: the command was not understood, there is no Redis to
speak to, or something has to be installed first. 74: the output could not be written. 130: interrupted. 141: who read the output stopped
reading.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from importlib import resources
from io import TextIOWrapper
from typing import Any, Final, TextIO, cast

from cachesync import __version__
from cachesync.coordination.environment import read_environment
from cachesync.coordination.policy_file import load_settings
from cachesync.core.encryption_keys import LARGEST_NUMBER, VARIABLE, new_key
from cachesync.core.keys import check_key
from cachesync.core.masking import by_policy
from cachesync.core.names import Names
from cachesync.core.policy import Policy
from cachesync.core.settings import Settings
from cachesync.core.stamps import Stamp
from cachesync.core.units import format_duration, format_size, parse_duration
from cachesync.errors import KeyArgumentError, PolicyError
from cachesync.printing import address_of, paint, print_json, print_pairs, print_table, quoted, wants_colour

__all__ = ["main", "wants_colour"]

DEFAULT_FILE: Final = "cachesync.toml"
OK: Final = 0
NO: Final = 1
USAGE: Final = 2
UNWRITTEN: Final = 74
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141

_EXIT_CODES: Final = """\
exit codes:
  0  all is well
  1  the answer is no: mistakes found, no policy matches, an answer was stale,
     a key could not be warmed, Redis could not be reached
  2  the command was not understood, there is no Redis to speak to,
     or something has to be installed first
"""
_FILE_HELP: Final = f"the policy file; left out: $CACHESYNC_FILE, or {DEFAULT_FILE} in the working directory"
_UNWRITTEN: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO))
"""What is wrong with a place that can not be written to. All other trouble with files is told where it happens."""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says. Returns the exit code; raises ``SystemExit`` only for ``--help``, ``--version`` and misuse."""
    _prepare_streams()
    try:
        try:
            arguments = _parser().parse_args(argv)
            code: int = arguments.run(arguments)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
    except BrokenPipeError:
        _write_no_more()
        return PIPE_CLOSED
    except OSError as error:
        if error.errno not in _UNWRITTEN:
            raise
        with suppress(OSError):
            print(f"cachesync: the output can not be written: {error.strerror}", file=sys.stderr)
        _write_no_more()
        return UNWRITTEN
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _prepare_streams() -> None:
    """A terminal that can not show a character shows its code instead. A stream that is closed takes everything and shows nothing."""
    if sys.stdout is None:  # after >&-
        sys.stdout = _nowhere()
    if sys.stderr is None:  # after 2>&-
        sys.stderr = _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")


def _write_no_more() -> None:
    """Python flushes both streams once more at its end, which must not fail again."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


# --- what is understood ---------------------------------------------------------------------------------------------------------


class _Help(argparse.RawDescriptionHelpFormatter):
    """Leaves room for the longest command: argparse forgets that commands are indented."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog)
        self._action_max_length = len("    invalidate")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cachesync",
        description="Keeps every copy of a piece of data in step: each worker's memory and Redis.",
        epilog="cachesync COMMAND --help says more, with examples.\n\n" + _EXIT_CODES,
        formatter_class=_Help,
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
    _add_file(explain)
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

    key = _command(
        commands,
        "key",
        "make a key that encrypts values in Redis",
        f"Prints a new encryption key for policies with encrypt = true, as {VARIABLE} takes it: a number, a colon, and 256 random bits "
        "in base64. It is a secret: keep it where your other secrets are. Left out, the number is one more than the highest that the "
        "variable has, or 1.",
        "cachesync key",
        "cachesync key --number 2027",
    )
    key.add_argument("--number", metavar="N", type=_key_number, help="the number that says which key has encrypted a value")
    key.set_defaults(run=_key)

    tail = _command(
        commands,
        "tail",
        "show the log of invalidations, live",
        "Shows the last invalidations, then each one that comes, from whichever process: when, its number, hard or soft or a value "
        "that was set, what was named, and the id of the process. Changes nothing. Needs Redis.",
        "cachesync tail",
        "cachesync tail --last 100 --no-follow",
        "cachesync tail --from 9f86d081884c7d65:121",
        "cachesync tail --json | jq -c 'select(.kind == \"tag\")'",
    )
    where = tail.add_mutually_exclusive_group()
    where.add_argument("--last", metavar="N", type=_number("records", 0), default=10, help="show so many that are there already (10)")
    where.add_argument("--from", metavar="STAMP", dest="start", type=_stamp, help="show everything from this stamp on, epoch:number")
    tail.add_argument("--no-follow", action="store_true", help="end after what is there already")
    _add_file(tail)
    _add_json(tail, "print JSON, one object on each line")
    tail.set_defaults(run=_tail)

    invalidate = _command(
        commands,
        "invalidate",
        "make copies out of date, everywhere",
        "Invalidates keys, prefixes, globs and tags in every process, and prints the stamp: the position in the log. "
        "Put patterns in quotes. Needs Redis.",
        "cachesync invalidate stores:JKT",
        "cachesync invalidate 'stores:*' --tag region:java",
        "cachesync invalidate '*:stats' --soft",
        "cachesync invalidate --everything",
        "psql -Atc \"SELECT 'stores:' || code FROM moved\" | cachesync invalidate -",
    )
    invalidate.add_argument(
        "patterns", nargs="*", metavar="PATTERN", help="a key, a prefix (stores:*), a glob (*:stats), or - for lines of input"
    )
    invalidate.add_argument("--tag", metavar="TAG", dest="tags", action="append", default=[], help="what carries this tag; may be repeated")
    invalidate.add_argument("--soft", action="store_true", help="the old value may be served stale while it is refreshed")
    invalidate.add_argument("--everything", action="store_true", help="every key of the namespace")
    invalidate.add_argument("--timeout", metavar="T", type=_seconds, default=10.0, help="how long to try while Redis does not answer (10s)")
    _add_file(invalidate)
    _add_json(invalidate)
    invalidate.set_defaults(run=_invalidate)

    sweep = _command(
        commands,
        "sweep",
        "delete what is dead from Redis, and count it",
        "Invalidated entries are refused when they are met, and go with their lifetime. This deletes them now, page by page, for the "
        "memory or the number. It is never needed for correctness. Needs Redis.",
        "cachesync sweep",
        "cachesync sweep --json | jq .deleted",
    )
    _add_file(sweep)
    _add_json(sweep)
    sweep.set_defaults(run=_sweep)

    switch = _command(
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
    switch.add_argument("target", nargs="?", metavar="TARGET", help="all, local, redis, or the name of a policy")
    switch.add_argument("value", nargs="?", metavar="VALUE", help="full, ttl, headers or off; for a layer on or off")
    switch.add_argument("--timeout", metavar="T", type=_seconds, default=10.0, help="how long to try while Redis does not answer (10s)")
    _add_file(switch)
    _add_json(switch)
    switch.set_defaults(run=_switch)
    warm = _command(
        commands,
        "warm",
        "compute what an application has declared, before anybody asks",
        "Imports the application's module, as a server does, and computes what its policies (warm = [...]) and its decorators "
        "(warm=[...]) name and what is not fresh yet. A key that fails ends nothing; then the exit code is 1.",
        "cachesync warm myapp.main:cache",
        "cachesync warm myapp.main:cache --policy stores --policy prices",
        "cachesync warm myapp.main:cache --dry-run",
        "cachesync warm myapp.main:cache --json | jq .computed",
    )
    warm.add_argument("target", metavar="MODULE:CACHE", help="where the application makes its cache, such as myapp.main:cache")
    warm.add_argument("--policy", metavar="NAME", dest="policies", action="append", default=[], help="only this policy; may be repeated")
    warm.add_argument("--concurrency", metavar="N", type=_at_once, help="computations at once (left out: as the policy file says, or 4)")
    warm.add_argument("--dry-run", action="store_true", help="only look: tell what would be computed")
    _add_json(warm)
    warm.set_defaults(run=_warm)

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
    demo.add_argument("--requests", metavar="N", type=_number("requests", 1), default=8000, help="requests in the burst of traffic (8000)")
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


def _add_json(parser: argparse.ArgumentParser, says: str = "print JSON") -> None:
    parser.add_argument("--json", action="store_true", help=says)


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--file", metavar="FILE", help=_FILE_HELP)


def _number(what: str, least: int) -> Callable[[str], int]:
    """Reads a whole number of something."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) < 8 and int(text) >= least):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of {what}; write a whole number from {least} to 9999999")
        return int(text)

    return read


def _at_once(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 4 and 1 <= int(text) <= 1_000):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of computations; write a whole number from 1 to 1000")
    return int(text)


def _key_number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and 1 <= int(text) <= LARGEST_NUMBER):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of a key; write a whole number from 1 to {LARGEST_NUMBER}")
    return int(text)


def _stamp(text: str) -> Stamp:
    try:
        return Stamp.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


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
        print_json(_settings_as_json(file, settings))
        return OK
    count = len(settings.policies)
    print(f"{paint(file, 'head')}: {paint('no mistakes', 'good')}, {count} {'policy' if count == 1 else 'policies'}")
    print(f"namespace {settings.namespace}, {_redis_as_text(settings)}")
    if settings.ttl:
        print("named durations: " + ", ".join(f"{name} = {format_duration(seconds)}" for name, seconds in settings.ttl.items()))
    print()
    print_table(("policy", "match", "ttl", "local_ttl", "tags", "also"), (_row(policy) for policy in settings.policies))
    if (encrypting := [policy.name for policy in settings.policies if policy.encrypt]) and settings.encryption_keys is None:
        print(f"\n{paint(f'{VARIABLE} is not set here', 'note')}: an application needs it, to encrypt {', '.join(encrypting)}.")
    if unused := settings.without_effect():
        print(f"\n{paint('Accepted, without effect in this version:', 'note')}")
        for name in unused:
            print(f"  {name}")
    return OK


def _tell_problems(file: str, error: PolicyError, arguments: argparse.Namespace) -> int:
    """Every mistake of a policy file: to the output of ``--json``, else to standard error."""
    if arguments.json:
        print_json({"ok": False, "file": file, "problems": list(error.problems)})
        return NO
    for problem in error.problems:
        print(problem, file=sys.stderr)
    if not arguments.file and not os.path.exists(file):
        print("Name the policy file, or set CACHESYNC_FILE.", file=sys.stderr)
    count = len(error.problems)
    print(paint(f"{count} {'mistake' if count == 1 else 'mistakes'}", "bad", sys.stderr), file=sys.stderr)
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
        print_json(
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
        print(f"{paint('No policy', 'bad')} of {file} matches {quoted(key)}: it can not be cached.")
        _print_near(near)
        print('\nA policy with match = "*" would take every key that no other matches.')
        return NO
    print(f"{quoted(key)} gets the policy {paint(chosen.name, 'name')} of {file}.\n")
    print("why: of these, it has the most literal characters" if len(matching) > 1 else "why: it is the only one that matches")
    print_table(("policy", "match", "literals"), ((policy.name, policy.match, str(policy.pattern.literals)) for policy in matching))
    _print_near(near)
    print("\nwhat that means")
    print_pairs(_meaning(chosen))
    if chosen.mask:
        print(f"\nin logs and events: {quoted(by_policy(chosen))}, or more of it where the function that it belongs to is known")
    print(f"\nin Redis ({_redis_as_text(settings)})")
    print_pairs(redis_names.items())
    if not settings.enabled:
        print(paint("\nCACHESYNC_ENABLED is false: nothing is cached at all.", "bad"))
    return OK


def _near_misses(key: str, settings: Settings) -> list[Policy]:
    """Policies that do not match, but whose patterns look like the key: at most three, the most alike first."""
    others = {policy.match: policy for policy in settings.policies if not policy.pattern.matches(key)}
    return [others[match] for match in get_close_matches(key[:200], list(others), 3, 0.5)]


def _schema(_: argparse.Namespace) -> int:
    sys.stdout.write(resources.files("cachesync").joinpath("policy.schema.json").read_text(encoding="utf-8"))
    return OK


def _key(arguments: argparse.Namespace) -> int:
    number = arguments.number
    if number is None:
        environment = read_environment({name: value for name, value in os.environ.items() if name == VARIABLE})
        if environment.problems:
            print("\n".join(environment.problems), file=sys.stderr)
            return NO
        known = environment.encryption_keys.numbers if environment.encryption_keys is not None else (0,)
        number = min(max(known) + 1, LARGEST_NUMBER)
    print(new_key(number))
    return OK


def _tail(arguments: argparse.Namespace) -> int:
    from cachesync.tail import tail

    def run(settings: Settings) -> int:
        follow = not arguments.no_follow
        return tail(
            settings, last=arguments.last, start=arguments.start, follow=follow, as_json=arguments.json, out=sys.stdout, errors=sys.stderr
        )

    return _with_redis("tail", arguments, run)


def _invalidate(arguments: argparse.Namespace) -> int:
    from cachesync.operate import Manner, invalidate, read_named

    def run(settings: Settings) -> int:
        namespace = settings.namespace
        try:
            named = read_named(arguments.patterns, arguments.tags, everything=arguments.everything, namespace=namespace, lines=sys.stdin)
        except KeyArgumentError as error:
            print(f"cachesync invalidate: {error}", file=sys.stderr)
            return USAGE
        manner = Manner(arguments.soft, arguments.timeout, arguments.json)
        return invalidate(settings, named, manner, out=sys.stdout, errors=sys.stderr)

    return _with_redis("invalidate", arguments, run)


def _sweep(arguments: argparse.Namespace) -> int:
    from cachesync.operate import sweep

    return _with_redis("sweep", arguments, lambda settings: sweep(settings, as_json=arguments.json, out=sys.stdout, errors=sys.stderr))


def _switch(arguments: argparse.Namespace) -> int:
    from cachesync.operate import switch

    def run(settings: Settings) -> int:
        target, value = arguments.target, arguments.value
        return switch(settings, target, value, timeout=arguments.timeout, as_json=arguments.json, out=sys.stdout, errors=sys.stderr)

    return _with_redis("switch", arguments, run)


def _warm(arguments: argparse.Namespace) -> int:
    from cachesync.warm import Wish, warm

    wish = Wish(arguments.policies, arguments.concurrency, arguments.dry_run, arguments.json)
    return warm(arguments.target, wish, out=sys.stdout, errors=sys.stderr)


def _with_redis(name: str, arguments: argparse.Namespace, run: Callable[[Settings], int]) -> int:
    """Run a command that speaks to a running system, under its policy file."""
    file = _file_of(arguments.file)
    try:
        settings = load_settings(file)
        if settings.redis is not None:
            return run(settings)
    except PolicyError as error:
        return _tell_problems(file, error, arguments)
    why = f"{file} has no [redis], and CACHESYNC_REDIS_URL is not set"
    advice = 'set it, or write [redis] and url = "redis://localhost:6379/0" into the file'
    if not read_environment(os.environ).redis_enabled:
        why, advice = "CACHESYNC_REDIS_ENABLED is false", "unset it"
    print(f"cachesync {name}: {why}, so there is nothing to speak to; {advice}", file=sys.stderr)
    return USAGE


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
        elif isinstance(value, tuple):
            found[name] = ", ".join(cast("tuple[str, ...]", value))
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
        ", ".join((quoted("*"), *(f"the tag {quoted(tag)}" for tag in policy.tags), "its own key, and patterns that match it")),
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
        "redis": address_of(settings),
        "enabled": settings.enabled,
        "encryption_keys": list(settings.encryption_keys.numbers) if settings.encryption_keys is not None else [],
        "ttl": dict(settings.ttl),
        "policies": [_policy_as_json(policy) for policy in settings.policies],
        "without_effect": settings.without_effect(),
    }


def _redis_as_text(settings: Settings) -> str:
    address = address_of(settings)
    return f"Redis at {address}" if address else "no Redis: one process"


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _print_near(near: Sequence[Policy]) -> None:
    if near:
        print("\nsimilar, but no match")
        print_table(("policy", "match"), ((policy.name, policy.match) for policy in near))


if __name__ == "__main__":
    sys.exit(main())
