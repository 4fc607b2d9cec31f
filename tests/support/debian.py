"""Redis 7.0, which comes in no wheel: from the distribution's packages, unpacked without root beside what else is built.

``python tests/support/debian.py`` fetches them with apt, which needs no right to install for that, and leaves
``.build/redis7/redis-server``, a script that starts the server with the libraries it was packed for. It prints the path, for
``CACHESYNC_EXTRA_SERVER``. Debian 12 and Ubuntu 24.04 have a Redis 7.0. Elsewhere it says what is missing and ends with 1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parents[2] / ".build" / "redis7"
BINARY: Final = FOLDER / "redis-server"
VERSION: Final = "7.0."
LONGEST: Final = 240
"""Seconds that one command may take: without a network apt waits for long."""
# The server's binary is in the tools; the rest are the libraries that a small system may lack.
PACKAGES: Final = ("redis-server", "redis-tools")
LIBRARIES: Final = (
    "libatomic1",
    "libhiredis0.14",
    "libjemalloc2",
    "liblua5.1-0",
    "liblzf1",
    "lua-bitop",
    "lua-cjson",
    "libssl3",
    "libsystemd0",
)
SCRIPT: Final = """\
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
libraries=$(echo "$here"/unpacked/usr/lib/*-linux-gnu*)
LD_LIBRARY_PATH="$libraries" exec "$here/unpacked/usr/bin/redis-server" "$@"
"""


class UnavailableError(Exception):
    """This machine's packages have no such server."""


def fetch(work: Path) -> None:
    """Make `BINARY`. Raises ``UnavailableError``."""
    for tool in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise UnavailableError(f"there is no {tool}")
    for part in ("lists/partial", "cache/archives/partial", "packages"):
        (work / part).mkdir(parents=True)
    # Lists and packages are kept in a folder of ours: those of the system need root.
    own = [f"Dir::State::lists={work / 'lists'}", f"Dir::Cache={work / 'cache'}", "APT::Sandbox::User=", "Acquire::Retries=3"]
    options = [word for option in own for word in ("-o", option)]
    _run("apt-get", *options, "-qq", "update", at=work)
    found = _run("apt-cache", *options, "policy", "redis-server", at=work)
    candidate = next((line.split()[-1] for line in found.splitlines() if line.strip().startswith("Candidate:")), "(none)")
    if not candidate.partition(":")[2].startswith(VERSION):
        raise UnavailableError(f"the packages here have Redis {candidate}")
    known = set(_run("apt-cache", *options, "pkgnames", "l", at=work).split())
    # A library that has another name here has to be the system's; the start below says whether it is.
    wanted = [*PACKAGES, *(library for library in LIBRARIES if library in known)]
    _run("apt-get", *options, "-qq", "download", *wanted, at=work / "packages")
    unpacked = work / "unpacked"
    for package in sorted((work / "packages").glob("*.deb")):
        _run("dpkg-deb", "-x", str(package), str(unpacked), at=work)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    shutil.move(unpacked, FOLDER / "unpacked")
    script = FOLDER / "starting"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    said = _run(str(script), "--version", at=FOLDER)
    if f"v={VERSION}" not in said:
        raise UnavailableError(f"what was unpacked says {said!r}")
    script.rename(BINARY)  # last: it is there only if it works


def _run(*command: str, at: Path) -> str:
    try:
        done = subprocess.run(
            command, cwd=at, capture_output=True, text=True, check=False, env=os.environ | {"LC_ALL": "C"}, timeout=LONGEST
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{command[0]} {command[-1]} takes longer than {LONGEST} s") from None
    if done.returncode:
        raise UnavailableError(f"{command[0]} {command[-1]}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


def main() -> int:
    """Returns 0 if the server is there."""
    if not BINARY.exists():
        with tempfile.TemporaryDirectory(prefix="cachesync-redis7-", ignore_cleanup_errors=True) as work:
            try:
                fetch(Path(work))
            except (UnavailableError, OSError) as why:
                print(f"no Redis 7.0 for the tests: {why}", file=sys.stderr)
                return 1
    print(BINARY)
    return 0


if __name__ == "__main__":
    sys.exit(main())
