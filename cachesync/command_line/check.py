"""``cachesync check``: finds every mistake in a policy file."""

from __future__ import annotations

import argparse
from typing import Any

from cachesync.command_line.exits import OK
from cachesync.command_line.parsing import FILE_HELP, Commands, add_json, command
from cachesync.command_line.policies import duration_text, http_settings, other_settings, policy_as_json, redis_as_text, ttl_text
from cachesync.command_line.policy_files import file_of, tell_problems
from cachesync.command_line.printing import address_of, counted, paint, print_json, print_table
from cachesync.coordination.policy_file import load_settings
from cachesync.core.encryption_keys import VARIABLE
from cachesync.core.policy import Policy
from cachesync.core.settings import Settings
from cachesync.core.units import format_duration
from cachesync.errors import PolicyError


def add(commands: Commands) -> None:
    """Add ``check``."""
    parser = command(
        commands,
        "check",
        "find every mistake in a policy file",
        "Reads a policy file as an application would at its start, environment included, and tells every mistake at once.",
        "cachesync check",
        "cachesync check deploy/cachesync.toml",
        "cachesync check --json | jq '.problems'",
    )
    parser.add_argument("file", nargs="?", metavar="FILE", help=FILE_HELP)
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    file = file_of(arguments.file)
    try:
        settings = load_settings(file)
    except PolicyError as error:
        return tell_problems(file, error, arguments)
    if arguments.json:
        print_json(_settings_as_json(file, settings))
        return OK
    print(f"{paint(file, 'head')}: {paint('no mistakes', 'good')}, {counted(len(settings.policies), 'policy', 'policies')}")
    print(f"namespace {settings.namespace}, {redis_as_text(settings)}")
    if settings.ttl:
        print("named durations: " + ", ".join(f"{name} = {format_duration(seconds)}" for name, seconds in settings.ttl.items()))
    print()
    print_table(("policy", "match", "ttl", "local_ttl", "tags", "also", "http"), (_row(policy) for policy in settings.policies))
    if (encrypting := [policy.name for policy in settings.policies if policy.encrypt]) and settings.encryption_keys is None:
        print(f"\n{paint(f'{VARIABLE} is not set here', 'note')}: an application needs it, to encrypt {', '.join(encrypting)}.")
    return OK


def _row(policy: Policy) -> tuple[str, ...]:
    also = ", ".join(f"{name} {value}" for name, value in other_settings(policy).items())
    http = ", ".join(value if name == "visibility" else f"{name} {value}" for name, value in http_settings(policy).items())
    return (policy.name, policy.match, ttl_text(policy), duration_text(policy.local_ttl), ", ".join(policy.tags) or "-", also, http)


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
        "policies": [policy_as_json(policy) for policy in settings.policies],
    }
