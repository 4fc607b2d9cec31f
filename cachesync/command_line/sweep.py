"""``cachesync sweep``: deletes what is dead from Redis, and counts it."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import Final, TextIO

from cachesync.command_line.briefly import Outcome, brief_cache, sentence
from cachesync.command_line.exits import INTERRUPTED, NO, OK
from cachesync.command_line.parsing import Commands, add_file, add_json, command
from cachesync.command_line.policy_files import with_redis
from cachesync.command_line.printing import StatusLine, address_of, counted
from cachesync.core.settings import Settings
from cachesync.core.sweeping import Swept
from cachesync.errors import LayerError

JOINING: Final = 10.0
"""Seconds in which all invalidations that Redis remembers may be read: there may be tens of thousands."""


def add(commands: Commands) -> None:
    """Add ``sweep``."""
    parser = command(
        commands,
        "sweep",
        "delete what is dead from Redis, and count it",
        "Invalidated entries are refused when they are met, and go with their lifetime. This deletes them now, page by page, for the "
        "memory or the number. It is never needed for correctness. Needs Redis.",
        "cachesync sweep",
        "cachesync sweep --json | jq .deleted",
    )
    add_file(parser)
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    return with_redis("sweep", arguments, lambda settings: sweep(settings, as_json=arguments.json, out=sys.stdout, errors=sys.stderr))


def sweep(settings: Settings, *, as_json: bool, out: TextIO, errors: TextIO) -> int:
    """Delete what is dead from Redis, and print how much that was. Returns the exit code."""
    progress, outcome = Progress(errors), Outcome()
    problem, code = "", OK
    try:
        with brief_cache(settings, outcome, JOINING) as cache:
            cache.stamp()
            cache.sweep(progress.show)
    except LayerError as error:
        problem, code = f"{address_of(settings)} can not be swept: {sentence(outcome.reason or str(error))} Try again when it answers", NO
    except KeyboardInterrupt:
        problem, code = "interrupted; this is how far it came", INTERRUPTED
    finally:
        progress.clear()
    if problem:
        errors.write(f"cachesync sweep: {problem}\n")
    swept = progress.swept
    if as_json:
        out.write(json.dumps({"ok": code == OK, **asdict(swept)}) + "\n")
    elif code != NO or swept.examined:
        out.write(_counts(swept) + "\n")
    return code


class Progress:
    """Shows how far a sweep is, on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self.swept = Swept()
        self._line = StatusLine(stream)
        self.clear = self._line.clear

    def show(self, swept: Swept) -> None:
        """The sums so far."""
        self.swept = swept
        self._line.show(_counts(swept))


def _counts(swept: Swept) -> str:
    judged = f"; {swept.unjudged:,} could not be judged" if swept.unjudged else ""
    return f"{counted(swept.examined, 'entry', 'entries')} examined, {swept.deleted:,} dead and deleted{judged}"
