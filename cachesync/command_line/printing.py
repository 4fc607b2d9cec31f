"""How the command line prints: in colour where it is wanted, as tables, as JSON, and so that no text can harm a terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
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


def address_of(settings: Settings) -> str | None:
    """Where Redis is, without user, password and options."""
    return None if settings.redis is None else address_of_url(settings.redis.url)


def counted(number: int, one: str, many: str) -> str:
    """``"1 policy"``, ``"12,000 policies"``."""
    return f"{number:,} {one if number == 1 else many}"


def print_json(value: object) -> None:
    """A value as JSON, over several lines."""
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")


def print_table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Columns as wide as they have to be; one that is empty in every row is left out."""
    lines = [head, *rows]
    kept = [column for column in range(len(head)) if any(line[column] for line in lines[1:])]
    widths = {column: max(len(line[column]) for line in lines) for column in kept}
    for number, line in enumerate(lines):
        text = "  " + "  ".join(line[column].ljust(widths[column]) for column in kept).rstrip()
        sys.stdout.write((paint(text, "dim") if number == 0 else text) + "\n")


def print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Names and what belongs to them, one pair on a line."""
    listed = list(pairs)
    width = max(len(name) for name, _ in listed)
    for name, value in listed:
        sys.stdout.write(f"  {name.ljust(width)}  {value}\n")
