"""``cachesync tail``: shows the log of invalidations, and goes on as it grows.

It subscribes first and reads the stream afterwards, as every process does that hears the log, so nothing is missed between the two:
what was read already is passed over when it is heard. It only looks: where there is no log it begins none.
"""

from __future__ import annotations

import argparse
import json
import select
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NoReturn, Protocol, TextIO

from cachesync.command_line.exits import NO, OK
from cachesync.command_line.parsing import Commands, add_file, add_json, command, number
from cachesync.command_line.policy_files import with_redis
from cachesync.command_line.printing import address_of, counted, paint, quoted
from cachesync.coordination.masking import Masking
from cachesync.core.names import Names
from cachesync.core.policies import Policies
from cachesync.core.records import EVERYTHING, GLOB, HARD, KEY, PREFIX, SOFT, TAG, VALUE, Record, RecordError, from_fields, written
from cachesync.core.settings import Settings
from cachesync.core.stamps import Stamp
from cachesync.core.steps import Beat, Failed, Hear, Heard, Torn
from cachesync.errors import LayerError
from cachesync.layers.redis_cluster import redis_layer
from cachesync.layers.redis_line import TROUBLE, Line, failed, refused
from cachesync.layers.redis_wire import Command, WireError, pack_all
from cachesync.protocols import Ear

PAGE: Final = 1_000
"""Records read in one trip."""
PATIENCE: Final = 3.0
"""Seconds an answer may take."""
BEAT: Final = 1.0
"""Seconds between two questions where the log ends: what was published and did not arrive is noticed by them."""
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 1.0
"""Seconds between two tries to reach Redis, at first and after several."""

MODES: Final = {HARD: "hard", SOFT: "soft", VALUE: "set"}
KINDS: Final = {KEY: "key", TAG: "tag", PREFIX: "prefix", GLOB: "glob", EVERYTHING: "everything"}
NOTHING_MASKED: Final = Masking(Policies())
_COLOUR_OF_MODE: Final = {HARD: "bad", SOFT: "note", VALUE: "good"}
_LONGEST_TEXT: Final = 60
_LONGEST_LIST: Final = 100


# --- printing -------------------------------------------------------------------------------------------------------------------


class Printer(Protocol):
    """Shows what the log says, each piece at once."""

    def record(self, record: Record, /) -> None:
        """A record."""
        ...

    def news(self, event: str, text: str, /, **fields: object) -> None:
        """Something about the log itself. ``event`` is one word for it, ``text`` a sentence."""
        ...


class Lines:
    """One line for each record, for people. What is said about the log goes to standard error. ``shown`` masks texts."""

    def __init__(self, out: TextIO, errors: TextIO, shown: Masking = NOTHING_MASKED) -> None:
        self._out = out
        self._errors = errors
        self._shown = shown

    def record(self, record: Record, /) -> None:
        """Time, number, mode, kind, texts and origin."""
        kind, mode = record.targets.kind, record.targets.mode
        moment = _moment(record.at)
        shown = (
            paint(f"{moment.astimezone():%Y-%m-%d %H:%M:%S}.{record.at % 1000:03d}" if moment else "-".ljust(23), "dim", self._out),
            f"{record.number:>7}",
            paint(MODES[mode].ljust(4), _COLOUR_OF_MODE[mode], self._out),
            KINDS[kind].ljust(10),
            _listed(_texts_of(record, self._shown)),
            paint(f"by {_plain(record.origin)}", "dim", self._out),
        )
        self._out.write("  ".join(shown) + "\n")
        self._out.flush()

    def news(self, event: str, text: str, /, **fields: object) -> None:
        """The sentence."""
        self._errors.write(paint(f"cachesync tail: {text}", "dim" if event == "following" else "note", self._errors) + "\n")
        self._errors.flush()


class JsonLines:
    """One JSON object on a line for each record and for everything that is said about the log (jsonlines.org), for programs."""

    def __init__(self, out: TextIO, shown: Masking = NOTHING_MASKED) -> None:
        self._out = out
        self._shown = shown

    def record(self, record: Record, /) -> None:
        """Everything that the record says."""
        moment = _moment(record.at)
        self._print(
            event="record",
            stamp=str(Stamp(record.epoch, record.number)),
            time=moment.isoformat(timespec="milliseconds").replace("+00:00", "Z") if moment else None,
            mode=MODES[record.targets.mode],
            kind=KINDS[record.targets.kind],
            texts=_texts_of(record, self._shown),
            origin=record.origin,
        )

    def news(self, event: str, text: str, /, **fields: object) -> None:
        """The word, the sentence, and what is in it."""
        self._print(event=event, says=text, **fields)

    def _print(self, **fields: object) -> None:
        self._out.write(json.dumps(fields) + "\n")
        self._out.flush()


