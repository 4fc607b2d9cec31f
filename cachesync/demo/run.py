"""Runs the demonstration: processes up, story told, processes down, whatever happens."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Generator
from dataclasses import asdict
from typing import Any, TextIO

from cachesync.demo.data import airports, build
from cachesync.demo.processes import DemoError, MissingError, check_installed, scratch_folder, valkey, worker
from cachesync.demo.screen import Screen
from cachesync.demo.story import Asked, Scene, Story, Verdict


def run(*, requests: int, as_json: bool, keep_open: bool, out: TextIO, errors: TextIO) -> int:
    """The exit code: 0, 1 when an answer was not what it had to be, 2 when something has to be installed first."""
    try:
        check_installed()
        with _ending_in_order():
            return _run(requests=requests, as_json=as_json, keep_open=keep_open, out=out)
    except MissingError as error:
        errors.write(f"cachesync demo: {error}\n")
        return 2
    except BrokenPipeError:
        raise
    except (DemoError, OSError, sqlite3.Error) as error:
        errors.write(f"cachesync demo: {error}\n")
        return 1
    except KeyboardInterrupt:
        errors.write("cachesync demo: interrupted; its processes have ended\n")
        return 130


def _run(*, requests: int, as_json: bool, keep_open: bool, out: TextIO) -> int:
    began = time.monotonic()
    screen = None if as_json else Screen(out)
    scenes: list[Scene] = []
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch_folder())
        database = folder / "stores.sqlite"
        rows = airports()
        build(database, rows)
        server = stack.enter_context(valkey(folder))
        a = stack.enter_context(worker("A", database=database, redis_url=server.url))
        b = stack.enter_context(worker("B", database=database, redis_url=server.url))
        stack.callback(_deaf_to_signals)
        if screen:
            screen.say(
                screen.paint("cachesync demo", "bold") + f": {len(rows):,} stores, one for each airport, in SQLite; {server.version}"
            )
            screen.say(f"two workers of a store dashboard: A {a.url}  B {b.url}")
        for scene in Story((a, b), rows, requests).tell():
            scenes.append(scene)
            if screen:
                screen.show(scene)
        verdict = scenes[-1]
        assert isinstance(verdict, Verdict)
        about: dict[str, Any] = {
            "stores": len(rows),
            "server": {"version": server.version, "pid": server.pid},
            "workers": {node.name: {"pid": node.pid, "url": node.url} for node in (a, b)},
            "seconds": time.monotonic() - began,
        }
        if screen:
            screen.say("", f"{about['seconds']:.1f} s in all.")
        else:
            json.dump(about | _figures(scenes), out, indent=2)
            out.write("\n")
            out.flush()
        if keep_open:
            (screen or Screen(sys.stderr)).say(f"The workers stay open until Ctrl-C: {a.url}  {b.url}")
            with contextlib.suppress(KeyboardInterrupt):
                threading.Event().wait()
    return 1 if verdict.problems else 0


def _figures(scenes: list[Scene]) -> dict[str, Any]:
    """The scenes as plain data: the questions in a list, each other scene by its name."""
    asked = [asdict(scene) for scene in scenes if isinstance(scene, Asked)]
    others = {type(scene).__name__.lower(): asdict(scene) for scene in scenes if not isinstance(scene, Asked)}
    return {"asked": asked, **others, "ok": not others["verdict"]["problems"]}


@contextlib.contextmanager
def _ending_in_order() -> Generator[None]:
    """SIGTERM and SIGHUP end the demonstration as Ctrl-C does: by KeyboardInterrupt, so that its processes end first.

    Only the main thread may set that. What is ignored, as ``nohup`` has it, stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _deaf_to_signals() -> None:
    """The processes are being ended: a second Ctrl-C must not leave one behind."""
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
