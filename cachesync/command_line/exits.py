"""Exit codes: what a command answers to whoever has called it."""

from __future__ import annotations

from typing import Final

OK: Final = 0
NO: Final = 1
USAGE: Final = 2
UNWRITTEN: Final = 74
"""The output could not be written: ``EX_IOERR`` of sysexits.h."""
INTERRUPTED: Final = 130
"""As a shell says it of a program that SIGINT has ended: 128 and the signal's number."""
PIPE_CLOSED: Final = 141
"""The same of SIGPIPE."""

EXIT_CODES: Final = """\
exit codes:
  0  all is well
  1  the answer is no: mistakes found, no policy matches, an answer was stale,
     a key could not be warmed, a file would change, something is wrong;
     or Redis, or the application, could not be reached
  2  the command was not understood, there is no Redis to speak to,
     or something has to be installed first
"""
