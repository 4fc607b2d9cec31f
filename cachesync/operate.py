"""``cachesync invalidate``, ``sweep`` and ``switch``: what is done to a running system from a terminal or a script.

Each is a `Cache` for a moment, under the policy file of the system. An application that can not reach Redis queues an invalidation and
goes on; a command that ends would take its queue along. So it tries for a while, and where that does not help it says so.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Final, NamedTuple, TextIO

from cachesync.cache import Cache
from cachesync.coordination.events import Event, logger
from cachesync.coordination.masking import Masking
from cachesync.core.keys import written
from cachesync.core.policies import Policies
from cachesync.core.settings import Settings
from cachesync.core.stamps import Stamp
from cachesync.core.sweeping import Swept
from cachesync.core.switches import read_switch
from cachesync.core.units import format_duration
from cachesync.errors import KeyArgumentError, LayerError, SwitchError
from cachesync.printing import address_of, counted, print_table, quoted

OK: Final = 0
NO: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130

BUDGET: Final = 1.0
"""Seconds one try may take: whoever types a command waits longer than a page that is being served."""
JOINING: Final = 10.0
"""Seconds in which all invalidations that Redis remembers may be read: there may be tens of thousands."""
PAUSE: Final = 0.2
"""Seconds between two tries."""
TEXTS_OF_A_CALL: Final = 500
"""Texts announced at once: a call with a million would keep the server from all others."""
UNMATCHED_SHOWN: Final = 3


def _cache(settings: Settings, outcome: Outcome, budget: float) -> Cache:
    """A cache under these settings, also where the environment switches caching off. What it meets is told to ``outcome`` alone."""
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())  # what no handler takes, Python prints to standard error
    coordination = replace(settings.coordination, budget=max(settings.coordination.budget, budget))
    # No value is read or written here, so nobody needs the keys that encrypt them.
    policies = Policies(replace(policy, encrypt=False) for policy in settings.policies)
    settings = replace(settings, coordination=coordination, policies=policies, enabled=True, switches={})
    return Cache(settings, listen=False, on_event=outcome.note)


# --- invalidate -----------------------------------------------------------------------------------------------------------------


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


@dataclass(slots=True)
class Outcome:
    """How far it came: how many texts were announced, the stamp of the last of them as text, and what went wrong."""

    done: int = 0
    stamp: str | None = None
    reason: str = ""
    is_unconfirmed: bool = False
    is_unpublished: bool = False
    is_interrupted: bool = False
    is_lost: bool = False

    def note(self, event: Event) -> None:
        """Take note of an event of the cache."""
        match event.name:
            case "layer_failed":
                self.reason = str(event.fields["error"])
            case "invalidated":
                self.stamp = str(event.fields["stamp"])
            case "not_durable":
                self.is_unconfirmed = True
            case "not_published":
                self.is_unpublished = True
            case "invalidation_lost":
                self.is_lost = True
            case _:
                pass


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
        with _cache(settings, outcome, min(manner.timeout, BUDGET)) as cache:
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
        f"{address_of(settings)} could not be told within {format_duration(manner.timeout)}: {_sentence(outcome.reason)}\n"
        f"{far}. When Redis answers, say it again: that does no harm. To wait longer: --timeout 5m"
    )


def _sentence(text: str) -> str:
    return text.rstrip(".") + "."


# --- sweep ----------------------------------------------------------------------------------------------------------------------


def sweep(settings: Settings, *, as_json: bool, out: TextIO, errors: TextIO) -> int:
    """Delete what is dead from Redis, and print how much that was. Returns the exit code."""
    progress, outcome = Progress(errors), Outcome()
    problem, code = "", OK
    try:
        with _cache(settings, outcome, JOINING) as cache:
            cache.stamp()
            cache.sweep(progress.show)
    except LayerError as error:
        problem, code = f"{address_of(settings)} can not be swept: {_sentence(outcome.reason or str(error))} Try again when it answers", NO
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
    """Shows how far a sweep is, on a terminal, in one line that the next one replaces."""

    def __init__(self, stream: TextIO) -> None:
        self.swept = Swept()
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._width = 0

    def show(self, swept: Swept) -> None:
        """The sums so far."""
        self.swept = swept
        if self._is_terminal:
            self._write(_counts(swept))

    def clear(self) -> None:
        """Take the line away."""
        if self._width:
            self._write("")
            self._write("")

    def _write(self, text: str) -> None:
        self._stream.write(f"\r{text.ljust(self._width)}")
        self._stream.flush()
        self._width = len(text)


def _counts(swept: Swept) -> str:
    judged = f"; {swept.unjudged:,} could not be judged" if swept.unjudged else ""
    return f"{counted(swept.examined, 'entry', 'entries')} examined, {swept.deleted:,} dead and deleted{judged}"


# --- switch ---------------------------------------------------------------------------------------------------------------------


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
        with _cache(settings, outcome, min(timeout, BUDGET)) as cache:
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
        problem = f"{address_of(settings)} could not be asked within {format_duration(timeout)}: {_sentence(problem)}" + (
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
    rows = [(_plain(target), _plain(value), _remark(target, policies)) for target, value in switched.items()]
    print_table(("switched", "to", ""), rows)
    out.write(f"for all processes; the rest is as its policy says{when}\n")


def _plain(text: str) -> str:
    return text if text.isprintable() else quoted(text)


def _remark(target: str, policies: Collection[str]) -> str:
    known = not target.startswith("policy.") or target.removeprefix("policy.") in policies
    return "" if known else "no such policy in this file"
