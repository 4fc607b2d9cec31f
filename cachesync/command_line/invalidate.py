"""``cachesync invalidate``: makes copies out of date, everywhere, from a terminal or a script."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TextIO

from cachesync.cache import Cache
from cachesync.command_line.briefly import BUDGET, PAUSE, Outcome, brief_cache, sentence
from cachesync.command_line.exits import INTERRUPTED, NO, OK, USAGE
from cachesync.command_line.parsing import Commands, add_file, add_json, add_timeout, command
from cachesync.command_line.policy_files import with_redis
from cachesync.command_line.printing import address_of, counted, quoted
from cachesync.coordination.masking import Masking
from cachesync.core.keys import written
from cachesync.core.settings import Settings
from cachesync.core.stamps import Stamp
from cachesync.core.units import format_duration
from cachesync.errors import KeyArgumentError

TEXTS_OF_A_CALL: Final = 500
"""Texts announced at once: a call with a million would keep the server from all others."""
UNMATCHED_SHOWN: Final = 3


def add(commands: Commands) -> None:
    """Add ``invalidate``."""
    parser = command(
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
    parser.add_argument(
        "patterns", nargs="*", metavar="PATTERN", help="a key, a prefix (stores:*), a glob (*:stats), or - for lines of input"
    )
    parser.add_argument("--tag", metavar="TAG", dest="tags", action="append", default=[], help="what carries this tag; may be repeated")
    parser.add_argument("--soft", action="store_true", help="the old value may be served stale while it is refreshed")
    parser.add_argument("--everything", action="store_true", help="every key of the namespace")
    add_timeout(parser)
    add_file(parser)
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    def run(settings: Settings) -> int:
        namespace = settings.namespace
        try:
            named = read_named(arguments.patterns, arguments.tags, everything=arguments.everything, namespace=namespace, lines=sys.stdin)
        except KeyArgumentError as error:
            print(f"cachesync invalidate: {error}", file=sys.stderr)
            return USAGE
        manner = Manner(arguments.soft, arguments.timeout, arguments.json)
        return invalidate(settings, named, manner, out=sys.stdout, errors=sys.stderr)

    return with_redis("invalidate", arguments, run)


@dataclass(frozen=True, slots=True)
class Named:
    """What is to be invalidated."""

    patterns: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.patterns) + len(self.tags)

    def parts(self) -> Iterator[Named]:
        """The same in pieces of at most `TEXTS_OF_A_CALL`."""
        both = [*((text, False) for text in self.patterns), *((text, True) for text in self.tags)]
        for at in range(0, len(both), TEXTS_OF_A_CALL):
            piece = both[at : at + TEXTS_OF_A_CALL]
            yield Named(tuple(text for text, is_tag in piece if not is_tag), tuple(text for text, is_tag in piece if is_tag))


def read_named(given: Sequence[str], tags: Sequence[str], *, everything: bool, namespace: str, lines: TextIO | None) -> Named:
    """What the command line names; ``-`` stands for the lines of ``lines``.

    Raises ``KeyArgumentError`` for what is nothing, and for what is likely an accident.
    """
    if not (given or tags or everything):
        raise KeyArgumentError("nothing is named: give a key, a pattern, --tag or --everything")
    if not all((*given, *tags)):
        raise KeyArgumentError("an empty text is no pattern and no tag: was a variable empty?")
    if given and list(given) == _files_here():
        raise KeyArgumentError(
            "these are the names of all files in this directory, so a shell has replaced a *: put patterns in quotes"
            " (keys that are really called so can be given on standard input, with -)"
        )
    patterns = [text for one in given for text in (_lines_of(lines) if one == "-" else (one,))]
    if not everything and any(not text.strip("*") for text in patterns):
        raise KeyArgumentError(
            f'"*" is everything in the namespace {quoted(namespace)}: if that is meant, say --everything instead;'
            " if a longer pattern was meant, put it in quotes, because a shell has its own idea of *"
        )
    return Named((*patterns, "*") if everything else tuple(patterns), tuple(tags))


def _files_here() -> list[str]:
    """What a shell makes of a ``*`` without quotes."""
    try:
        return sorted(name for name in os.listdir() if not name.startswith("."))
    except OSError:
        return []


def _lines_of(lines: TextIO | None) -> list[str]:
    if lines is None:
        raise KeyArgumentError("standard input is closed, and - stands for its lines")
    try:
        return [text for line in lines if (text := line.rstrip("\r\n"))]
    except UnicodeDecodeError as error:
        raise KeyArgumentError(f"standard input is not {error.encoding.upper()}") from error


class Manner(NamedTuple):
    """How the command line wants an invalidation: ``timeout`` is how many seconds a Redis that does not answer is asked again."""

    soft: bool
    timeout: float
    as_json: bool


def invalidate(settings: Settings, named: Named, manner: Manner, *, out: TextIO, errors: TextIO) -> int:
    """Make what is named out of date, and print the stamp. Returns the exit code."""
    for text in _without_policy(named, settings):
        print(f"cachesync invalidate: no policy of {settings.file} matches {quoted(text)}: is it written as in the key?", file=errors)
    outcome = _announce(settings, named, manner)
    is_done = outcome.done == len(named)
    if manner.as_json:
        told: dict[str, object] = {"ok": is_done, "stamp": outcome.stamp, "soft": manner.soft, "named": len(named), "done": outcome.done}
        out.write(json.dumps(told if is_done else told | {"error": outcome.reason}) + "\n")
    elif is_done:
        out.write(f"{outcome.stamp}\n" if outcome.stamp else "")
    if not named:
        errors.write("cachesync invalidate: standard input named nothing, so nothing is invalidated\n")
    if outcome.is_unconfirmed:
        errors.write("cachesync invalidate: no replica has confirmed it in time (durable = true)\n")
    if outcome.is_unpublished:
        errors.write("cachesync invalidate: this user may not publish it: it is in the log, and processes notice it within max_lag\n")
    if not is_done:
        errors.write(f"cachesync invalidate: {_why(settings, named, manner, outcome)}\n")
    return OK if is_done else INTERRUPTED if outcome.is_interrupted else NO


def _without_policy(named: Named, settings: Settings) -> Iterator[str]:
    """Keys that no policy matches: the first few, since they may be mistyped. Only what depends on them can be cached."""
    masking = Masking(settings.policies)
    found = (text for text in named.patterns if "*" not in text and settings.policies.match(written(text)) is None)
    for _, text in zip(range(UNMATCHED_SHOWN), found, strict=False):
        yield masking.key(text)


def _announce(settings: Settings, named: Named, manner: Manner) -> Outcome:
    """Announce part after part, until one can not be announced."""
    outcome, part, is_pending = Outcome(), Named(), False
    try:
        with brief_cache(settings, outcome, min(manner.timeout, BUDGET)) as cache:
            for part in named.parts():
                is_pending = _announced(cache, part, manner).pending
                if is_pending:
                    break
                outcome.done += len(part)
    except KeyboardInterrupt:
        outcome.is_interrupted = True
    if is_pending and not outcome.is_lost:
        outcome.done += len(part)  # closing the cache was the last try
    return outcome


def _announced(cache: Cache, part: Named, manner: Manner) -> Stamp:
    until = time.monotonic() + manner.timeout
    while True:
        stamp = cache.invalidate(*part.patterns, tags=part.tags, soft=manner.soft)
        left = until - time.monotonic()
        if not stamp.pending or left <= 0:
            return stamp
        time.sleep(min(PAUSE, left))


def _why(settings: Settings, named: Named, manner: Manner, outcome: Outcome) -> str:
    """What to say where not everything was announced. To say it all again is always right: what is invalidated twice is invalidated."""
    far = f"{outcome.done:,} of {counted(len(named), 'text', 'texts')} announced for certain"
    if outcome.is_interrupted:
        return f"interrupted: {far}. To be sure of the rest, say it again: that does no harm."
    return (
        f"{address_of(settings)} could not be told within {format_duration(manner.timeout)}: {sentence(outcome.reason)}\n"
        f"{far}. When Redis answers, say it again: that does no harm. To wait longer: --timeout 5m"
    )
