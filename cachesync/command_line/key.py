"""``cachesync key``: makes a key that encrypts values in Redis."""

from __future__ import annotations

import argparse
import os
import sys

from cachesync.command_line.exits import NO, OK
from cachesync.command_line.parsing import Commands, command, number
from cachesync.coordination.environment import read_environment
from cachesync.core.encryption_keys import LARGEST_NUMBER, VARIABLE, new_key


def add(commands: Commands) -> None:
    """Add ``key``."""
    parser = command(
        commands,
        "key",
        "make a key that encrypts values in Redis",
        f"Prints a new encryption key for policies with encrypt = true, as {VARIABLE} takes it: a number, a colon, and 256 random bits "
        "in base64. It is a secret: keep it where your other secrets are. Left out, the number is one more than the highest that the "
        "variable has, or 1.",
        "cachesync key",
        "cachesync key --number 2027",
    )
    parser.add_argument(
        "--number", metavar="N", type=number("a key", 1, LARGEST_NUMBER), help="the number that says which key has encrypted a value"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    chosen = arguments.number
    if chosen is None:
        environment = read_environment({name: value for name, value in os.environ.items() if name == VARIABLE})
        if environment.problems:
            print("\n".join(environment.problems), file=sys.stderr)
            return NO
        known = environment.encryption_keys.numbers if environment.encryption_keys is not None else (0,)
        chosen = min(max(known) + 1, LARGEST_NUMBER)
    print(new_key(chosen))
    return OK
