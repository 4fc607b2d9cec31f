"""``python -m soak``: exit code 1 when a promise was broken or a worker was in trouble."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from soak.faults import FAULTS
from soak.run import Soak, Wanted
from support.servers import flavours


def main(given: list[str] | None = None) -> int:
    usual = Wanted()
    names = sorted({fault.name for fault in FAULTS})
    parser = argparse.ArgumentParser(prog="make soak", description="Random faults, many processes, and a checker of the promises.")
    parser.add_argument("--seconds", type=float, default=usual.seconds, help="of traffic (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=usual.seed, help="of faults and traffic (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=usual.workers, help="processes (default: %(default)s)")
    parser.add_argument("--max-lag", type=float, default=usual.max_lag, help="seconds (default: %(default)g)")
    parser.add_argument("--every", type=float, default=usual.every, help="seconds between two faults, on average (default: %(default)g)")
    parser.add_argument("--limit", type=float, default=usual.limit, help="the longest a call may take, seconds (default: %(default)g)")
    parser.add_argument("--server", choices=flavours(), default=usual.flavour, help="(default: %(default)s)")
    parser.add_argument("--only", action="append", choices=names, default=[], metavar="FAULT", help=f"may be repeated: {', '.join(names)}")
    parser.add_argument("--no-faults", action="store_true", help="nothing happens to workers, lines and the server")
    parser.add_argument("--chaos", action="store_true", help="layers, codecs and origins fail too, inside of every worker")
    parser.add_argument("--keep", action="store_true", help="keep what was written down, also where nothing went wrong")
    options = parser.parse_args(given)
    wanted = Wanted(
        seconds=options.seconds,
        seed=options.seed,
        workers=options.workers,
        max_lag=options.max_lag,
        every=float("inf") if options.no_faults else options.every,
        limit=options.limit,
        flavour=options.server,
        only=frozenset(options.only),
        chaos=options.chaos,
    )
    folder = Path(tempfile.mkdtemp(prefix="cachesync-soak-"))
    outcome = Soak(wanted, folder, lambda text: print(text, flush=True)).run()
    if outcome.is_clean and not options.keep:
        shutil.rmtree(folder)
    return 0 if outcome.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
