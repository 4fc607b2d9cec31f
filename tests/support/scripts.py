"""Programs that talk with their test line by line, and what the kernel knows about a process: its connections and its threads.

::

    with Script(PROGRAM, server.url, namespace) as script:
        pid = int(script.hear())           # the program said so: say(os.getpid())
        assert not connections(pid, server.port) & connections(os.getpid(), server.port)
        script.say("go")                   # the program waited: wait()
        script.end()                       # it ended well, and wrote nothing to its standard error

A program begins with `PRELUDE`: ``say``, ``wait``, ``until``, ``Door``, ``fork`` and ``ended``. Children that it forks talk through the
same pipes. It is ended by its alarm if it hangs.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast

import redis

PATIENCE: Final = 80.0
"""Seconds of silence after which a program is taken for hung: it starts and forks beside others, on a machine that may be busy."""

PRELUDE = """
import asyncio, gc, os, signal, sys, threading, time, traceback

signal.alarm(100)

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def wait():
    line = b""
    while not line.endswith(b"\\n"):
        piece = os.read(0, 1)
        assert piece, "the test is gone"
        line += piece
    return line.decode().strip()

def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.001)

class Door:
    # Processes stand before it until one that knows it opens it, once for each.
    def __init__(self):
        self.out, self.into = os.pipe()

    def stand(self):
        assert os.read(self.out, 1)

    def open(self):
        os.write(self.into, b"!")

def fork(work):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(40)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    return pid

def ended(*pids):
    for pid in pids:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


class Script:
    """A program in a process of its own, where each warning is an error. ``file`` is where it is put, for one that has to be imported."""

    def __init__(self, text: str, *arguments: str, file: Path | None = None) -> None:
        # Python 3.12 and later warn of forks beside threads, which is the very thing tested.
        command = [sys.executable, "-W", "error", "-W", "ignore:.*fork:DeprecationWarning"]
        if file is None:
            command += ["-c", PRELUDE + text, *arguments]
        else:
            file.write_text(PRELUDE + text)
            command += [str(file), *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._lines: queue.Queue[str] = queue.Queue()
        self._errors: list[str] = []
        self._threads = [threading.Thread(target=self._listen, daemon=True), threading.Thread(target=self._collect, daemon=True)]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def hear(self, *begins: str) -> str:
        """The next line that the program says; what follows ``begins``, where that is given."""
        try:
            line = self._lines.get(timeout=PATIENCE)
        except queue.Empty:
            raise AssertionError(f"it said nothing more: {''.join(self._errors)}") from None
        expected = " ".join(begins)
        assert line.startswith(expected), f"{line!r} instead of {expected!r}: {''.join(self._errors)}"
        return line[len(expected) :].strip()

    def say(self, line: str = "go") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        """SIGKILL: no goodbye. Its children live on."""
        self._process.kill()
        self._process.wait()

    def end(self, *, errors: str = "", excused: str = "") -> None:
        """It ends by itself, well, and has nothing more to say; ``errors`` is a part of what it has written to its standard error.
        ``excused`` is a whole line that it may have written there, or not, as a race went.
        """
        code = self._process.wait(PATIENCE)
        for thread in self._threads:
            thread.join(PATIENCE)
        left = [self._lines.get_nowait() for _ in range(self._lines.qsize())]
        written = "".join(line for line in self._errors if not excused or line != excused + "\n")
        assert (left, code) == ([], 0), (left, code, written)
        assert errors in written if errors else not written, written

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()  # children that wait for the test end
        for thread in self._threads:
            thread.join(PATIENCE)
        assert self._process.stdout is not None and self._process.stderr is not None
        self._process.stdout.close()
        self._process.stderr.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))

    def _collect(self) -> None:
        assert self._process.stderr is not None
        self._errors.extend(self._process.stderr)


def connections(pid: int, port: int) -> dict[str, int]:
    """The connections of a process to a port of this machine: the kernel's number of each socket, and its local port."""
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    known = {row[9]: int(row[1].rpartition(":")[2], 16) for row in rows if int(row[2].rpartition(":")[2], 16) == port}
    held = {target[8:-1] for target in descriptors(pid) if target.startswith("socket:[")}
    return {inode: local for inode, local in known.items() if inode in held}


def descriptors(pid: int) -> list[str]:
    """What the open descriptors of a process lead to: ``socket:[123]``, ``pipe:[45]``, ``/a/file``."""
    targets: list[str] = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            targets.append(os.readlink(descriptor))
        except FileNotFoundError:
            continue  # closed meanwhile
    return targets


def is_alive(pid: int) -> bool:
    """Whether a process runs: one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def ports_of_clients(client: redis.Redis) -> set[int]:
    """The ports from which the server is spoken to, as the server sees it (``CLIENT LIST``), that of ``client`` included."""
    return {_port(one) for one in client.client_list()}


def subscribers(client: redis.Redis) -> set[int]:
    """Those of them on which somebody hears what is published."""
    return {_port(one) for one in client.client_list() if one["sub"] != "0" or one.get("ssub", "0") != "0"}


def _port(client: dict[str, Any]) -> int:
    return int(cast("str", client["addr"]).rpartition(":")[2])


def kill(pid: int) -> None:
    """SIGKILL, to a process that a script of this test has made."""
    os.kill(pid, signal.SIGKILL)
