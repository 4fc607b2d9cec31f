"""``cachesync demo``: see it work."""

from __future__ import annotations

import argparse
import sys

from cachesync.command_line.parsing import Commands, add_json, command, number


def add(commands: Commands) -> None:
    """Add ``demo``."""
    parser = command(
        commands,
        "demo",
        "see it work: two workers, a real Valkey server, real data",
        "Starts a Valkey server and two workers of a store dashboard, shows a cold miss, hits, a change and some traffic, "
        'and checks that every answer was fresh. Needs: pip install "cachesync[demo]".',
        "cachesync demo",
        "cachesync demo --requests 20000",
        "cachesync demo --keep-open",
        "cachesync demo --json | jq .traffic",
    )
    parser.add_argument("--requests", metavar="N", type=number("requests", 1), default=8000, help="requests in the burst of traffic (8000)")
    parser.add_argument("--keep-open", action="store_true", help="leave the workers running afterwards, until Ctrl-C")
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from cachesync.demo.run import run

    return run(requests=arguments.requests, as_json=arguments.json, keep_open=arguments.keep_open, out=sys.stdout, errors=sys.stderr)
