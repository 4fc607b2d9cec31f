"""The workers as the soak sees them: it starts, freezes and kills them, and gives them orders."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).resolve().parents[1]
PATIENCE: Final = 60.0
"""Seconds after which an order that was not carried out has failed."""


class CrewError(Exception):
    """A worker did not do what it was told, or ended when nobody asked it to."""


class Member:
    """One place among the workers. After a kill another process takes it: the place's next life."""

    def __init__(self, folder: Path, slot: int, *, url: str, shape: str, options: tuple[str, ...]) -> None:
        self.slot = slot
        self.shape = shape
        self.life = -1
        self.killed: dict[tuple[int, int], float] = {}
        """When which life was killed: seconds, monotonic clock."""
        self._folder = folder
        self._url = url
        self._options = options
        self._process: subprocess.Popen[str] | None = None
        self._said: queue.Queue[str] = queue.Queue()

    def start(self) -> None:
        self.life += 1
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [environment.get("PYTHONPATH"), str(TESTS)]))
        command = [sys.executable, "-m", "soak.worker", str(self._folder), self._url, *self._options]
        command += ["--slot", str(self.slot), "--life", str(self.life), "--shape", self.shape]
        self._said = queue.Queue()
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, bufsize=1
            )
        threading.Thread(target=_listen, args=(self._process, self._said), name="soak-ear", daemon=True).start()

    @property
    def _errors(self) -> Path:
        return self._folder / f"{self.slot}.{self.life}.err"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def ended(self) -> int | None:
        """The exit code; ``None`` while it lives."""
        return None if self._process is None else self._process.poll()

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL: no goodbye, nothing given back."""
        assert self._process is not None
        self.killed[self.slot, self.life] = time.monotonic()
        self._process.kill()
        self._forget()

    def order(self, what: str) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()

    def wait_for(self, answer: str) -> None:
        """Wait until the worker has said it. Raises `CrewError`."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                said = self._said.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise CrewError(f"worker {self.slot}.{self.life} did not say {answer!r} within {PATIENCE:g} s") from None
            if said == answer:
                return
            if said == "":
                self._forget()
                raise CrewError(f"worker {self.slot}.{self.life} ended with {self.ended} before it said {answer!r}")

    def end(self) -> None:
        """Wait for the end of its own accord."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise CrewError(f"worker {self.slot}.{self.life} closed its cache and did not end") from None
        finally:
            self._forget()

    def dismiss(self) -> None:
        """End it whatever it does, also where it is frozen. Does nothing if it has ended."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._forget()

    def _forget(self) -> None:
        assert self._process is not None
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass  # it was killed with an order on its way


def _listen(process: subprocess.Popen[str], said: queue.Queue[str]) -> None:
    assert process.stdout is not None
    try:
        for line in process.stdout:
            said.put(line.strip())
    except ValueError:
        pass  # closed while it was read
    said.put("")
