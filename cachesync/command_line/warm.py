"""``cachesync warm``: compute what an application has declared to be warmed, before anybody asks, as a step of a deployment.

The application's own module is imported, as a server would import it, because only its functions can compute its values.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from types import TracebackType
from typing import Any, Final, TextIO, cast

from cachesync.cache import Cache
from cachesync.command_line.exits import INTERRUPTED, NO, OK, USAGE
from cachesync.command_line.parsing import Commands, add_json, command, number
from cachesync.command_line.printing import StatusLine, counted
from cachesync.core.units import format_duration
from cachesync.core.warming import ERRORS_KEPT, Warmed
from cachesync.errors import PolicyError

LINES: Final = 10
"""Lines that tell how far it is, where it is told to no terminal."""
REDRAWN: Final = 0.1
"""Seconds between two drawings of the line on a terminal."""


def add(commands: Commands) -> None:
    """Add ``warm``."""
    parser = command(
        commands,
        "warm",
        "compute what an application has declared, before anybody asks",
        "Imports the application's module, as a server does, and computes what its policies (warm = [...]) and its decorators "
        "(warm=[...]) name and what is not fresh yet. A key that fails ends nothing; then the exit code is 1.",
        "cachesync warm myapp.main:cache",
        "cachesync warm myapp.main:cache --policy stores --policy prices",
        "cachesync warm myapp.main:cache --dry-run",
        "cachesync warm myapp.main:cache --json | jq .computed",
    )
    parser.add_argument("target", metavar="MODULE:CACHE", help="where the application makes its cache, such as myapp.main:cache")
    parser.add_argument("--policy", metavar="NAME", dest="policies", action="append", default=[], help="only this policy; may be repeated")
    parser.add_argument(
        "--concurrency",
        metavar="N",
        type=number("computations", 1, 1_000),
        help="computations at once (left out: as the policy file says, or 4)",
    )
    parser.add_argument("--dry-run", action="store_true", help="only look: tell what would be computed")
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    wish = Wish(arguments.policies, arguments.concurrency, arguments.dry_run, arguments.json)
    return warm(arguments.target, wish, out=sys.stdout, errors=sys.stderr)


class NotFoundError(Exception):
    """What is named on the command line is not there: what to say."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line asks for: ``policies`` by name (none: all), how many computations at once (``None``: as set)."""

    policies: Sequence[str]
    concurrency: int | None
    dry_run: bool
    as_json: bool


def warm(target: str, wish: Wish, *, out: TextIO, errors: TextIO) -> int:
    """Warm the cache that ``module:attribute`` names, and print the sums. Returns the exit code."""
    try:
        cache = find_cache(target)
    except NotFoundError as error:
        errors.write(f"cachesync warm: {error}\n")
        return USAGE
    except Exception as error:  # whatever the application's module raises
        told = "".join(traceback.format_exception(error.with_traceback(_below_import(error.__traceback__))))
        errors.write(f"cachesync warm: {target!r} could not be imported, because it raised:\n{told}")
        return NO
    if not cache.settings.enabled:
        errors.write("cachesync warm: CACHESYNC_ENABLED is false, so nothing is cached and nothing can be warmed; unset it\n")
        return NO
    progress = Progress(errors)
    try:
        asyncio.run(_warmed(cache, wish, progress))
        problem, code = "", NO if progress.warmed.failed else OK
    except PolicyError as error:
        errors.write(f"cachesync warm: {error}\n")
        return USAGE
    except KeyboardInterrupt:
        problem, code = "interrupted; this is how far it came", INTERRUPTED
    finally:
        progress.clear()
    _tell(progress.warmed, wish, code, out=out, errors=errors, problem=problem)
    return code


async def _warmed(cache: Cache, wish: Wish, progress: Progress) -> None:
    async with cache:
        warmed = await cache.awarm(*wish.policies, progress=progress.show, concurrency=wish.concurrency, dry_run=wish.dry_run)
    progress.warmed = warmed


