"""How the command line prints: in colour where it is wanted, as tables, as JSON, and so that no text can harm a terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Iterable
from typing import Final, TextIO

from cachesync.core.redis_url import address_of_url
from cachesync.core.settings import Settings

COLOURS: Final = {"good": "32", "bad": "31", "name": "36", "head": "1", "dim": "2", "note": "33"}


def wants_colour(stream: TextIO) -> bool:
    """Whether to write in colour: to a terminal that can show it, unless NO_COLOR is set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    """The text in one of `COLOURS`, where the stream (standard output unless given) wants it."""
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m" if wants_colour(stream or sys.stdout) else text


def quoted(text: str, most: int = 200) -> str:
    """A text in quotes, shortened to ``most`` characters, with the codes of what is better not printed."""
    shown = text if len(text) <= most else text[: most - 3] + "..."
    return json.dumps(shown, ensure_ascii=not shown.isprintable())


def plain(text: str) -> str:
    """A text from elsewhere as a terminal may show it."""
    return text if text.isprintable() else quoted(text)


def address_of(settings: Settings) -> str | None:
    """Where Redis is, without user, password and options."""
    return None if settings.redis is None else address_of_url(settings.redis.url)


def counted(number: int, one: str, many: str) -> str:
    """``"1 policy"``, ``"12,000 policies"``."""
    return f"{number:,} {one if number == 1 else many}"


def bytes_text(number: int) -> str:
    """About how many bytes: ``"512 B"``, ``"48.1 MiB"``."""
    size, unit = float(number), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{number} B" if unit == "B" else f"{size:.1f} {unit}"


class StatusLine:
    """On a terminal, one line that the next one replaces: how far something is. Elsewhere nothing is shown."""

    def __init__(self, stream: TextIO) -> None:
        self.is_shown = stream.isatty()
        self._stream = stream
        self._width = 0

    def show(self, text: str) -> None:
        """Put this text in the place of the last one."""
        if self.is_shown:
            self._stream.write(f"\r{text.ljust(self._width)}")
            self._stream.flush()
            self._width = len(text)

    def clear(self) -> None:
        """Take the line away."""
        if self._width:
            self.show("")
            self.show("")


def print_json(value: object) -> None:
    """A value as JSON, over several lines."""
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")


def print_table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]], *, numbers: Collection[str] = ()) -> None:
    """Columns as wide as they have to be; one that is empty in every row is left out. ``numbers`` are columns that end in line."""
    for number, line in enumerate(table(head, rows, numbers=numbers)):
        sys.stdout.write((paint(line, "dim") if number == 0 else line) + "\n")


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]], *, numbers: Collection[str] = ()) -> list[str]:
    """The lines of `print_table`, without colours."""
    lines = [head, *rows]
    kept = [column for column in range(len(head)) if any(line[column] for line in lines[1:])]
    widths = {column: max(len(line[column]) for line in lines) for column in kept}
    placed = {column: str.rjust if head[column] in numbers else str.ljust for column in kept}
    return ["  " + "  ".join(placed[column](line[column], widths[column]) for column in kept).rstrip() for line in lines]


def print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Names and what belongs to them, one pair on a line."""
    listed = list(pairs)
    width = max(len(name) for name, _ in listed)
    for name, value in listed:
        sys.stdout.write(f"  {name.ljust(width)}  {value}\n")
