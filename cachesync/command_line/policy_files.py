"""The policy file of a command: where it is looked for, and how its mistakes are told."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from cachesync.command_line.exits import NO, USAGE
from cachesync.command_line.parsing import DEFAULT_FILE
from cachesync.command_line.printing import counted, paint, print_json
from cachesync.coordination.environment import read_environment
from cachesync.coordination.policy_file import load_settings
from cachesync.core.settings import Settings
from cachesync.errors import PolicyError


def file_of(given: str | None) -> str:
    """The file that was named, else ``CACHESYNC_FILE``, else the one in the working directory."""
    return given or os.environ.get("CACHESYNC_FILE") or DEFAULT_FILE


def with_settings(arguments: argparse.Namespace, run: Callable[[Settings], int]) -> int:
    """Run a command under its policy file, environment included."""
    file = file_of(arguments.file)
    try:
        return run(load_settings(file))
    except PolicyError as error:
        return tell_problems(file, error, arguments)


def with_redis(name: str, arguments: argparse.Namespace, run: Callable[[Settings], int]) -> int:
    """The same for a command that speaks to Redis."""
    return with_settings(arguments, lambda settings: run(settings) if settings.redis is not None else _without_redis(name, arguments))


def _without_redis(name: str, arguments: argparse.Namespace) -> int:
    why = f"{file_of(arguments.file)} has no [redis], and CACHESYNC_REDIS_URL is not set"
    advice = 'set it, or write [redis] and url = "redis://localhost:6379/0" into the file'
    if not read_environment(os.environ).redis_enabled:
        why, advice = "CACHESYNC_REDIS_ENABLED is false", "unset it"
    print(f"cachesync {name}: {why}, so there is nothing to speak to; {advice}", file=sys.stderr)
    return USAGE


def tell_problems(file: str, error: PolicyError, arguments: argparse.Namespace) -> int:
    """Every mistake of a policy file: to the output of ``--json``, else to standard error."""
    if arguments.json:
        print_json({"ok": False, "file": file, "problems": list(error.problems)})
        return NO
    for problem in error.problems:
        print(problem, file=sys.stderr)
    if not arguments.file and not os.path.exists(file):
        print("Name the policy file, or set CACHESYNC_FILE.", file=sys.stderr)
    print(paint(counted(len(error.problems), "mistake", "mistakes"), "bad", sys.stderr), file=sys.stderr)
    return NO
