"""``cachesync explain``: says which policy a key gets, and why."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from cachesync.command_line.exits import NO, OK, USAGE
from cachesync.command_line.parsing import Commands, add_file, add_json, command
from cachesync.command_line.policies import duration_text, http_settings, other_settings, policy_as_json, redis_as_text, ttl_text
from cachesync.command_line.policy_files import file_of, tell_problems
from cachesync.command_line.printing import paint, print_json, print_pairs, print_table, quoted
from cachesync.coordination.policy_file import load_settings
from cachesync.core.keys import check_key
from cachesync.core.masking import by_policy
from cachesync.core.names import Names
from cachesync.core.policy import Policy
from cachesync.core.settings import Settings
from cachesync.errors import KeyArgumentError, PolicyError


def add(commands: Commands) -> None:
    """Add ``explain``."""
    parser = command(
        commands,
        "explain",
        "say which policy a key gets, and why",
        "Tells which policy a key gets, which others match it, how long its value lives, and its names in Redis.",
        "cachesync explain stores:JKT",
        "cachesync explain stores:JKT:stats:7 --file deploy/cachesync.toml",
        "cachesync explain stores:JKT --json | jq -r .redis.entry",
    )
    parser.add_argument("key", metavar="KEY", help="a key as text, such as stores:JKT")
    add_file(parser)
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    try:
        key = check_key(arguments.key)  # as it stands in a key: control characters are percent-encoded
    except KeyArgumentError as error:
        print(f"cachesync explain: {error}", file=sys.stderr)
        return USAGE
    file = file_of(arguments.file)
    try:
        settings = load_settings(file)
    except PolicyError as error:
        return tell_problems(file, error, arguments)
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
                "policy": policy_as_json(chosen) if chosen else None,
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
    print(f"\nin Redis ({redis_as_text(settings)})")
    print_pairs(redis_names.items())
    if not settings.enabled:
        print(paint("\nCACHESYNC_ENABLED is false: nothing is cached at all.", "bad"))
    return OK


def _near_misses(key: str, settings: Settings) -> list[Policy]:
    """Policies that do not match, but whose patterns look like the key: at most three, the most alike first."""
    others = {policy.match: policy for policy in settings.policies if not policy.pattern.matches(key)}
    return [others[match] for match in get_close_matches(key[:200], list(others), 3, 0.5)]


def _meaning(policy: Policy) -> Iterable[tuple[str, str]]:
    decides = " (the decorated function decides)" if policy.is_dynamic else ""
    yield "fresh for", ttl_text(policy) + decides
    yield (
        "in one process",
        f"at most {duration_text(policy.local_ttl)} without asking Redis" if policy.local_ttl is not None else "as long as it is fresh",
    )
    yield (
        "out of date with",
        ", ".join((quoted("*"), *(f"the tag {quoted(tag)}" for tag in policy.tags), "its own key, and patterns that match it")),
    )
    yield from other_settings(policy).items()
    yield from ((f"http.{name}", value) for name, value in http_settings(policy).items())


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _print_near(near: Sequence[Policy]) -> None:
    if near:
        print("\nsimilar, but no match")
        print_table(("policy", "match"), ((policy.name, policy.match) for policy in near))