def find_cache(target: str) -> Cache:
    """The cache that ``module:attribute`` names. Raises `NotFoundError`, or what the module raises."""
    module_name, _, path = target.partition(":")
    if not module_name or not path:
        raise NotFoundError(f"{target!r} names no cache: write MODULE:CACHE, such as myapp.main:cache")
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise NotFoundError(f"there is no module {error.name!r} in {here} nor on the path: is this the application's folder?") from None
    try:
        found = reduce(getattr, path.split("."), cast("Any", module))
    except AttributeError:
        raise NotFoundError(f"the module {module_name!r} has no {path!r}; {_caches_of(module, module_name)}") from None
    if not isinstance(found, Cache):
        raise NotFoundError(f"{target!r} is no Cache, but {type(found).__name__}; {_caches_of(module, module_name)}")
    return found


def _below_import(found: TracebackType | None) -> TracebackType | None:
    """A traceback without its beginning: our own frames, and those of the machinery of imports."""
    at = found
    while at is not None and (at.tb_frame.f_code.co_filename == __file__ or "importlib" in at.tb_frame.f_code.co_filename):
        at = at.tb_next
    return at


def _caches_of(module: Any, module_name: str) -> str:
    found: dict[str, Any] = module.__dict__
    names = [f"{module_name}:{name}" for name, value in found.items() if isinstance(value, Cache)]
    return f"it has {' and '.join(names)}" if names else "it has no Cache at all: name the module in which one is made or imported"


def _tell(warmed: Warmed, wish: Wish, code: int, *, out: TextIO, errors: TextIO, problem: str) -> None:
    if problem:
        errors.write(f"cachesync warm: {problem}\n")
    errors.writelines(f"cachesync warm: {error}\n" for error in warmed.errors)
    if warmed.failed > len(warmed.errors) == ERRORS_KEPT:
        errors.write(f"cachesync warm: and {warmed.failed - ERRORS_KEPT:,} more failed\n")
    if wish.as_json:
        out.write(json.dumps({"ok": code == OK, "dry_run": wish.dry_run, **asdict(warmed)}) + "\n")
    elif warmed.total:
        out.write(f"{_counts(warmed, dry_run=wish.dry_run)}\n")
    else:
        where = f" by {', '.join(wish.policies)}" if wish.policies else ""
        out.write(f'nothing is declared to be warmed{where}: write warm = ["stores:JKT"] into a policy, or warm=[...] into a decorator\n')


def _counts(warmed: Warmed, *, dry_run: bool = False) -> str:
    keys = counted(warmed.total, "key", "keys")
    if dry_run:
        told = [f"{warmed.fresh:,} fresh already", f"{warmed.skipped:,} would be computed"]
    else:
        told = [f"{warmed.computed:,} computed", f"{warmed.fresh:,} fresh already"]
        told += [f"{warmed.skipped:,} not begun"] if warmed.skipped else []
    told += [f"{warmed.failed:,} failed"] if warmed.failed else []
    return f"{keys} in {format_duration(round(warmed.seconds, 1))}: {', '.join(told)}"


class Progress:
    """Shows how far it is: on a terminal in one line that the next one replaces, elsewhere in a few lines."""

    def __init__(self, stream: TextIO) -> None:
        self.warmed = Warmed()
        self._stream = stream
        self._line = StatusLine(stream)
        self.clear = self._line.clear
        self._due = 0.0
        self._told = 0

    def show(self, warmed: Warmed) -> None:
        """The sums so far."""
        self.warmed = warmed
        if self._line.is_shown:
            if time.monotonic() >= self._due:
                self._due = time.monotonic() + REDRAWN
                self._line.show(f"{_bar(warmed)} {_counts(warmed)}")
        elif warmed.done * LINES // max(1, warmed.total) > self._told:
            self._told = warmed.done * LINES // max(1, warmed.total)
            self._stream.write(f"cachesync warm: {warmed.done:,} of {_counts(warmed)}\n")
            self._stream.flush()


def _bar(warmed: Warmed, width: int = 20) -> str:
    full = width * warmed.done // max(1, warmed.total)
    return f"[{'#' * full}{'.' * (width - full)}]"
