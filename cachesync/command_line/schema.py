"""``cachesync schema``: prints the JSON Schema of the policy file."""

from __future__ import annotations

import argparse
import sys
from importlib import resources

from cachesync.command_line.exits import OK
from cachesync.command_line.parsing import Commands, command


def add(commands: Commands) -> None:
    """Add ``schema``."""
    parser = command(
        commands,
        "schema",
        "print the JSON Schema of the policy file",
        "Prints the JSON Schema of the policy file, for editors that complete and check while you type.",
        "cachesync schema > cachesync.schema.json",
    )
    parser.set_defaults(run=_run)


def _run(_: argparse.Namespace) -> int:
    sys.stdout.write(resources.files("cachesync").joinpath("policy.schema.json").read_text(encoding="utf-8"))
    return OK
