"""``cachesync invalidate`` and ``cachesync sweep``: what is done to a running system from a terminal or a script.

Each is a `Cache` for a moment, under the policy file of the system. An application that can not reach Redis queues an invalidation and
goes on; a command that ends would take its queue along. So it tries for a while, and where that does not help it says so.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Final, NamedTuple, TextIO

from cachesync.cache import Cache
from cachesync.coordination.events import Event, logger
from cachesync.core.policy import Policy
from cachesync.core.settings import Settings
from cachesync.core.stamps import Stamp
from cachesync.core.sweeping import Swept
from cachesync.core.units import format_duration
from cachesync.errors import KeyArgumentError, LayerError
from cachesync.printing import address_of, counted, quoted

OK: Final = 0
NO: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130

BUDGET: Final = 1.0
"""Seconds one try may take: whoever types a command waits longer than a page that is being served."""
PAUSE: Final = 0.2
"""Seconds between two tries."""
TEXTS_OF_A_CALL: Final = 500
"""Texts announced at once: a call with a million would keep the server busy for all others."""


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


class Refusal(Exception):
    """What was named is not invalidated, for a reason that stands in the message."""


def read_patterns(given: Sequence[str], tags: Sequence[str], *, everything: bool, namespace: str, lines: TextIO) -> Named:
    """What the command line names; ``-`` stands for the lines of ``lines``. Raises `Refusal` for what may be an accident."""
    patterns: list[str] = []
    if given and list(given) == sorted(name for name in os.listdir() if not name.startswith(".")):
        raise Refusal(
            "these are the names of all files in this directory, so a shell has replaced a *: put patterns in quotes"
            " (keys that are really called so can be given on standard input, with -)"
        )
    for text in given:
        if text == "-":
            patterns += (line.rstrip("\r\n") for line in lines)
        else:
            patterns.append(text)
    patterns = [text for text in patterns if text]
    if not everything and any(not text.strip("*") for text in patterns):
        raise Refusal(
            f'"*" is everything in the namespace {quoted(namespace)}: if that is meant, say --everything instead;'
            " if a longer pattern was meant, put it in quotes, because a shell has its own idea of *"
        )
    return Named((*patterns, "*") if everything else tuple(patterns), tuple(tags))


class Asked(NamedTuple):
    """How the command line wants an invalidation: ``timeout`` is how many seconds a Redis that does not answer is asked."""

    soft: bool
    timeout: float
    as_json: bool


def invalidate(settings: Settings, named: Named, asked: Asked, *, out: TextIO, errors: TextIO) -> int:
    """Make what is named out of date, and print the stamp. Returns the exit code."""
    try:
        outcome = _announce(settings, named, asked)
    except KeyArgumentError as error:
        errors.write(f"cachesync invalidate: {error}\n")
        return USAGE
    for text in _without_policy(named, settings)[:3]:
        errors.write(f"cachesync invalidate: no policy of {settings.file} matches {quoted(text)}: is it written as it stands in keys?\n")
    if outcome.stamp is not None and outcome.done == len(named):
        told = {"ok": True, "stamp": outcome.stamp, "soft": asked.soft, "named": len(named)}
        out.write(f"{json.dumps(told) if asked.as_json else outcome.stamp}\n")
        if outcome.unconfirmed:
            errors.write("cachesync invalidate: no replica has confirmed it in time (durable = true)\n")
        return OK
    return _tell_failure(settings, named, asked, outcome, out, errors)


@dataclass(slots=True)
class Outcome:
    """How far it came: how many texts were announced, the stamp of the last of them as text, and why it went no further."""

    done: int = 0
    stamp: str | None = None
    reason: str = ""
    unconfirmed: bool = False
    interrupted: bool = False
    lost: bool = False

    def note(self, event: Event) -> None:
        """Listen to what the cache tells."""
        match event.name:
            case "layer_failed":
                self.reason = str(event.fields["error"])
            case "invalidated":
                self.stamp = str(event.fields["stamp"])
            case "not_durable":
                self.unconfirmed = True
            case "invalidation_lost":
                self.lost = True
            case _:
                pass


def _announce(settings: Settings, named: Named, asked: Asked) -> Outcome:
    """Announce part after part. Nothing happens where one of the texts is no pattern: raises ``KeyArgumentError``."""
    outcome, part = Outcome(), Named()
    cache = _cache(settings, outcome)
    try:
        with cache:
            for part in named.parts():
                if _announced(cache, part, asked).pending:
                    break
                outcome.done += len(part)
    except KeyboardInterrupt:
        outcome.interrupted = True
    return outcome


def _announced(cache: Cache, part: Named, asked: Asked) -> Stamp:
    until = time.monotonic() + asked.timeout
    while True:
        stamp = cache.invalidate(*part.patterns, tags=part.tags, soft=asked.soft)
        left = until - time.monotonic()
        if not stamp.pending or left <= 0:
            return stamp
        time.sleep(min(PAUSE, left))
