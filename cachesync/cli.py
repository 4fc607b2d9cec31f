"""The command line: ``cachesync check``, ``explain``, ``invalidate`` and the others, each a module of `cachesync.command_line`.

Each command is a function from its arguments to an exit code. 0: all is well. 1: the answer is no: mistakes were found, no policy
matches, an answer was stale, a key could not be warmed, a file would change, something is wrong; or Redis, or the application, could not
be reached. 2: the command was not understood, there is no Redis to speak to, or something has to be installed first. 74: the output could
not be written. 130: interrupted. 141: who read the output stopped reading.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from io import TextIOWrapper
from typing import Final, TextIO

from cachesync import __version__
from cachesync.command_line import (
    check,
    demo,
    doctor,
    explain,
    export,
    invalidate,
    key,
    schema,
    serve,
    stats,
    sweep,
    switch,
    tail,
    top,
    warm,
)
from cachesync.command_line.exits import EXIT_CODES, INTERRUPTED, PIPE_CLOSED, UNWRITTEN, USAGE
from cachesync.command_line.printing import wants_colour

__all__ = ["main", "wants_colour"]

_COMMANDS: Final = (check, explain, schema, export, key, tail, stats, top, invalidate, sweep, switch, warm, doctor, serve, demo)
"""In the order in which ``--help`` lists them."""
_UNWRITTEN: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO))
"""What is wrong with a place that can not be written to. All other trouble with files is told where it happens."""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says. Returns the exit code; raises ``SystemExit`` only for ``--help``, ``--version`` and misuse."""
    _prepare_streams()
    try:
        try:
            arguments = _parser().parse_args(argv)
            code: int = arguments.run(arguments)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
    except BrokenPipeError:
        _write_no_more()
        return PIPE_CLOSED
    except OSError as error:
        if error.errno not in _UNWRITTEN:
            raise
        with suppress(OSError):
            print(f"cachesync: the output can not be written: {error.strerror}", file=sys.stderr)
        _write_no_more()
        return UNWRITTEN
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _prepare_streams() -> None:
    """A terminal that can not show a character shows its code instead. A stream that is closed takes everything and shows nothing."""
    if sys.stdout is None:  # after >&-
        sys.stdout = _nowhere()
    if sys.stderr is None:  # after 2>&-
        sys.stderr = _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")


def _write_no_more() -> None:
    """Python flushes both streams once more at its end, which must not fail again."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


# --- what is understood ---------------------------------------------------------------------------------------------------------


class _Help(argparse.RawDescriptionHelpFormatter):
    """Leaves room for the longest command: argparse forgets that commands are indented."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog)
        self._action_max_length = len("    invalidate")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cachesync",
        description="Keeps every copy of a piece of data in step: each worker's memory and Redis.",
        epilog="cachesync COMMAND --help says more, with examples.\n\n" + EXIT_CODES,
        formatter_class=_Help,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cachesync {__version__}")
    parser.set_defaults(run=_no_command)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for one in _COMMANDS:
        one.add(commands)
    return parser


def _no_command(_: argparse.Namespace) -> int:
    _parser().print_help(sys.stderr)
    return USAGE


if __name__ == "__main__":
    sys.exit(main())
