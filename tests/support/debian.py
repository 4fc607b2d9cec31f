"""What comes in no wheel, from the distribution's packages, unpacked without root beside what else is built.

======================================  ========================================================================================
``python tests/support/debian.py``      Redis 7.0, which Debian 12 and Ubuntu 24.04 pack: ``.build/redis7/redis-server``
``... debian.py chromium``              a headless Chromium, which Debian packs: ``.build/chromium/chromium``
======================================  ========================================================================================

Both are scripts that start a program with the libraries it was packed for. apt fetches the packages, which needs no right to install
for that. The path is printed; elsewhere it is said what is missing, and the exit code is 1.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

BUILD: Final = Path(__file__).resolve().parents[2] / ".build"
LONGEST: Final = 240
"""Seconds that one command may take: without a network apt waits for long."""


class UnavailableError(Exception):
    """This machine's packages have no such program."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program to be unpacked: the ``folder`` it has under ``.build``, its ``name`` there, and how its version begins."""

    folder: str
    name: str
    version: str
    script: str
    fetch: Callable[[Apt], None]

    @property
    def path(self) -> Path:
        """Where it is, once it is there."""
        return BUILD / self.folder / self.name

    def made(self) -> Path:
        """Where it is; made if it is not. Of several processes that ask, one makes it. Raises `UnavailableError`."""
        BUILD.mkdir(exist_ok=True)
        with (BUILD / f"{self.folder}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.path.exists():
                with tempfile.TemporaryDirectory(prefix=f"cachesync-{self.folder}-", dir=BUILD, ignore_cleanup_errors=True) as work:
                    self._make(Apt(Path(work)))
        return self.path

    def _make(self, apt: Apt) -> None:
        self.fetch(apt)
        for package in sorted(apt.packages.rglob("*.deb")):
            run("dpkg-deb", "-x", str(package), str(apt.unpacked), at=apt.work)
        shutil.rmtree(self.path.parent, ignore_errors=True)
        self.path.parent.mkdir(parents=True)
        shutil.move(apt.unpacked, self.path.parent / "unpacked")
        script = self.path.with_name("starting")
        script.write_text(self.script)
        script.chmod(0o755)
        said = run(str(script), "--version", at=self.path.parent)
        if self.version not in said:
            raise UnavailableError(f"what was unpacked says {said!r}")
        script.rename(self.path)  # last: it is there only if it works


class Apt:
    """apt, with lists and packages in a folder of ours: those of the system need root."""

    def __init__(self, work: Path) -> None:
        for tool in ("apt-get", "apt-cache", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise UnavailableError(f"there is no {tool}")
        self.work = work
        self.packages = work / "cache" / "archives"
        self.unpacked = work / "unpacked"
        for part in (work / "lists" / "partial", self.packages / "partial"):
            part.mkdir(parents=True)
        own = [f"Dir::State::lists={work / 'lists'}", f"Dir::Cache={work / 'cache'}", "APT::Sandbox::User=", "Debug::NoLocking=1"]
        self._options = [word for option in (*own, "Acquire::Retries=3") for word in ("-o", option)]
        self.get("update")

    def get(self, *words: str) -> None:
        """``apt-get``. What is downloaded is unpacked later."""
        run("apt-get", *self._options, "-qq", *words, at=self.packages)

    def cache(self, *words: str) -> str:
        """What ``apt-cache`` says."""
        return run("apt-cache", *self._options, *words, at=self.work)


# --- Redis 7.0 --------------------------------------------------------------------------------------------------------------------

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


def fetch_redis(apt: Apt) -> None:
    """Download Redis 7.0. Raises `UnavailableError` where the distribution has another."""
    found = apt.cache("policy", "redis-server")
    candidate = next((line.split()[-1] for line in found.splitlines() if line.strip().startswith("Candidate:")), "(none)")
    if not candidate.partition(":")[2].startswith("7.0."):
        raise UnavailableError(f"the packages here have Redis {candidate}")
    known = set(apt.cache("pkgnames", "l").split())
    # A library that has another name here has to be the system's; the start says whether it is.
    apt.get("download", *PACKAGES, *(library for library in LIBRARIES if library in known))


REDIS: Final = Program(
    folder="redis7",
    name="redis-server",
    version="v=7.0.",
    fetch=fetch_redis,
    script="""\
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
libraries=$(echo "$here"/unpacked/usr/lib/*-linux-gnu*)
LD_LIBRARY_PATH="$libraries" exec "$here/unpacked/usr/bin/redis-server" "$@"
""",
)

# --- Chromium ---------------------------------------------------------------------------------------------------------------------


def fetch_chromium(apt: Apt) -> None:
    """Download the Chromium without a window, what it depends on that is not installed, and fonts: one for the text, one for figures."""
    wanted = ("chromium-headless-shell", "fonts-inter", "fonts-dejavu-core")
    apt.get("-y", "--no-install-recommends", "--download-only", "install", *wanted)


CHROMIUM: Final = Program(
    folder="chromium",
    name="chromium",
    version="Chromium ",
    fetch=fetch_chromium,
    script="""\
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
libraries=$(find "$here/unpacked" -name '*.so*' -printf '%h\\n' | sort -u | tr '\\n' ':')
mkdir -p "$here/fonts"
cat > "$here/fonts/$$.conf" <<END
<fontconfig><dir>/usr/share/fonts</dir><dir>$here/unpacked/usr/share/fonts</dir><cachedir>$here/fonts/cache</cachedir>
<alias binding="same"><family>system-ui</family><prefer><family>Inter</family></prefer></alias>
<alias binding="same"><family>monospace</family><prefer><family>DejaVu Sans Mono</family></prefer></alias></fontconfig>
END
mv "$here/fonts/$$.conf" "$here/fonts/fonts.conf"
LD_LIBRARY_PATH="$libraries" FONTCONFIG_FILE="$here/fonts/fonts.conf" \\
    exec "$here/unpacked/usr/lib/chromium/chromium-headless-shell" "$@"
""",
)

PROGRAMS: Final = {"redis7": ("Redis 7.0", REDIS), "chromium": ("Chromium", CHROMIUM)}


def run(*command: str, at: Path) -> str:
    """What a command says. Raises `UnavailableError` where it fails."""
    try:
        done = subprocess.run(
            command, cwd=at, capture_output=True, text=True, check=False, env=os.environ | {"LC_ALL": "C"}, timeout=LONGEST
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{command[0]} {command[-1]} takes longer than {LONGEST} s") from None
    if done.returncode:
        raise UnavailableError(f"{command[0]} {command[-1]}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


def main(which: str = "redis7") -> int:
    """Returns 0 if the program is there."""
    name, program = PROGRAMS[which]
    try:
        print(program.made())
    except (UnavailableError, OSError) as why:
        print(f"no {name} for the tests: {why}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
