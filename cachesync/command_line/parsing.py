"""What the options of all commands have in common: how a command is put together, and how numbers and durations in it are read."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable
from typing import Final, Protocol

from cachesync.command_line.exits import EXIT_CODES
from cachesync.core.units import parse_duration

DEFAULT_FILE: Final = "cachesync.toml"
FILE_HELP: Final = f"the policy file; left out: $CACHESYNC_FILE, or {DEFAULT_FILE} in the working directory"


class Commands(Protocol):
    """What `argparse` puts commands into."""

    def add_parser(
        self,
        name: str,
        *,
        help: str,
        description: str,
        epilog: str,
        formatter_class: type[argparse.HelpFormatter],
        allow_abbrev: bool,
    ) -> argparse.ArgumentParser:
        """The parser of a new command."""
        ...


def command(commands: Commands, name: str, short: str, long: str, *examples: str) -> argparse.ArgumentParser:
    """A new command: a line for the list of commands, a paragraph, and examples for its ``--help``."""
    shown = "".join(f"  {example}\n" for example in examples)
    return commands.add_parser(
        name,
        help=short,
        description=textwrap.fill(long, 78),
        epilog=f"examples:\n{shown}\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_json(parser: argparse.ArgumentParser, says: str = "print JSON") -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help=says)


def add_file(parser: argparse.ArgumentParser) -> None:
    """``--file FILE``, the policy file."""
    parser.add_argument("--file", metavar="FILE", help=FILE_HELP)


def add_timeout(parser: argparse.ArgumentParser) -> None:
    """``--timeout T``, in seconds."""
    parser.add_argument("--timeout", metavar="T", type=seconds, default=10.0, help="how long to try while Redis does not answer (10s)")


def number(what: str, least: int, most: int = 9_999_999) -> Callable[[str], int]:
    """Reads a whole number of something."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) <= len(str(most)) and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of {what}; write a whole number from {least} to {most}")
        return int(text)

    return read


def seconds(text: str) -> float:
    """Reads a duration."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