def _texts_of(record: Record, shown: Masking) -> list[str]:
    """The texts as they were written, prefixes with their star; masked where the policy file says so."""
    if record.targets.kind == TAG:
        return [shown.tag(text) for text in record.targets.texts]
    return [shown.pattern(text) for text in written((record.targets,))["patterns"]]


def _listed(texts: Sequence[str]) -> str:
    """As many texts as fit on a line, and how many more there are."""
    shown: list[str] = []
    width = 0
    for text in texts:
        word = quoted(text, _LONGEST_TEXT)
        width += len(word) + 1
        if shown and width > _LONGEST_LIST:
            break
        shown.append(word)
    more = len(texts) - len(shown)
    return " ".join(shown) + (f" and {more:,} more" if more else "")


def _plain(name: str) -> str:
    """An epoch or an origin as a terminal may show it: whoever writes to Redis may have written anything."""
    return name if name.isalnum() and name.isascii() and len(name) <= _LONGEST_TEXT else quoted(name, _LONGEST_TEXT)


def _moment(milliseconds: int) -> datetime | None:
    """The server's clock as a moment, ``None`` where the record does not say."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds > 0 else None
    except (ValueError, OverflowError, OSError):
        return None


# --- reading --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Page:
    """Where the log ends (``None``: there is none), at which numbers older epochs were cut, and records by number, some unreadable."""

    head: Stamp | None
    cuts: Mapping[str, int]
    rows: Sequence[tuple[int, Record | RecordError]]


class Stream:
    """A connection to the log as it lies in Redis. It reads what is there, whatever comes before it. Raises ``LayerError``."""

    def __init__(self, names: Names, connect: Callable[[float], Line]) -> None:
        self._names = names
        try:
            self._line = connect(time.monotonic() + PATIENCE)
        except TROUBLE as error:
            raise _trouble(error) from error

    def page(self, after: int, most: int = PAGE) -> Page:
        """At most ``most`` records after a number."""
        commands: list[Command] = [
            (b"HMGET", self._names.meta, b"e", b"n", b"x"),
            (b"XRANGE", self._names.log, b"%d-0" % (after + 1), b"+", b"COUNT", most),
        ]
        try:
            replies = self._line.say(pack_all(commands), len(commands), time.monotonic() + PATIENCE)
            refused(replies)
            return _page_of(*replies)
        except TROUBLE as error:
            raise _trouble(error) from error

    def close(self) -> None:
        """End the connection."""
        self._line.close()


def _page_of(meta: Any, found: Any) -> Page:
    try:
        epoch, number, cuts = meta
        head = None if epoch is None or number is None else Stamp(epoch.decode("ascii"), int(number))
        cut_at = {str(old): int(cut) for old, cut in json.loads(cuts or b"[]")}
        return Page(head, cut_at, [(int(name.split(b"-")[0]), _record_of(fields)) for name, fields in found])
    except (TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
        raise WireError(f"what lies there is no log: {error!r}") from error


def _record_of(flat: Sequence[bytes]) -> Record | RecordError:
    try:
        texts = [field.decode("utf-8", "surrogatepass") for field in flat]
        return from_fields(dict(zip(texts[::2], texts[1::2], strict=True)))
    except UnicodeDecodeError as error:
        return RecordError(str(error))
    except RecordError as error:
        return error


def _trouble(error: BaseException) -> LayerError:
    problem = failed(Hear(0, False, 0), error).error
    return problem if isinstance(problem, LayerError) else LayerError(str(problem))


class Tail:
    """Shows each record once. ``open_stream`` opens a connection to the log, or raises ``LayerError``.

    ``last`` records are shown first, or everything from ``start`` on.
    """

    def __init__(self, open_stream: Callable[[], Stream], printer: Printer, *, last: int, start: Stamp | None) -> None:
        self._open_stream = open_stream
        self._printer = printer
        self._last = last
        self._start = start
        self._has_begun = False
        self.at: Stamp | None = None
        """What was shown last; ``None`` where there is no log."""

    def read(self) -> None:
        """Show what the stream has, up to where it ends now. Raises ``LayerError``."""
        with closing(self._open_stream()) as stream:
            if not self._has_begun:
                self._begin(stream.page(0, 1))
            while not self._take(stream.page(self.at.number if self.at else 0)):
                pass

    def hear(self, items: Iterable[object]) -> None:
        """Show what was heard. What does not continue what was shown is looked up in the stream. Raises ``LayerError``."""
        for item in items:
            if isinstance(item, Record):
                if self.at is not None and item.epoch == self.at.epoch:
                    if item.number <= self.at.number:
                        continue  # it was in the stream already
                    if item.number == self.at.number + 1:
                        self._show(item)
                        continue
                self.read()
            elif isinstance(item, Torn) or (isinstance(item, Beat) and item.head != self.at):
                self.read()

    def _show(self, record: Record) -> None:
        self._printer.record(record)
        self.at = Stamp(record.epoch, record.number)

    def _begin(self, page: Page) -> None:
        """Find out where to begin; ``page`` has the oldest record."""
        head, start = page.head, self._start
        if start is not None:
            self.at = Stamp(start.epoch, max(start.number - 1, 0))
        elif head is not None:
            oldest = page.rows[0][0] if page.rows else head.number + 1
            self.at = Stamp(head.epoch, min(head.number, max(head.number - self._last, oldest - 1)))
        if head is None:
            self._printer.news("none", "there is no log yet: nothing was cached or invalidated in this namespace")
            self.at = None
        self._has_begun = True

    def _take(self, page: Page) -> bool:
        """Show what a page has. True when that was all, false when there may be more."""
        head, at = page.head, self.at
        if head is None:
            if at is not None:
                self._printer.news("gone", "the log is gone: Redis was flushed, or has restarted empty. All that was cached is dead")
            self.at = None
            return True
        if at is None:
            self._printer.news("begun", f"a log has begun, epoch {_plain(head.epoch)}", epoch=head.epoch)
            self.at = Stamp(head.epoch, 0)
            return False
        if at.epoch != head.epoch:
            self._change(at, head, page.cuts.get(at.epoch))
            return False
        if at.number > head.number:
            text = f"the log ends at {head.number}, before {at.number}: it has become shorter, or that number was never given out"
            self._printer.news("short", text, stamp=str(head))
            self.at = head
            return True
        return self._take_rows(at, head, page.rows)

    def _take_rows(self, at: Stamp, head: Stamp, rows: Sequence[tuple[int, Record | RecordError]]) -> bool:
        number = at.number
        for found, record in rows:
            if found > head.number:
                break  # it came after the question: it is heard, or read the next time
            self._tell_gap(number, found)
            if isinstance(record, Record):
                self._printer.record(record)
            else:
                text = f"record {found} can not be read: {quoted(str(record))}"
                self._printer.news("unreadable", text, stamp=str(Stamp(head.epoch, found)))
            number = found
            self.at = Stamp(head.epoch, number)
        if len(rows) < PAGE:
            self._tell_gap(number, head.number + 1)
            number = head.number
        self.at = Stamp(head.epoch, number)
        return number >= head.number

    def _tell_gap(self, last: int, following: int) -> None:
        missing = following - last - 1
        if missing > 0:
            which = f"{last + 1}" if missing == 1 else f"{last + 1} to {following - 1}"
            text = f"{counted(missing, 'record is', 'records are')} gone from the log: {which}"
            self._printer.news("gap", text, first=last + 1, last=following - 1)

    def _change(self, at: Stamp, head: Stamp, cut: int | None) -> None:
        """Another epoch: the log was begun anew, or goes on under another server from where it was cut."""
        if cut is None:
            text = f"the log of epoch {_plain(at.epoch)} is lost, and another one has begun: epoch {_plain(head.epoch)}"
            self._printer.news("lost", text + ". All that was cached before is dead", epoch=head.epoch, before=at.epoch)
            self.at = Stamp(head.epoch, 0)
            return
        text = f"another server goes on with the log after number {cut}: epoch {_plain(head.epoch)}"
        lacking = max(0, at.number - cut)
        if lacking:
            text += f". It lacks {counted(lacking, 'record', 'records')}; whoever has applied them announces them again"
        self._printer.news("continued", text, epoch=head.epoch, before=at.epoch, cut=cut, lacking=lacking)
        self.at = Stamp(head.epoch, min(at.number, cut))


# --- the command ----------------------------------------------------------------------------------------------------------------


def add(commands: Commands) -> None:
    """Add ``tail``."""
    parser = command(
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
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--last", metavar="N", type=number("records", 0), default=10, help="show so many that are there already (10)")
    where.add_argument("--from", metavar="STAMP", dest="start", type=_stamp, help="show everything from this stamp on, epoch:number")
    parser.add_argument("--no-follow", action="store_true", help="end after what is there already")
    add_file(parser)
    add_json(parser, "print JSON, one object on each line")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    def run(settings: Settings) -> int:
        follow = not arguments.no_follow
        return tail(
            settings, last=arguments.last, start=arguments.start, follow=follow, as_json=arguments.json, out=sys.stdout, errors=sys.stderr
        )

    return with_redis("tail", arguments, run)


def _stamp(text: str) -> Stamp:
    try:
        return Stamp.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def tail(settings: Settings, *, last: int, start: Stamp | None, follow: bool, as_json: bool, out: TextIO, errors: TextIO) -> int:
    """Show the last records, or those from ``start`` on, and with ``follow`` what comes, for ever. Returns the exit code."""
    assert settings.redis is not None
    shared = redis_layer(settings.redis.url, namespace=settings.namespace)
    masking = Masking(settings.policies)
    printer: Printer = JsonLines(out, masking) if as_json else Lines(out, errors, masking)
    shown = Tail(lambda: Stream(shared.names, shared.line), printer, last=last, start=start)
    where = address_of(settings)
    if follow:
        with closing(shared.ear()) as ear:
            _follow(shown, printer, ear, f"{quoted(settings.namespace)} at {where}", out)
    try:
        shown.read()
    except LayerError as error:
        errors.write(f"cachesync tail: {where} can not be read: {_reason(error)}. Try again when it answers\n")
        return NO
    return OK


def _follow(shown: Tail, printer: Printer, ear: Ear, what: str, out: TextIO) -> NoReturn:
    """Show what comes. While Redis is away it is waited for; what happened meanwhile is read from the stream."""
    is_connected, is_away = False, False
    due, pause = 0.0, FIRST_PAUSE
    while True:
        _end_if_unread(out)
        now = time.monotonic()
        beat = now >= due
        if beat:
            due = now + BEAT
        try:
            heard = _heard(ear, Hear(due - now, beat, PATIENCE))
            if not is_connected:
                shown.read()
                _tell_connected(shown, printer, what, again=is_away)
                is_connected, is_away, pause = True, False, FIRST_PAUSE
            shown.hear(heard.items)
        except LayerError as error:
            if not is_away:
                printer.news("away", f"the log of {what} can not be heard: {_reason(error)}; waiting for it")
            is_connected, is_away, due = False, True, 0.0
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def _heard(ear: Ear, step: Hear) -> Heard:
    reply = ear.perform(step)
    if isinstance(reply, Failed):
        raise LayerError(_reason(reply.error)) from reply.error
    return reply


def _tell_connected(shown: Tail, printer: Printer, what: str, *, again: bool) -> None:
    at = None if shown.at is None else str(shown.at)
    where = f", which is at {_plain(shown.at.epoch)}:{shown.at.number}" if shown.at else ""
    if again:
        printer.news("back", f"the log is heard again{where}", stamp=at)
    else:
        printer.news("following", f"following the log of {what}{where}; Ctrl-C ends it", stamp=at)


def _reason(error: BaseException) -> str:
    return str(error).removeprefix("Redis, hear: ").rstrip(".")


def _end_if_unread(out: TextIO) -> None:
    """Raise ``BrokenPipeError`` where nobody reads any more what is printed: else that would be noticed at the next record only."""
    try:
        descriptor = out.fileno()
    except (OSError, ValueError):
        return  # it is no file
    poll = select.poll()
    poll.register(descriptor, 0)
    if any(event & select.POLLERR for _, event in poll.poll(0)):
        raise BrokenPipeError
